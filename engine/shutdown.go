package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirstore/weir/dispatch"
)

// Report is what Shutdown leaves behind.
type Report struct {
	Head     Position        // the last event of the log
	Handlers []HandlerReport // every handler that there was, sorted by name
	Running  []string        // goroutines that did not end: a call that ignores its context
	Took     time.Duration
}

// HandlerReport is where a handler stood at the end.
type HandlerReport struct {
	Name     string
	Position Position // everything up to here that concerns it is handled
	Lag      uint64   // events that it has not handled; for a paused or stopped handler an upper bound
	State    State
	Parked   int
	Running  bool // in a call that has not returned
}

// grace is how long after the deadline Shutdown waits for calls whose context it has
// just cancelled. Without it nobody could ever end in time.
const grace = 100 * time.Millisecond

// Close is Shutdown with [Options.CloseTimeout] as the deadline.
func (e *Engine) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), e.opts.CloseTimeout)
	defer cancel()
	_, err := e.Shutdown(ctx)
	return err
}

// Shutdown ends the engine, in this order:
//
//  1. Appends from outside, those that wait included, get [ErrClosed]. Handlers may still
//     append, with the context that they were called with.
//  2. It waits until nothing is in flight and every handler that is neither paused nor
//     stopped has handled everything, what handlers append meanwhile included.
//  3. Nobody can append any more; readers that follow and wait get what they have not seen;
//     streams, handlers and the dispatcher return; checkpoints are
//     stored, and snapshots of policies that are Leaving; the backend is closed.
//
// Ctx bounds the second step. At its end the contexts of handlers are cancelled, nothing
// more is handled, and Shutdown returns, 100ms later at most, a [*ShutdownError] that wraps
// ctx's cause and names each handler with its lag; the events are in the log. A call that does
// not return keeps its goroutine, and is named.
//
// Every caller gets the same result; one whose own ctx is done first gets its cause, while the
// shutdown goes on. Called from inside a handler, which would wait for itself, it begins
// the shutdown (with [Options.CloseTimeout]) and returns [ErrInHandler] at once.
func (e *Engine) Shutdown(ctx context.Context) (Report, error) {
	s := &e.shutdown
	_, inside := e.dispatcher.Inside(ctx)
	deciding := e.insideDecide()
	inside = inside || deciding || e.dispatcher.InsideGoroutine()
	s.Lock()
	first := !s.begun
	s.begun = true
	s.Unlock()
	switch {
	case first && inside:
		// The one goroutine that is not in the group: it waits for the group.
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), e.opts.CloseTimeout)
			defer cancel()
			e.runShutdown(ctx)
		}()
	case first:
		e.runShutdown(ctx)
	}
	switch {
	case deciding:
		return Report{}, fmt.Errorf("engine: shutdown: %w", ErrInDecide)
	case inside:
		return Report{}, fmt.Errorf("engine: shutdown: %w", ErrInHandler)
	}
	select {
	case <-s.done:
		return s.report, s.err
	default:
	}
	select {
	case <-s.done:
		return s.report, s.err
	case <-ctx.Done():
		return Report{}, fmt.Errorf("engine: shutdown goes on: %w", context.Cause(ctx))
	}
}

// runShutdown is called once.
func (e *Engine) runShutdown(ctx context.Context) {
	began := time.Now()

	// open → draining
	e.gate.close(gateDraining)
	e.dispatcher.CloseDoor()

	// draining → quiescent
	err := e.quiesce(ctx)
	handlers := e.dispatcher.Handlers()
	report := Report{Handlers: make([]HandlerReport, len(handlers))}
	for i, h := range handlers {
		report.Handlers[i].State = h.Stats().State // before everything stops
	}

	// quiescent → sealed, or out of time
	e.gate.close(gateSealed)
	if err == nil {
		// What came in just before the seal, from a handler that was resumed or whose context
		// outlived its call, is handled too. Nothing can come any more.
		err = e.quiesce(ctx)
	}
	if err != nil {
		e.dispatcher.Interrupt() // first: a call that fails because it was cancelled is not given up
		e.dispatcher.Cancel(err)
		e.cancel(err)
	}
	end, cancel := withGrace(ctx, grace/2)
	defer cancel()
	e.awaitGate(end)
	close(e.closing)

	// sealed → closed
	e.owners.Drain()
	endErr := e.dispatcher.End(end)
	ownersErr := e.owners.Wait(end)
	report.Head = e.Head()
	for i, h := range handlers {
		report.Handlers[i].fill(h)
	}
	saving, cancel := withGrace(ctx, grace/2)
	defer cancel()
	savedErr := e.checkpoints.finish(saving)
	e.following.await(end)
	if err == nil && ownersErr == nil && e.gate.empty() { // else somebody may still own a stream
		e.snapshots.finish(saving)
	}
	closeErr := e.closeBackend()
	e.cancel(ErrClosed)
	last, cancel := withGrace(ctx, grace) // so that only those are named who will not end
	defer cancel()
	groupErr := e.group.Wait(last)
	report.Running = e.group.Running()
	report.Took = time.Since(began)

	if err == nil {
		err = errors.Join(endErr, ownersErr, savedErr, closeErr, groupErr)
	}
	if err != nil {
		err = &ShutdownError{report, err}
	}
	e.shutdown.report, e.shutdown.err = report, err
	close(e.shutdown.done)
}

// closeBackend guards against a backend that panics: whoever waits for the end must be told.
func (e *Engine) closeBackend() (err error) {
	defer recovered(&err, "close")
	return e.backend.Close()
}

// withGrace returns a context that is done a little after ctx: what is left to do then is
// short, and must not be cut off by a deadline that has just passed.
func withGrace(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	end, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(grace, func() { cancel(context.Cause(ctx)) })
	})
	return end, func() {
		stop()
		cancel(nil)
	}
}

func (r *HandlerReport) fill(h *dispatch.Handler[Event]) {
	s := h.Stats()
	r.Name, r.Position, r.Lag, r.Parked = s.Name, Position(s.Position), s.Lag, s.Parked
	select {
	case <-h.Gone():
	default:
		r.Running = true
	}
}

// quiesce waits until nothing is in flight and every live handler has handled everything.
func (e *Engine) quiesce(ctx context.Context) error {
	quit, gone := make(chan struct{}), make(chan struct{})
	e.group.Go("shutdown", "", func() {
		defer close(gone)
		for {
			select {
			case <-e.gate.zero:
				e.dispatcher.Recheck()
			case <-quit:
				return
			}
		}
	})
	err := e.dispatcher.Quiesce(ctx, e.gate.empty)
	close(quit)
	<-gone // or it might take a token that awaitGate needs
	return err
}

// awaitGate blocks until nothing is in flight. Those who are have been accepted, and
// their owners always answer.
func (e *Engine) awaitGate(ctx context.Context) {
	for !e.gate.empty() {
		select {
		case <-e.gate.zero:
		case <-ctx.Done():
			return
		}
	}
}

// isClosed reports whether shutdown is over, or nearly.
func (e *Engine) isClosed() bool {
	select {
	case <-e.closing:
		return true
	default:
		return false
	}
}
