package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weirstore/weir/dispatch"
)

func cancelled() context.Context {
	ctx, cancel := context.WithCancelCause(ctxBg)
	cancel(errBoom)
	return ctx
}

// stepped adds a handler that takes one event for each step.
func stepped(t *testing.T, r *rig, keyed bool) (*handler, stepper) {
	steps := make(stepper)
	steps.free(t)
	cfg := config{Handle: steps.handle}
	if keyed {
		cfg.Key, cfg.Workers = keyOf, 1
	}
	return r.add(cfg, r.log.Head()), steps
}

func TestPauseWaitsForTheCall(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			h, steps := stepped(t, r, keyed)
			r.storeN(5)
			settle()
			if err := h.Pause(cancelled()); err != errBoom {
				t.Errorf("Pause returned %v, want ctx's cause", err)
			}
			first, second := done(func() error { return h.Pause(ctxBg) }), done(func() error { return h.Pause(ctxBg) })
			waits(t, "Pause", first)
			if h.Running() || h.Stats().State != dispatch.Paused {
				t.Error("it is not told to pause")
			}
			steps.step(1)
			if err := errors.Join(<-first, <-second); err != nil {
				t.Error(err)
			}
			for range 2 {
				if s := h.Stats(); s.State != dispatch.Paused || s.Position != 1 || s.Lag != 4 || s.Fill != 0 || s.Handled != 1 {
					t.Errorf("Stats %+v", s)
				}
				if err := h.Pause(cancelled()); err != nil {
					t.Errorf("paused, Pause returned %v", err)
				}
			}
			r.storeN(1)
			settle()
			if s := h.Stats(); s.Lag != 5 || s.Position != 1 {
				t.Errorf("Stats %+v", s)
			}
			if err := errors.Join(h.Resume(), h.Resume()); err != nil {
				t.Error(err)
			}
			steps.step(5)
			if s := h.Stats(); s.State != dispatch.Live || s.Position != 6 || s.Lag != 0 || s.Handled != 6 {
				t.Errorf("Stats %+v", s)
			}
		})
	})
}

func TestPauseOfAHandlerThatHasEnded(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			cfg := config{After: dispatch.Stop, Handle: func(context.Context, event) error { return errBoom }}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 1
			}
			h := r.add(cfg, 0)
			r.storeN(1)
			settle()
			if stopped, ok := errors.AsType[*dispatch.StoppedError](h.Pause(ctxBg)); !ok || stopped.Err != errBoom {
				t.Errorf("stopped, Pause returned %v", stopped)
			}
			if err := h.Remove(ctxBg); err != nil {
				t.Error(err)
			}
			if err := h.Pause(ctxBg); err != dispatch.ErrRemoved {
				t.Errorf("removed, Pause returned %v", err)
			}
			if err := h.Resume(); err != dispatch.ErrRemoved {
				t.Errorf("removed, Resume returned %v", err)
			}
			if err := h.Wait(ctxBg, 1); err != dispatch.ErrRemoved {
				t.Errorf("removed, Wait returned %v", err)
			}
			if h.Stats().State != dispatch.Stopped || h.Running() {
				t.Errorf("Stats %+v", h.Stats())
			}
		})
	})
}

func TestRemoveWaitsForTheCallAndFreesTheName(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			h, steps := stepped(t, r, keyed)
			r.storeN(3)
			settle()
			removed := done(func() error { return h.Remove(ctxBg) })
			waits(t, "Remove", removed)
			if _, err := r.Add(config{Name: "h", Handle: steps.handle}, 0); !errors.Is(err, dispatch.ErrExists) {
				t.Errorf("Add of the same name returned %v", err)
			}
			steps.step(1)
			if err := errors.Join(<-removed, h.Remove(cancelled())); err != nil {
				t.Error(err)
			}
			if _, ok := r.Handler("h"); ok || !isClosed(h.Gone()) || h.Position() != 1 {
				t.Errorf("still there: %v, gone: %v, position %d", ok, isClosed(h.Gone()), h.Position())
			}
			settle()
			if r.group.Count() != 2 || r.Pulses() != 0 || r.Seats() != 0 {
				t.Errorf("running: %q, %d pulses, %d seats", r.group.Running(), r.Pulses(), r.Seats())
			}
			rec := new(recorder)
			again := r.add(config{Name: "h", Handle: rec.handle}, h.Position())
			r.handled(again)
			wantSpan(t, "handled by the next of that name", rec.positions(), 2, 3)
		})
	})
}

func TestRemoveCancelsACallThatDoesNotReturn(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			cfg := config{Handle: func(ctx context.Context, _ event) error {
				<-ctx.Done()
				return context.Cause(ctx)
			}}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 1
			}
			h := r.add(cfg, 0)
			r.storeN(1)
			settle()
			ctx, cancel := context.WithTimeoutCause(ctxBg, time.Second, errBoom)
			defer cancel()
			began := time.Now()
			if err := h.Remove(ctx); err != errBoom || time.Since(began) != time.Second {
				t.Errorf("Remove returned %v after %v", err, time.Since(began))
			}
			<-h.Gone()
			if s := h.Stats(); s.Position != 0 || s.Skipped != 0 || s.Failures != 0 {
				t.Errorf("the event is to blame: %+v", s)
			}
		})
	})
}

func TestControlFromInside(t *testing.T) {
	tests := []struct {
		name  string
		call  func(h *handler, ctx context.Context) error
		err   error
		state dispatch.State
	}{
		{"Pause does not wait", func(h *handler, ctx context.Context) error { return h.Pause(ctx) }, nil, dispatch.Paused},
		{"Remove does not wait", func(h *handler, ctx context.Context) error { return h.Remove(ctx) }, nil, dispatch.Stopped},
		{"Wait for what is not handled is refused", func(h *handler, ctx context.Context) error { return h.Wait(ctx, 1) }, dispatch.ErrInside, dispatch.Live},
		{"Wait for what is handled is not", func(h *handler, ctx context.Context) error { return h.Wait(ctx, 0) }, nil, dispatch.Live},
	}
	for _, tt := range tests {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, lost context %v", tt.name, lost), func(t *testing.T) {
				both(t, func(t *testing.T, keyed bool) {
					bubble(t, func(t *testing.T, r *rig) {
						var calls int
						cfg := config{Name: "self", Handle: func(ctx context.Context, _ event) error {
							calls++
							if lost {
								ctx = ctxBg
							}
							self, _ := r.Handler("self")
							if err := tt.call(self, ctx); err != tt.err {
								t.Errorf("it returned %v, want %v", err, tt.err)
							}
							return nil
						}}
						if keyed {
							cfg.Key, cfg.Workers = keyOf, 1
						}
						h := r.add(cfg, 0)
						r.storeN(1)
						settle()
						if s := h.Stats(); s.State != tt.state || s.Handled != 1 || calls != 1 {
							t.Errorf("%d calls, %+v", calls, s)
						}
					})
				})
			})
		}
	}
}

func TestWaitReturnsWhenThePositionIsHandled(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			h, steps := stepped(t, r, keyed)
			if err := h.Wait(cancelled(), 0); err != nil {
				t.Errorf("Wait(0): %v", err)
			}
			const events = 10
			var ws [events + 1]<-chan error
			for i := range events {
				pos := uint64(i + 1)
				ws[pos] = done(func() error { return h.Wait(ctxBg, pos) })
			}
			settle()
			r.storeN(events)
			for pos := 1; pos <= events; pos++ {
				for later := pos; later <= events; later++ {
					waits(t, fmt.Sprintf("with %d handled, Wait(%d)", pos-1, later), ws[later])
				}
				steps.step(1)
				if err := <-ws[pos]; err != nil {
					t.Errorf("Wait(%d): %v", pos, err)
				}
				if s := h.Stats(); s.Position != uint64(pos) || s.Lag != events-uint64(pos) && !keyed && s.Lag > events {
					t.Errorf("with %d handled: %+v", pos, s)
				}
			}
			if r.Waiters() != 0 {
				t.Errorf("%d waiters are left", r.Waiters())
			}
		})
	})
}

func TestWaitEndsEarly(t *testing.T) {
	tests := []struct {
		name string
		act  func(t *testing.T, r *rig, h *handler, steps stepper, cancel context.CancelCauseFunc)
		want func(error) bool
	}{
		{"when ctx is done", func(_ *testing.T, _ *rig, _ *handler, _ stepper, cancel context.CancelCauseFunc) {
			cancel(errBoom)
		}, func(err error) bool { return err == errBoom }},
		{"when the handler is removed", func(t *testing.T, _ *rig, h *handler, steps stepper, _ context.CancelCauseFunc) {
			go func() { _ = h.Remove(ctxBg) }()
			settle()
			steps.step(1)
		}, func(err error) bool { return err == dispatch.ErrRemoved }},
		{"when the handler is told to end, in a call that goes on", func(_ *testing.T, r *rig, _ *handler, _ stepper, _ context.CancelCauseFunc) {
			r.Interrupt()
		}, func(err error) bool { return err == dispatch.ErrRemoved }},
		{"when the handler overflows, in a call that goes on", func(_ *testing.T, r *rig, _ *handler, _ stepper, _ context.CancelCauseFunc) {
			r.storeN(5)
		}, func(err error) bool { return errors.Is(err, dispatch.ErrOverflow) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *testing.T, keyed bool) {
				bubble(t, func(t *testing.T, r *rig) {
					steps := make(stepper)
					steps.free(t)
					cfg := config{Handle: steps.handle, Window: 4, Overflow: dispatch.Fail}
					if keyed {
						cfg.Key, cfg.Workers = keyOf, 1
					}
					h := r.add(cfg, 0)
					r.storeN(2)
					settle()
					ctx, cancel := context.WithCancelCause(ctxBg)
					defer cancel(nil)
					w := done(func() error { return h.Wait(ctx, 2) })
					far := done(func() error { return h.Wait(ctx, 1000) })
					waits(t, "Wait(2)", w)
					tt.act(t, r, h, steps, cancel)
					settle()
					for _, ch := range []<-chan error{w, far} {
						select {
						case err := <-ch:
							if !tt.want(err) {
								t.Errorf("Wait returned %v", err)
							}
						default:
							t.Error("Wait still waits")
							cancel(nil)
						}
					}
					settle()
					if r.Waiters() != 0 {
						t.Errorf("%d waiters are left", r.Waiters())
					}
				})
			})
		})
	}
}

func TestWaitForAPausedHandlerGoesOn(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			rec := new(recorder)
			cfg := config{Handle: rec.handle}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 1
			}
			h := r.add(cfg, 0)
			if err := h.Pause(ctxBg); err != nil {
				t.Fatal(err)
			}
			r.storeN(3)
			w := done(func() error { return h.Wait(ctxBg, 3) })
			waits(t, "Wait", w)
			if err := h.Resume(); err != nil {
				t.Fatal(err)
			}
			if err := <-w; err != nil {
				t.Error(err)
			}
		})
	})
}

// A handler that stops and is resumed before the waiter has looked is waited for further.
func TestWaitOutlivesAStopThatIsResumed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var tries int
		var h *handler
		h = r.add(config{After: dispatch.Stop, Handle: func(context.Context, event) error {
			if tries++; tries%2 == 1 {
				return errBoom
			}
			return nil
		}, Checkpoint: func(uint64) {
			if h.Stats().State == dispatch.Stopped && tries < 6 {
				_ = h.Resume()
			}
		}}, 0)
		r.storeN(3)
		for {
			err := h.Wait(ctxBg, 3)
			if err == nil {
				break
			}
			if !errors.Is(err, errBoom) {
				t.Fatal(err)
			}
		}
	})
}

// Many wait, for many positions, while handlers stop, pause and go on: nobody is forgotten.
func TestWaitStorm(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			const events = 1000
			rec := new(recorder)
			cfg := config{Kinds: dispatch.NewKindSet(1), Handle: rec.handle, Overflow: dispatch.CatchUp}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 3
			}
			h := r.add(cfg, 0)
			var wg sync.WaitGroup
			for w := range uint64(8) {
				wg.Go(func() {
					for pos := w + 1; pos <= events; pos += 1 + w {
						if err := h.Wait(ctxBg, pos); err != nil {
							t.Error(err)
						}
						if got := h.Position(); got < pos {
							t.Errorf("Wait(%d) returned at position %d", pos, got)
						}
					}
				})
			}
			wg.Go(func() {
				for i := range events {
					r.store(event{kind: dispatch.Kind(1 + i%2), key: fmt.Sprint(i % 5)})
					if i%20 == 0 {
						time.Sleep(time.Nanosecond)
					}
				}
			})
			wg.Go(func() {
				for range 40 {
					_ = h.Pause(ctxBg)
					_ = h.Resume()
					time.Sleep(time.Nanosecond)
				}
			})
			wg.Wait()
			if got := len(rec.positions()); got != events/2 {
				t.Errorf("%d handled, want %d", got, events/2)
			}
		})
	})
}

func TestCheckpointIsCalledWhenTheHandlerComesToRest(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			var at []uint64
			cfg := config{Kinds: dispatch.NewKindSet(1), After: dispatch.Stop, Checkpoint: func(pos uint64) { at = append(at, pos) },
				Handle: func(_ context.Context, ev event) error {
					if ev.pos == 7 {
						return errBoom
					}
					return nil
				}}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 1
			}
			h := r.add(cfg, 0)
			r.storeN(3)
			r.store(event{kind: 2}, event{kind: 2})
			settle()
			if err := h.Pause(ctxBg); err != nil { // at 5: what does not concern it is behind it
				t.Fatal(err)
			}
			if err := h.Resume(); err != nil {
				t.Fatal(err)
			}
			r.store(event{kind: 2}, event{kind: 1})
			settle() // stopped before 7
			if err := h.Remove(ctxBg); err != nil {
				t.Fatal(err)
			}
			settle()
			if len(at) < 2 || at[0] != 5 || !slices.Equal(slices.Compact(at[1:]), []uint64{6}) {
				t.Errorf("checkpoints %v, want 5 and 6", at)
			}
			if h.Position() != 6 {
				t.Errorf("Position is %d, want 6", h.Position())
			}
		})
	})
}

// What comes before the first event that is not handled is behind a handler at rest, also
// if it had not begun with that event.
func TestPausedHandlerStandsBeforeItsNextEvent(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			var at uint64
			cfg := config{Kinds: dispatch.NewKindSet(2), Handle: new(recorder).handle, Checkpoint: func(pos uint64) { at = pos }}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 1
			}
			h := r.add(cfg, 0)
			settle()
			_, undo := h.SpyOnWakes() // its goroutine sleeps on
			r.storeN(9)
			r.store(event{kind: 2})
			settle()
			if h.Position() != 9 {
				t.Errorf("Position is %d, want 9", h.Position())
			}
			paused := done(func() error { return h.Pause(ctxBg) })
			settle()
			undo() // it finds that it is to pause, before it has looked at the event
			if err := <-paused; err != nil {
				t.Fatal(err)
			}
			if h.Position() != 9 || at != 9 {
				t.Errorf("paused at %d, with the checkpoint %d; want 9", h.Position(), at)
			}
		})
	})
}
