package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// halver handles what is added by adding half of it to another stream, and returns how
// often it was called. Slow makes it take its time.
func halver(t *testing.T, e *engine.Engine, name string, slow time.Duration) *atomic.Int64 {
	var calls atomic.Int64
	if err := errOf(engine.Handle(e, name, func(ctx context.Context, ev engine.Of[added]) error {
		if slow > 0 {
			select {
			case <-time.After(slow):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		calls.Add(1)
		if ev.Data.N < 2 {
			return nil
		}
		_, err := e.Append(ctx, fmt.Sprintf("%s-%d", name, ev.Data.N/2), engine.Any, engine.New(added{ev.Data.N / 2}))
		return err
	})); err != nil {
		t.Fatal(err)
	}
	return &calls
}

func TestSettle(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		calls := halver(t, e, "halver", time.Millisecond)
		res := mustAppend(t, e, "a-1", engine.New(added{64}), engine.New(added{8}))
		if err := e.Settle(t.Context(), res); err != nil {
			t.Fatal(err)
		}
		if n := calls.Load(); n != 7+4 {
			t.Errorf("settled after %d calls, want 64, 32, 16, 8, 4, 2, 1 and 8, 4, 2, 1", n)
		}
		if err := e.Settle(t.Context(), engine.Result{Last: 4}); err != nil {
			t.Errorf("nothing was stored: %v", err)
		}
		if err := e.Settle(t.Context(), res); err != nil {
			t.Errorf("what is settled: %v", err)
		}
	})
}

// TestSettleWaitsForItsChainAlone: other chains may go on for ever.
func TestSettleWaitsForItsChainAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		calls := halver(t, e, "halver", time.Second)
		if err := errOf(e.On("Ping", func(ctx context.Context, ev engine.Event) error {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
			_, err := e.Append(ctx, "ping-1", engine.Any, event("Ping", 1))
			return err
		})); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, e, "ping-1", event("Ping", 1)) // and so on, for ever
		res := mustAppend(t, e, "a-1", engine.New(added{8}))
		began := time.Now()
		if err := e.Settle(t.Context(), res); err != nil {
			t.Fatal(err)
		}
		if n, took := calls.Load(), time.Since(began); n != 4 || took != 4*time.Second {
			t.Errorf("settled after %d calls and %v, want 4 and 4s", n, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.Shutdown(ctx); err == nil {
			t.Error("the endless handler has ended")
		}
	})
}

func TestSettleSaysWhatIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		halver(t, e, "halver", time.Second)
		h, err := engine.Handle(e, "fails", func(_ context.Context, ev engine.Of[added]) error {
			if ev.Data.N == 4 {
				return errTooMuch
			}
			return nil
		}, engine.OnFailure(engine.Stop))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		res := mustAppend(t, e, "a-1", engine.New(added{64}).WithID("order 7"))
		err = e.Settle(ctx, res)
		open, ok := errors.AsType[*engine.SettleError](err)
		if !ok || !errors.Is(err, context.DeadlineExceeded) || open.Handler != "halver" || open.Event != "halver-16@1" || open.Position != 3 {
			t.Errorf("at its deadline: %v (%+v)", err, open)
		}
		if !strings.Contains(err.Error(), `handler "halver" has not handled "halver-16@1" at position 3`) {
			t.Errorf("it says %v", err)
		}
		err = e.Settle(t.Context(), res)
		if open, ok := errors.AsType[*engine.SettleError](err); !ok || open.Handler != "fails" {
			t.Errorf("a handler that stops: %v", err)
		}
		if h.Stats().State != engine.Stopped {
			t.Errorf("the handler is %v", h.Stats().State)
		}
		if err := e.Settle(t.Context(), res); err != nil {
			t.Errorf("a handler that has stopped is not waited for: %v", err)
		}
		if err := errOf(e.On("Nested", func(ctx context.Context, _ engine.Event) error {
			if err := e.Settle(ctx, res); !errors.Is(err, engine.ErrInHandler) {
				t.Errorf("inside a handler: %v", err)
			}
			return nil
		})); err != nil {
			t.Fatal(err)
		}
		nested := mustAppend(t, e, "b-1", event("Nested", 1))
		if err := e.Settle(t.Context(), nested); err != nil {
			t.Error(err)
		}
		mustClose(t, e)
		if err := e.Settle(t.Context(), nested); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
}
