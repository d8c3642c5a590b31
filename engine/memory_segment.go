package engine

import (
	"slices"
	"sync/atomic"
	"time"
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

// set stores an event. REQUIRES: Memory.mu.
func (seg *segment) set(i int, f fact, ev *Record) {
	seg.facts[i], seg.data[i] = f, ev.Data
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

// memView is what a reader takes of a Memory. It has all that is at or before a head which
// was read before it.
type memView struct {
	segs    []*segment
	streams slabBlocks[memStream]
	names   []string // of types
}

func (m *Memory) view() memView {
	return memView{*m.segments.Load(), m.streams.values.all(), m.types.names()}
}

// at returns the segment of a position and the place in it. The segment is nil if Compact has
// let go of it.
func (v *memView) at(pos Position) (*segment, int) {
	s, i := pos.place()
	return v.segs[s], i
}

// removed reports whether an event was removed.
func (v *memView) removed(f *fact) bool {
	return f.stream == 0 || uint64(f.version) < v.streams.at(f.stream).cut.Load()
}

// matches reports whether an event is there, and the filter wants it.
func (v *memView) matches(filter *Filter, f *fact) bool {
	if !filter.Types.Has(f.typ) || v.removed(f) {
		return false
	}
	if len(filter.Categories) == 0 {
		return true
	}
	s := v.streams.at(f.stream)
	return slices.Contains(filter.Categories, s.name[:s.category])
}

// event builds an event in place.
func (v *memView) event(e *Event, pos Position, seg *segment, i int) {
	f := &seg.facts[i]
	e.Stream = v.streams.at(f.stream).name
	e.Version = f.version
	e.Position = pos
	e.Type = v.names[f.typ]
	e.Time = time.Unix(0, f.time).UTC()
	e.Data = seg.data[i]
	e.ID = seg.id(i)
	if meta := seg.meta(i); meta != nil {
		e.Meta = *meta
	} else {
		e.Meta = Metadata{}
	}
}
