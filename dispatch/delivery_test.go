package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/weirstore/weir/dispatch"
)

// inside runs fn in a handler's call for one event, and waits for it.
func inside(r *rig, keyed bool, fn func(ctx context.Context, ev event)) *handler {
	r.t.Helper()
	cfg := config{Name: "inside", Handle: func(ctx context.Context, ev event) error {
		fn(ctx, ev)
		return nil
	}}
	if keyed {
		cfg.Key, cfg.Workers = keyOf, 2
	}
	h := r.add(cfg, r.log.Head())
	r.storeN(1)
	r.handled(h)
	return h
}

func both(t *testing.T, fn func(t *testing.T, keyed bool)) {
	t.Helper()
	for _, keyed := range []bool{false, true} {
		t.Run(fmt.Sprintf("keyed %v", keyed), func(t *testing.T) { fn(t, keyed) })
	}
}

func TestDeliveryTellsWhereItComesFrom(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			type key struct{}
			other := newRig(t, nil)
			r.storeN(6)
			inside(r, keyed, func(ctx context.Context, ev event) {
				derived, cancel := context.WithTimeout(context.WithValue(ctx, key{}, 1), time.Hour)
				defer cancel()
				for name, ctx := range map[string]context.Context{"own": ctx, "derived": derived} {
					d, ok := r.Inside(ctx)
					if !ok || d.Handler() != "inside" || d.Position() != 7 || !d.Live() {
						t.Errorf("%s context: Inside returned %v, %v", name, d, ok)
					}
					if _, ok := other.Inside(ctx); ok {
						t.Errorf("%s context: another dispatcher takes it for its own", name)
					}
				}
				if _, ok := r.Inside(ctxBg); ok {
					t.Error("the background context comes from a handler")
				}
				if !r.InsideGoroutine() || other.InsideGoroutine() {
					t.Error("the goroutine is not known as this handler's, or as that of another dispatcher")
				}
				if _, ok := ctx.Deadline(); ok || ctx.Err() != nil || ctx.Value(key{}) != nil {
					t.Errorf("the context has a deadline, an error (%v) or a value", ctx.Err())
				}
			})
			if r.InsideGoroutine() {
				t.Error("the test is taken for a handler")
			}
		})
	})
}

func TestDeliveryIsNotLiveWhenTheCallHasReturned(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			var kept context.Context
			h := inside(r, keyed, func(ctx context.Context, _ event) { kept = ctx })
			if _, ok := r.Inside(kept); ok {
				t.Error("the context is live after the call")
			}
			if kept.Err() != nil {
				t.Errorf("the context is done: %v", kept.Err())
			}
			if err := h.Remove(ctxBg); err != nil {
				t.Fatal(err)
			}
			if err := context.Cause(kept); !errors.Is(err, dispatch.ErrRemoved) {
				t.Errorf("the cause is %v, want ErrRemoved", err)
			}
		})
	})
}

func TestDeliveryIsNotLiveWhileTheNextEventIsHandled(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			g := newGate(t)
			var mu sync.Mutex
			var kept []context.Context
			cfg := config{Handle: func(ctx context.Context, ev event) error {
				mu.Lock()
				kept = append(kept, ctx)
				mu.Unlock()
				if ev.pos == 2 {
					g.pass()
				}
				return nil
			}}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 1
			}
			r.add(cfg, 0)
			r.storeN(2)
			settle()
			if _, ok := r.Inside(kept[0]); ok {
				t.Error("the first context is live during the second call")
			}
			if d, ok := r.Inside(kept[1]); !ok || d.Position() != 2 {
				t.Error("the second context is not live")
			}
		})
	})
}

func TestDeliveryIsDoneWhenTheDispatcherCancels(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			cause := make(chan error, 1)
			cfg := config{Handle: func(ctx context.Context, _ event) error {
				<-ctx.Done()
				cause <- context.Cause(ctx)
				return ctx.Err()
			}}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 1
			}
			h := r.add(cfg, 0)
			r.storeN(1)
			settle()
			r.Interrupt()
			r.Cancel(errBoom)
			if err := <-cause; err != errBoom {
				t.Errorf("the cause is %v, want that given to Cancel", err)
			}
			<-h.Gone()
			if s := h.Stats(); s.Failures != 0 || s.Position != 0 || s.Handled != 0 {
				t.Errorf("the event is to blame: %+v", s)
			}
		})
	})
}

// Between a call that failed and the next with the same event there is no call.
func TestDeliveryIsNotLiveOnceTheCallHasFailed(t *testing.T) {
	for _, after := range []dispatch.AfterRetries{dispatch.Skip, dispatch.Park, dispatch.Stop} {
		t.Run(after.String(), func(t *testing.T) {
			eachFailure(t, func(t *testing.T, r *rig, cfg config, fail func() error, _ func(error) bool) {
				var mu sync.Mutex
				var kept []context.Context
				cfg.After = after
				cfg.Retry = dispatch.Retry{Attempts: 1, Backoff: time.Second}
				cfg.Handle = func(ctx context.Context, ev event) error {
					mu.Lock()
					defer mu.Unlock()
					if _, ok := r.Inside(ctx); !ok {
						t.Error("the context of the call is not live")
					}
					kept = append(kept, ctx)
					return fail()
				}
				r.add(cfg, 0)
				r.storeN(1)
				for n := 1; n <= 2; n++ { // in the backoff, and at the end
					settle()
					mu.Lock()
					if len(kept) != n {
						t.Errorf("%d calls, want %d", len(kept), n)
					}
					for i, ctx := range kept {
						if _, ok := r.Inside(ctx); ok {
							t.Errorf("after %d calls, context %d is live", n, i)
						}
					}
					mu.Unlock()
					time.Sleep(2 * time.Second)
				}
			})
		})
	}
}
