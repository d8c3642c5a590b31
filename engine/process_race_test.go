package engine_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/engine"
)

// TestTimersDueInARush: while an instance reacts, others of its timers become due all the time. It does not
// begin anew each time, and nothing is parked because of them.
func TestTimersDueInARush(t *testing.T) {
	const timers = 3000
	e := quietEngine(t, engine.Options{})
	defer mustClose(t, e)
	var evolved atomic.Int64
	all := make(chan struct{})
	p := &engine.Process[int]{
		Name: "rush",
		Key: func(ev engine.Event) string {
			if _, ok := ev.Data.(cue); ok {
				return "a"
			}
			return ""
		},
		Evolve: func(n int, ev engine.Event) int { evolved.Add(1); return n + 1 },
		React: func(n int, ev engine.Event) (r engine.Reaction, err error) {
			if _, ok := ev.Data.(cue); ok {
				for i := range timers {
					r.After(0, fmt.Sprint(i), engine.New(rung{i}))
				}
			}
			if n == timers+1 {
				close(all)
			}
			return r, nil
		},
	}
	h, err := engine.Manage(e, p)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, e, "cues-1", engine.New(cue{}))
	<-all
	if err := e.Wait(t.Context(), e.Head(), "rush"); err != nil {
		t.Fatal(err)
	}
	if parked := h.Parked(); len(parked) > 0 {
		t.Errorf("%d are parked, the first with %v", len(parked), parked[0].Err)
	}
	if n := evolved.Load(); n > 2*timers {
		t.Errorf("Evolve was called %d times for %d events", n, timers+1)
	}
}
