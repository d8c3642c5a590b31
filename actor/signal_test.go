package actor_test

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/weirstore/weir/actor"
)

// A lost wake-up leaves everybody in the bubble blocked, which synctest reports at once.
func TestSignalLosesNoWakeup(t *testing.T) {
	const events = 20_000
	for _, procs := range []int{1, 2, 8} {
		for _, wakers := range []int{1, 3} {
			t.Run(fmt.Sprintf("%d procs, %d wakers", procs, wakers), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				synctest.Test(t, func(t *testing.T) {
					s := actor.NewSignal()
					var head, seen atomic.Int64
					back := make(chan struct{}, 1) // the waiter lets the wakers run dry
					for range wakers {
						go func() {
							for head.Add(1) <= events {
								s.Wake()
								if head.Load()-seen.Load() > 3 {
									<-back
								}
							}
							s.Wake()
						}()
					}
					for done := int64(0); done < events; {
						if now := head.Load(); now > done {
							done = now
							seen.Store(done)
							select {
							case back <- struct{}{}:
							default:
							}
							continue
						}
						s.Arm()
						if head.Load() > done {
							s.Disarm()
							continue
						}
						s.Wait()
					}
					close(back)
				})
			})
		}
	}
}

func TestSignal(t *testing.T) {
	token := func(s *actor.Signal) bool {
		select {
		case <-s.C():
			return true
		default:
			return false
		}
	}
	tests := []struct {
		name   string
		do     func(s *actor.Signal)
		parked bool
		token  bool
	}{
		{"is not parked when new", func(*actor.Signal) {}, false, false},
		{"Wake of one that is not parked does nothing", func(s *actor.Signal) { s.Wake() }, false, false},
		{"Arm parks", func(s *actor.Signal) { s.Arm() }, true, false},
		{"Disarm un-parks", func(s *actor.Signal) { s.Arm(); s.Disarm() }, false, false},
		{"Wake un-parks and leaves a token", func(s *actor.Signal) { s.Arm(); s.Wake() }, false, true},
		{"Wake twice leaves one token", func(s *actor.Signal) { s.Arm(); s.Wake(); s.Wake(); <-s.C() }, false, false},
		{"Disarm consumes the token of a faster waker", func(s *actor.Signal) { s.Arm(); s.Wake(); s.Disarm() }, false, false},
		{"Wait consumes the token", func(s *actor.Signal) { s.Arm(); s.Wake(); s.Wait() }, false, false},
		{"can be used again", func(s *actor.Signal) { s.Arm(); s.Wake(); s.Wait(); s.Arm(); s.Wake() }, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := actor.NewSignal()
			tt.do(s)
			if got := s.Parked(); got != tt.parked {
				t.Errorf("Parked is %v, want %v", got, tt.parked)
			}
			if got := token(s); got != tt.token {
				t.Errorf("a token is there: %v, want %v", got, tt.token)
			}
		})
	}
}

func TestSignalWakeReportsWhetherItWoke(t *testing.T) {
	s := actor.NewSignal()
	if s.Wake() {
		t.Error("true, but nobody was parked")
	}
	s.Arm()
	if !s.Wake() {
		t.Error("false, but the waiter was parked")
	}
	if s.Wake() {
		t.Error("true for the second waker")
	}
}
