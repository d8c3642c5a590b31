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

func TestCatchUpMakesNobodyWait(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			g, rec := newGate(t), new(recorder)
			cfg := config{Window: 2, Overflow: dispatch.CatchUp, Handle: func(ctx context.Context, ev event) error {
				g.pass()
				return rec.handle(ctx, ev)
			}}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 1
			}
			h := r.add(cfg, 0)
			for range 1000 {
				if err := r.produce(ctxBg, event{kind: 1}); err != nil {
					t.Fatal(err)
				}
			}
			settle()
			if s := h.Stats(); s.Lag != 1000 || s.Fill != 1000 || s.Window != 2 || r.Waited() != 0 {
				t.Errorf("Stats %+v, waited %d", s, r.Waited())
			}
			g.open()
			r.handled(h)
			wantSpan(t, "handled", rec.positions(), 1, 1000)
		})
	})
}

// lagRecorder notes jumps as well as events, in one sequence: a jump is minus its size.
type lagRecorder struct {
	mu  sync.Mutex
	all []int64
}

func (l *lagRecorder) note(n int64) {
	l.mu.Lock()
	l.all = append(l.all, n)
	l.mu.Unlock()
}

func (l *lagRecorder) list() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]int64{}, l.all...)
}

func TestLatestJumpsToTheNewestEvent(t *testing.T) {
	tests := []struct {
		name    string
		kinds   *dispatch.KindSet
		before  int // events before the handler joins, at 0
		first   int // events until the handler is in its first call, or more
		then    int // events after that; every third is of kind 2
		want    []int64
		handled uint64
	}{
		{"not while the mailbox is full to the brim", nil, 0, 1, 3, []int64{1, 2, 3, 4}, 4},
		{"when there is one more", nil, 0, 1, 5, []int64{1, -4, 6}, 2},
		{"when there are many more", nil, 0, 1, 1000, []int64{1, -999, 1001}, 2},
		{"and counts only what concerns it", dispatch.NewKindSet(2), 0, 3, 15, []int64{3, -4, 18}, 2},
		{"also over what was there when it joined", nil, 30, 1, 5, []int64{1, -34, 36}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *testing.T, keyed bool) {
				bubble(t, func(t *testing.T, r *rig) {
					appendN := func(n int) {
						for range n {
							kind := dispatch.Kind(1)
							if r.log.Head()%3 == 2 {
								kind = 2
							}
							r.store(event{kind: kind})
						}
						settle()
					}
					appendN(tt.before)
					g, rec := newGate(t), new(lagRecorder)
					cfg := config{Kinds: tt.kinds, Window: 4, Overflow: dispatch.Latest,
						Handle: func(ctx context.Context, ev event) error {
							g.pass()
							rec.note(int64(ev.pos))
							return nil
						},
						Lagged: func(ctx context.Context, n uint64) {
							if d, ok := r.Inside(ctx); !ok || d.Position() != r.log.Head() {
								t.Errorf("Lagged: the context is of %v, %v", d, ok)
							}
							rec.note(-int64(n))
						}}
					if keyed {
						cfg.Key, cfg.Workers = keyOf, 2
					}
					h := r.add(cfg, 0)
					appendN(tt.first)
					appendN(tt.then)
					g.open()
					r.handled(h)
					got := rec.list()
					exact := !keyed || tt.want[1] > 0 // or some more were given out before the jump
					if exact && fmt.Sprint(got) != fmt.Sprint(tt.want) {
						t.Errorf("got %v, want %v", got, tt.want)
					}
					if last := int64(r.log.Head()); got[len(got)-1] != last {
						t.Errorf("the last event seen is %d, want %d", got[len(got)-1], last)
					}
					s := h.Stats()
					if total := len(r.log.positions(0, ofKinds(tt.kinds.Kinds()...))); s.Handled+s.Lagged != uint64(total) || s.Lag != 0 {
						t.Errorf("handled %d, lagged %d, lag %d; want %d in all", s.Handled, s.Lagged, s.Lag, total)
					}
					if exact && s.Handled != tt.handled {
						t.Errorf("handled %d, want %d", s.Handled, tt.handled)
					}
				})
			})
		})
	}
}

// What a Latest handler sees and what it is told to have missed are all there is, at every
// speed; and the last event is always seen.
func TestLatestStorm(t *testing.T) {
	for _, workers := range []int{0, 1, 4} {
		for _, window := range []int{1, 4, 100} {
			t.Run(fmt.Sprintf("%d workers, window %d", workers, window), func(t *testing.T) {
				for range 5 {
					bubble(t, func(t *testing.T, r *rig) {
						const events = 1500
						rec := new(recorder)
						var lagged, jumps atomic.Uint64
						cfg := config{Window: window, Overflow: dispatch.Latest, Kinds: dispatch.NewKindSet(1, 2),
							Handle: func(ctx context.Context, ev event) error {
								if ev.pos%16 == 0 {
									runtime.Gosched()
								}
								return rec.handle(ctx, ev)
							},
							Lagged: func(_ context.Context, n uint64) {
								if n == 0 {
									t.Error("lagged by nothing")
								}
								lagged.Add(n)
								jumps.Add(1)
							}}
						if workers > 0 {
							cfg.Key, cfg.Workers = keyOf, workers
						}
						h := r.add(cfg, 0)
						concern := 0
						for i := range events {
							ev := event{kind: dispatch.Kind(1 + i%3), key: fmt.Sprint(i % 7)}
							if ev.kind < 3 {
								concern++
							}
							r.store(ev)
							if i%50 == 0 {
								runtime.Gosched()
							}
						}
						last := r.store(event{kind: 1})
						r.handled(h)
						settle()
						got := rec.positions()
						if workers > 1 {
							got = sorted(got)
						}
						for i := range got[1:] {
							if got[i+1] <= got[i] {
								t.Fatalf("handled %d after %d", got[i+1], got[i])
							}
						}
						s := h.Stats()
						if uint64(len(got))+lagged.Load() != uint64(concern+1) || s.Lagged != lagged.Load() || s.Handled != uint64(len(got)) {
							t.Fatalf("saw %d, lagged %d in %d jumps, want %d in all; %+v", len(got), lagged.Load(), jumps.Load(), concern+1, s)
						}
						if got[len(got)-1] != last || s.Lag != 0 || s.Fill != 0 {
							t.Fatalf("the last seen is %d, want %d; %+v", got[len(got)-1], last, s)
						}
						for key, positions := range rec.byKey() {
							for i := range positions[1:] {
								if positions[i+1] <= positions[i] {
									t.Fatalf("key %s: handled %d after %d", key, positions[i+1], positions[i])
								}
							}
						}
					})
				}
			})
		}
	}
}

func TestLatestWithoutAFunctionLogsItsJumps(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		steps := make(stepper)
		steps.free(t)
		h := r.add(config{Window: 1, Overflow: dispatch.Latest, Handle: steps.handle}, 0)
		r.storeN(5)
		settle()
		steps.step(1)
		if s := h.Stats(); s.Lagged < 3 || r.lines.count("weir: handler lagged") != 1 {
			t.Errorf("lagged %d, logged %q", s.Lagged, r.lines.all)
		}
	})
}

func TestLaggedMayFail(t *testing.T) {
	tests := []struct {
		name    string
		fail    func()
		stopped bool
	}{
		{"a panic is counted, and the handler goes on", func() { panic("boom") }, false},
		{"Goexit stops the handler, which loses nothing", runtime.Goexit, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *testing.T, keyed bool) {
				bubble(t, func(t *testing.T, r *rig) {
					rec := new(recorder)
					g := newGate(t)
					var lagged uint64
					cfg := config{Window: 1, Overflow: dispatch.Latest,
						Handle: func(ctx context.Context, ev event) error {
							g.pass()
							return rec.handle(ctx, ev)
						},
						Lagged: func(_ context.Context, n uint64) {
							lagged += n
							tt.fail()
						}}
					if keyed {
						cfg.Key, cfg.Workers = keyOf, 1
					}
					h := r.add(cfg, 0)
					r.storeN(1)
					settle()
					r.storeN(9)
					settle()
					g.open()
					settle()
					if got := h.Stats().State == dispatch.Stopped; got != tt.stopped {
						t.Errorf("stopped is %v, want %v", got, tt.stopped)
					}
					if tt.stopped {
						if err := h.Resume(); err != nil {
							t.Fatal(err)
						}
					} else if s := h.Stats(); s.Failures != 1 || s.LastError == nil || r.lines.count("weir: handler failed when told that it lagged") != 1 {
						t.Errorf("Stats %+v, logged %q", s, r.lines.all)
					}
					r.handled(h)
					want(t, "handled", rec.positions(), []uint64{1, 10})
					if lagged != 8 {
						t.Errorf("lagged by %d, want 8", lagged)
					}
				})
			})
		})
	}
}

func TestLaggedContextIsNotLiveAfterwards(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			steps := make(stepper)
			steps.free(t)
			var kept context.Context
			cfg := config{Window: 1, Overflow: dispatch.Latest, Handle: steps.handle,
				Lagged: func(ctx context.Context, n uint64) { kept = ctx }}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 1
			}
			r.add(cfg, 0)
			r.storeN(1)
			settle()
			r.storeN(9)
			settle()
			steps.step(2)
			if _, ok := r.Inside(kept); ok {
				t.Error("it is live")
			}
		})
	})
}

func TestFailStopsAtAFullMailbox(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			g, rec := newGate(t), new(recorder)
			cfg := config{Window: 4, Overflow: dispatch.Fail, Handle: func(ctx context.Context, ev event) error {
				g.pass()
				return rec.handle(ctx, ev)
			}}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 1
			}
			h := r.add(cfg, 0)
			r.storeN(4)
			settle()
			if !h.Running() {
				t.Fatal("it has stopped with as many events as its window holds")
			}
			r.storeN(1)
			settle()
			err := h.Wait(ctxBg, 5)
			stopped, ok := errors.AsType[*dispatch.StoppedError](err)
			if !ok || !errors.Is(err, dispatch.ErrOverflow) || stopped.Position != 0 {
				t.Errorf("Wait returned %v, want that it stopped at 0 with ErrOverflow", err)
			}
			if s := h.Stats(); s.State != dispatch.Stopped || !errors.Is(s.LastError, dispatch.ErrOverflow) {
				t.Errorf("Stats %+v", s)
			}
			for range 100 {
				if err := r.produce(ctxBg, event{kind: 1}); err != nil {
					t.Fatal(err)
				}
			}
			settle()
			g.open()
			settle()
			wantSpan(t, "handled before Resume", rec.positions(), 1, 1)
			if err := h.Resume(); err != nil {
				t.Fatal(err)
			}
			r.handled(h)
			wantSpan(t, "handled", rec.positions(), 1, 105)
			if n := r.lines.count("weir: handler stopped"); n != 1 {
				t.Errorf("%d stops were logged, want 1", n)
			}
		})
	})
}

// However often it overflows and is resumed, nothing is lost and nothing is handled twice.
func TestFailStorm(t *testing.T) {
	for _, workers := range []int{0, 1, 4} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				const events = 3000
				rec := new(recorder)
				cfg := config{Window: 8, Overflow: dispatch.Fail, Handle: func(ctx context.Context, ev event) error {
					if ev.pos%8 == 0 {
						time.Sleep(time.Duration(ev.pos % 3))
					}
					return rec.handle(ctx, ev)
				}}
				if workers > 0 {
					cfg.Key, cfg.Workers = keyOf, workers
				}
				h := r.add(cfg, 0)
				for i := range events {
					r.store(event{kind: 1, key: fmt.Sprint(i % 11)})
					if i%64 == 0 {
						time.Sleep(time.Nanosecond)
					}
				}
				stops := 0
				for {
					err := h.Wait(ctxBg, events)
					if err == nil {
						break
					}
					if !errors.Is(err, dispatch.ErrOverflow) {
						t.Fatal(err)
					}
					stops++
					time.Sleep(time.Nanosecond) // or it would be told to stop and to go on without end, in one call
					r.storeN(1)
					if err := h.Resume(); err != nil {
						t.Fatal(err)
					}
				}
				r.handled(h)
				got := rec.positions()
				if workers > 0 {
					got = sorted(got)
				}
				wantSpan(t, fmt.Sprintf("handled, with %d stops,", stops), got, 1, r.log.Head())
				for key, positions := range rec.byKey() {
					for i := range positions[1:] {
						if positions[i+1] <= positions[i] && key != "" {
							t.Fatalf("key %s: handled %d after %d", key, positions[i+1], positions[i])
						}
					}
				}
				if stops == 0 {
					t.Error("it never stopped")
				}
			})
		})
	}
}
