package weirtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
)

// WaitCaughtUp blocks until the named handlers, or without names all that are not paused, have
// handled everything up to the engine's Head, what they append meanwhile included. An event that is
// parked or skipped is handled.
//
// It fails the test, with how each handler that lags is doing, when a handler has stopped, when the test's
// context ends, or shortly before go test would end it (-timeout); in a synctest bubble, after a day.
func WaitCaughtUp(t testing.TB, e *engine.Engine, handlers ...string) {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	if err := caughtUp(ctx, e, handlers); err != nil {
		t.Fatalf("weirtest: %v", err)
	}
}

// caughtUp is WaitCaughtUp with a context.
func caughtUp(ctx context.Context, e *engine.Engine, handlers []string) error {
	for {
		head := e.Head()
		err := e.Wait(ctx, head, handlers...)
		if err == nil && len(handlers) == 0 {
			err = anyStopped(e)
		}
		if err != nil {
			return fmt.Errorf("handlers have not caught up with position %d: %w%s", head, err, laggards(e, handlers))
		}
		if e.Head() == head {
			return nil
		}
	}
}

func anyStopped(e *engine.Engine) error {
	for _, s := range e.Stats().Handlers {
		if s.State == engine.Stopped {
			return errors.New("one has stopped")
		}
	}
	return nil
}

// laggards lists the handlers that have something before them.
func laggards(e *engine.Engine, handlers []string) (text string) {
	for _, s := range e.Stats().Handlers {
		if len(handlers) > 0 && !slices.Contains(handlers, s.Name) {
			continue
		}
		if s.Lag == 0 && s.State != engine.Stopped {
			continue
		}
		text += "\n  handler " + s.String()
		if s.LastError != nil {
			text += fmt.Sprintf(", last error: %v", s.LastError)
		}
	}
	return text
}

// errTime ends a wait which go test would end without saying who is waited for.
var errTime = errors.New("the time of the test is nearly over")

// bounded returns the test's context, with its deadline.
func bounded(t testing.TB) (context.Context, context.CancelFunc) {
	limit := 24 * time.Hour // nobody waits for as long but in a bubble, where it takes no time
	if end, ok := deadline(t); ok {
		left := time.Until(end)
		limit = left - min(time.Second, left/4)
	}
	return context.WithTimeoutCause(t.Context(), limit, errTime)
}

// deadline returns the end of the time that the test has. In a bubble there is none: T.Deadline panics.
func deadline(t testing.TB) (end time.Time, ok bool) {
	d, has := t.(interface{ Deadline() (time.Time, bool) })
	if !has {
		return time.Time{}, false
	}
	defer func() {
		if recover() != nil {
			end, ok = time.Time{}, false
		}
	}()
	return d.Deadline()
}

// open returns an engine that logs nothing. If setup fails, or does not return, it is closed.
func open(backend engine.Backend, setup func(*engine.Engine) error) (_ *engine.Engine, err error) {
	e, err := engine.Open(engine.Options{Backend: backend, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	ready := false
	defer func() {
		if !ready {
			err = errors.Join(err, e.Close())
		}
	}()
	if err := setup(e); err != nil {
		return nil, fmt.Errorf("setup: %w", err)
	}
	ready = true
	return e, nil
}
