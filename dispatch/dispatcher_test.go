package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/actor"
	"github.com/weirstore/weir/dispatch"
)

func ofKinds(kinds ...dispatch.Kind) func(event) bool {
	set := dispatch.NewKindSet(kinds...)
	if len(kinds) == 0 {
		set = nil
	}
	return func(ev event) bool { return set.Has(ev.kind) }
}

func TestHandlerSeesAllOfItsKindsInOrder(t *testing.T) {
	sets := map[string]*dispatch.KindSet{
		"all":       nil,
		"one":       dispatch.NewKindSet(1),
		"two":       dispatch.NewKindSet(3, 2),
		"rare":      dispatch.NewKindSet(4),
		"far":       dispatch.NewKindSet(100, 1),
		"none":      dispatch.NewKindSet(),
		"unwritten": dispatch.NewKindSet(77),
	}
	const events, before = 800, 350
	for _, keyed := range []bool{false, true} {
		for _, window := range []int{1, 7, 1024} {
			t.Run(fmt.Sprintf("keyed %v, window %d", keyed, window), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					rng := rand.New(rand.NewPCG(1, uint64(window)))
					random := func() event {
						kind := []dispatch.Kind{1, 1, 2, 3, 3, 100}[rng.IntN(6)]
						if rng.IntN(200) == 0 {
							kind = 4
						}
						return event{kind: kind, key: fmt.Sprint(rng.IntN(20))}
					}
					for range before {
						r.store(random())
					}
					type subject struct {
						*handler
						rec   *recorder
						start uint64
					}
					all := map[string]subject{}
					for name, set := range sets {
						for _, start := range []uint64{0, 300, before} {
							rec := new(recorder)
							cfg := config{Name: fmt.Sprint(name, start), Kinds: set, Handle: rec.handle, Window: window, Overflow: dispatch.CatchUp}
							if keyed {
								cfg.Key, cfg.Workers = keyOf, 3
							}
							all[cfg.Name] = subject{r.add(cfg, start), rec, start}
						}
					}
					for range events - before {
						r.store(random())
					}
					for name, s := range all {
						r.handled(s.handler)
						set := sets[strings.TrimRight(name, "0123456789")]
						exp := r.log.positions(s.start, func(ev event) bool { return set.Has(ev.kind) })
						got := s.rec.positions()
						if keyed {
							for key, positions := range s.rec.byKey() {
								if !slices.IsSorted(positions) {
									t.Errorf("%s: key %s out of order: %s", name, key, brief(positions))
								}
							}
							got = sorted(got)
						}
						want(t, name, got, append([]uint64{}, exp...))
						if st := s.Stats(); st.Handled != uint64(len(exp)) || st.Lag != 0 || st.Fill != 0 || st.Position != events {
							t.Errorf("%s: Stats %+v", name, st)
						}
					}
				})
			})
		}
	}
}

// A handler joins at every position, each time while the next event is being appended:
// that is history for the one, and live for the other.
func TestHandlerJoinsAtEveryPosition(t *testing.T) {
	for _, keyed := range []bool{false, true} {
		t.Run(fmt.Sprintf("keyed %v", keyed), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				const events = 150
				handlers := make([]*handler, events)
				recs := make([]*recorder, events)
				for start := range uint64(events) {
					recs[start] = new(recorder)
					cfg := config{Name: fmt.Sprint(start), Handle: recs[start].handle, Overflow: dispatch.CatchUp, Window: 8}
					if start%2 == 0 {
						cfg.Kinds = dispatch.NewKindSet(1)
					}
					if keyed {
						cfg.Key, cfg.Workers = keyOf, 2
					}
					var wg sync.WaitGroup
					wg.Go(func() { r.store(event{kind: dispatch.Kind(1 + start%2), key: fmt.Sprint(start % 5)}) })
					handlers[start] = r.add(cfg, start)
					wg.Wait()
				}
				for start, h := range handlers {
					r.handled(h)
					wanted := func(ev event) bool { return start%2 == 1 || ev.kind == 1 }
					got := recs[start].positions()
					if keyed {
						got = sorted(got)
					}
					want(t, fmt.Sprint("joined at ", start), got, r.log.positions(uint64(start), wanted))
				}
			})
		})
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// The same without fake time, and with the producers of many goroutines at once.
func TestHandlerJoinsInAStorm(t *testing.T) {
	const producers, each, handlers = 4, 400, 16
	r := newRig(t, nil)
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for i := range each {
				if err := r.produce(ctxBg, event{kind: dispatch.Kind(1 + p%2), key: fmt.Sprint(p, i%3)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range handlers {
		wg.Go(func() {
			rec := new(recorder)
			cfg := config{Name: fmt.Sprint(i), Handle: rec.handle, Window: 1 + i*3, Overflow: dispatch.Overflow(i % 2)} // Block, CatchUp
			if i%3 == 0 {
				cfg.Key, cfg.Workers = keyOf, 2
			}
			if i%4 == 0 {
				cfg.Kinds = dispatch.NewKindSet(2)
			}
			start := r.log.Head() * uint64(i%5) / 4
			h := r.add(cfg, start)
			if err := h.Wait(ctxBg, producers*each); err != nil {
				t.Error(err)
			}
			got := rec.positions()
			if cfg.Key != nil {
				got = sorted(got)
			}
			want(t, cfg.Name, got, r.log.positions(start, func(ev event) bool { return cfg.Kinds.Has(ev.kind) }))
		})
	}
	wg.Wait()
}

func TestOnlyHandlersConcernedAreWoken(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		type spy struct {
			name  string
			kinds *dispatch.KindSet
			woken func() bool
		}
		spies := []*spy{
			{name: "all"},
			{name: "one", kinds: dispatch.NewKindSet(1)},
			{name: "two", kinds: dispatch.NewKindSet(2)},
			{name: "both", kinds: dispatch.NewKindSet(1, 2)},
			{name: "none", kinds: dispatch.NewKindSet()},
		}
		for _, s := range spies {
			h := r.add(config{Name: s.name, Kinds: s.kinds, Handle: new(recorder).handle}, 0)
			settle()
			woken, undo := h.SpyOnWakes()
			s.woken = woken
			t.Cleanup(undo)
		}
		expect := func(when string, names ...string) {
			t.Helper()
			settle()
			for _, s := range spies {
				if got := s.woken(); got != slices.Contains(names, s.name) {
					t.Errorf("%s: %q woken is %v", when, s.name, got)
				}
			}
		}
		r.Notify()
		expect("when nothing has come")
		r.store(event{kind: 3})
		expect("after an event of kind 3", "all")
		r.store(event{kind: 2}, event{kind: 2})
		expect("after two of kind 2", "all", "two", "both")
		r.store(event{kind: 1})
		expect("after one of kind 1", "all", "one", "two", "both")
	})
}

// Whoever has nothing to do sleeps, wherever it joined.
func TestNobodySpins(t *testing.T) {
	for _, kinds := range []*dispatch.KindSet{nil, dispatch.NewKindSet(2), dispatch.NewKindSet()} {
		for _, start := range []uint64{0, 5, 10} {
			both(t, func(t *testing.T, keyed bool) {
				r := newRig(t, nil)
				r.storeN(10)
				cfg := config{Kinds: kinds, Handle: new(recorder).handle}
				if keyed {
					cfg.Key, cfg.Workers = keyOf, 2
				}
				h := r.add(cfg, start)
				r.handled(h)
				deadline := time.Now().Add(10 * time.Second)
				for !h.Asleep() || !r.Asleep() {
					if time.Now().After(deadline) {
						t.Fatalf("kinds %v, start %d: awake without anything to do: handler %v, dispatcher %v", kinds.Kinds(), start, !h.Asleep(), !r.Asleep())
					}
					runtime.Gosched()
				}
			})
		}
	}
}

func TestHandlerThatNothingConcernsIsDone(t *testing.T) {
	for _, keyed := range []bool{false, true} {
		t.Run(fmt.Sprintf("keyed %v", keyed), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				cfg := config{Kinds: dispatch.NewKindSet(2), Handle: new(recorder).handle, Window: 1}
				if keyed {
					cfg.Key, cfg.Workers = keyOf, 2
				}
				h := r.add(cfg, 0)
				head := r.storeN(1000)
				if err := h.Wait(ctxBg, head); err != nil {
					t.Fatal(err)
				}
				if s := h.Stats(); s.Position != head || s.Lag != 0 || s.Fill != 0 || s.State != dispatch.Live || r.Waited() != 0 {
					t.Errorf("Stats %+v, waited %d", s, r.Waited())
				}
				if err := h.Pause(ctxBg); err != nil {
					t.Fatal(err)
				}
				if got := h.Position(); got != head {
					t.Errorf("paused at %d, want %d: what does not concern it is behind it", got, head)
				}
			})
		})
	}
}

// The position that a handler has reached it keeps: also when the next event that
// concerns it is offered, and it has been at its last one long ago.
func TestPositionNeverGoesDown(t *testing.T) {
	for _, keyed := range []bool{false, true} {
		t.Run(fmt.Sprintf("keyed %v", keyed), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				g := newGate(t)
				cfg := config{Kinds: dispatch.NewKindSet(2), Handle: func(context.Context, event) error {
					g.pass()
					return nil
				}}
				if keyed {
					cfg.Key, cfg.Workers = keyOf, 2
				}
				h := r.add(cfg, 0)
				r.storeN(50)
				settle()
				if got := h.Position(); got != 50 {
					t.Fatalf("Position is %d, want 50", got)
				}
				r.store(event{kind: 2}, event{kind: 1})
				settle()
				if got := h.Position(); got != 50 {
					t.Errorf("Position is %d while event 51 is being handled, want 50", got)
				}
				if got := h.Stats().Position; got != 50 {
					t.Errorf("Stats has position %d, want 50", got)
				}
				for _, pos := range []uint64{1, 50} {
					ctx, cancel := context.WithTimeout(ctxBg, time.Hour)
					if err := h.Wait(ctx, pos); err != nil {
						t.Errorf("Wait(%d): %v", pos, err)
					}
					cancel()
				}
				waits(t, "Wait(51)", done(func() error { return h.Wait(ctxBg, 51) }))
				g.open()
				r.handled(h)
			})
		})
	}
}

func TestAddRefuses(t *testing.T) {
	ok := func(context.Context, event) error { return nil }
	tests := []struct {
		name string
		cfg  config
		want []string
	}{
		{"no name", config{Handle: ok}, []string{"Name is empty"}},
		{"no function", config{Name: "x"}, []string{`handler "x"`, "Handle is nil"}},
		{"a key without workers", config{Name: "x", Handle: ok, Key: keyOf}, []string{"Key and Workers"}},
		{"workers without a key", config{Name: "x", Handle: ok, Workers: 2}, []string{"Key and Workers"}},
		{"negative numbers, all of them at once", config{Name: "x", Handle: ok, Key: keyOf, Workers: -1, Window: -2, MaxParked: -3,
			Retry: dispatch.Retry{Attempts: -4}}, []string{"Workers is -1", "Window is -2", "MaxParked is -3", "Retry.Attempts is -4"}},
		{"a negative backoff", config{Name: "x", Handle: ok, Retry: dispatch.Retry{Backoff: -1}}, []string{"negative backoff"}},
		{"a negative largest backoff", config{Name: "x", Handle: ok, Retry: dispatch.Retry{MaxBackoff: -1}}, []string{"negative backoff"}},
		{"an unknown overflow policy", config{Name: "x", Handle: ok, Overflow: 9}, []string{"unknown policy", "Overflow(9)"}},
		{"an unknown failure policy", config{Name: "x", Handle: ok, After: 9}, []string{"unknown policy", "AfterRetries(9)"}},
	}
	r := newRig(t, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.Add(tt.cfg, 0)
			for _, w := range tt.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("Add returned %v, want %q in it", err, w)
				}
			}
		})
	}
	t.Run("a start beyond the head", func(t *testing.T) {
		r.storeN(3)
		if _, err := r.Add(config{Name: "x", Handle: ok}, 4); err == nil || !strings.Contains(err.Error(), "beyond the log's head 3") {
			t.Errorf("Add returned %v", err)
		}
	})
	if n := len(r.Handlers()); n != 0 {
		t.Errorf("%d handlers are there", n)
	}
}

func TestAddResumes(t *testing.T) {
	tests := []struct {
		name   string
		resume func() (uint64, bool, error)
		first  uint64 // the first event handled; 0 if Add is refused
		err    string
	}{
		{"where a handler of that name stood", func() (uint64, bool, error) { return 7, true, nil }, 8, ""},
		{"at the beginning, if it stood there", func() (uint64, bool, error) { return 0, true, nil }, 1, ""},
		{"at the start given, if there was none", func() (uint64, bool, error) { return 7, false, nil }, 4, ""},
		{"not if that cannot be told", func() (uint64, bool, error) { return 0, false, errBoom }, 0, "boom"},
		{"not beyond the log's head", func() (uint64, bool, error) { return 11, true, nil }, 0, "checkpoint 11 is beyond the log's head 10"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *testing.T, keyed bool) {
				bubble(t, func(t *testing.T, r *rig) {
					r.storeN(10)
					rec := new(recorder)
					cfg := config{Name: "h", Handle: rec.handle, Resume: tt.resume}
					if keyed {
						cfg.Key, cfg.Workers = keyOf, 1
					}
					h, err := r.Add(cfg, 3)
					if tt.first == 0 {
						if err == nil || !strings.Contains(err.Error(), tt.err) || r.Pulses() != 0 || len(r.Handlers()) != 0 {
							t.Errorf("Add returned %v, %d pulses, %d handlers", err, r.Pulses(), len(r.Handlers()))
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					r.handled(h)
					wantSpan(t, "handled", rec.positions(), tt.first, 10)
				})
			})
		})
	}
}

func TestRefusedHandlerLeavesNothingBehind(t *testing.T) {
	tests := []struct {
		name string
		prep func(r *rig)
		is   error
	}{
		{"because its name is taken", func(r *rig) { r.add(config{Name: "x", Handle: new(recorder).handle}, 0) }, dispatch.ErrExists},
		{"because the dispatcher is closed", func(r *rig) { r.CloseDoor() }, dispatch.ErrClosed},
		{"because the dispatcher has ended", func(r *rig) { _ = r.End(ctxBg) }, dispatch.ErrClosed},
		{"because it cannot join", func(r *rig) {
			r.log.onKinds = func(uint64) error { return errBoom }
			r.log.append(event{kind: 1})
		}, errBoom},
		{"because the group is closed", func(r *rig) { r.group.Close() }, dispatch.ErrClosed},
	}
	for _, tt := range tests {
		for _, keyed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, keyed %v", tt.name, keyed), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					tt.prep(r)
					settle()
					pulses, handlers, running := r.Pulses(), len(r.Handlers()), r.group.Count()
					for range 3 {
						cfg := config{Name: "x", Handle: new(recorder).handle}
						if keyed {
							cfg.Key, cfg.Workers = keyOf, 3
						}
						if _, err := r.Add(cfg, r.log.Head()); !errors.Is(err, tt.is) {
							t.Errorf("Add returned %v, want %v", err, tt.is)
						}
					}
					settle()
					if p, h, g := r.Pulses(), len(r.Handlers()), r.group.Count(); p != pulses || h != handlers || g != running {
						t.Errorf("now there are %d pulses, %d handlers, %d goroutines; want %d, %d, %d", p, h, g, pulses, handlers, running)
					}
				})
			})
		}
	}
}

func TestHandlersAreFoundByName(t *testing.T) {
	r := newRig(t, nil)
	for _, name := range []string{"b", "c", "a"} {
		r.add(config{Name: name, Handle: new(recorder).handle}, 0)
	}
	var names []string
	for _, h := range r.Handlers() {
		names = append(names, h.Name())
		if same, ok := r.Handler(h.Name()); !ok || same != h {
			t.Errorf("Handler(%q) is another one", h.Name())
		}
	}
	if !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Errorf("Handlers: %q", names)
	}
	if _, ok := r.Handler("d"); ok {
		t.Error(`Handler("d") is there`)
	}
}

// The dispatcher tries again, at longer and longer intervals, and then goes on.
func TestDispatcherOutlivesALogThatFails(t *testing.T) {
	tests := []struct {
		name string
		fail func(uint64) error
	}{
		{"with an error", func(uint64) error { return errBoom }},
		{"with a panic", func(uint64) error { panic("boom") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var broken atomic.Bool
				var tries []time.Time
				r := newRig(t, func(_ *dispatch.Options, l *memlog) {
					l.onKinds = func(after uint64) error {
						if broken.Load() {
							tries = append(tries, time.Now())
							return tt.fail(after)
						}
						return nil
					}
				})
				rec := new(recorder)
				h := r.add(config{Handle: rec.handle}, 0)
				r.storeN(3)
				r.handled(h)
				broken.Store(true)
				r.storeN(2)
				time.Sleep(10 * time.Second)
				settle()
				if h.Position() != 3 {
					t.Errorf("Position is %d", h.Position())
				}
				last := time.Duration(0)
				for i := range tries[1:] {
					pause := tries[i+1].Sub(tries[i])
					if pause < last || pause < time.Millisecond || pause > time.Second {
						t.Errorf("pause %d is %v after %v", i, pause, last)
					}
					last = pause
				}
				if last != time.Second || len(tries) > 25 {
					t.Errorf("%d tries, the last after %v, want 1s", len(tries), last)
				}
				if r.lines.count("weir: dispatcher cannot read the log") != len(tries) {
					t.Errorf("%d tries, logged: %q", len(tries), r.lines.all)
				}
				if err := h.Pause(ctxBg); err != nil { // it still does what it is told
					t.Error(err)
				}
				if err := h.Resume(); err != nil {
					t.Error(err)
				}
				settle()
				broken.Store(false)
				r.handled(h)
				wantSpan(t, "handled", rec.positions(), 1, 5)
			})
		})
	}
}

func TestDispatcherOutlivesALogThatHasLessThanItSays(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		rec := new(recorder)
		h := r.add(config{Handle: rec.handle}, 0)
		r.log.head.Store(1)
		r.Notify()
		time.Sleep(time.Minute)
		if r.Position() != 0 || h.Position() != 0 {
			t.Errorf("Position is %d, %d", r.Position(), h.Position())
		}
		if r.lines.count("weir: dispatcher cannot read the log") == 0 {
			t.Error("nothing was logged")
		}
		r.storeN(1)
		r.handled(h)
		wantSpan(t, "handled", rec.positions(), 1, 1)
	})
}

func TestHandlerStopsWhenTheLogCannotBeRead(t *testing.T) {
	tests := []struct {
		name  string
		prep  func(l *memlog)
		panic bool
	}{
		{"because of an error", func(l *memlog) { l.onRead = func(uint64, uint64) error { return errBoom } }, false},
		{"because it panics", func(l *memlog) { l.onRead = func(uint64, uint64) error { panic(errBoom) } }, true},
		{"because it does not advance", func(l *memlog) { l.readAs = func(int, uint64) (int, uint64) { return 0, 0 } }, false},
	}
	for _, tt := range tests {
		for _, policy := range []dispatch.Overflow{dispatch.Block, dispatch.Latest} {
			for _, keyed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %v, keyed %v", tt.name, policy, keyed), func(t *testing.T) {
					bubble(t, func(t *testing.T, r *rig) {
						rec := new(recorder)
						cfg := config{Handle: rec.handle, Window: 2, Overflow: policy}
						if keyed {
							cfg.Key, cfg.Workers = keyOf, 2
						}
						h := r.add(cfg, 0)
						settle()
						tt.prep(r.log)
						r.storeN(5)
						settle()
						err := h.Wait(ctxBg, 5)
						stopped, ok := errors.AsType[*dispatch.StoppedError](err)
						if !ok || stopped.Handler != "h" || stopped.Position != 0 || stopped.Err == nil {
							t.Fatalf("Wait returned %v, want that it stopped at 0", err)
						}
						if p, ok := errors.AsType[*actor.PanicError](err); ok != tt.panic || ok && !strings.Contains(p.Where, "read the log") {
							t.Errorf("Wait returned %v", err)
						}
						if s := h.Stats(); s.State != dispatch.Stopped || s.LastError == nil {
							t.Errorf("Stats %+v", s)
						}
						r.log.onRead, r.log.readAs = nil, nil
						if err := h.Resume(); err != nil {
							t.Fatal(err)
						}
						r.handled(h)
						wantSpan(t, "handled after Resume", sorted(rec.positions()), 1, 5)
					})
				})
			}
		}
	}
}

// Read may return less than there is, and nothing as long as it advances.
func TestHandlerReadsALogThatReturnsLittle(t *testing.T) {
	for _, policy := range []dispatch.Overflow{dispatch.Block, dispatch.Latest} {
		for _, keyed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, keyed %v", policy, keyed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, func(_ *dispatch.Options, l *memlog) { l.short = 3 })
					rec := new(recorder)
					cfg := config{Handle: rec.handle, Kinds: dispatch.NewKindSet(2), Overflow: policy}
					if keyed {
						cfg.Key, cfg.Workers = keyOf, 2
					}
					h := r.add(cfg, 0)
					for range 20 {
						r.storeN(10)
						r.store(event{kind: 2}, event{kind: 2})
					}
					r.handled(h)
					want(t, "handled", sorted(rec.positions()), r.log.positions(0, ofKinds(2)))
				})
			})
		}
	}
}

func TestPoliciesAndStatesHaveNames(t *testing.T) {
	for want, got := range map[string]fmt.Stringer{
		"block": dispatch.Block, "catch-up": dispatch.CatchUp, "latest": dispatch.Latest, "fail": dispatch.Fail,
		"skip": dispatch.Skip, "park": dispatch.Park, "stop": dispatch.Stop,
		"live": dispatch.Live, "behind": dispatch.Behind, "stalled": dispatch.Stalled, "retrying": dispatch.Retrying,
		"paused": dispatch.Paused, "stopped": dispatch.Stopped, "dispatch.State(77)": dispatch.State(77),
	} {
		if got.String() != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
