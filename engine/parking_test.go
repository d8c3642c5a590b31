package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// positionsOf returns where parked events stand.
func positionsOf(list []engine.Parked) (all []engine.Position) {
	for _, p := range list {
		all = append(all, p.Event.Position)
	}
	return all
}

// recorded returns what the backend has of a handler's list.
func (l *lasting) recorded(t *testing.T, handler string) (all []engine.Position) {
	t.Helper()
	list, err := l.Parked(context.Background(), handler)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		all = append(all, p.Position)
	}
	return all
}

func mustPark(t *testing.T, what string, got []engine.Position, want ...engine.Position) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// A parked list outlives handler and engine, with all that is known of each event, and with
// the keys that it holds back.
func TestParkedEventsSurvive(t *testing.T) {
	for _, again := range []string{"registered again", "engine opened again"} {
		t.Run(again, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLasting()
				open := func() *engine.Engine { return quietEngine(t, engine.Options{Backend: l}) }
				e := open()
				var broken atomic.Bool
				broken.Store(true)
				handled := make(chan engine.Position, 100)
				fn := func(_ context.Context, ev engine.Event) error {
					if broken.Load() && ev.Stream == "a-1" {
						if ev.Version == 1 {
							panic("oh")
						}
						return errors.New("no")
					}
					handled <- ev.Position
					return nil
				}
				opts := []engine.HandlerOption{engine.Keyed(2), engine.Retry(1, time.Second)}
				h := mustHandle(t, e, "h", fn, opts...)
				mustAppend(t, e, "a-1", event("A", 1), event("A", 1))
				mustAppend(t, e, "b-1", event("A", 1))
				if err := e.Wait(t.Context(), 3); err != nil {
					t.Fatal(err)
				}
				before := h.Parked()
				mustPark(t, "parked", positionsOf(before), 1, 2)
				if before[0].Stack == "" || before[1].Stack != "" || !before[1].Held {
					t.Errorf("parked: %+v", before)
				}
				if again == "registered again" {
					if err := h.Remove(t.Context()); err != nil {
						t.Fatal(err)
					}
				} else {
					mustClose(t, e)
					e = open()
				}
				defer func() { mustClose(t, e) }()
				h = mustHandle(t, e, "h", fn, opts...)
				after := h.Parked()
				for i, p := range after {
					q := before[i]
					if p.Event.Position != q.Event.Position || p.Event.Data != q.Event.Data || p.Key != q.Key || p.Attempts != q.Attempts || p.Stack != q.Stack ||
						p.Held != q.Held || !p.Time.Equal(q.Time) || (p.Err == nil) != (q.Err == nil) || p.Err != nil && p.Err.Error() != q.Err.Error() {
						t.Errorf("loaded %+v, was %+v", p, q)
					}
				}
				broken.Store(false)
				mustAppend(t, e, "a-1", event("A", 1))
				if err := e.Wait(t.Context(), 4); err != nil {
					t.Fatal(err)
				}
				mustPark(t, "parked with the key held back", positionsOf(h.Parked()), 1, 2, 4)
				if n, err := h.Redrive(t.Context()); n != 3 || err != nil {
					t.Errorf("Redrive: %d, %v", n, err)
				}
				close(handled)
				var got []engine.Position
				for pos := range handled {
					got = append(got, pos)
				}
				mustPark(t, "handled", got, 3, 1, 2, 4)
				mustPark(t, "left", l.recorded(t, "h"))
			})
		})
	}
}

// What may be redriven changes where it is kept, too.
func TestParkedChangesAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		e := quietEngine(t, engine.Options{Backend: l})
		defer mustClose(t, e)
		var broken atomic.Bool
		broken.Store(true)
		h := mustHandle(t, e, "h", func(_ context.Context, ev engine.Event) error {
			if broken.Load() {
				return fmt.Errorf("attempt at %v", time.Now().Unix())
			}
			return nil
		}, engine.Retry(0, 0))
		mustAppend(t, e, "s-1", event("A", 1), event("A", 2), event("A", 3))
		if err := e.Wait(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n, err := h.Redrive(t.Context()); n != 0 || err != nil {
			t.Errorf("Redrive: %d, %v", n, err)
		}
		list, err := l.Parked(t.Context(), "h")
		if err != nil || len(list) != 3 {
			t.Fatal(list, err)
		}
		for i, p := range list {
			if q := h.Parked()[i]; p.Attempts != 2 || p.Error != q.Err.Error() || !p.Time.Equal(q.Time) || time.Since(p.Time) > time.Minute {
				t.Errorf("kept %+v, parked %+v", p, q)
			}
		}
		if ok, err := h.Discard(2); !ok || err != nil {
			t.Errorf("Discard: %v, %v", ok, err)
		}
		mustPark(t, "after Discard", l.recorded(t, "h"), 1, 3)
		broken.Store(false)
		if n, err := h.Redrive(t.Context()); n != 2 || err != nil {
			t.Errorf("Redrive: %d, %v", n, err)
		}
		mustPark(t, "after Redrive", l.recorded(t, "h"))
		if err := h.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, err := h.Redrive(t.Context()); n != 0 || !errors.Is(err, engine.ErrPaused) {
			t.Errorf("paused, Redrive returned %d, %v", n, err)
		}
	})
}

// If the backend cannot park an event the handler stops before it: no checkpoint passes it.
func TestParkFailsInTheBackend(t *testing.T) {
	for _, panics := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := newLasting()
			full := errors.New("disk is full")
			var refuses atomic.Bool
			refuses.Store(true)
			l.on(func(call string) error {
				if !strings.HasPrefix(call, "park") || !refuses.Load() {
					return nil
				}
				if panics {
					panic(full)
				}
				return full
			})
			e := quietEngine(t, engine.Options{Backend: l})
			defer mustClose(t, e)
			h := mustHandle(t, e, "h", func(_ context.Context, ev engine.Event) error {
				if ev.Position == 2 {
					return errors.New("no")
				}
				return nil
			}, engine.Retry(0, 0))
			mustAppend(t, e, "s-1", event("A", 1), event("A", 2), event("A", 3))
			err := e.Wait(t.Context(), 3, "h")
			if stopped, ok := errors.AsType[*engine.StoppedError](err); !ok || !errors.Is(err, full) || stopped.Position != 1 {
				t.Fatalf("Wait returned %v", err)
			}
			synctest.Wait()
			if pos := l.at(t, "h"); pos != 1 {
				t.Errorf("checkpoint %d, want 1", pos)
			}
			refuses.Store(false)
			if err := h.Resume(); err != nil {
				t.Fatal(err)
			}
			if err := e.Wait(t.Context(), 3, "h"); err != nil {
				t.Fatal(err)
			}
			mustPark(t, "parked", l.recorded(t, "h"), 2)
		})
	}
}

// IgnoreCheckpoint begins afresh: what comes again is not parked any more, what does not is.
func TestIgnoreCheckpointAndTheParkedList(t *testing.T) {
	for start, want := range map[engine.Position][]engine.Position{0: nil, 2: {1, 2}, 4: {1, 2, 3, 4}} {
		synctest.Test(t, func(t *testing.T) {
			l := newLasting()
			e := quietEngine(t, engine.Options{Backend: l})
			defer mustClose(t, e)
			handled := 0
			failing := func(context.Context, engine.Event) error { return errors.New("no") }
			h := mustHandle(t, e, "h", failing, engine.Retry(0, 0))
			mustAppend(t, e, "s-1", event("A", 1), event("A", 2), event("A", 3), event("A", 4))
			if err := e.Wait(t.Context(), 4); err != nil {
				t.Fatal(err)
			}
			if err := h.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			n := len(l.calls)
			h = mustHandle(t, e, "h", func(context.Context, engine.Event) error {
				handled++
				return nil
			}, engine.StartAfter(start), engine.IgnoreCheckpoint())
			if err := e.Wait(t.Context(), 4); err != nil {
				t.Fatal(err)
			}
			if handled != int(4-start) {
				t.Errorf("start after %d: %d handled", start, handled)
			}
			mustPark(t, fmt.Sprint("parked, start after ", start), positionsOf(h.Parked()), want...)
			mustPark(t, "kept", l.recorded(t, "h"), want...)
			// Or a crash in between would lose what is neither parked nor comes again.
			if l.calls[n] != "save" {
				t.Errorf("%q came before the checkpoint", l.calls[n])
			}
		})
	}
}

// A crash after an event was parked and before the next checkpoint: it comes again, is in the
// list already, and is not handled a second time.
func TestParkedBeforeACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		e := quietEngine(t, engine.Options{Backend: l})
		mustHandle(t, e, "h", func(_ context.Context, ev engine.Event) error {
			if ev.Position == 2 {
				return errors.New("no")
			}
			return nil
		}, engine.Retry(0, 0))
		mustAppend(t, e, "s-1", event("A", 1), event("A", 2), event("A", 3))
		if err := e.Wait(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		l.on(func(string) error { return errors.New("crashed") })
		if err := e.Close(); err == nil {
			t.Error("the checkpoint was stored")
		}
		l.on(nil)
		e = quietEngine(t, engine.Options{Backend: l})
		defer mustClose(t, e)
		var got []engine.Position
		h := mustHandle(t, e, "h", func(_ context.Context, ev engine.Event) error {
			got = append(got, ev.Position)
			return nil
		})
		if err := e.Wait(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		mustPark(t, "handled", got, 1, 3)
		mustPark(t, "parked", positionsOf(h.Parked()), 2)
		if p := h.Parked()[0]; p.Err == nil || p.Err.Error() != "no" {
			t.Errorf("%+v", p)
		}
	})
}

// The lists of handlers without a name are their own.
func TestAnonymousHandlersParkInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		e := quietEngine(t, engine.Options{Backend: l})
		defer mustClose(t, e)
		h, err := e.On("A", func(context.Context, engine.Event) error { return errors.New("no") }, engine.OnFailure(engine.Park))
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, e, "s-1", event("A", 1))
		if err := e.Wait(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		mustPark(t, "parked", positionsOf(h.Parked()), 1)
		if len(l.calls) != 0 {
			t.Errorf("the backend was called: %q", l.calls)
		}
	})
}
