package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/dispatch"
)

// A chain of events, each appended by the handler of the one before, is drained first.
func TestQuiesceDrainsWhatHandlersAppend(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			const chain = 300
			rec := new(recorder)
			cfg := config{Name: "chain", Window: 1, Handle: func(ctx context.Context, ev event) error {
				if ev.pos < chain {
					if err := r.produce(ctx, event{kind: dispatch.Kind(1 + ev.pos%3)}); err != nil {
						t.Error(err)
					}
				}
				return rec.handle(ctx, ev)
			}}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 2
			}
			r.add(cfg, 0)
			others := make([]*recorder, 4)
			for i := range others {
				others[i] = new(recorder)
				r.add(config{Name: fmt.Sprint(i), Kinds: dispatch.NewKindSet(dispatch.Kind(i)), Handle: others[i].handle}, 0)
			}
			r.storeN(1)
			r.CloseDoor()
			if err := r.Quiesce(ctxBg, always); err != nil {
				t.Fatal(err)
			}
			if err := r.End(ctxBg); err != nil {
				t.Fatal(err)
			}
			wantSpan(t, "handled", rec.positions(), 1, chain)
			for i, o := range others {
				want(t, fmt.Sprint("handled of kind ", i), o.positions(), append([]uint64{}, r.log.positions(0, ofKinds(dispatch.Kind(i)))...))
			}
		})
	})
}

func TestQuiesceWaitsFor(t *testing.T) {
	tests := []struct {
		name string
		prep func(t *testing.T, r *rig) (release func())
	}{
		{"a handler in its last call", func(t *testing.T, r *rig) func() {
			h, steps := stepped(t, r, false)
			r.storeN(1)
			_ = h
			return func() { steps.step(1) }
		}},
		{"a worker in its last call", func(t *testing.T, r *rig) func() {
			_, steps := stepped(t, r, true)
			r.storeN(1)
			return func() { steps.step(1) }
		}},
		{"a handler that is to pause, in its last call", func(t *testing.T, r *rig) func() {
			h, steps := stepped(t, r, false)
			r.storeN(5)
			settle()
			go func() { _ = h.Pause(ctxBg) }()
			return func() { steps.step(1) }
		}},
		{"a handler that is to pause, whose worker is in its last call", func(t *testing.T, r *rig) func() {
			h, steps := stepped(t, r, true)
			r.storeN(5)
			settle()
			go func() { _ = h.Pause(ctxBg) }()
			return func() { steps.step(1) }
		}},
		{"a handler that is to end, in its last call", func(t *testing.T, r *rig) func() {
			h, steps := stepped(t, r, false)
			r.storeN(5)
			settle()
			go func() { _ = h.Remove(ctxBg) }()
			return func() { steps.step(1) }
		}},
		{"a handler that retries", func(t *testing.T, r *rig) func() {
			var ok atomic.Bool
			r.add(config{Retry: dispatch.Retry{Attempts: 1000, Backoff: time.Second, MaxBackoff: time.Second}, Handle: func(context.Context, event) error {
				if ok.Load() {
					return nil
				}
				return errBoom
			}}, 0)
			r.storeN(1)
			return func() { ok.Store(true); time.Sleep(2 * time.Second) }
		}},
		{"a handler that is resumed meanwhile", func(t *testing.T, r *rig) func() {
			h, steps := stepped(t, r, false)
			other, otherSteps := r.add(config{Name: "other", Handle: func(context.Context, event) error { return nil }}, 0), steps
			_ = other
			if err := h.Pause(ctxBg); err != nil {
				t.Fatal(err)
			}
			r.storeN(1)
			settle()
			if err := h.Resume(); err != nil {
				t.Fatal(err)
			}
			return func() { otherSteps.step(1) }
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				release := tt.prep(t, r)
				settle()
				quiet := done(func() error { return r.Quiesce(ctxBg, always) })
				waits(t, "Quiesce", quiet)
				release()
				if err := <-quiet; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestQuiesceDoesNotWaitForHandlersThatRest(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		paused := r.add(config{Name: "paused", Handle: new(recorder).handle}, 0)
		if err := paused.Pause(ctxBg); err != nil {
			t.Fatal(err)
		}
		stopped := r.add(config{Name: "stopped", After: dispatch.Stop, Handle: func(context.Context, event) error { return errBoom }}, 0)
		good := r.add(config{Name: "good", Handle: new(recorder).handle}, 0)
		r.storeN(10)
		if err := r.Quiesce(ctxBg, always); err != nil {
			t.Fatal(err)
		}
		for h, pos := range map[*handler]uint64{paused: 0, stopped: 0, good: 10} {
			if h.Position() != pos {
				t.Errorf("%s is at %d, want %d", h.Name(), h.Position(), pos)
			}
		}
	})
}

func TestQuiesceAtItsDeadlineLeavesAReport(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.add(config{Name: "stuck", Handle: stuck(t)}, 0)
		r.add(config{Name: "stuck keyed", Key: keyOf, Workers: 2, Handle: stuck(t)}, 0)
		r.add(config{Name: "good", Handle: new(recorder).handle}, 0)
		r.storeN(3)
		ctx, cancel := context.WithTimeoutCause(ctxBg, time.Minute, errBoom)
		defer cancel()
		began := time.Now()
		if err := r.Quiesce(ctx, always); err != errBoom || time.Since(began) != time.Minute {
			t.Errorf("Quiesce returned %v after %v", err, time.Since(began))
		}
		r.Interrupt()
		if err := r.End(ctx); err != errBoom {
			t.Errorf("End returned %v", err)
		}
		settle()
		lag := map[string]uint64{"stuck": 3, "stuck keyed": 3}
		for _, h := range r.Handlers() {
			if s := h.Stats(); s.Lag != lag[h.Name()] || isClosed(h.Gone()) {
				t.Errorf("%v, gone %v; want lag %d", s, isClosed(h.Gone()), lag[h.Name()])
			}
			delete(lag, h.Name())
		}
		if len(lag) > 0 {
			t.Errorf("not named: %v", lag)
		}
		r.Cancel(errBoom) // the last thing: now their calls return
		if err := r.group.Wait(ctxBg); err != nil {
			t.Error(err)
		}
	})
}

// What a handler has left in flight when it returns is waited for: settled is asked when
// no handler is in a call, not before.
func TestQuiesceAsksWhetherAllIsSettledLast(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var flying atomic.Int64
		g, rec := newGate(t), new(recorder)
		land := make(chan struct{})
		h := r.add(config{Handle: func(ctx context.Context, ev event) error {
			if ev.pos == 1 {
				g.pass()
				flying.Add(1)
				go func() { // as an append that is not awaited
					<-land
					r.storeN(1)
					flying.Add(-1)
					r.Recheck()
				}()
			}
			return rec.handle(ctx, ev)
		}}, 0)
		r.storeN(1)
		settle()
		quiet := done(func() error {
			return r.Quiesce(ctxBg, func() bool {
				none := flying.Load() == 0
				g.open() // asked earlier, it says yes just before the call ends
				for h.Position() < 1 {
					runtime.Gosched()
				}
				return none
			})
		})
		settle()
		g.open()
		waits(t, "Quiesce", quiet)
		close(land)
		if err := <-quiet; err != nil {
			t.Fatal(err)
		}
		if h.Position() != 2 {
			t.Errorf("it returned with the handler at %d, want 2", h.Position())
		}
	})
}

func TestQuiesceAsksAgainWhenTold(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var ok atomic.Bool
		quiet := done(func() error { return r.Quiesce(ctxBg, ok.Load) })
		waits(t, "Quiesce", quiet)
		r.Recheck()
		waits(t, "Quiesce", quiet)
		ok.Store(true)
		waits(t, "Quiesce", quiet)
		r.Recheck()
		if err := <-quiet; err != nil {
			t.Error(err)
		}
	})
}

// Events come while Quiesce looks: it never returns with some of them before a handler.
func TestQuiesceStorm(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		for range 60 {
			bubble(t, func(t *testing.T, r *rig) {
				var flying, last atomic.Int64
				cfg := config{Handle: func(ctx context.Context, ev event) error {
					last.Store(max(last.Load(), int64(ev.pos)))
					return nil
				}}
				if keyed {
					cfg.Key, cfg.Workers = keyOf, 1
				}
				h := r.add(cfg, 0)
				flying.Add(3)
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						for i := range 20 {
							r.storeN(1)
							if i%7 == 0 {
								runtime.Gosched()
							}
						}
						if flying.Add(-1) == 0 {
							r.Recheck()
						}
					})
				}
				if err := r.Quiesce(ctxBg, func() bool { return flying.Load() == 0 }); err != nil {
					t.Fatal(err)
				}
				if last.Load() != 60 || h.Position() != 60 {
					t.Fatalf("quiet at %d, position %d; want 60", last.Load(), h.Position())
				}
				wg.Wait()
			})
		}
	})
}

func TestEndIsTheSameForAll(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		h, steps := stepped(t, r, false)
		k := r.add(config{Name: "keyed", Key: keyOf, Workers: 3, Handle: func(context.Context, event) error { return nil }}, 0)
		r.storeN(5)
		settle()
		first, second := done(func() error { return r.End(ctxBg) }), done(func() error { return r.End(ctxBg) })
		waits(t, "End", first)
		waits(t, "End", second)
		if err := r.Admit(ctxBg); err != dispatch.ErrClosed {
			t.Errorf("Admit returned %v", err)
		}
		steps.step(1)
		if err := errors.Join(<-first, <-second, r.End(cancelled())); err != nil {
			t.Error(err)
		}
		if h.Position() != 1 || k.Position() != 5 || !isClosed(h.Gone()) || !isClosed(k.Gone()) || len(r.Handlers()) != 0 {
			t.Errorf("positions %d, %d; %d handlers", h.Position(), k.Position(), len(r.Handlers()))
		}
		if err := r.group.Wait(ctxBg); err != nil || r.group.Count() != 0 {
			t.Errorf("running: %q, %v", r.group.Running(), err)
		}
		if r.Pulses() != 0 || r.Seats() != 0 {
			t.Errorf("%d pulses, %d seats are left", r.Pulses(), r.Seats())
		}
		r.storeN(1) // nobody is there to be told
		for _, err := range []error{h.Pause(ctxBg), h.Resume(), h.Wait(ctxBg, 6)} {
			if err != dispatch.ErrRemoved {
				t.Errorf("after the end: %v", err)
			}
		}
	})
}

func TestEndDoesNotOutliveItsContext(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			g := newGate(t)
			cfg := config{Handle: func(context.Context, event) error { // does not look at its context
				g.pass()
				return nil
			}}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 2
			}
			h := r.add(cfg, 0)
			w := done(func() error { return h.Wait(ctxBg, 2) })
			r.storeN(2)
			settle()
			ctx, cancel := context.WithTimeoutCause(ctxBg, time.Second, errBoom)
			defer cancel()
			began := time.Now()
			if err := r.End(ctx); err != errBoom || time.Since(began) != time.Second {
				t.Errorf("End returned %v after %v", err, time.Since(began))
			}
			if err := <-w; err != dispatch.ErrRemoved {
				t.Errorf("Wait returned %v", err)
			}
			settle()
			running := 1
			if keyed {
				running = 3
			}
			if n := r.group.Count(); n != running {
				t.Errorf("running: %q, want the handler's alone", r.group.Running())
			}
			if err := r.End(ctx); err != errBoom {
				t.Errorf("End again returned %v", err)
			}
			g.open() // it returns, without a dispatcher that it could tell
			<-h.Gone()
			if err := r.End(ctx); err != nil {
				t.Errorf("End at last returned %v", err)
			}
			if s := h.Stats(); s.Handled != 1 || s.Position != 1 {
				t.Errorf("Stats %+v", s)
			}
		})
	})
}

// End waits for a handler that is being added, and for one that fails to join.
func TestEndRacesWithAdd(t *testing.T) {
	for _, broken := range []bool{false, true} {
		t.Run(fmt.Sprintf("the log fails: %v", broken), func(t *testing.T) {
			for i := range 100 {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, func(_ *dispatch.Options, l *memlog) {
						if broken {
							l.onKinds = func(uint64) error { return errBoom }
						}
					})
					r.log.append(event{kind: 1})
					var wg sync.WaitGroup
					wg.Go(func() {
						for range 3 {
							cfg := config{Name: "h", Handle: new(recorder).handle}
							if i%2 == 0 {
								cfg.Key, cfg.Workers = keyOf, 2
							}
							h, err := r.Add(cfg, 1)
							if err == nil {
								_ = h.Remove(ctxBg)
							}
						}
					})
					wg.Go(func() {
						for range i % 10 {
							runtime.Gosched()
						}
						if h, ok := r.Handler("h"); ok {
							_ = h.Wait(ctxBg, 2)
							<-h.Gone()
						}
					})
					for range i % 7 {
						runtime.Gosched()
					}
					if err := r.End(ctxBg); err != nil {
						t.Error(err)
					}
					wg.Wait()
					if r.Pulses() != 0 || len(r.Handlers()) != 0 {
						t.Errorf("%d pulses, %d handlers are left", r.Pulses(), len(r.Handlers()))
					}
				})
			}
		})
	}
}

// From everything that handlers do to the end, at any moment, without a goroutine that stays.
func TestEndInAStorm(t *testing.T) {
	for i := range 40 {
		bubble(t, func(t *testing.T, r *rig) {
			var acked, handled atomic.Int64
			for n := range 4 {
				cfg := config{Name: fmt.Sprint(n), Window: 1 + n*5, Overflow: dispatch.Overflow(n % 2), Retry: dispatch.Retry{Attempts: 1, Backoff: 1},
					Handle: func(ctx context.Context, ev event) error {
						switch (ev.pos + uint64(n)) % 17 {
						case 0:
							panic("boom")
						case 1:
							runtime.Goexit()
						case 2:
							return errBoom
						}
						if n == 0 {
							handled.Add(1)
						}
						return nil
					}}
				if n%2 == 0 {
					cfg.Key, cfg.Workers = keyOf, 2
				}
				r.add(cfg, 0)
			}
			var wg sync.WaitGroup
			for p := range 3 {
				wg.Go(func() {
					for r.produce(ctxBg, event{kind: 1, key: fmt.Sprint(p)}) == nil {
						acked.Add(1)
					}
				})
			}
			for acked.Load() < int64(i*5) {
				time.Sleep(time.Nanosecond)
			}
			r.CloseDoor()
			wg.Wait()
			if i%2 == 0 {
				if err := r.Quiesce(ctxBg, always); err != nil {
					t.Fatal(err)
				}
				for _, h := range r.Handlers() {
					if s := h.Stats(); s.Position != uint64(acked.Load()) || s.Lag != 0 || s.Handled+s.Skipped != uint64(acked.Load()) {
						t.Errorf("%d were stored; %+v", acked.Load(), s)
					}
				}
			}
			r.end()
			if n := r.group.Count(); n != 0 {
				t.Errorf("running: %q", r.group.Running())
			}
		})
	}
}

func TestDispatcherNamesItsGoroutines(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.add(config{Name: "plain", Handle: new(recorder).handle}, 0)
		r.add(config{Name: "keyed", Key: keyOf, Workers: 2, Handle: new(recorder).handle}, 0)
		want := `[dispatcher handler "keyed" handler "plain" watchdog worker "keyed/0" worker "keyed/1"]`
		if got := fmt.Sprint(r.group.Running()); got != want {
			t.Errorf("running: %s, want %s", got, want)
		}
	})
}
