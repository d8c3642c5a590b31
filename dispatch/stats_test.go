package dispatch_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/dispatch"
)

const stallAfter = 10 * time.Second

// timed runs fn with a rig whose handlers are called stalled after stallAfter.
func timed(t *testing.T, fn func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fn(t, newRig(t, func(o *dispatch.Options, _ *memlog) { o.StallAfter = stallAfter }))
	})
}

func TestStateFollowsFromWhatTheHandlerDoes(t *testing.T) {
	type check struct {
		after time.Duration // since the one before
		state dispatch.State
		lag   uint64
		late  time.Duration // LagTime
	}
	sleepy := func(d time.Duration) func(context.Context, event) error {
		return func(context.Context, event) error {
			time.Sleep(d)
			return nil
		}
	}
	tests := []struct {
		name   string
		cfg    config
		events int
		checks []check
	}{
		{"idle: live", config{Handle: sleepy(0)}, 0, []check{{0, dispatch.Live, 0, 0}, {time.Hour, dispatch.Live, 0, 0}}},
		{"prompt: live", config{Handle: sleepy(0)}, 5, []check{{0, dispatch.Live, 0, 0}, {time.Hour, dispatch.Live, 0, 0}}},
		{"a call of less than a second: live", config{Handle: sleepy(900 * time.Millisecond)}, 1,
			[]check{{0, dispatch.Live, 1, 0}, {800 * time.Millisecond, dispatch.Live, 1, 800 * time.Millisecond}, {time.Second, dispatch.Live, 0, 0}}},
		{"a call that goes on: behind, and stalled in the end", config{Handle: sleepy(time.Minute)}, 1,
			[]check{{time.Second, dispatch.Behind, 1, time.Second}, {stallAfter - 2*time.Second, dispatch.Behind, 1, stallAfter - time.Second},
				{time.Second, dispatch.Stalled, 1, stallAfter}, {time.Minute, dispatch.Live, 0, 0}}},
		{"many slow calls, each a turn: behind", config{Handle: sleepy(4 * time.Second), Window: 1}, 10,
			[]check{{2 * time.Second, dispatch.Behind, 10, 2 * time.Second}, {20 * time.Second, dispatch.Behind, 5, 22 * time.Second}, {14 * time.Second, dispatch.Behind, 1, 36 * time.Second}, {4 * time.Second, dispatch.Live, 0, 0}}},
		{"many slow calls in one turn: behind", config{Handle: sleepy(4 * time.Second), Window: 1000}, 10,
			[]check{{2 * time.Second, dispatch.Behind, 10, 2 * time.Second}, {20 * time.Second, dispatch.Behind, 10, 22 * time.Second}, {14 * time.Second, dispatch.Behind, 10, 36 * time.Second}, {4 * time.Second, dispatch.Live, 0, 0}}},
		{"many slow calls of a worker: behind", config{Handle: sleepy(4 * time.Second), Key: keyOf, Workers: 1}, 10,
			[]check{{2 * time.Second, dispatch.Behind, 10, 2 * time.Second}, {20 * time.Second, dispatch.Behind, 5, 22 * time.Second}, {14 * time.Second, dispatch.Behind, 1, 36 * time.Second}, {4 * time.Second, dispatch.Live, 0, 0}}},
		{"slow calls and then one that goes on: stalled", config{Window: 1000, Handle: func(_ context.Context, ev event) error {
			time.Sleep([]time.Duration{4, 4, 4, 300}[ev.pos-1] * time.Second)
			return nil
		}}, 4, []check{{11 * time.Second, dispatch.Behind, 4, 11 * time.Second}, {20 * time.Second, dispatch.Stalled, 4, 31 * time.Second}, {290 * time.Second, dispatch.Live, 0, 0}}},
		{"retrying, however long", config{Handle: func(context.Context, event) error { return errBoom }, Retry: dispatch.Retry{Attempts: 1, Backoff: time.Hour, MaxBackoff: time.Hour}}, 1,
			[]check{{0, dispatch.Retrying, 1, 0}, {20 * time.Minute, dispatch.Retrying, 1, 20 * time.Minute}, {time.Hour, dispatch.Live, 0, 0}}},
		{"stopped", config{Handle: func(context.Context, event) error { return errBoom }, After: dispatch.Stop}, 3,
			[]check{{0, dispatch.Stopped, 3, 0}, {time.Hour, dispatch.Stopped, 3, time.Hour}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			timed(t, func(t *testing.T, r *rig) {
				h := r.add(tt.cfg, 0)
				time.Sleep(time.Hour) // progress long ago is none
				r.storeN(tt.events)
				for i, c := range tt.checks {
					time.Sleep(c.after)
					settle()
					s := h.Stats()
					exact := c.late == s.LagTime || tt.cfg.Window == 1000 || tt.cfg.Workers > 0 || tt.cfg.Window == 1
					if s.State != c.state || s.Lag != c.lag || !exact {
						t.Errorf("check %d: %v, lag %d, %v late; want %v, %d, %v", i, s.State, s.Lag, s.LagTime, c.state, c.lag, c.late)
					}
				}
			})
		})
	}
}

func TestPausedAndRemovedStates(t *testing.T) {
	timed(t, func(t *testing.T, r *rig) {
		h := r.add(config{Handle: new(recorder).handle}, 0)
		if err := h.Pause(ctxBg); err != nil {
			t.Fatal(err)
		}
		r.storeN(3)
		time.Sleep(time.Minute)
		if s := h.Stats(); s.State != dispatch.Paused || s.Lag != 3 || s.LagTime != time.Minute {
			t.Errorf("paused: %+v", s)
		}
		if err := h.Resume(); err != nil {
			t.Fatal(err)
		}
		settle()
		if s := h.Stats(); s.State != dispatch.Live || s.Lag != 0 {
			t.Errorf("resumed: %+v", s)
		}
		if err := h.Remove(ctxBg); err != nil {
			t.Fatal(err)
		}
		if s := h.Stats(); s.State != dispatch.Stopped || s.Position != 3 {
			t.Errorf("removed: %+v", s)
		}
	})
}

func TestStatsOfAHandlerThatReadsHistory(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		timed(t, func(t *testing.T, r *rig) {
			r.storeN(100)
			time.Sleep(time.Minute)
			steps := make(stepper)
			steps.free(t)
			cfg := config{Handle: steps.handle, Window: 4}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 1
			}
			h := r.add(cfg, 0)
			settle()
			r.storeN(10)
			settle()
			if s := h.Stats(); s.Lag != 110 || s.Fill != 10 || s.LagTime != time.Minute || s.Position != 0 {
				t.Errorf("at the beginning: %+v", s)
			}
			steps.step(50)
			if s := h.Stats(); s.Lag != 60 || s.Fill != 10 || s.Position != 50 {
				t.Errorf("half way through history: %+v", s)
			}
			steps.step(55)
			if s := h.Stats(); s.Lag != 5 || s.Fill != 5 || s.Position != 105 {
				t.Errorf("half way through the rest: %+v", s)
			}
		})
	})
}

func TestStatsAreReadable(t *testing.T) {
	r := newRig(t, nil)
	h := r.add(config{Name: "mail", Handle: new(recorder).handle, Window: 7}, 0)
	s := h.Stats()
	if got := s.String(); got != "mail: live at 0, lag 0 (0s), mailbox 0/7" {
		t.Errorf("String is %q", got)
	}
	text, err := json.Marshal(s)
	if err != nil || !strings.Contains(string(text), `"State":"live"`) {
		t.Errorf("in JSON: %s, %v", text, err)
	}
	err = &dispatch.StoppedError{Handler: "mail", Position: 7, Err: errBoom}
	if !strings.Contains(err.Error(), `handler "mail" stopped at position 7: boom`) || !errors.Is(err, errBoom) {
		t.Errorf("the error is %q", err)
	}
}
