package engine_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// onBoth runs a test over a memory backend that outlives its engine, and over files. Open
// returns a backend that has what the one before it had, which is closed by then.
func onBoth(t *testing.T, fn func(t *testing.T, open func() engine.Backend)) {
	t.Run("memory", func(t *testing.T) {
		l := newLasting()
		fn(t, func() engine.Backend { return l })
	})
	t.Run("files", func(t *testing.T) {
		dir := t.TempDir()
		fn(t, func() engine.Backend {
			s, err := filestore.Open(dir, filestore.Options{SegmentSize: 64 << 10})
			if err != nil {
				t.Fatal(err)
			}
			return s
		})
	})
}

// placed is what restarted handlers are given.
type placed struct {
	Number int
	Goods  []string
}

func openOrders(t *testing.T, b engine.Backend) *engine.Engine {
	t.Helper()
	e := quietEngine(t, engine.Options{Backend: b, CheckpointEvery: time.Hour}) // only what ends stores them
	if err := engine.Register[placed](e, "order"); err != nil {
		t.Fatal(err)
	}
	return e
}

func orders(from, n int) (list []engine.NewEvent) {
	for i := range n {
		list = append(list, engine.New(placed{from + i, []string{"tea", "naïve 🦫"}}))
	}
	return list
}

// seen is what a handler was called with.
type seen struct {
	mu   sync.Mutex
	list []engine.Position // guarded by mu
}

func (s *seen) handle(_ context.Context, ev engine.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, ev.Position)
	return nil
}

func (s *seen) take() []engine.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.list
	s.list = nil
	return got
}

// After a restart every handler goes on where it was: one that was up to date, one that was
// paused half-way, one that was removed, one that had stopped, and none gets anything twice.
func TestRestartGoesOnWhereEachHandlerWas(t *testing.T) {
	onBoth(t, func(t *testing.T, backend func() engine.Backend) {
		e := openOrders(t, backend())
		var current, paused, removed, stopped, fresh seen
		mustHandle(t, e, "current", current.handle)
		p := mustHandle(t, e, "paused", paused.handle)
		r := mustHandle(t, e, "removed", removed.handle)
		s := mustHandle(t, e, "stopped", func(ctx context.Context, ev engine.Event) error {
			if ev.Position == 7 {
				return errors.New("not this one")
			}
			return stopped.handle(ctx, ev)
		}, engine.Retry(0, 0), engine.OnFailure(engine.Stop))
		mustAppend(t, e, "order-1", orders(1, 3)...)
		if err := e.Wait(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.Pause(t.Context()), r.Remove(t.Context())); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, e, "order-2", orders(4, 5)...)
		if err := e.Wait(t.Context(), 8, "current"); err != nil {
			t.Fatal(err)
		}
		if err, stop := errors.AsType[*engine.StoppedError](e.Wait(t.Context(), 8, "stopped")); !stop {
			t.Fatalf("Wait for a handler that has stopped: %v", err)
		}
		if pos := s.Position(); pos != 6 {
			t.Errorf("stopped at %d, want 6", pos)
		}
		mustClose(t, e)
		mustPark(t, "current", current.take(), 1, 2, 3, 4, 5, 6, 7, 8)
		mustPark(t, "paused", paused.take(), 1, 2, 3)
		mustPark(t, "removed", removed.take(), 1, 2, 3)
		mustPark(t, "stopped", stopped.take(), 1, 2, 3, 4, 5, 6)

		e = openOrders(t, backend())
		mustHandle(t, e, "current", current.handle)
		mustHandle(t, e, "paused", paused.handle)
		mustHandle(t, e, "removed", removed.handle, engine.FromStart()) // which it does not: it has a checkpoint
		mustHandle(t, e, "stopped", stopped.handle)
		mustHandle(t, e, "new", fresh.handle, engine.FromStart())
		mustAppend(t, e, "order-1", orders(9, 2)...)
		if err := e.Wait(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
		mustClose(t, e)
		mustPark(t, "current, again", current.take(), 9, 10)
		mustPark(t, "paused, again", paused.take(), 4, 5, 6, 7, 8, 9, 10)
		mustPark(t, "removed, again", removed.take(), 4, 5, 6, 7, 8, 9, 10)
		mustPark(t, "stopped, again", stopped.take(), 7, 8, 9, 10)
		mustPark(t, "new", fresh.take(), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)

		// IgnoreCheckpoint begins anew, and that is stored.
		e = openOrders(t, backend())
		mustHandle(t, e, "current", current.handle, engine.IgnoreCheckpoint(), engine.StartAfter(7))
		if err := e.Wait(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
		mustClose(t, e)
		mustPark(t, "current, anew", current.take(), 8, 9, 10)
		e = openOrders(t, backend())
		h := mustHandle(t, e, "current", current.handle)
		if pos := h.Position(); pos != 10 {
			t.Errorf("current is at %d, want 10", pos)
		}
		mustClose(t, e)
		mustPark(t, "current, at the end", current.take())
	})
}

// Parked events outlive the process: with payload, error, attempts and time. What is then
// redriven or discarded stays so.
func TestParkedEventsOutliveARestart(t *testing.T) {
	onBoth(t, func(t *testing.T, backend func() engine.Backend) {
		e := openOrders(t, backend())
		fails := func(_ context.Context, ev engine.Event) error {
			return errors.New("no room for " + ev.Data.(placed).Goods[1])
		}
		h := mustHandle(t, e, "shipping", fails, engine.Retry(2, time.Millisecond))
		mustAppend(t, e, "order-1", orders(1, 3)...)
		if err := e.Wait(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		before := h.Parked()
		check := func(what string, got []engine.Parked) {
			t.Helper()
			mustPark(t, what, positionsOf(got), 1, 2, 3)
			for i, p := range got {
				data, ok := p.Event.Data.(placed)
				if !ok || data.Number != i+1 || !slices.Equal(data.Goods, []string{"tea", "naïve 🦫"}) {
					t.Errorf("%s: the payload of %d is %#v", what, p.Event.Position, p.Event.Data)
				}
				if p.Err == nil || p.Err.Error() != "no room for naïve 🦫" || p.Attempts != 3 || p.Held || !p.Time.Equal(before[i].Time) {
					t.Errorf("%s: %+v, was %+v", what, p, before[i])
				}
			}
		}
		check("parked", before)
		mustClose(t, e)

		e = openOrders(t, backend())
		h = mustHandle(t, e, "shipping", fails)
		check("after a restart", h.Parked())
		check("asked twice", h.Parked())
		if n := e.Stats().Handlers[0].Parked; n != 3 {
			t.Errorf("Stats say %d parked events", n)
		}
		if ok, err := h.Discard(2); !ok || err != nil {
			t.Errorf("Discard: %v, %v", ok, err)
		}
		if n, err := h.Redrive(t.Context()); n != 0 || err != nil {
			t.Errorf("Redrive in vain: %d, %v", n, err)
		}
		mustClose(t, e)

		e = openOrders(t, backend())
		var got seen
		h = mustHandle(t, e, "shipping", got.handle)
		left := h.Parked()
		mustPark(t, "left", positionsOf(left), 1, 3)
		for _, p := range left {
			if p.Attempts != 4 {
				t.Errorf("%d attempts at %d, want 4", p.Attempts, p.Event.Position)
			}
		}
		if n, err := h.Redrive(t.Context()); n != 2 || err != nil {
			t.Errorf("Redrive: %d, %v", n, err)
		}
		mustPark(t, "redriven", got.take(), 1, 3)
		mustClose(t, e)

		e = openOrders(t, backend())
		h = mustHandle(t, e, "shipping", got.handle)
		mustPark(t, "nothing is left", positionsOf(h.Parked()))
		mustClose(t, e)
		mustPark(t, "nothing comes again", got.take())
	})
}

// A reader that follows, a handler that waits in the past and Wait go over what was removed,
// and what was removed stays so.
func TestRemovedEventsOutliveARestart(t *testing.T) {
	onBoth(t, func(t *testing.T, backend func() engine.Backend) {
		e := openOrders(t, backend())
		var behind seen
		h := mustHandle(t, e, "behind", behind.handle)
		if err := h.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, e, "order-1", orders(1, 5)...)  // 1 to 5
		mustAppend(t, e, "order-2", orders(6, 5)...)  // 6 to 10
		mustAppend(t, e, "order-3", orders(11, 5)...) // 11 to 15
		if err := errors.Join(e.Truncate(t.Context(), "order-1", 5), e.Delete(t.Context(), "order-3", engine.Exactly(5)), h.Resume()); err != nil {
			t.Fatal(err)
		}
		// The newest event is one that was removed.
		if err := e.Wait(t.Context(), 15, "behind"); err != nil {
			t.Fatal(err)
		}
		mustPark(t, "handled", behind.take(), 5, 6, 7, 8, 9, 10)
		follow := func(e *engine.Engine, next engine.Position) {
			t.Helper()
			var got []engine.Position
			for ev, err := range e.ReadAll(t.Context(), engine.Follow()) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, ev.Position)
				if len(got) == 6 { // it waits behind the gap
					mustAppend(t, e, "order-2", orders(16, 1)...)
				}
				if ev.Position >= next {
					break
				}
			}
			if !slices.Equal(got, []engine.Position{5, 6, 7, 8, 9, 10, 16}) {
				t.Errorf("a reader that follows gets %v", got)
			}
		}
		follow(e, 16)
		if _, err := e.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustClose(t, e)

		e = openOrders(t, backend())
		var late seen
		mustHandle(t, e, "behind", behind.handle)
		mustHandle(t, e, "late", late.handle, engine.FromStart(), engine.Keyed(2))
		if err := e.Wait(t.Context(), e.Head()); err != nil {
			t.Fatal(err)
		}
		got := late.take()
		slices.Sort(got)
		mustPark(t, "late", got, 5, 6, 7, 8, 9, 10, 16)
		mustPark(t, "behind, again", behind.take(), 16)
		_, err := e.Append(t.Context(), "order-3", engine.Any, orders(1, 1)...)
		if _, deleted := errors.AsType[*engine.StreamDeletedError](err); !deleted {
			t.Errorf("append to a deleted stream after a restart: %v", err)
		}
		if res := mustAppend(t, e, "order-1", orders(17, 1)...); res.First != 6 || res.Position != 17 {
			t.Errorf("append to a truncated stream: %+v", res)
		}
		mustClose(t, e)
	})
}
