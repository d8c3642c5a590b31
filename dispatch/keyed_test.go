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
	"time"

	"github.com/weirstore/weir/actor"
	"github.com/weirstore/weir/dispatch"
)

// keysOnWorkers returns a key for each worker of h.
func keysOnWorkers(h *handler, workers int) []string {
	keys := make([]string, workers)
	for found, i := 0, 0; found < workers; i++ {
		key := fmt.Sprint("k", i)
		if w := h.WorkerOf(key); keys[w] == "" {
			keys[w] = key
			found++
		}
	}
	return keys
}

func TestKeyedHandlesSideBySideAndEachKeyInOrder(t *testing.T) {
	for _, workers := range []int{1, 2, 8} {
		for _, window := range []int{1, 16, 1024} {
			t.Run(fmt.Sprintf("%d workers, window %d", workers, window), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					const events, keys = 1000, 13
					rec := new(recorder)
					var busy [keys]atomic.Bool
					var now, most atomic.Int64
					rng := rand.New(rand.NewPCG(uint64(workers), uint64(window)))
					var naps [events + 1]time.Duration
					for i := range naps {
						naps[i] = time.Duration(rng.IntN(3))
					}
					cfg := config{Key: keyOf, Workers: workers, Window: window, Overflow: dispatch.CatchUp, Handle: func(ctx context.Context, ev event) error {
						k := int(ev.key[0] - 'a')
						if !busy[k].CompareAndSwap(false, true) {
							t.Errorf("two calls for key %s", ev.key)
						}
						n := now.Add(1)
						for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
						}
						time.Sleep(naps[ev.pos])
						now.Add(-1)
						busy[k].Store(false)
						return rec.handle(ctx, ev)
					}}
					h := r.add(cfg, 0)
					for range events {
						r.store(event{kind: 1, key: string(rune('a' + rng.IntN(keys)))})
					}
					r.handled(h)
					wantSpan(t, "handled", sorted(rec.positions()), 1, events)
					for key, positions := range rec.byKey() {
						if !slices.IsSorted(positions) {
							t.Errorf("key %s: %s", key, brief(positions))
						}
					}
					atOnce := min(workers, window, 3)
					if most.Load() < int64(atOnce) || most.Load() > int64(workers) {
						t.Errorf("%d calls at once, want %d to %d", most.Load(), atOnce, workers)
					}
					if s := h.Stats(); s.Workers != workers || s.Handled != events {
						t.Errorf("Stats %+v", s)
					}
				})
			})
		}
	}
}

// All workers are in a call at the same moment, or nobody would ever leave.
func TestKeyedWorkersRunAtTheSameTime(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const workers = 5
		var in sync.WaitGroup
		in.Add(workers)
		h := r.add(config{Key: keyOf, Workers: workers, Handle: func(context.Context, event) error {
			in.Done()
			in.Wait()
			return nil
		}}, 0)
		for _, key := range keysOnWorkers(h, workers) {
			r.store(event{kind: 1, key: key})
		}
		r.handled(h)
	})
}

func TestKeyedBlockedKeyHoldsUpOthersOnlyWhenTheRingIsFull(t *testing.T) {
	for _, window := range []int{10, 128, 1000} {
		t.Run(fmt.Sprint("window ", window), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				g, rec := newGate(t), new(recorder)
				var keys []string
				h := r.add(config{Key: keyOf, Workers: 2, Window: window, Overflow: dispatch.CatchUp, Handle: func(ctx context.Context, ev event) error {
					if ev.key == keys[0] {
						g.pass()
					}
					return rec.handle(ctx, ev)
				}}, 0)
				keys = keysOnWorkers(h, 2)
				ring := min(2*64, window)
				r.store(event{kind: 1, key: keys[0]})
				for i := 2; i <= ring; i++ {
					r.store(event{kind: 1, key: keys[1]})
				}
				settle()
				wantSpan(t, "handled beside the blocked key", rec.positions(), 2, uint64(ring))
				if s := h.Stats(); s.Position != 0 || s.Fill != ring || s.Handled != uint64(ring-1) {
					t.Errorf("Stats %+v", s)
				}
				for range 50 {
					r.store(event{kind: 1, key: keys[1]})
				}
				settle()
				wantSpan(t, "handled once the ring is full", rec.positions(), 2, uint64(ring))
				waits(t, "Wait(2)", done(func() error { return h.Wait(ctxBg, 2) }))
				g.open()
				r.handled(h)
				wantSpan(t, "handled", sorted(rec.positions()), 1, uint64(ring)+50)
			})
		})
	}
}

// What was handled before a predecessor that was not is not handled again after the
// handler has stopped and was resumed.
func TestKeyedResumeRepeatsNothing(t *testing.T) {
	for _, f := range failures {
		t.Run("after "+f.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				rec := new(recorder)
				g := newGate(t)
				var keys []string
				var broken atomic.Bool
				broken.Store(true)
				h := r.add(config{Key: keyOf, Workers: 2, After: dispatch.Stop, Handle: func(ctx context.Context, ev event) error {
					if ev.key == keys[0] && broken.Load() {
						g.pass()
						return f.fail()
					}
					return rec.handle(ctx, ev)
				}}, 0)
				keys = keysOnWorkers(h, 2)
				for i := range 60 {
					r.store(event{kind: 1, key: keys[min(i%3, 1)]}) // 0 1 1 0 1 1 …
				}
				settle()
				if got := rec.count(); got != 40 {
					t.Fatalf("%d handled, want the 40 of the second key", got)
				}
				g.open()
				if stopped, ok := errors.AsType[*dispatch.StoppedError](h.Wait(ctxBg, 1)); !ok || stopped.Position != 0 {
					t.Fatalf("Stats %+v, want that it stopped at 0", h.Stats())
				}
				settle()
				if n := h.Remembered(); n != 40 {
					t.Errorf("%d events are remembered as handled, want 40", n)
				}
				broken.Store(false)
				if err := h.Resume(); err != nil {
					t.Fatal(err)
				}
				r.storeN(1)
				r.handled(h)
				wantSpan(t, "handled", sorted(rec.positions()), 1, 61)
				if got := rec.byKey()[keys[0]]; !slices.IsSorted(got) {
					t.Errorf("the key that failed: %v", got)
				}
				if s := h.Stats(); s.Handled != 61 || h.Remembered() != 0 {
					t.Errorf("%d remembered, %+v", h.Remembered(), s)
				}
			})
		})
	}
}

// Told to pause and at once to go on, before its workers have come to rest, the handler
// must neither forget what they gave back, nor handle later events of the same key first.
func TestKeyedPausedAndResumedWithinACall(t *testing.T) {
	for _, workers := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				rec, g := new(recorder), newGate(t)
				given := make(chan struct{})
				var keys []string
				h := r.add(config{Key: keyOf, Workers: workers, Retry: dispatch.Retry{Attempts: 1, Backoff: time.Hour}, Handle: func(ctx context.Context, ev event) error {
					switch ev.pos {
					case 1: // is on another worker, and keeps the handler from coming to rest
						if workers > 1 {
							g.pass()
						}
					case 2: // fails, is in its backoff when the handler is paused, and thus given back
						select {
						case <-given:
						default:
							close(given)
							return errBoom
						}
					}
					return rec.handle(ctx, ev)
				}}, 0)
				keys = keysOnWorkers(h, workers)
				last := keys[workers-1]
				r.store(event{kind: 1, key: keys[0]}, event{kind: 1, key: last}, event{kind: 1, key: last}, event{kind: 1, key: last})
				<-given
				settle()
				ctx, cancel := context.WithCancel(ctxBg)
				cancel()
				_ = h.Pause(ctx)
				if workers > 1 {
					settle()
				}
				if err := h.Resume(); err != nil {
					t.Fatal(err)
				}
				settle()
				g.open()
				r.handled(h)
				wantSpan(t, "handled", sorted(rec.positions()), 1, 4)
				if got := rec.byKey()[last]; !slices.IsSorted(got) {
					t.Errorf("the key was handled in the order %v", got)
				}
			})
		})
	}
}

func TestKeyedPauseAndResumeStorm(t *testing.T) {
	for _, policy := range []dispatch.Overflow{dispatch.Block, dispatch.CatchUp} {
		t.Run(policy.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				const events = 2000
				rec := new(recorder)
				h := r.add(config{Key: keyOf, Workers: 4, Window: 64, Overflow: policy, Handle: func(ctx context.Context, ev event) error {
					if ev.pos%5 == 0 {
						runtime.Gosched()
					}
					return rec.handle(ctx, ev)
				}}, 0)
				var wg sync.WaitGroup
				wg.Go(func() {
					for i := range events {
						if err := r.produce(ctxBg, event{kind: 1, key: fmt.Sprint(i % 9)}); err != nil {
							t.Error(err)
						}
						if i%32 == 0 {
							time.Sleep(time.Nanosecond)
						}
					}
				})
				now, cancel := context.WithCancel(ctxBg)
				cancel()
				wg.Go(func() {
					for i := 0; h.Position() < events; i++ {
						ctx := ctxBg
						if i%3 > 0 {
							ctx = now // does not wait until it has come to rest
						}
						_ = h.Pause(ctx)
						if err := h.Resume(); err != nil {
							t.Error(err)
						}
						time.Sleep(time.Nanosecond)
					}
				})
				wg.Wait()
				r.handled(h)
				wantSpan(t, "handled", sorted(rec.positions()), 1, events)
				for key, positions := range rec.byKey() {
					if !slices.IsSorted(positions) {
						t.Errorf("key %s: %s", key, brief(positions))
					}
				}
				if h.Remembered() != 0 {
					t.Errorf("%d remembered", h.Remembered())
				}
			})
		})
	}
}

// A Latest handler jumps over what it remembers: that is then forgotten.
func TestKeyedForgetsWhatItJumpsOver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		rec, g := new(recorder), newGate(t)
		var keys []string
		h := r.add(config{Key: keyOf, Workers: 2, Window: 8, Overflow: dispatch.Latest, Lagged: func(context.Context, uint64) {}, Handle: func(ctx context.Context, ev event) error {
			if ev.key == keys[0] {
				select {
				case <-g.ch:
				default:
					return errBoom
				}
			}
			return rec.handle(ctx, ev)
		}, Retry: dispatch.Retry{Attempts: 1, Backoff: time.Hour}}, 0)
		keys = keysOnWorkers(h, 2)
		for i := range 5 {
			r.store(event{kind: 1, key: keys[min(i, 1)]})
			settle()
		}
		if err := h.Pause(ctxBg); err != nil {
			t.Fatal(err)
		}
		if h.Remembered() != 4 {
			t.Fatalf("%d remembered, want 4", h.Remembered())
		}
		if err := h.Resume(); err != nil { // it gives out the first event again, which fails
			t.Fatal(err)
		}
		settle()
		if err := h.Pause(ctxBg); err != nil {
			t.Fatal(err)
		}
		remembered := h.Remembered()
		r.log.onRead = func(after, _ uint64) error { // when it reads on, there is more than its window
			r.log.onRead = nil
			r.storeN(20)
			time.Sleep(time.Nanosecond)
			return nil
		}
		if err := h.Resume(); err != nil {
			t.Fatal(err)
		}
		settle()
		g.open()
		time.Sleep(2 * time.Hour)
		r.handled(h)
		if h.Remembered() != 0 {
			t.Errorf("%d remembered after a jump, %d before", h.Remembered(), remembered)
		}
	})
}

func TestKeyFunctionThatFailsStopsTheHandler(t *testing.T) {
	tests := []struct {
		name string
		fail func()
	}{
		{"by a panic", func() { panic(errBoom) }},
		{"by Goexit", runtime.Goexit},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				rec := new(recorder)
				var broken atomic.Bool
				broken.Store(true)
				h := r.add(config{Workers: 2, Handle: rec.handle, Key: func(ev *event) string {
					if ev.pos == 5 && broken.Load() {
						tt.fail()
					}
					return fmt.Sprint(ev.pos)
				}}, 0)
				r.storeN(10)
				err := h.Wait(ctxBg, 10)
				stopped, ok := errors.AsType[*dispatch.StoppedError](err)
				p, isPanic := errors.AsType[*actor.PanicError](err)
				if !ok || !isPanic || !strings.HasPrefix(p.Where, "handler h") {
					t.Fatalf("Wait returned %v", stopped)
				}
				settle()
				broken.Store(false)
				if err := h.Resume(); err != nil {
					t.Fatal(err)
				}
				r.handled(h)
				wantSpan(t, "handled", sorted(rec.positions()), 1, 10)
			})
		})
	}
}

// A worker whose goroutine is lost has a successor; the event's context is not live then.
func TestKeyedWorkerOutlivesGoexit(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var kept []context.Context
		rec := new(recorder)
		h := r.add(config{Key: keyOf, Workers: 1, After: dispatch.Skip, Handle: func(ctx context.Context, ev event) error {
			if ev.pos%2 == 1 {
				kept = append(kept, ctx)
				runtime.Goexit()
			}
			return rec.handle(ctx, ev)
		}}, 0)
		for range 3 {
			r.storeN(2)
			r.handled(h)
		}
		r.storeN(1)
		r.handled(h)
		settle()
		want(t, "handled", rec.positions(), []uint64{2, 4, 6})
		for i, ctx := range kept {
			if _, ok := r.Inside(ctx); ok {
				t.Errorf("context %d is live", i)
			}
		}
		if r.Seats() != 2 || r.group.Count() != 4 {
			t.Errorf("%d seats, running: %q", r.Seats(), r.group.Running())
		}
		if s := h.Stats(); s.Skipped != 4 || s.Handled != 3 || s.Failures != 4 {
			t.Errorf("Stats %+v", s)
		}
	})
}
