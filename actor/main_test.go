package actor_test

import (
	"context"
	"testing"
	"time"

	"github.com/weirstore/weir/actor"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiverFunc is a Receiver without state of its own.
type receiverFunc[M any] func(batch []M)

func (f receiverFunc[M]) Receive(batch []M) { f(batch) }

// newSystem returns a system that the test's end drains, and whose goroutines must then
// all be gone. Without a Discard, a message that is discarded fails the test.
func newSystem[M any](t testing.TB, cfg actor.Config[M]) *actor.System[M] {
	t.Helper()
	cfg.Group = actor.NewGroup()
	if cfg.Kind == "" {
		cfg.Kind = "test"
	}
	if cfg.Discard == nil {
		cfg.Discard = func(m M, err error) { t.Errorf("discarded %v: %v", m, err) }
	}
	s := actor.NewSystem(cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Drain()
		if err := s.Wait(ctx); err != nil {
			t.Errorf("after Drain: %v", err)
		}
		if err := cfg.Group.Wait(ctx); err != nil {
			t.Errorf("goroutines of the system: %v", err)
		}
		if n := s.Active(); n != 0 {
			t.Errorf("%d actors are active after the end", n)
		}
	})
	return s
}

// send fails the test if m is not accepted.
func send[M any](t testing.TB, a *actor.Actor[M], msgs ...M) {
	t.Helper()
	for _, m := range msgs {
		if err := a.Send(context.Background(), m); err != nil {
			t.Fatalf("send %v: %v", m, err)
		}
	}
}

// isClosed reports whether ch is closed, without waiting.
func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
