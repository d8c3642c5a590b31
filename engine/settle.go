package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/weirstore/weir/dispatch"
)

// Settle blocks until everything is handled that the events of a result have led to: they
// themselves, what handlers have appended because of them, and so on, by all handlers that are neither paused
// nor stopped. It is for a request that is to return when its whole chain is consistent, and takes the
// place of sleeping in tests. Nothing is polled: it waits for handlers, and then looks once at each event that
// was stored meanwhile.
//
// What belongs to the chain is known by [Event.Correlation], which an append with a handler's
// context fills in. What a handler appends after it has returned, from a goroutine of its own, is not waited for.
// A chain that never ends, of handlers that append for each other, is settled never.
//
// When ctx is done first, the error is a [*SettleError] that names a handler and an event that it has not
// handled; so it is when a handler stops. From inside a handler it is [ErrInHandler]. A result without events
// is settled.
func (e *Engine) Settle(ctx context.Context, res Result) error {
	if _, inside := e.dispatcher.Inside(ctx); inside {
		return opError("settle", "", ErrInHandler)
	}
	if res.Position == 0 {
		return nil
	}
	c := chain{eng: e, ids: make(map[string]bool)}
	// The events of one append follow one another, but not those of a duplicate.
	first := res.Position
	if n := Position(res.Last - res.First); res.First > 0 && !res.Duplicate && n < first {
		first -= n
	}
	err := c.read(ctx, first, res.Position, func(ev *Event) bool {
		c.ids[ev.Correlation()] = true
		return true
	})
	if err != nil {
		return opError("settle", "", err)
	}
	if c.open == 0 {
		c.open = res.Position // it was removed
	}
	for {
		if name, err := e.wait(ctx, c.open); err != nil {
			return c.failed(name, err)
		}
		open, head := c.open, e.Head()
		err := c.read(ctx, c.looked+1, head, func(ev *Event) bool { return c.ids[ev.Correlation()] })
		if err != nil {
			return opError("settle", "", err)
		}
		if c.open == open {
			return nil
		}
	}
}

// chain is what Settle knows of the events that belong together.
type chain struct {
	eng    *Engine
	ids    map[string]bool // correlations
	looked Position        // every event up to here was looked at
	open   Position        // of the newest that is known
	name   string          // its identity
}

// read looks at events, and notes the newest that belongs to the chain.
func (c *chain) read(ctx context.Context, from, to Position, belongs func(*Event) bool) error {
	opts := []ReadOption{From(from)}
	if c.eng.caps.Encoded {
		opts = append(opts, Encoded()) // payloads do not matter
	}
	for ev, err := range c.eng.ReadAll(ctx, opts...) {
		if err != nil {
			return err
		}
		if ev.Position > to {
			break
		}
		if belongs(&ev) {
			c.open, c.name = ev.Position, ev.Identity()
		}
	}
	c.looked = to
	return nil
}

func (c *chain) failed(handler string, err error) error {
	if handler == "" || errors.Is(err, dispatch.ErrInside) || errors.Is(err, ErrClosed) || errors.Is(err, dispatch.ErrClosed) {
		return opError("settle", "", err)
	}
	return &SettleError{Handler: handler, Event: c.name, Position: c.open, Err: err}
}

// SettleError means that a chain of events was not handled to its end.
type SettleError struct {
	Handler  string   // one that is not done
	Event    string   // identity of the newest event of the chain that is known; the handler is at it, or before it
	Position Position // of that event
	Err      error    // the cause of the context's end, or a *StoppedError, ErrRemoved, ErrClosed
}

func (e *SettleError) Error() string {
	return fmt.Sprintf("engine: settle: handler %q has not handled %q at position %d, or what was before it: %v", e.Handler, e.Event, e.Position, e.Err)
}

func (e *SettleError) Unwrap() error { return e.Err }
