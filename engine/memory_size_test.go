package engine_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/weirstore/weir/engine"
)

// heapBytes returns the bytes that live on the heap.
func heapBytes() int64 {
	runtime.GC()
	runtime.GC() // what pools held for one cycle
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What the heap grows by for events: at most 80 bytes each beyond the payload is the aim, index and
// ID included. The limits are what was measured, and a little more.
func TestBytesAnEvent(t *testing.T) {
	const events, batch = 200_000, 100
	ids := make([]string, events)
	for i := range ids {
		ids[i] = fmt.Sprintf("id-%d", i)
	}
	for _, tc := range []struct {
		name    string
		streams int
		ids     bool
		most    float64
	}{
		{"one stream", 1, false, 56},
		{"200 streams", 200, false, 56},
		{"one stream, with IDs", 1, true, 83}, // the text of an ID is the caller's
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := quietEngine(t, engine.Options{})
			defer mustClose(t, e)
			names := make([]string, tc.streams)
			for i := range names {
				names[i] = fmt.Sprintf("s-%d", i)
			}
			list := make([]engine.NewEvent, batch)
			before := heapBytes()
			for n := range events / batch {
				for i := range list {
					list[i] = engine.New(boxed)
					if tc.ids {
						list[i].ID = ids[n*batch+i]
					}
				}
				mustAppend(t, e, names[n%tc.streams], list...)
			}
			per := float64(heapBytes()-before) / events
			t.Logf("%.1f bytes an event", per)
			if per > tc.most {
				t.Errorf("%.1f bytes an event, more than %.0f", per, tc.most)
			}
			runtime.KeepAlive(e)
		})
	}
	runtime.KeepAlive(ids)
}

// What the heap grows by for an idle stream: its name is the caller's and does not count, its one
// event does not either. The aim is 200 bytes; the limit is what was measured, and a little more.
func TestBytesAStream(t *testing.T) {
	const streams, event, most = 100_000, 50, 196
	e := quietEngine(t, engine.Options{})
	defer mustClose(t, e)
	names := make([]string, streams)
	for i := range names {
		names[i] = fmt.Sprintf("s-%d", i)
	}
	before, goroutines := heapBytes(), runtime.NumGoroutine()
	for _, name := range names {
		mustAppend(t, e, name, engine.New(boxed))
	}
	per := float64(heapBytes()-before)/streams - event
	t.Logf("%.1f bytes a stream", per)
	if per > most {
		t.Errorf("%.1f bytes a stream, more than %d", per, most)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines more", n-goroutines)
	}
	for i, name := range names { // each is found again, in the engine and in the backend
		if res, err := e.Append(t.Context(), name, engine.Exactly(1), engine.New(boxed)); err != nil || res.Last != 2 {
			t.Fatalf("stream %d of %d: %+v, %v", i, streams, res, err)
		}
		if got := versions(t, e, name); len(got) != 2 {
			t.Fatalf("stream %d of %d: %v", i, streams, got)
		}
	}
	if n := e.Stats().Streams; n != streams {
		t.Errorf("%d streams, want %d", n, streams)
	}
	runtime.KeepAlive(names)
}
