package dispatch_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/weirstore/weir/dispatch"
)

func TestWatcherIsWokenByItsKinds(t *testing.T) {
	tests := []struct {
		name  string
		kinds *dispatch.KindSet
		kind  dispatch.Kind
		woken bool
	}{
		{"by any event without kinds", nil, 7, true},
		{"by an event of its kinds", dispatch.NewKindSet(1, 7), 7, true},
		{"not by another event", dispatch.NewKindSet(1, 7), 2, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				w, err := r.Watch(tt.kinds)
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				w.Arm()
				r.Notify()
				settle()
				if !w.Parked() {
					t.Error("woken although nothing has come")
				}
				r.store(event{kind: 3}, event{kind: tt.kind})
				if tt.kinds == nil || tt.woken {
					w.Wait()
					if r.Position() != 2 {
						t.Errorf("woken at position %d", r.Position())
					}
				}
				settle()
				if w.Parked() == tt.woken {
					t.Errorf("parked is %v", w.Parked())
				}
				if w.Parked() {
					w.Disarm()
				}
			})
		})
	}
}

func TestWatcherIsNotWokenOnceClosed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a, _ := r.Watch(nil)
		b, _ := r.Watch(nil)
		a.Arm()
		b.Arm()
		a.Close()
		a.Close()
		r.storeN(1)
		b.Wait()
		settle()
		if !a.Parked() {
			t.Error("woken after Close")
		}
		b.Close()
	})
}

func TestWatchAfterTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		w, err := r.Watch(nil)
		if err != nil {
			t.Fatal(err)
		}
		r.end()
		w.Close() // does not hang
		if _, err := r.Watch(nil); err != dispatch.ErrClosed {
			t.Errorf("Watch returned %v, want ErrClosed", err)
		}
	})
}

// Readers that follow the log miss nothing: one lost wake-up, and all would be blocked.
func TestWatchersLoseNoWakeUp(t *testing.T) {
	for _, procs := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(procs, " procs"), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			bubble(t, func(t *testing.T, r *rig) {
				const events = 2000
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						w, err := r.Watch(dispatch.NewKindSet(1))
						if err != nil {
							t.Error(err)
							return
						}
						defer w.Close()
						for seen := uint64(0); seen < events; {
							if head := r.log.Head(); head > seen {
								seen = head
								continue
							}
							w.Arm()
							if r.log.Head() > seen {
								w.Disarm()
								continue
							}
							w.Wait()
						}
					})
				}
				for i := range events {
					r.storeN(1)
					if i%10 == 0 {
						time.Sleep(time.Nanosecond) // everybody parks
					}
				}
				wg.Wait()
			})
		})
	}
}
