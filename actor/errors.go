package actor

import (
	"errors"
	"fmt"
)

// Errors of Send.
var (
	// ErrStopped means that the actor, or its system, was told to stop or drain,
	// and that the message was not accepted.
	ErrStopped = errors.New("actor: stopped")

	// errRetired is internal: the mailbox was given up while idle, nothing was
	// accepted, and the sender tries again with a new one.
	errRetired = errors.New("actor: mailbox retired")
)

// ErrGoexit is the value of a [PanicError] whose goroutine was ended by
// runtime.Goexit instead of a panic: t.FailNow in a callback does that.
var ErrGoexit = errors.New("runtime.Goexit called")

// PanicError is a panic, or a runtime.Goexit, that was caught at the edge of a
// goroutine or of a turn.
type PanicError struct {
	Where string // the goroutine or callback that panicked
	Value any    // the panic's value, or [ErrGoexit]
	Stack []byte // the stack at the panic; nil for Goexit, whose stack has gone
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("%s: panic: %v", e.Where, e.Value)
}

// Unwrap returns the panic's value if that is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}
