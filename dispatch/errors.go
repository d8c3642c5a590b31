package dispatch

import (
	"errors"
	"fmt"
)

// Errors of the dispatcher.
var (
	// ErrClosed means that the dispatcher is draining or has ended.
	ErrClosed = errors.New("dispatch: closed")
	// ErrInside means that a handler called something that waits for handlers, itself
	// among them perhaps. Nothing was done.
	ErrInside = errors.New("dispatch: called from inside a handler")
)

// Errors of a handler.
var (
	// ErrOverflow stopped a handler whose policy is [Fail] at a full mailbox.
	ErrOverflow = errors.New("dispatch: mailbox overflow")
	// ErrParkedFull stopped a handler that has as many parked events as it may.
	ErrParkedFull = errors.New("dispatch: too many parked events")
	// ErrExists means that a handler of that name exists already.
	ErrExists = errors.New("dispatch: handler name is taken")
	// ErrPaused means that the handler is paused, and that nothing is handled until it is resumed.
	ErrPaused = errors.New("dispatch: handler is paused")
	// ErrRemoved means that the handler was removed.
	ErrRemoved = errors.New("dispatch: handler removed")
)

// StoppedError means that a handler has stopped and will handle nothing until it is resumed.
type StoppedError struct {
	Handler  string
	Position uint64 // everything up to here is handled
	Err      error  // why
}

func (e *StoppedError) Error() string {
	return fmt.Sprintf("handler %q stopped at position %d: %v", e.Handler, e.Position, e.Err)
}

func (e *StoppedError) Unwrap() error { return e.Err }
