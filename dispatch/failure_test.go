package dispatch_test

import (
	"context"
	"errors"
	"fmt"
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

// failures are the ways in which a handler's function can fail.
var failures = []struct {
	name string
	fail func() error
	is   func(error) bool
}{
	{"an error", func() error { return errBoom }, func(err error) bool { return err == errBoom }},
	{"a panic", func() error { panic(errBoom) }, func(err error) bool {
		p, ok := errors.AsType[*actor.PanicError](err)
		return ok && errors.Is(err, errBoom) && p.Where == "handler h" && strings.Contains(string(p.Stack), "failure_test.go")
	}},
	{"Goexit", func() error { runtime.Goexit(); return nil }, func(err error) bool { return errors.Is(err, actor.ErrGoexit) }},
}

// eachFailure runs fn for each of them, without a key and with workers.
func eachFailure(t *testing.T, fn func(t *testing.T, r *rig, cfg config, fail func() error, is func(error) bool)) {
	t.Helper()
	for _, f := range failures {
		for _, workers := range []int{0, 1, 3} {
			t.Run(fmt.Sprintf("%s, %d workers", f.name, workers), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					cfg := config{Name: "h"}
					if workers > 0 {
						cfg.Key, cfg.Workers = keyOf, workers
					}
					fn(t, r, cfg, f.fail, f.is)
				})
			})
		}
	}
}

// The other handlers see everything, whatever one of them does.
func TestFailureIsNobodyElsesBusiness(t *testing.T) {
	for _, after := range []dispatch.AfterRetries{dispatch.Skip, dispatch.Park, dispatch.Stop} {
		t.Run(after.String(), func(t *testing.T) {
			eachFailure(t, func(t *testing.T, r *rig, cfg config, fail func() error, _ func(error) bool) {
				good := new(recorder)
				g := r.add(config{Name: "good", Handle: good.handle}, 0)
				bad := new(recorder)
				cfg.After = after
				cfg.Handle = func(ctx context.Context, ev event) error {
					_ = bad.handle(ctx, ev)
					if ev.pos%3 == 0 {
						return fail()
					}
					return nil
				}
				h := r.add(cfg, 0)
				for i := range 200 {
					r.store(event{kind: 1, key: fmt.Sprint(i)})
				}
				r.handled(g)
				wantSpan(t, "handled by the good one", good.positions(), 1, 200)
				if s := g.Stats(); s.Failures != 0 || s.LastError != nil {
					t.Errorf("the good one: %+v", s)
				}
				settle()
				s := h.Stats()
				if after == dispatch.Stop {
					return
				}
				got := bad.positions()
				if cfg.Workers > 1 {
					got = sorted(got)
				}
				wantSpan(t, "seen by the bad one", got, 1, 200)
				if s.Handled != 134 || s.Failures != 66 || s.Lag != 0 || s.LastError == nil ||
					s.Skipped != map[dispatch.AfterRetries]uint64{dispatch.Skip: 66}[after] ||
					s.Parked != map[dispatch.AfterRetries]int{dispatch.Park: 66}[after] {
					t.Errorf("the bad one: %+v", s)
				}
			})
		})
	}
}

func TestRetrySchedule(t *testing.T) {
	tests := []struct {
		name  string
		retry dispatch.Retry
		most  func(n int) time.Duration // the pause before the n-th repetition, without its random part
	}{
		{"doubles up to the largest", dispatch.Retry{Attempts: 7, Backoff: time.Second, MaxBackoff: 10 * time.Second},
			func(n int) time.Duration { return min(time.Second<<(n-1), 10*time.Second) }},
		{"has defaults", dispatch.Retry{Attempts: 14},
			func(n int) time.Duration { return min(100*time.Millisecond<<(n-1), time.Minute) }},
		{"does not grow if the largest is smaller than the first", dispatch.Retry{Attempts: 3, Backoff: time.Minute, MaxBackoff: time.Second},
			func(int) time.Duration { return time.Minute }},
		{"never overflows", dispatch.Retry{Attempts: 70, Backoff: 1<<33 + 1, MaxBackoff: time.Minute},
			func(n int) time.Duration { return min((1<<33+1)<<min(n-1, 4), time.Minute) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			eachFailure(t, func(t *testing.T, r *rig, cfg config, fail func() error, is func(error) bool) {
				var mu sync.Mutex
				var calls []time.Time
				cfg.Retry = tt.retry
				cfg.Handle = func(context.Context, event) error {
					mu.Lock()
					calls = append(calls, time.Now())
					mu.Unlock()
					return fail()
				}
				h := r.add(cfg, 0)
				r.storeN(1)
				r.handled(h)
				if len(calls) != 1+tt.retry.Attempts {
					t.Fatalf("%d calls, want %d", len(calls), 1+tt.retry.Attempts)
				}
				for n := 1; n < len(calls); n++ {
					pause, most := calls[n].Sub(calls[n-1]), tt.most(n)
					if pause < most/2 || pause > most {
						t.Errorf("pause %d is %v, want %v to %v", n, pause, most/2, most)
					}
				}
				s := h.Stats()
				if s.Failures != uint64(len(calls)) || s.Retries != uint64(tt.retry.Attempts) || s.Skipped != 1 || s.Handled != 0 || s.Attempt != 0 || !is(s.LastError) {
					t.Errorf("Stats %+v", s)
				}
			})
		})
	}
}

func TestRetryPausesAreShortenedAtRandom(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		began := time.Now()
		var mu sync.Mutex
		pauses := map[time.Duration]bool{}
		for i := range 20 {
			first := true
			r.add(config{Name: fmt.Sprint(i), Retry: dispatch.Retry{Attempts: 1, Backoff: time.Second}, Handle: func(context.Context, event) error {
				if first {
					first = false
					return errBoom
				}
				mu.Lock()
				pauses[time.Since(began)] = true
				mu.Unlock()
				return nil
			}}, 0)
		}
		r.storeN(1)
		time.Sleep(2 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if len(pauses) < 15 {
			t.Errorf("20 handlers came back at %d moments", len(pauses))
		}
		early := false
		for p := range pauses {
			early = early || p < 800*time.Millisecond
		}
		if !early {
			t.Error("none was shortened by a fifth")
		}
	})
}

func TestRetryHoldsThePositionAndThenGoesOn(t *testing.T) {
	eachFailure(t, func(t *testing.T, r *rig, cfg config, fail func() error, is func(error) bool) {
		var calls [10]atomic.Int64 // by position
		rec := new(recorder)
		cfg.After = dispatch.Stop
		cfg.Retry = dispatch.Retry{Attempts: 3, Backoff: time.Second, MaxBackoff: time.Second}
		cfg.Handle = func(ctx context.Context, ev event) error {
			if n := calls[ev.pos].Add(1); ev.pos%2 == 0 && n <= 3 {
				return fail()
			}
			return rec.handle(ctx, ev)
		}
		h := r.add(cfg, 0)
		r.storeN(5) // all of one key
		settle()
		s := h.Stats()
		if s.State != dispatch.Retrying || s.Attempt != 1 || s.Position != 1 || h.Position() != 1 || !is(s.LastError) {
			t.Errorf("in the first backoff: %+v", s)
		}
		time.Sleep(1200 * time.Millisecond)
		settle()
		if s := h.Stats(); s.State != dispatch.Retrying || s.Attempt < 2 || s.Position != 1 {
			t.Errorf("in the second backoff: %+v", s)
		}
		r.handled(h) // the fourth call of 2 succeeds, and so does that of 4: it has all its retries
		wantSpan(t, "handled", rec.positions(), 1, 5)
		if s := h.Stats(); s.Handled != 5 || s.Failures != 6 || s.Retries != 6 || s.Attempt != 0 || s.State != dispatch.Live {
			t.Errorf("at the end: %+v", s)
		}
	})
}

func TestStopEndsBeforeTheEvent(t *testing.T) {
	eachFailure(t, func(t *testing.T, r *rig, cfg config, fail func() error, is func(error) bool) {
		rec := new(recorder)
		var broken atomic.Bool
		broken.Store(true)
		var tries atomic.Int64
		cfg.After = dispatch.Stop
		cfg.Retry = dispatch.Retry{Attempts: 2, Backoff: time.Second}
		cfg.Handle = func(ctx context.Context, ev event) error {
			if ev.pos == 3 && broken.Load() {
				tries.Add(1)
				return fail()
			}
			return rec.handle(ctx, ev)
		}
		h := r.add(cfg, 0)
		r.storeN(5) // all of one key
		for range 2 {
			err := h.Wait(ctxBg, 3)
			stopped, ok := errors.AsType[*dispatch.StoppedError](err)
			if !ok || stopped.Handler != "h" || stopped.Position != 2 || !is(stopped.Err) {
				t.Fatalf("Wait returned %v", err)
			}
			settle()
			if s := h.Stats(); s.State != dispatch.Stopped || s.Position != 2 || s.Handled != 2 || s.Lag != 3 || h.Running() {
				t.Errorf("Stats %+v", s)
			}
			if tries.Load() != 3 {
				t.Errorf("%d calls before it stopped, want 3", tries.Load())
			}
			if err := h.Wait(ctxBg, 2); err != nil {
				t.Errorf("Wait for what was handled: %v", err)
			}
			tries.Store(0)
			if err := h.Resume(); err != nil { // and it fails once more, with all its retries
				t.Fatal(err)
			}
		}
		broken.Store(false)
		r.handled(h)
		wantSpan(t, "handled", rec.positions(), 1, 5)
	})
}

// A handler that is resumed at once, before it has come to rest, has all its retries too.
func TestStopAndResumeAtOnce(t *testing.T) {
	eachFailure(t, func(t *testing.T, r *rig, cfg config, fail func() error, _ func(error) bool) {
		rec := new(recorder)
		var tries atomic.Int64
		cfg.After = dispatch.Stop
		cfg.Retry = dispatch.Retry{Attempts: 2, Backoff: time.Second}
		cfg.Handle = func(ctx context.Context, ev event) error {
			if ev.pos == 3 && tries.Add(1) <= 11 {
				return fail()
			}
			return rec.handle(ctx, ev)
		}
		h := r.add(cfg, 0)
		for range 8 {
			r.storeN(1)
		}
		stops := 0
		for !errors.Is(h.Wait(ctxBg, 8), nil) {
			stops++
			if err := h.Resume(); err != nil {
				t.Fatal(err)
			}
		}
		wantSpan(t, "handled", rec.positions(), 1, 8)
		if stops != 3 { // after 3, 6 and 9 calls
			t.Errorf("it stopped %d times, want 3", stops)
		}
	})
}

func TestBackoffIsInterrupted(t *testing.T) {
	tests := []struct {
		name string
		act  func(h *handler) error
	}{
		{"by Pause", func(h *handler) error { return h.Pause(ctxBg) }},
		{"by Remove", func(h *handler) error { return h.Remove(ctxBg) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			eachFailure(t, func(t *testing.T, r *rig, cfg config, fail func() error, _ func(error) bool) {
				rec := new(recorder)
				var broken atomic.Bool
				broken.Store(true)
				cfg.Retry = dispatch.Retry{Attempts: 5, Backoff: time.Hour, MaxBackoff: time.Hour}
				cfg.Handle = func(ctx context.Context, ev event) error {
					if ev.pos == 2 && broken.Load() {
						return fail()
					}
					return rec.handle(ctx, ev)
				}
				h := r.add(cfg, 0)
				r.storeN(3) // of one key
				settle()
				began := time.Now()
				if err := tt.act(h); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("it took %v", took)
				}
				wantSpan(t, "handled before", rec.positions(), 1, 1)
				if h.Position() != 1 {
					t.Errorf("Position is %d, want 1", h.Position())
				}
				if tt.name == "by Remove" {
					return
				}
				if s := h.Stats(); s.State != dispatch.Paused || s.Skipped != 0 {
					t.Errorf("Stats %+v", s)
				}
				broken.Store(false)
				if err := h.Resume(); err != nil {
					t.Fatal(err)
				}
				r.handled(h)
				wantSpan(t, "handled", rec.positions(), 1, 3)
				if took := time.Since(began); took != 0 {
					t.Errorf("resumed, it waited for %v", took)
				}
				if s := h.Stats(); s.Attempt != 0 || s.State != dispatch.Live {
					t.Errorf("Stats %+v", s)
				}
			})
		})
	}
}

// What was left of an event's retries when the handler was paused is not held against the next one.
func TestAttemptsAreCountedAnewAfterAPause(t *testing.T) {
	eachFailure(t, func(t *testing.T, r *rig, cfg config, fail func() error, _ func(error) bool) {
		var calls atomic.Int64
		cfg.After = dispatch.Stop
		cfg.Retry = dispatch.Retry{Attempts: 2, Backoff: time.Second}
		cfg.Handle = func(context.Context, event) error {
			calls.Add(1)
			return fail()
		}
		h := r.add(cfg, 0)
		r.storeN(1)
		settle()
		if err := h.Pause(ctxBg); err != nil {
			t.Fatal(err)
		}
		if s := h.Stats(); s.Attempt != 0 && cfg.Workers > 0 {
			t.Errorf("paused: %+v", s)
		}
		if err := h.Resume(); err != nil {
			t.Fatal(err)
		}
		if _, ok := errors.AsType[*dispatch.StoppedError](h.Wait(ctxBg, 1)); !ok || calls.Load() != 1+3 {
			t.Errorf("%d calls, want 4", calls.Load())
		}
	})
}

func TestParkKeepsTheEventAndItsKey(t *testing.T) {
	eachFailure(t, func(t *testing.T, r *rig, cfg config, fail func() error, is func(error) bool) {
		rec := new(recorder)
		var broken atomic.Bool
		broken.Store(true)
		cfg.After = dispatch.Park
		cfg.Retry = dispatch.Retry{Attempts: 1, Backoff: time.Second}
		cfg.Handle = func(ctx context.Context, ev event) error {
			if broken.Load() && (ev.pos == 1 || ev.pos == 2) {
				return fail()
			}
			return rec.handle(ctx, ev)
		}
		h := r.add(cfg, 0)
		for _, key := range []string{"a", "b", "a", "c", "a", "b"} { // positions 1 to 6
			r.store(event{kind: 1, key: key})
		}
		r.handled(h)
		exp, held := []uint64{3, 4, 5, 6}, []bool{false, false}
		parked := []uint64{1, 2}
		if cfg.Workers > 0 {
			exp, held, parked = []uint64{4}, []bool{false, false, true, true, true}, []uint64{1, 2, 3, 5, 6}
		}
		want(t, "handled", sorted(rec.positions()), exp)
		list := h.Parked()
		slices.SortFunc(list, func(a, b dispatch.Parked[event]) int { return int(a.Event.pos) - int(b.Event.pos) })
		if len(list) != len(parked) {
			t.Fatalf("%d are parked, want %v", len(list), parked)
		}
		for i, p := range list {
			if p.Event.pos != parked[i] || p.Held != held[i] || p.Key != p.Event.key && cfg.Workers > 0 || p.Time.IsZero() {
				t.Errorf("parked[%d] is %+v, want %d, held %v", i, p, parked[i], held[i])
			}
			if !p.Held && (!is(p.Err) || p.Attempts != 2) || p.Held && (p.Err != nil || p.Attempts != 0) {
				t.Errorf("parked[%d] has the error %v, attempts %d", i, p.Err, p.Attempts)
			}
		}
		if s := h.Stats(); s.Parked != len(parked) || s.Handled != uint64(len(exp)) || s.Position != 6 || s.Lag != 0 {
			t.Errorf("Stats %+v", s)
		}

		// Redriven while it still fails: nothing changes but the attempts.
		if n, err := h.Redrive(ctxBg); n != 0 || err != nil {
			t.Errorf("Redrive returned %d, %v", n, err)
		}
		for _, p := range h.Parked() {
			if !p.Held && (p.Attempts != 3 || !is(p.Err)) {
				t.Errorf("redriven in vain: %+v", p)
			}
		}

		// Redriven once it works: in order, and the keys are free again.
		broken.Store(false)
		if n, err := h.Redrive(ctxBg); n != len(parked) || err != nil {
			t.Errorf("Redrive returned %d, %v; want %d", n, err, len(parked))
		}
		for key, positions := range rec.byKey() {
			if cfg.Workers > 0 && !slices.IsSorted(positions) {
				t.Errorf("key %s: %v", key, positions)
			}
		}
		for _, key := range []string{"a", "b"} {
			r.store(event{kind: 1, key: key})
		}
		r.handled(h)
		wantSpan(t, "handled at the end", sorted(rec.positions()), 1, 8)
		if s := h.Stats(); s.Parked != 0 || s.Handled != 8 {
			t.Errorf("at the end: %+v", s)
		}
	})
}

// One that fails again when redriven stays parked, and the later ones of its key with it.
func TestRedriveKeepsTheOrderOfAKeyThatFailsAgain(t *testing.T) {
	eachFailure(t, func(t *testing.T, r *rig, cfg config, fail func() error, is func(error) bool) {
		if cfg.Workers == 0 {
			return
		}
		rec := new(recorder)
		var broken atomic.Uint64 // the position that fails
		broken.Store(1)
		cfg.After = dispatch.Park
		cfg.Handle = func(ctx context.Context, ev event) error {
			if ev.pos == broken.Load() {
				return fail()
			}
			return rec.handle(ctx, ev)
		}
		h := r.add(cfg, 0)
		for range 4 {
			r.store(event{kind: 1, key: "a"})
		}
		r.store(event{kind: 1, key: "b"})
		r.handled(h)
		want(t, "handled", rec.positions(), []uint64{5})
		broken.Store(3)
		if n, err := h.Redrive(ctxBg); n != 2 || err != nil {
			t.Errorf("Redrive returned %d, %v; want 2", n, err)
		}
		want(t, "handled", rec.positions(), []uint64{5, 1, 2})
		list := h.Parked()
		if len(list) != 2 || list[0].Event.pos != 3 || list[0].Held || list[0].Attempts != 1 || !is(list[0].Err) || list[1].Event.pos != 4 || !list[1].Held {
			t.Errorf("parked: %+v", list)
		}
		r.store(event{kind: 1, key: "a"})
		r.handled(h)
		want(t, "handled with the key held back", rec.positions(), []uint64{5, 1, 2})
		broken.Store(0)
		if n, err := h.Redrive(ctxBg); n != 3 || err != nil {
			t.Errorf("Redrive returned %d, %v; want 3", n, err)
		}
		want(t, "handled", rec.positions(), []uint64{5, 1, 2, 3, 4, 6})
	})
}

func TestMaxParkedStopsTheHandler(t *testing.T) {
	eachFailure(t, func(t *testing.T, r *rig, cfg config, fail func() error, _ func(error) bool) {
		rec := new(recorder)
		var broken atomic.Bool
		broken.Store(true)
		cfg.After, cfg.MaxParked = dispatch.Park, 2
		cfg.Handle = func(ctx context.Context, ev event) error {
			if broken.Load() {
				return fail()
			}
			return rec.handle(ctx, ev)
		}
		h := r.add(cfg, 0)
		r.storeN(4)
		err := h.Wait(ctxBg, 4)
		if stopped, ok := errors.AsType[*dispatch.StoppedError](err); !ok || !errors.Is(err, dispatch.ErrParkedFull) || stopped.Position != 2 {
			t.Fatalf("Wait returned %v, want that it stopped at 2 with ErrParkedFull", err)
		}
		settle()
		broken.Store(false)
		if n, err := h.Redrive(ctxBg); n != 0 || !errors.Is(err, dispatch.ErrParkedFull) {
			t.Errorf("stopped, Redrive returned %d, %v; want why it has stopped", n, err)
		}
		if !discard(t, h, 1) || discard(t, h, 1) || discard(t, h, 3) {
			t.Error("Discard does not say what was parked")
		}
		if err := h.Resume(); err != nil {
			t.Fatal(err)
		}
		if cfg.Workers > 0 { // 2 holds back the key of 3, which is parked unseen, and then there is no room for 4
			if stopped, ok := errors.AsType[*dispatch.StoppedError](h.Wait(ctxBg, 4)); !ok || stopped.Position != 3 || len(h.Parked()) != 2 {
				t.Errorf("resumed: %+v", h.Stats())
			}
			want(t, "handled", rec.positions(), []uint64{})
			return
		}
		r.handled(h)
		want(t, "handled", rec.positions(), []uint64{3, 4})
	})
}

func discard(t *testing.T, h *handler, pos uint64) bool {
	t.Helper()
	ok, err := h.Discard(pos)
	if err != nil {
		t.Errorf("Discard(%d): %v", pos, err)
	}
	return ok
}

func TestDiscardFreesTheKey(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		rec := new(recorder)
		h := r.add(config{Key: keyOf, Workers: 2, After: dispatch.Park, Handle: func(ctx context.Context, ev event) error {
			if ev.pos == 1 {
				return errBoom
			}
			return rec.handle(ctx, ev)
		}}, 0)
		r.storeN(2)
		r.handled(h)
		if !discard(t, h, 1) {
			t.Fatal("1 is not parked")
		}
		r.storeN(1)
		r.handled(h)
		want(t, "handled while 2 holds the key back", rec.positions(), []uint64{})
		if !discard(t, h, 3) || !discard(t, h, 2) {
			t.Fatal("2 and 3 are not parked")
		}
		r.storeN(1)
		r.handled(h)
		want(t, "handled", rec.positions(), []uint64{4})
	})
}

func TestRedriveRuns(t *testing.T) {
	// prep returns a handler with two parked events, whose calls from then on pass g.
	prep := func(t *testing.T, r *rig, cfg config, g *gate) (*handler, *recorder) {
		rec := new(recorder)
		broken := true
		cfg.After = dispatch.Park
		cfg.Handle = func(ctx context.Context, ev event) error {
			if broken {
				return errBoom
			}
			select {
			case <-g.ch:
			case <-ctx.Done():
				return ctx.Err()
			}
			return rec.handle(ctx, ev)
		}
		h := r.add(cfg, 0)
		r.store(event{kind: 1, key: "a"}, event{kind: 1, key: "b"})
		r.handled(h)
		settle()
		broken = false
		return h, rec
	}
	run := func(name string, fn func(t *testing.T, r *rig, h *handler, rec *recorder, g *gate)) {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, keyed bool) {
				bubble(t, func(t *testing.T, r *rig) {
					cfg := config{}
					if keyed {
						cfg.Key, cfg.Workers = keyOf, 1
					}
					g := newGate(t)
					h, rec := prep(t, r, cfg, g)
					fn(t, r, h, rec, g)
				})
			})
		})
	}
	redrive := func(h *handler) (<-chan error, *int) {
		n := new(int)
		return done(func() (err error) {
			*n, err = h.Redrive(ctxBg)
			return err
		}), n
	}
	run("while new events wait", func(t *testing.T, r *rig, h *handler, rec *recorder, g *gate) {
		done, n := redrive(h)
		waits(t, "Redrive", done)
		r.storeN(3)
		settle()
		if s := h.Stats(); s.Lag != 3 || s.Parked != 2 {
			t.Errorf("Stats %+v", s)
		}
		g.open()
		if err := <-done; err != nil || *n != 2 {
			t.Errorf("Redrive returned %d, %v", *n, err)
		}
		r.handled(h)
		wantSpan(t, "handled", rec.positions(), 1, 5)
	})
	run("after the calls that are under way", func(t *testing.T, r *rig, h *handler, rec *recorder, g *gate) {
		r.storeN(1)
		settle()
		done, n := redrive(h)
		waits(t, "Redrive", done)
		g.open()
		if err := <-done; err != nil || *n != 2 {
			t.Errorf("Redrive returned %d, %v", *n, err)
		}
		r.handled(h)
		want(t, "handled", rec.positions(), []uint64{3, 1, 2})
	})
	run("until ctx is done, and what is handled by then is handled", func(t *testing.T, r *rig, h *handler, rec *recorder, g *gate) {
		ctx, cancel := context.WithCancelCause(ctxBg)
		done := done(func() error {
			n, err := h.Redrive(ctx)
			if n != 0 {
				t.Errorf("Redrive returned %d", n)
			}
			return err
		})
		waits(t, "Redrive", done)
		cancel(errBoom)
		if err := <-done; err != errBoom {
			t.Errorf("Redrive returned %v, want the cause", err)
		}
		g.open()
		settle()
		want(t, "handled", rec.positions(), []uint64{1})
		if list := h.Parked(); len(list) != 1 || list[0].Event.pos != 2 {
			t.Errorf("parked: %+v", list)
		}
	})
	run("until the handler is paused", func(t *testing.T, r *rig, h *handler, rec *recorder, g *gate) {
		done, n := redrive(h)
		waits(t, "Redrive", done)
		ctx, cancel := context.WithCancel(ctxBg)
		cancel()
		if err := h.Pause(ctx); err != context.Canceled {
			t.Errorf("Pause returned %v, but the call goes on", err)
		}
		g.open()
		if err := <-done; err != dispatch.ErrPaused || *n != 1 {
			t.Errorf("Redrive returned %d, %v; want 1, ErrPaused", *n, err)
		}
		settle()
		want(t, "handled", rec.positions(), []uint64{1})
		if list := h.Parked(); len(list) != 1 || list[0].Attempts != 1 || list[0].Err != errBoom {
			t.Errorf("what was not tried is not parked as it was: %+v", list)
		}
		if n, err := h.Redrive(ctxBg); n != 0 || err != dispatch.ErrPaused {
			t.Errorf("paused, Redrive returned %d, %v; want ErrPaused", n, err)
		}
	})
	run("not once the handler is removed", func(t *testing.T, r *rig, h *handler, rec *recorder, g *gate) {
		if err := h.Remove(ctxBg); err != nil {
			t.Fatal(err)
		}
		if n, err := h.Redrive(ctxBg); n != 0 || err != dispatch.ErrRemoved {
			t.Errorf("Redrive returned %d, %v; want ErrRemoved", n, err)
		}
	})
	run("before a Quiesce that comes meanwhile", func(t *testing.T, r *rig, h *handler, rec *recorder, g *gate) {
		done1, _ := redrive(h)
		waits(t, "Redrive", done1)
		quiet := done(func() error { return r.Quiesce(ctxBg, always) })
		waits(t, "Quiesce", quiet)
		g.open()
		if err := errors.Join(<-done1, <-quiet); err != nil {
			t.Error(err)
		}
		wantSpan(t, "handled", rec.positions(), 1, 2)
	})
}

func TestRedriveFromInsideIsRefused(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			inside(r, keyed, func(ctx context.Context, _ event) {
				h, _ := r.Handler("inside")
				for name, ctx := range map[string]context.Context{"its context": ctx, "another context": ctxBg} {
					if n, err := h.Redrive(ctx); n != 0 || err != dispatch.ErrInside {
						t.Errorf("with %s, Redrive returned %d, %v", name, n, err)
					}
				}
			})
		})
	})
}

// What a redriven call appends goes through the door, and its context is live meanwhile.
func TestRedrivenCallIsInside(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			var kept context.Context
			broken := true
			cfg := config{Window: 1, After: dispatch.Park, Handle: func(ctx context.Context, ev event) error {
				if ev.pos > 1 {
					return nil
				}
				if broken {
					return errBoom
				}
				kept = ctx
				if d, ok := r.Inside(ctx); !ok || d.Position() != 1 || d.Handler() != "h" || !r.InsideGoroutine() {
					t.Errorf("Inside: %v, %v", d, ok)
				}
				for _, ctx := range []context.Context{ctx, ctxBg, ctx} {
					if err := r.produce(ctx, event{kind: 1}); err != nil {
						t.Error(err)
					}
				}
				return nil
			}}
			if keyed {
				cfg.Key, cfg.Workers = func(ev *event) string { return fmt.Sprint(ev.pos) }, 1
			}
			h := r.add(cfg, 0)
			r.storeN(1)
			r.handled(h)
			settle()
			broken = false
			if n, err := h.Redrive(ctxBg); n != 1 || err != nil {
				t.Fatalf("Redrive returned %d, %v", n, err)
			}
			r.handled(h)
			settle()
			if _, ok := r.Inside(kept); ok || h.Position() != 4 || r.Seats() > 2 {
				t.Errorf("afterwards: inside %v, position %d, %d seats", ok, h.Position(), r.Seats())
			}
		})
	})
}
