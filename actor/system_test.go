package actor_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/actor"
)

func TestNewSystemWantsAGroupAndADiscard(t *testing.T) {
	tests := []struct {
		name string
		cfg  actor.Config[int]
	}{
		{"no group", actor.Config[int]{Kind: "k", Discard: func(int, error) {}}},
		{"no discard", actor.Config[int]{Kind: "k", Group: actor.NewGroup()}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				if v, ok := recover().(string); !ok || !strings.Contains(v, "required") || !strings.Contains(v, `"k"`) {
					t.Errorf("panicked with %q", v)
				}
			}()
			actor.NewSystem(tt.cfg)
		})
	}
}

func TestSystemEndsAllItsActors(t *testing.T) {
	type sys = actor.System[int]
	tests := []struct {
		name               string
		end                func(*sys) <-chan struct{}
		handled, discarded int64
	}{
		{"Drain finishes what was accepted", (*sys).Drain, 60, 0},
		{"Stop discards what was not begun", (*sys).Stop, 20, 40},
		{"Stop after Drain is Stop", func(s *sys) <-chan struct{} { s.Drain(); return s.Stop() }, 20, 40},
		{"Drain after Stop is Stop", func(s *sys) <-chan struct{} { s.Stop(); return s.Drain() }, 20, 40},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var handled, discarded atomic.Int64
				s := newSystem(t, actor.Config[int]{Kind: "stream", Batch: 1, Discard: func(_ int, err error) {
					if !errors.Is(err, actor.ErrStopped) {
						t.Errorf("discarded with %v", err)
					}
					discarded.Add(1)
				}})
				release := make(chan struct{})
				recv := receiverFunc[int](func(b []int) {
					<-release
					handled.Add(int64(len(b)))
				})
				actors := make([]*actor.Actor[int], 21)
				for i := range actors {
					actors[i] = s.New("x", recv)
					if i > 0 { // the first is passive
						send(t, actors[i], 1, 2, 3)
					}
				}
				synctest.Wait()
				ended := tt.end(s)
				for _, a := range actors {
					if err := a.Send(t.Context(), 4); !errors.Is(err, actor.ErrStopped) {
						t.Errorf("Send returned %v, want ErrStopped", err)
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := s.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "20 stream actors") {
					t.Errorf("Wait returned %v, want the deadline and 20 actors", err)
				}
				if isClosed(ended) {
					t.Error("the channel is closed, but owners are in Receive")
				}
				close(release)
				<-ended
				for range 20 { // the end comes before the deadline that has passed too
					if err := s.Wait(ctx); err != nil {
						t.Errorf("Wait returned %v after the end", err)
					}
				}
				if handled.Load() != tt.handled || discarded.Load() != tt.discarded || s.Active() != 0 {
					t.Errorf("handled %d, discarded %d, active %d; want %d, %d, 0",
						handled.Load(), discarded.Load(), s.Active(), tt.handled, tt.discarded)
				}
				if !isClosed(s.Drain()) || !isClosed(s.Stop()) {
					t.Error("ended again, the channel is not closed")
				}
			})
		})
	}
}

// One actor may end before its system, and both may be told at once.
func TestSystemEndRacesWithActivation(t *testing.T) {
	for round := range 200 {
		var accepted, handled atomic.Int64
		group := actor.NewGroup()
		s := actor.NewSystem(actor.Config[int]{Group: group, Idle: 1, Linger: 1, Discard: func(int, error) { t.Error("discarded") }})
		for range 3 {
			a := s.New("x", receiverFunc[int](func(b []int) { handled.Add(int64(len(b))) }))
			group.Go("sender", "", func() {
				for a.Send(context.Background(), 1) == nil {
					accepted.Add(1)
				}
			})
			group.Go("drainer", "", func() {
				for accepted.Load() < int64(round%20) {
					runtime.Gosched()
				}
				<-a.Drain()
				<-s.Drain()
			})
		}
		if err := s.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := group.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if accepted.Load() != handled.Load() || s.Active() != 0 {
			t.Fatalf("accepted %d, handled %d, active %d", accepted.Load(), handled.Load(), s.Active())
		}
	}
}
