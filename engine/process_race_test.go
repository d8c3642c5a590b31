package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// TestTimersDueInARush: while an instance reacts, others of its timers become due all the time. It does not
// begin anew each time, and nothing is parked because of them.
func TestTimersDueInARush(t *testing.T) {
	const timers = 3000
	e := quietEngine(t, engine.Options{})
	defer mustClose(t, e)
	var evolved atomic.Int64
	all := make(chan struct{})
	p := &engine.Process[int]{
		Name: "rush",
		Key: func(ev engine.Event) string {
			if _, ok := ev.Data.(cue); ok {
				return "a"
			}
			return ""
		},
		Evolve: func(n int, ev engine.Event) int { evolved.Add(1); return n + 1 },
		React: func(n int, ev engine.Event) (r engine.Reaction, err error) {
			if _, ok := ev.Data.(cue); ok {
				for i := range timers {
					r.After(0, fmt.Sprint(i), engine.New(rung{i}))
				}
			}
			if n == timers+1 {
				close(all)
			}
			return r, nil
		},
	}
	h, err := engine.Manage(e, p)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, e, "cues-1", engine.New(cue{}))
	<-all
	if err := e.Wait(t.Context(), e.Head(), "rush"); err != nil {
		t.Fatal(err)
	}
	if parked := h.Parked(); len(parked) > 0 {
		t.Errorf("%d are parked, the first with %v", len(parked), parked[0].Err)
	}
	if n := evolved.Load(); n > 2*timers {
		t.Errorf("Evolve was called %d times for %d events", n, timers+1)
	}
}

// blindBackend cannot be read while it is blind.
type blindBackend struct {
	*lasting
	blind *atomic.Bool
}

var errBlind = errors.New("blind")

func (b blindBackend) ReadAll(ctx context.Context, q engine.Query, dst []engine.Event) (int, engine.Position, error) {
	if b.blind.Load() {
		return 0, 0, errBlind
	}
	return b.lasting.ReadAll(ctx, q, dst)
}

// TestTimersOfALogThatCannotBeRead: the timekeeper stops, where everybody sees it, and can be made to resume. It
// can also be closed, or removed with its process, as it is.
func TestTimersOfALogThatCannotBeRead(t *testing.T) {
	for _, end := range []string{"resume", "close", "remove"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := blindBackend{newLasting(), new(atomic.Bool)}
				s := &stage{T: t, open: func() engine.Backend { return b }, opts: []engine.HandlerOption{engine.FromStart()}}
				s.start()
				s.cue(cue{Key: "a", N: 1, Timer: "t", After: time.Minute})
				mustClose(t, s.e)
				b.blind.Store(true)
				s.start()
				defer func() { mustClose(t, s.e) }()
				s.sleep(time.Hour)
				keeper, ok := s.e.Handler("timers of puppet")
				if !ok || keeper.Stats().State != engine.Stopped {
					t.Fatalf("the timekeeper is there: %v; handlers: %+v", ok, s.e.Stats().Handlers)
				}
				b.blind.Store(false)
				switch end {
				case "resume":
					if err := keeper.Resume(); err != nil {
						t.Fatal(err)
					}
					s.sleep(time.Hour)
					s.wantReacted("cue 1", "rung 1")
				case "remove":
					if err := s.h.Remove(t.Context()); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					if now := s.e.Stats().Handlers; len(now) > 0 {
						t.Errorf("handlers without a process: %+v", now)
					}
				}
			})
		})
	}
}
