package filestore_test

import (
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// TestCatchUpMemory lets a handler catch up through a log that is much larger than what it
// may need of memory at any moment.
func TestCatchUpMemory(t *testing.T) {
	events, size := 100_000, 2000 // 200 MB
	if underRace {
		events = 10_000
	}
	dir := t.TempDir()
	open := func() *engine.Engine {
		e, err := engine.Open(engine.Options{Backend: mustOpen(t, dir, filestore.Options{Logger: quiet, CacheBytes: 4 << 20, TailEvents: 100}), Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := open()
	ctx := engine.WithDurability(t.Context(), engine.Written)
	batch := make([]engine.NewEvent, 1000)
	for i := range batch {
		batch[i] = engine.NewEvent{Type: "A", Data: []byte(strings.Repeat("x", size))}
	}
	for range events / len(batch) {
		if _, err := e.Append(ctx, "s-1", engine.Any, batch...); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open()
	defer e.Close()
	used := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most := used(), uint64(0)
	var n atomic.Int64
	if _, err := e.On("A", func(_ context.Context, ev engine.Event) error {
		if n.Add(1)%int64(events/10) == 0 {
			most = max(most, used())
		}
		return nil
	}, engine.FromStart()); err != nil {
		t.Fatal(err)
	}
	if err := e.Wait(t.Context(), e.Head()); err != nil {
		t.Fatal(err)
	}
	if n.Load() != int64(events) {
		t.Errorf("%d events handled, want %d", n.Load(), events)
	}
	if grown := int64(most) - int64(before); grown > 16<<20 {
		t.Errorf("catching up through %d MB takes %d MB of memory", events*size>>20, grown>>20)
	} else {
		t.Logf("catching up through %d MB takes %d kB of memory", events*size>>20, grown>>10)
	}
}
