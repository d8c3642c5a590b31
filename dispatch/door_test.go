package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirstore/weir/dispatch"
)

// stepper is a handler's function that takes one event for each step.
type stepper chan struct{}

func (s stepper) handle(ctx context.Context, _ event) error {
	select {
	case <-s:
	case <-ctx.Done():
	}
	return nil
}

// step lets n events be handled, and waits until everything has settled.
func (s stepper) step(n int) {
	for range n {
		s <- struct{}{}
	}
	settle()
}

func (s stepper) free(t *testing.T) {
	t.Cleanup(func() { close(s) })
}

func TestBlockMakesProducersWait(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		for _, window := range []int{1, 2, 4, 5} {
			t.Run(fmt.Sprint("window ", window), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					steps := make(stepper)
					steps.free(t)
					cfg := config{Handle: steps.handle, Window: window}
					if keyed {
						cfg.Key, cfg.Workers = keyOf, 1
					}
					h := r.add(cfg, 0)
					for range window {
						if err := r.produce(ctxBg, event{kind: 1}); err != nil {
							t.Fatal(err)
						}
						settle()
					}
					if h.Fill() != window || r.Waited() != 0 {
						t.Fatalf("fill %d, waited %d; want a full mailbox, and that nobody waited", h.Fill(), r.Waited())
					}
					next := done(func() error { return r.produce(ctxBg, event{kind: 1}) })
					for fill := window; fill > window/2; fill-- {
						waits(t, fmt.Sprintf("with %d of %d, the producer", fill, window), next)
						if r.AtDoor() != 1 || h.Fill() != fill {
							t.Fatalf("%d at the door, fill %d; want 1, %d", r.AtDoor(), h.Fill(), fill)
						}
						steps.step(1)
					}
					select {
					case err := <-next:
						if err != nil {
							t.Error(err)
						}
					default:
						t.Errorf("with %d of %d, the producer still waits", h.Fill(), window)
					}
					if r.AtDoor() != 0 || r.Waited() != 1 {
						t.Errorf("%d at the door, %d have waited; want 0, 1", r.AtDoor(), r.Waited())
					}
				})
			})
		}
	})
}

// The mailbox of a handler never holds more than its window and one event for each
// producer that was let in at the same moment.
func TestBlockBoundsTheMailbox(t *testing.T) {
	for _, producers := range []int{1, 4} {
		for _, window := range []int{1, 3, 64} {
			for _, keyed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d producers, window %d, keyed %v", producers, window, keyed), func(t *testing.T) {
					bubble(t, func(t *testing.T, r *rig) {
						var h *handler
						var most atomic.Int64
						rec := new(recorder)
						cfg := config{Window: window, Handle: func(ctx context.Context, ev event) error {
							if hh, ok := r.Handler("h"); ok {
								most.Store(max(most.Load(), int64(hh.Fill())))
							}
							return rec.handle(ctx, ev)
						}}
						if keyed {
							cfg.Key, cfg.Workers = keyOf, 1
						}
						h = r.add(cfg, 0)
						const each = 500
						var wg sync.WaitGroup
						for range producers {
							wg.Go(func() {
								for range each {
									if err := r.produce(ctxBg, event{kind: 1}); err != nil {
										t.Error(err)
									}
								}
							})
						}
						wg.Wait()
						r.handled(h)
						wantSpan(t, "handled", rec.positions(), 1, uint64(each*producers))
						if limit := int64(window + producers - 1); most.Load() > limit {
							t.Errorf("the mailbox held %d events, want at most %d", most.Load(), limit)
						}
					})
				})
			}
		}
	}
}

func TestDoorLetsInWhoHasWaited(t *testing.T) {
	tests := []struct {
		name string
		act  func(t *testing.T, r *rig, h *handler, steps stepper, cancel context.CancelCauseFunc)
		err  error
	}{
		{"when there is room", func(_ *testing.T, _ *rig, _ *handler, steps stepper, _ context.CancelCauseFunc) {
			steps.step(1)
		}, nil},
		{"when ctx is done, with its cause", func(_ *testing.T, _ *rig, _ *handler, _ stepper, cancel context.CancelCauseFunc) {
			cancel(errBoom)
		}, errBoom},
		{"when the door is closed, with ErrClosed", func(_ *testing.T, r *rig, _ *handler, _ stepper, _ context.CancelCauseFunc) {
			r.CloseDoor()
			r.CloseDoor()
		}, dispatch.ErrClosed},
		{"when the handler is paused, whose call goes on", func(t *testing.T, _ *rig, h *handler, _ stepper, _ context.CancelCauseFunc) {
			go func() { _ = h.Pause(ctxBg) }()
		}, nil},
		{"when the handler is removed, whose call goes on", func(t *testing.T, _ *rig, h *handler, _ stepper, _ context.CancelCauseFunc) {
			ctx, cancel := context.WithCancel(ctxBg)
			go func() { _ = h.Remove(ctx) }()
			t.Cleanup(cancel)
		}, nil},
		{"when handlers are interrupted", func(_ *testing.T, r *rig, _ *handler, _ stepper, _ context.CancelCauseFunc) {
			r.Interrupt()
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *testing.T, keyed bool) {
				bubble(t, func(t *testing.T, r *rig) {
					steps := make(stepper)
					steps.free(t)
					cfg := config{Handle: steps.handle, Window: 1}
					if keyed {
						cfg.Key, cfg.Workers = keyOf, 1
					}
					h := r.add(cfg, 0)
					r.storeN(1)
					settle()
					ctx, cancel := context.WithCancelCause(ctxBg)
					defer cancel(nil)
					in := done(func() error { return r.Admit(ctx) })
					waits(t, "Admit", in)
					tt.act(t, r, h, steps, cancel)
					settle()
					select {
					case err := <-in:
						if err != tt.err {
							t.Errorf("Admit returned %v, want %v", err, tt.err)
						}
					default:
						t.Error("Admit still waits")
						cancel(nil)
					}
				})
			})
		})
	}
}

func TestDoorIsOpenTo(t *testing.T) {
	tests := []struct {
		name string
		prep func(t *testing.T, r *rig)
	}{
		{"everybody without a handler", func(t *testing.T, r *rig) { r.storeN(5000) }},
		{"everybody while a handler with another policy is full", func(t *testing.T, r *rig) {
			r.add(config{Name: "catch-up", Handle: stuck(t), Window: 1, Overflow: dispatch.CatchUp}, 0)
			r.add(config{Name: "latest", Handle: stuck(t), Window: 1, Overflow: dispatch.Latest}, 0)
			r.add(config{Name: "fail", Handle: stuck(t), Window: 1, Overflow: dispatch.Fail}, 0)
			r.storeN(50)
		}},
		{"everybody while a handler reads what was there when it joined", func(t *testing.T, r *rig) {
			r.storeN(10)
			settle()
			r.add(config{Handle: stuck(t), Window: 1}, 0)
			r.storeN(50)
		}},
		{"everybody while a full handler is paused", func(t *testing.T, r *rig) {
			steps := make(stepper)
			steps.free(t)
			h := r.add(config{Handle: steps.handle, Window: 1}, 0)
			r.storeN(50)
			settle()
			paused := done(func() error { return h.Pause(ctxBg) })
			waits(t, "Pause", paused)
			steps.step(1)
			if err := <-paused; err != nil {
				t.Fatal(err)
			}
		}},
		{"everybody once a full handler has stopped", func(t *testing.T, r *rig) {
			r.add(config{Window: 1, After: dispatch.Stop, Handle: func(context.Context, event) error { return errBoom }}, 0)
			r.storeN(50)
		}},
		{"everybody once a full handler is removed", func(t *testing.T, r *rig) {
			h := r.add(config{Handle: stuck(t), Window: 1}, 0)
			r.storeN(50)
			settle()
			ctx, cancel := context.WithCancel(ctxBg)
			cancel()
			_ = h.Remove(ctx)
		}},
		{"everybody while events come that concern nobody", func(t *testing.T, r *rig) {
			r.add(config{Handle: stuck(t), Window: 2, Kinds: dispatch.NewKindSet(2)}, 0)
			r.store(event{kind: 2})
			r.storeN(5000)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				tt.prep(t, r)
				settle()
				for range 100 {
					if err := r.produce(ctxBg, event{kind: 1}); err != nil {
						t.Fatal(err)
					}
				}
				settle()
				in := done(func() error { return r.Admit(ctxBg) })
				settle()
				if r.AtDoor() != 0 {
					t.Fatal("a producer waits")
				}
				if err := <-in; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// stuck is a handler's function that returns when the test ends, or its context.
func stuck(t *testing.T) func(context.Context, event) error {
	g := newGate(t)
	return func(ctx context.Context, _ event) error {
		select {
		case <-g.ch:
		case <-ctx.Done():
		}
		return nil
	}
}

func TestDoorIsAsNarrowAsTheFullestHandler(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		wide, narrow := make(stepper), make(stepper)
		wide.free(t)
		narrow.free(t)
		r.add(config{Name: "wide", Handle: wide.handle, Window: 5}, 0)
		r.add(config{Name: "narrow", Handle: narrow.handle, Window: 2}, 0)
		produce := func() <-chan error { return done(func() error { return r.produce(ctxBg, event{kind: 1}) }) }
		for range 2 {
			<-produce()
			settle()
		}
		third := produce()
		waits(t, "with two events before the narrow one, a producer", third)
		wide.step(2)
		waits(t, "with two events before the narrow one, a producer", third)
		narrow.step(1)
		<-third
		settle()
		narrow.step(2) // now the wide one has one before it, the narrow one nothing
		for range 2 {
			<-produce()
			settle()
			narrow.step(1)
		}
		for range 2 { // the wide one is filled to its fifth
			<-produce()
			settle()
			narrow.step(1)
		}
		sixth := produce()
		waits(t, "with five events before the wide one, a producer", sixth)
		wide.step(2)
		waits(t, "with three events before the wide one, a producer", sixth)
		wide.step(1)
		<-sixth
	})
}

func TestDoorStaysClosed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		rec := new(recorder)
		h := r.add(config{Handle: rec.handle}, 0)
		r.storeN(3)
		r.handled(h)
		r.CloseDoor()
		for range 3 {
			if err := r.Admit(ctxBg); err != dispatch.ErrClosed {
				t.Errorf("Admit returned %v although there is room, want ErrClosed", err)
			}
			r.storeN(1) // the limit is computed again
			r.handled(h)
		}
		if _, err := r.Add(config{Name: "late", Handle: rec.handle}, 0); !errors.Is(err, dispatch.ErrClosed) {
			t.Errorf("Add returned %v, want ErrClosed", err)
		}
	})
}

func TestHandlersProduceThroughAClosedDoor(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			errs := make(chan error, 2)
			cfg := config{Handle: func(ctx context.Context, ev event) error {
				if ev.pos == 1 {
					r.CloseDoor()
					errs <- r.produce(ctx, event{kind: 1})
					errs <- r.produce(ctxBg, event{kind: 1})
				}
				return nil
			}}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 1
			}
			h := r.add(cfg, 0)
			r.storeN(1)
			settle()
			if err := errors.Join(<-errs, <-errs); err != nil {
				t.Error(err)
			}
			if err := h.Wait(ctxBg, 3); err != nil {
				t.Error(err)
			}
		})
	})
}

// Handlers that append to what they handle never wait for themselves, however small their
// mailbox, and with producers that wait at the door. A deadlock fails at once.
func TestHandlersThatProduceDoNotWait(t *testing.T) {
	ways := []struct {
		name  string
		ctx   func(context.Context) context.Context
		depth int // of the handler's stack
	}{
		{"with their context", func(ctx context.Context) context.Context { return ctx }, 0},
		{"with a context made from it", func(ctx context.Context) context.Context { return context.WithValue(ctx, new(int), 1) }, 0},
		{"having lost their context", func(context.Context) context.Context { return ctxBg }, 0},
		{"having lost their context, in a deep call", func(context.Context) context.Context { return ctxBg }, 500},
	}
	for _, way := range ways {
		for _, window := range []int{1, 2, 100} {
			for _, keyed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, window %d, keyed %v", way.name, window, keyed), func(t *testing.T) {
					bubble(t, func(t *testing.T, r *rig) {
						const outsiders, each, generations = 3, 40, 3
						rec := new(recorder)
						cfg := config{Name: "a", Window: window, Handle: func(ctx context.Context, ev event) error {
							for range 2 {
								if ev.kind < generations { // kind is the generation
									deep(way.depth, func() {
										if err := r.produce(way.ctx(ctx), event{kind: ev.kind + 1, key: ev.key}); err != nil {
											t.Error(err)
										}
									})
								}
							}
							return rec.handle(ctx, ev)
						}}
						if keyed {
							cfg.Key, cfg.Workers = keyOf, 3
						}
						a := r.add(cfg, 0)
						b := r.add(config{Name: "b", Window: 1, Handle: func(context.Context, event) error {
							runtime.Gosched()
							return nil
						}}, 0)
						var wg sync.WaitGroup
						for o := range outsiders {
							wg.Go(func() {
								for range each {
									if err := r.produce(ctxBg, event{kind: 1, key: fmt.Sprint(o)}); err != nil {
										t.Error(err)
									}
								}
							})
						}
						wg.Wait()
						if err := r.Quiesce(ctxBg, always); err != nil {
							t.Fatal(err)
						}
						const total = outsiders * each * (1 + 2 + 4)
						got := rec.positions()
						if keyed {
							got = sorted(got)
						}
						wantSpan(t, "handled", got, 1, total)
						if a.Position() != total || b.Position() != total {
							t.Errorf("positions %d, %d; want %d", a.Position(), b.Position(), total)
						}
					})
				})
			}
		}
	}
}

// A handler of another dispatcher is an outsider: it waits at the door.
func TestHandlerOfAnotherDispatcherWaits(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		other := newRig(t, nil)
		steps := make(stepper)
		steps.free(t)
		r.add(config{Handle: steps.handle, Window: 1}, 0)
		r.storeN(1)
		settle()
		in := make(chan error, 1)
		other.add(config{Handle: func(ctx context.Context, _ event) error {
			in <- r.Admit(ctxBg)
			return nil
		}}, 0)
		other.storeN(1)
		waits(t, "Admit", in)
		if r.InsideGoroutine() || r.AtDoor() != 1 {
			t.Errorf("%d at the door, want the other dispatcher's handler", r.AtDoor())
		}
		steps.step(1)
		if err := <-in; err != nil {
			t.Error(err)
		}
	})
}

// deep calls fn with so many more calls on the stack.
func deep(depth int, fn func()) {
	if depth == 0 {
		fn()
		return
	}
	deep(depth-1, fn)
}

// Producers and blocking handlers of every size, some of which are paused and resumed: in
// the end everything is handled.
func TestDoorStorm(t *testing.T) {
	const producers, each = 4, 400
	bubble(t, func(t *testing.T, r *rig) {
		var handlers []*handler
		var recs []*recorder
		for i, window := range []int{1, 2, 3, 16} {
			rec := new(recorder)
			cfg := config{Name: fmt.Sprint(window), Handle: rec.handle, Window: window}
			if i%2 == 1 {
				cfg.Key, cfg.Workers = keyOf, 2
			}
			handlers, recs = append(handlers, r.add(cfg, 0)), append(recs, rec)
		}
		var wg sync.WaitGroup
		for p := range producers {
			wg.Go(func() {
				for range each {
					ctx, cancel := context.WithTimeout(ctxBg, time.Hour)
					if err := r.produce(ctx, event{kind: 1, key: fmt.Sprint(p)}); err != nil {
						t.Error(err)
					}
					cancel()
				}
			})
		}
		wg.Go(func() {
			for i := range 60 {
				h := handlers[i%len(handlers)]
				if err := h.Pause(ctxBg); err != nil {
					t.Error(err)
				}
				if err := h.Resume(); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Wait()
		if err := r.Quiesce(ctxBg, always); err != nil {
			t.Fatal(err)
		}
		for i, rec := range recs {
			wantSpan(t, "handled by "+handlers[i].Name(), sorted(rec.positions()), 1, producers*each)
		}
	})
}
