package filestore

import (
	"sync/atomic"

	"github.com/weirstore/weir/engine"
)

// tail is the newest events, in memory: what handlers read that keep up. It is a list of
// fixed arrays, of which the oldest are let go. The writer adds; readers take no lock: entries at
// or before the store's head do not change.
type tail struct {
	maxEvents int
	maxBytes  int64
	chunks    atomic.Pointer[[]*tailChunk] // replaced, never changed
	bytes     int64                        // owner: the writer
}

type tailChunk struct {
	first  engine.Position // of events[0]
	from   engine.Position // the first that is here
	bytes  int64
	events [tailChunkSize]engine.Event
}

// tailChunkSize events are 40 KB. Payloads that would make two chunks larger than the
// tail may be are not kept.
const tailChunkSize = 256

func newTail(maxEvents int, maxBytes int64) *tail {
	t := &tail{maxEvents: maxEvents, maxBytes: maxBytes}
	t.chunks.Store(new([]*tailChunk))
	return t
}

// add is called by the writer alone.
func (t *tail) add(ev engine.Event) {
	chunks := *t.chunks.Load()
	if n := len(chunks); n == 0 || ev.Position >= chunks[n-1].first+tailChunkSize {
		first := (ev.Position-1)/tailChunkSize*tailChunkSize + 1
		drop := 0
		for drop < n && (n-drop >= max(2, t.maxEvents/tailChunkSize) || n-drop >= 2 && t.bytes > t.maxBytes) {
			t.bytes -= chunks[drop].bytes
			drop++
		}
		// A new array, so that what was dropped can be collected.
		grown := append(make([]*tailChunk, 0, n-drop+1), chunks[drop:]...)
		grown = append(grown, &tailChunk{first: first, from: ev.Position})
		t.chunks.Store(&grown)
		chunks = grown
	}
	c := chunks[len(chunks)-1]
	size := int64(len(ev.Data.(*engine.Payload).Bytes))
	if size > t.maxBytes/(2*tailChunkSize) {
		return
	}
	c.events[ev.Position-c.first] = ev
	c.bytes += size
	t.bytes += size
}

// tailView is the tail at one moment.
type tailView []*tailChunk

func (t *tail) view() tailView { return *t.chunks.Load() }

// get returns the event at pos, which is at or before a head that was read before the
// view; nil if it is not in the tail.
func (v tailView) get(pos engine.Position) *engine.Event {
	if len(v) == 0 || pos < v[0].from {
		return nil
	}
	c := v[(pos-v[0].first)/tailChunkSize]
	if ev := &c.events[pos-c.first]; ev.Position != 0 {
		return ev
	}
	return nil
}
