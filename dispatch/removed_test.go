package dispatch_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/weirstore/weir/dispatch"
)

// What the log had no longer when the dispatcher came to it is offered to nobody, not even
// to handlers and watchers of all kinds, and nobody waits for it.
func TestRemovedEventsAreNotOffered(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var all, one recorder
		ha := r.add(config{Name: "all", Handle: all.handle, Window: 1}, 0)
		ho := r.add(config{Name: "one", Handle: one.handle, Kinds: dispatch.NewKindSet(1), Window: 1}, 0)
		w, err := r.Watch(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		settle()
		w.Arm()
		r.log.append(slices.Repeat([]event{{kind: 1}}, 600)...) // more than a round
		r.log.remove(span(1, 600)...)
		r.Notify()
		settle()
		if got := r.Position(); got != 600 {
			t.Errorf("the dispatcher is at %d, want 600", got)
		}
		if !w.Parked() {
			t.Error("a watcher was woken for events that were removed")
		}
		w.Disarm()
		for _, h := range []*handler{ha, ho} {
			if s := h.Stats(); s.Position != 600 || s.Lag != 0 || s.Fill != 0 {
				t.Errorf("%v", s)
			}
			r.handled(h)
		}
		r.log.append(event{kind: 1}, event{kind: 1}, event{kind: 2}, event{kind: 1})
		r.log.remove(601, 604)
		r.Notify()
		settle()
		want(t, "all", all.positions(), []uint64{602, 603})
		want(t, "one", one.positions(), []uint64{602})
		if err := r.Quiesce(ctxBg, always); err != nil {
			t.Error(err)
		}
	})
}

// An event may be removed after it was offered and before it is read. Nothing may be left of
// it in the mailbox: no lag, no closed door, nobody who waits for ever.
func TestRemovedAfterOffer(t *testing.T) {
	key := func(cfg config) config {
		cfg.Key, cfg.Workers = keyOf, 2
		return cfg
	}
	for _, tt := range []struct {
		name  string
		cfg   config
		offer int // events offered and removed while a call is under way
	}{
		{"plain", config{Window: 8}, 5},
		{"block window 1", config{Window: 1}, 1},
		{"block window 1, more offered", config{Window: 1}, 7},
		{"block, full", config{Window: 4}, 4},
		{"catch up", config{Window: 2, Overflow: dispatch.CatchUp}, 300},
		{"latest", config{Window: 4, Overflow: dispatch.Latest}, 3},
		{"latest, over the window", config{Window: 4, Overflow: dispatch.Latest}, 30},
		{"fail", config{Window: 8, Overflow: dispatch.Fail}, 6},
		{"keyed", key(config{Window: 8}), 20},
		{"keyed, block window 1", key(config{Window: 1}), 3},
		{"keyed, latest", key(config{Window: 4, Overflow: dispatch.Latest}), 30},
	} {
		for _, kinds := range []*dispatch.KindSet{nil, dispatch.NewKindSet(1)} {
			t.Run(tt.name, func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					var rec recorder
					g := newGate(t)
					cfg := tt.cfg
					cfg.Kinds = kinds
					cfg.Lagged = func(_ context.Context, n uint64) { t.Errorf("told that it lagged by %d", n) }
					cfg.Handle = func(ctx context.Context, ev event) error {
						if ev.pos == 1 {
							g.pass()
						}
						return rec.handle(ctx, ev)
					}
					h := r.add(cfg, 0)
					settle()
					r.store(event{kind: 1})
					settle() // it is in the call
					last := r.storeN(tt.offer)
					settle()
					r.log.remove(span(2, last)...)
					waited := done(func() error { return h.Wait(ctxBg, last) })
					produced := done(func() error { return r.produce(ctxBg, event{kind: 1}) })
					settle()
					g.open()
					settle()
					for what, ch := range map[string]<-chan error{"Wait": waited, "Admit": produced} {
						select {
						case err := <-ch:
							if err != nil {
								t.Errorf("%s: %v", what, err)
							}
						default:
							t.Fatalf("%s hangs: %v", what, h.Stats())
						}
					}
					// Workers may have been given what fits the ring before it was removed.
					got, given := rec.positions(), 0
					if cfg.Workers > 0 {
						given = cfg.Window - 1
					}
					if len(got) > 2+given || got[0] != 1 || got[len(got)-1] != last+1 {
						t.Errorf("handled %v, want 1 and %d", got, last+1)
					}
					if s := h.Stats(); s.Lag != 0 || s.Fill != 0 || h.Fill() != 0 || s.Position != last+1 || s.Lagged != 0 || s.State != dispatch.Live {
						t.Errorf("%v, fill %d, lagged %d", s, h.Fill(), s.Lagged)
					}
					// And it counts on from there.
					for range 3 * tt.offer {
						if err := r.produce(ctxBg, event{kind: 1}); err != nil {
							t.Fatal(err)
						}
						settle()
					}
					if s := h.Stats(); s.Fill != 0 || s.Handled != uint64(len(got)+3*tt.offer) || s.State != dispatch.Live {
						t.Errorf("%v, handled %d", s, s.Handled)
					}
					if err := r.Quiesce(ctxBg, always); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// A handler that always has something before it must lose the count of what was removed, too:
// else it would overflow one day without being behind.
func TestRemovedUnderSteadyLoad(t *testing.T) {
	for _, overflow := range []dispatch.Overflow{dispatch.Fail, dispatch.CatchUp} {
		bubble(t, func(t *testing.T, r *rig) {
			steps := make(chan struct{})
			h := r.add(config{Window: 16, Overflow: overflow, Handle: func(context.Context, event) error {
				<-steps
				return nil
			}}, 0)
			settle()
			r.storeN(4)
			settle()
			for i := range 200 {
				// One that goes and one that stays, at the end of a range that is never empty.
				last := r.storeN(2)
				settle()
				if i%2 == 0 {
					r.log.remove(last)
				} else {
					steps <- struct{}{}
				}
				steps <- struct{}{}
				synctest.Wait()
				if s := h.Stats(); s.State == dispatch.Stopped || s.Fill > 16 {
					t.Fatalf("%v policy, after %d rounds: %v, %v", overflow, i, s, s.LastError)
				}
			}
			close(steps)
			r.handled(h)
			if h.Fill() != 0 {
				t.Errorf("fill is %d", h.Fill())
			}
		})
	}
}

// What a Latest handler is told to have missed are events that are there.
func TestLatestIsNotToldOfRemovedEvents(t *testing.T) {
	for _, workers := range []int{0, 2} {
		bubble(t, func(t *testing.T, r *rig) {
			var rec recorder
			g := newGate(t)
			var lagged uint64
			cfg := config{Window: 4, Overflow: dispatch.Latest, Lagged: func(_ context.Context, n uint64) { lagged += n }}
			if workers > 0 {
				cfg.Key, cfg.Workers = keyOf, workers
			}
			cfg.Handle = func(ctx context.Context, ev event) error {
				if ev.pos == 1 {
					g.pass()
				}
				return rec.handle(ctx, ev)
			}
			h := r.add(cfg, 0)
			settle()
			r.storeN(1)
			settle()
			last := r.storeN(20)
			settle()
			r.log.remove(5, 6, 7, 19)
			g.open()
			r.handled(h)
			got := rec.positions()
			if n := uint64(len(got)) + lagged; n != last-4 || got[len(got)-1] != last || h.Stats().Lagged != lagged {
				t.Errorf("%d handled and %d missed of %d events that are there: %v", len(got), lagged, last-4, got)
			}
		})
	}
}
