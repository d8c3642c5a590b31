package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

// TestTimersThatCannotBe: one that could never be appended is refused when it is set, and does not panic.
func TestTimersThatCannotBe(t *testing.T) {
	for what, c := range map[string]struct {
		at   time.Time
		opts engine.Options
		want string
	}{
		"year":      {time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC), engine.Options{}, "year of timer"},
		"MaxEvents": {time.Now(), engine.Options{MaxEvents: 1}, "Options.MaxEvents"},
	} {
		t.Run(what, func(t *testing.T) {
			onBoth(t, func(t *testing.T, open func() engine.Backend) {
				c.opts.Backend = open()
				e := quietEngine(t, c.opts)
				defer mustClose(t, e)
				p := puppet(nil)
				p.Key = func(ev engine.Event) string { return "a" }
				p.React = func(tape, engine.Event) (r engine.Reaction, err error) {
					r.At(c.at, "t", engine.New(rung{1}))
					return r, nil
				}
				h, err := engine.Manage(e, p, engine.Retry(0, 0))
				if err != nil {
					t.Fatal(err)
				}
				res := mustAppend(t, e, "cues-1", engine.New(cue{}))
				if err := e.Settle(t.Context(), res); err != nil {
					t.Fatal(err)
				}
				parked := h.Parked()
				if len(parked) != 1 {
					t.Fatalf("parked: %+v", parked)
				}
				if bad, ok := errors.AsType[*engine.InvalidError](parked[0].Err); e.Head() == 1 && c.want == "year of timer" {
					if len(parked[0].Stack) > 0 {
						t.Errorf("it has panicked: %v", parked[0].Err)
					}
				} else if !ok || bad.What != c.want {
					t.Errorf("parked with %v", parked[0].Err)
				}
			})
		})
	}
}

// counted is a process whose instances set timers, and cancel them when told. Its state is how many events it has had.
type counted struct{}

func (c *counted) process() *engine.Process[int] {
	return &engine.Process[int]{
		Name: "counted",
		Key: func(ev engine.Event) string {
			c, _ := ev.Data.(cue)
			return c.Key
		},
		Evolve: func(n int, ev engine.Event) int { return n + 1 },
		React: func(n int, ev engine.Event) (r engine.Reaction, err error) {
			cue, ok := ev.Data.(cue)
			switch {
			case !ok:
				r.Append("rung-"+ev.Stream, engine.New(reply{ev.Data.(rung).N}))
			case cue.Cancel != "":
				r.Cancel(cue.Cancel)
			default:
				r.After(cue.After, cue.Timer, engine.New(rung{cue.N}))
			}
			return r, nil
		},
	}
}

// judge reads the log: each timer is due once if it was not cancelled, and handled at most once, and every one
// that was not cancelled is. It returns how many are handled, and how many were set.
func (c *counted) judge(t *testing.T, e *engine.Engine, cancelled func(n int) bool) (handled, set int) {
	t.Helper()
	due, replies := make(map[int]int), make(map[int]int)
	var asked []int
	for ev, err := range e.ReadAll(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		switch data := ev.Data.(type) {
		case cue:
			if data.Cancel == "" {
				asked = append(asked, data.N)
			}
		case rung:
			due[data.N]++
		case reply:
			replies[data.N]++
		}
	}
	for _, n := range asked {
		if due[n] > 1 || replies[n] > due[n] || !cancelled(n) && replies[n] != 1 {
			t.Errorf("timer %d was due %d times, and handled %d times; cancelled: %v", n, due[n], replies[n], cancelled(n))
		}
	}
	return len(replies), len(asked)
}

func (c *counted) register(t *testing.T, e *engine.Engine) {
	t.Helper()
	if err := errors.Join(engine.Register[cue](e, "cue"), engine.Register[rung](e, "rung"), engine.Register[reply](e, "reply")); err != nil {
		t.Fatal(err)
	}
}

// TestTimersCancelledWhenDue: many instances side by side have timers that are cancelled at the moment at
// which they are due, while the process comes and goes, on one store after the other.
func TestTimersCancelledWhenDue(t *testing.T) {
	onBoth(t, func(t *testing.T, open func() engine.Backend) {
		var c counted
		const instances, lives = 30, 3
		n := 0
		var e *engine.Engine
		for life := range lives {
			e = quietEngine(t, engine.Options{Backend: open()})
			c.register(t, e)
			h, err := engine.Manage(e, c.process(), engine.FromStart(), engine.Keyed(4))
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for i := range instances {
				first := n
				n += 4
				wg.Go(func() {
					key := fmt.Sprint(i)
					for j := range 4 {
						name := fmt.Sprint("t", life, j)
						after := time.Duration(j) * time.Millisecond
						mustAppend(t, e, "cues-"+key, engine.New(cue{Key: key, N: first + j, Timer: name, After: after}))
						if j%2 == 0 {
							<-time.After(after)
							mustAppend(t, e, "cues-"+key, engine.New(cue{Key: key, N: first + j, Cancel: name}))
						}
					}
				})
			}
			for range 5 { // it comes and goes meanwhile
				if err := h.Remove(t.Context()); err != nil {
					t.Fatal(err)
				}
				if h, err = engine.Manage(e, c.process(), engine.FromStart(), engine.Keyed(4)); err != nil {
					t.Fatal(err)
				}
			}
			wg.Wait()
			if life == lives-1 {
				break
			}
			report, err := e.Shutdown(t.Context()) // while timers are being appended
			if err != nil || len(report.Running) > 0 {
				t.Fatalf("Shutdown: %v; %v run", err, report.Running)
			}
		}
		untilRest(t, e)
		handled, set := c.judge(t, e, func(n int) bool { return n%4%2 == 0 })
		if handled < set/2 || set != instances*lives*4+1 {
			t.Errorf("%d timers of %d were handled", handled, set)
		}
		mustClose(t, e)
	})
}

// untilRest waits until every timer that is set is due and handled: one that is set after all others, and due
// later than each, is the last.
func untilRest(t *testing.T, e *engine.Engine) {
	t.Helper()
	wait := func() {
		t.Helper()
		if err := e.Wait(t.Context(), e.Head(), "counted"); err != nil {
			t.Fatal(err)
		}
	}
	wait()
	mustAppend(t, e, "cues-last", engine.New(cue{Key: "last", N: -1, Timer: "t", After: 200 * time.Millisecond}))
	for ev, err := range e.ReadAll(t.Context(), engine.Follow(), engine.After(0), engine.Types("reply")) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Data.(reply).N == -1 {
			break
		}
	}
	wait()
}
