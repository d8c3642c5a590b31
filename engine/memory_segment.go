package engine

import (
	"sync/atomic"
	"unsafe"
)

// segmentSize is the number of events in a segment: 42 KiB, so that a small store stays
// small and a large one adds a segment once in a thousand events.
const segmentSize = 1024

// segment is a part of the log: of each event what follows, at the event's place. It is
// kept by kind, not by event, since the garbage collector looks at every word of an
// array that has pointers in it: of facts it sees none, and IDs and metadata are not there
// until an event has some. Storing an event so takes half the processor time that
// an array of structs took (docs/bench/NOTES.md).
//
// Arrays never move, and what is in them never changes once the head is behind it.
type segment struct {
	facts *[segmentSize]fact
	data  *[segmentSize]any
	ids   atomic.Pointer[[segmentSize]string]
	metas atomic.Pointer[[segmentSize]*Metadata]
}

// fact is what every event has, 24 bytes.
type fact struct {
	time    int64 // Unix ns
	version Version
	stream  uint32 // its number; 0 if Compact has let go of the event
	typ     TypeID
}

func newSegment() *segment {
	return &segment{facts: new([segmentSize]fact), data: new([segmentSize]any)}
}

// touch writes to each page of a new segment.
func (seg *segment) touch() {
	const page = 4096
	for i := 0; i < segmentSize; i += page / int(unsafe.Sizeof(fact{})) {
		seg.facts[i] = fact{}
	}
	for i := 0; i < segmentSize; i += page / int(unsafe.Sizeof(seg.data[0])) {
		seg.data[i] = nil
	}
}

// set stores events that follow one another from place i on, as many as there is room for, and returns how many, and
// whether one is rich. Of f they get all but the type, and versions that are counted on from its. REQUIRES: Memory.mu.
func (seg *segment) set(i int, f fact, events []Record) (n int, rich bool) {
	for n < len(events) && i < segmentSize {
		ev := &events[n]
		f.version++
		f.typ = ev.TypeID
		seg.facts[i], seg.data[i] = f, ev.Data
		if ev.rich() {
			seg.setMore(i, ev)
			rich = true
		}
		n, i = n+1, i+1
	}
	return n, rich
}

// setMore stores what most events do not have.
func (seg *segment) setMore(i int, ev *Record) {
	if ev.ID != "" {
		seg.setID(i, ev.ID)
	}
	if !ev.Meta.empty() {
		meta := ev.Meta
		seg.setMeta(i, &meta)
	}
}

func (seg *segment) setID(i int, id string) {
	if seg.ids.Load() == nil {
		seg.ids.Store(new([segmentSize]string))
	}
	seg.ids.Load()[i] = id
}

func (seg *segment) setMeta(i int, meta *Metadata) {
	if seg.metas.Load() == nil {
		seg.metas.Store(new([segmentSize]*Metadata))
	}
	seg.metas.Load()[i] = meta
}

// id returns an event's ID, "" if it has none.
func (seg *segment) id(i int) string {
	if ids := seg.ids.Load(); ids != nil {
		return ids[i]
	}
	return ""
}

// meta returns an event's metadata, nil if it has none.
func (seg *segment) meta(i int) *Metadata {
	if metas := seg.metas.Load(); metas != nil {
		return metas[i]
	}
	return nil
}

// place says where in the list of segments a position is.
func (pos Position) place() (seg, i int) {
	return int((pos - 1) / segmentSize), int((pos - 1) % segmentSize)
}
