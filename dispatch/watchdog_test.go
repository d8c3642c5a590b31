package dispatch_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/dispatch"
)

const slowCall = 4 * time.Second

// watched runs fn with a rig whose watchdog reports calls that take longer than slowCall.
func watched(t *testing.T, fn func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fn(t, newRig(t, func(o *dispatch.Options, _ *memlog) { o.SlowCall = slowCall }))
	})
}

func TestWatchdogReportsSlowCalls(t *testing.T) {
	panics := func(context.Context) error { panic("boom") }
	fails := func(context.Context) error { return errBoom }
	goes := func(context.Context) error { runtime.Goexit(); return nil }
	fine := func(context.Context) error { return nil }
	tests := []struct {
		name  string
		takes []time.Duration // by event
		ends  func(context.Context) error
		slow  uint64
	}{
		{"not one that takes less", []time.Duration{slowCall - 1}, fine, 0},
		{"one that takes more than one and a half times as long", []time.Duration{slowCall*3/2 + 1}, fine, 1},
		{"one that takes very long, once", []time.Duration{100 * slowCall}, fine, 1},
		{"not many that take less, however long all of them take", []time.Duration{slowCall / 2, slowCall / 2, slowCall / 2, slowCall / 2, slowCall - 1}, fine, 0},
		{"each of them in one turn", []time.Duration{2 * slowCall, 0, 3 * slowCall, 50 * slowCall, 0, 2 * slowCall}, fine, 4},
		{"each of them that fails, in one turn", []time.Duration{2 * slowCall, 2 * slowCall, 0, 2 * slowCall}, fails, 3},
		{"each of them that panics, in one turn", []time.Duration{2 * slowCall, 2 * slowCall, 0, 2 * slowCall}, panics, 3},
		{"each of them that ends its goroutine", []time.Duration{2 * slowCall, 2 * slowCall, 0, 2 * slowCall}, goes, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *testing.T, keyed bool) {
				for phase := range time.Duration(5) {
					watched(t, func(t *testing.T, r *rig) {
						cfg := config{Handle: func(ctx context.Context, ev event) error {
							time.Sleep(tt.takes[ev.pos-1])
							return tt.ends(ctx)
						}}
						if keyed {
							cfg.Key, cfg.Workers = keyOf, 1
						}
						r.storeN(len(tt.takes)) // before it joins, so that one turn has all of them
						settle()
						time.Sleep(phase * slowCall / 5)
						h := r.add(cfg, 0)
						r.handled(h)
						if s := h.Stats(); s.Slow != tt.slow || r.lines.count("weir: handler call is slow") != int(tt.slow) {
							t.Errorf("%d slow calls, logged %q; want %d", s.Slow, r.lines.all, tt.slow)
						}
					})
				}
			})
		})
	}
}

func TestWatchdogReportsInTime(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		for phase := range time.Duration(20) {
			watched(t, func(t *testing.T, r *rig) {
				other := r.add(config{Name: "other", Handle: func(context.Context, event) error { // keeps the watchdog awake
					time.Sleep(slowCall / 3)
					return nil
				}}, 0)
				r.storeN(20)
				time.Sleep(phase * slowCall / 20)
				var began time.Time
				cfg := config{Handle: func(context.Context, event) error {
					began = time.Now()
					time.Sleep(3 * slowCall)
					return nil
				}}
				if keyed {
					cfg.Key, cfg.Workers = keyOf, 1
				}
				h := r.add(cfg, 19)
				for h.Stats().Slow == 0 {
					time.Sleep(slowCall / 100)
				}
				reported := time.Now()
				r.handled(other)
				r.handled(h)
				if took := reported.Sub(began); took < slowCall || took > slowCall*3/2+slowCall/100 {
					t.Errorf("reported after %v, want %v to %v", took, slowCall, slowCall*3/2)
				}
				if other.Stats().Slow != 0 {
					t.Error("the other handler was reported")
				}
			})
		}
	})
}

func TestWatchdogKnowsOtherCallsToo(t *testing.T) {
	t.Run("a backoff is not a slow call", func(t *testing.T) {
		both(t, func(t *testing.T, keyed bool) {
			watched(t, func(t *testing.T, r *rig) {
				cfg := config{Retry: dispatch.Retry{Attempts: 3, Backoff: time.Hour, MaxBackoff: time.Hour}, Handle: func(context.Context, event) error { return errBoom }}
				if keyed {
					cfg.Key, cfg.Workers = keyOf, 1
				}
				h := r.add(cfg, 0)
				r.storeN(1)
				r.handled(h)
				if s := h.Stats(); s.Slow != 0 || s.Retries != 3 {
					t.Errorf("Stats %+v", s)
				}
			})
		})
	})
	t.Run("each repetition is a call", func(t *testing.T) {
		both(t, func(t *testing.T, keyed bool) {
			watched(t, func(t *testing.T, r *rig) {
				cfg := config{Retry: dispatch.Retry{Attempts: 3, Backoff: 1, MaxBackoff: 1}, Handle: func(context.Context, event) error {
					time.Sleep(2 * slowCall)
					return errBoom
				}}
				if keyed {
					cfg.Key, cfg.Workers = keyOf, 1
				}
				h := r.add(cfg, 0)
				r.storeN(1)
				r.handled(h)
				if s := h.Stats(); s.Slow != 4 {
					t.Errorf("Stats %+v", s)
				}
			})
		})
	})
	t.Run("Lagged", func(t *testing.T) {
		both(t, func(t *testing.T, keyed bool) {
			watched(t, func(t *testing.T, r *rig) {
				steps := make(stepper)
				steps.free(t)
				cfg := config{Window: 1, Overflow: dispatch.Latest, Handle: steps.handle, Lagged: func(context.Context, uint64) { time.Sleep(2 * slowCall) }}
				if keyed {
					cfg.Key, cfg.Workers = keyOf, 1
				}
				h := r.add(cfg, 0)
				r.storeN(1)
				settle()
				r.storeN(9)
				settle()
				steps.step(1)
				time.Sleep(3 * slowCall)
				if s := h.Stats(); s.Slow != 1 || s.Lagged != 8 {
					t.Errorf("Stats %+v", s)
				}
			})
		})
	})
	t.Run("Redrive", func(t *testing.T) {
		both(t, func(t *testing.T, keyed bool) {
			watched(t, func(t *testing.T, r *rig) {
				redriven := false
				cfg := config{After: dispatch.Park, Handle: func(context.Context, event) error {
					if !redriven {
						return errBoom
					}
					time.Sleep(2 * slowCall)
					return nil
				}}
				if keyed {
					cfg.Key, cfg.Workers = keyOf, 1
				}
				h := r.add(cfg, 0)
				r.storeN(2)
				r.handled(h)
				settle()
				redriven = true
				if n, err := h.Redrive(ctxBg); n != 2 || err != nil {
					t.Errorf("Redrive returned %d, %v", n, err)
				}
				if s := h.Stats(); s.Slow != 2 {
					t.Errorf("Stats %+v", s)
				}
			})
		})
	})
}

// Timers that run while nothing is going on, or a call hangs that was reported, would let
// synctest's clock run on and hide a deadlock in the program under test. The deadlock ends
// the process, so each has one of its own.
func TestNobodyHasATimerWhenNothingMoves(t *testing.T) {
	const env = "DISPATCH_TEST_DEADLOCK"
	tests := []struct {
		name string
		prep func(t *testing.T, r *rig)
	}{
		{"idle", func(t *testing.T, r *rig) {
			r.add(config{Name: "plain", Handle: new(recorder).handle}, 0)
			h := r.add(config{Name: "keyed", Key: keyOf, Workers: 2, Handle: new(recorder).handle}, 0)
			r.storeN(5)
			r.handled(h)
		}},
		{"hanging", func(t *testing.T, r *rig) {
			never := func(context.Context, event) error { select {} }
			r.add(config{Name: "plain", Handle: never}, 0)
			r.add(config{Name: "keyed", Key: keyOf, Workers: 2, Handle: never}, 0)
			r.storeN(5)
		}},
	}
	for _, tt := range tests {
		if os.Getenv(env) == tt.name {
			watched(t, func(t *testing.T, r *rig) {
				tt.prep(t, r)
				time.Sleep(time.Hour)
				if tt.name == "hanging" && r.lines.count("weir: handler call is slow") != 2 {
					panic("the hanging calls were not reported")
				}
				<-make(chan struct{})
			})
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestNobodyHasATimerWhenNothingMoves$", "-test.count=1", "-test.timeout=20s")
			cmd.Env = append(os.Environ(), env+"="+tt.name)
			out, err := cmd.CombinedOutput()
			if _, ok := errors.AsType[*exec.ExitError](err); !ok || !strings.Contains(string(out), "deadlock: all goroutines in bubble are blocked") {
				t.Errorf("no deadlock was detected: %v\n%s", err, out)
			}
		})
	}
}
