package engine

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"strconv"

	"github.com/weirstore/weir/dispatch"
)

// Errors of every call.
var (
	// ErrClosed means that the engine is closed, or is shutting down and takes nothing
	// from outside its handlers any more. Nothing was done.
	ErrClosed = errors.New("engine: closed")
	// ErrInHandler means that a handler called something that waits for handlers, itself
	// among them. Shutdown has begun nevertheless; of the others nothing was done.
	ErrInHandler = errors.New("engine: called from inside a handler")
	// ErrInDecide means that the Decide function of a [Decider] called something that changes streams
	// or waits for handlers, while its own stream waits for it. Nothing was done. Decide is to return
	// the events; what else a command causes belongs into a handler.
	ErrInDecide = errors.New("engine: called from inside a Decide function")
)

// Errors of Append.
var (
	// ErrOutcomeUnknown means that the context ended, or the backend failed, after the append
	// was accepted: its events may or may not be stored. Appending again with the same event
	// IDs is safe.
	ErrOutcomeUnknown = errors.New("outcome unknown")
)

// VersionConflictError means that a stream was not at the version expected. Nothing was done.
type VersionConflictError struct {
	Stream   string
	Expected Expected
	Actual   Version
	Op       string // the call: "delete"; empty for an append
}

func (e *VersionConflictError) Error() string {
	return fmt.Sprintf("engine: %s %q: version conflict: expected %v, stream is at %d", cmp.Or(e.Op, "append"), e.Stream, e.Expected, e.Actual)
}

// StreamDeletedError means that a stream was deleted: nothing can be appended to it any more.
type StreamDeletedError struct{ Stream string }

func (e *StreamDeletedError) Error() string {
	return fmt.Sprintf("engine: stream %q is deleted", e.Stream)
}

// PartialDuplicateError means that of the events of one append some are stored already
// and some are not, by their IDs. Nothing was stored.
type PartialDuplicateError struct {
	Stream string
	Stored []string // the IDs that the stream has
}

func (e *PartialDuplicateError) Error() string {
	return fmt.Sprintf("engine: append %q: the stream has event IDs %q already, but not every event of this append", e.Stream, e.Stored)
}

// EncodeError means that a payload cannot be made bytes, by the codec of the engine
// ([Options].Codec). Nothing was stored.
type EncodeError struct {
	Stream string
	Event  int // which one of the append, from 1
	Type   string
	Go     reflect.Type
	Err    error // the codec's; a panic is an [*actor.PanicError]
}

func (e *EncodeError) Error() string {
	return fmt.Sprintf("engine: append %q: payload of event %d, of event type %q and Go type %v: %v", e.Stream, e.Event, e.Type, e.Go, e.Err)
}

func (e *EncodeError) Unwrap() error { return e.Err }

// DecodeError means that a stored payload does not fit the Go type that its event type
// stands for, or the codec or an upcaster that it needs is missing or has failed. It ends a read; in
// a handler it goes through the failure policy. Reading with [Encoded] shows what is stored.
type DecodeError struct {
	Stream   string
	Version  Version
	Position Position
	Type     string
	Err      error // a panic is an [*actor.PanicError]
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("engine: payload of %q, version %d, position %d, of event type %q: %v", e.Stream, e.Version, e.Position, e.Type, e.Err)
}

func (e *DecodeError) Unwrap() error { return e.Err }

// InvalidError means that an argument or option cannot be accepted. Nothing was done.
type InvalidError struct {
	Op    string // the call: `append "customer-1"`
	What  string // the thing: "stream name"
	Value any    // as given; the text cuts a long string
	Rule  string // the limit, or what is wanted: "at most 1024 bytes"
}

func (e *InvalidError) Error() string {
	var v string
	switch value := e.Value.(type) {
	case nil:
		v = "nil"
	case string:
		v = quote(value)
	case []string:
		v = fmt.Sprintf("%q", value)
	default:
		v = fmt.Sprint(value)
	}
	return fmt.Sprintf("engine: %s: %s is %s, want %s", e.Op, e.What, v, e.Rule)
}

func invalid(op, what string, value any, rule string) *InvalidError {
	return &InvalidError{op, what, value, rule}
}

// quote quotes a string for an error text, and cuts it if it is long.
func quote(s string) string {
	const most = 64
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return fmt.Sprintf("%q… (%d bytes)", s[:most], len(s))
}

// TypeConflictError means that one type name would stand for two Go types, or one Go type
// for two names.
type TypeConflictError struct {
	Name, OtherName string // of the event type; OtherName if a Go type has one already
	Go, OtherGo     reflect.Type
}

func (e *TypeConflictError) Error() string {
	if e.OtherName != "" {
		return fmt.Sprintf("engine: Go type %v cannot be event type %q: it is %q", e.Go, e.Name, e.OtherName)
	}
	return fmt.Sprintf("engine: event type %q cannot be Go type %v: it is %v", e.Name, e.Go, e.OtherGo)
}

// PayloadError means that a typed handler met an event of its type name whose payload has
// another Go type. It goes through the handler's failure policy.
type PayloadError struct {
	Type      string
	Want, Got reflect.Type
}

func (e *PayloadError) Error() string {
	return fmt.Sprintf("engine: payload of event type %q is %v, the handler wants %v", e.Type, e.Got, e.Want)
}

// ShutdownError means that Shutdown gave up before everything was done. The events are in
// the log; the report tells which handler has not seen them.
type ShutdownError struct {
	Report Report
	Err    error // why: the cause of the context's end, or the backend's error
}

func (e *ShutdownError) Error() string {
	text := "engine: shutdown: " + e.Err.Error()
	for _, h := range e.Report.Handlers {
		if h.Lag > 0 || h.Running {
			text += fmt.Sprintf("; handler %q is at position %d, lag %d, %v", h.Name, h.Position, h.Lag, h.State)
			if h.Running {
				text += ", in a call that has not returned"
			}
		}
	}
	return text
}

func (e *ShutdownError) Unwrap() error { return e.Err }

// Errors of handlers, and of waiting for them. They live in package dispatch.
var (
	// ErrOverflow stopped a handler whose policy is [Fail] at a full mailbox.
	ErrOverflow = dispatch.ErrOverflow
	// ErrParkedFull stopped a handler that has as many parked events as it may.
	ErrParkedFull = dispatch.ErrParkedFull
	// ErrExists means that the engine has a handler of that name already.
	ErrExists = dispatch.ErrExists
	// ErrPaused means that a handler is paused, and handles nothing until it is resumed.
	ErrPaused = dispatch.ErrPaused
	// ErrRemoved means that the handler was removed.
	ErrRemoved = dispatch.ErrRemoved
)

// StoppedError means that a handler has stopped and handles nothing until it is resumed.
type StoppedError = dispatch.StoppedError

// opError wraps an error with the call that it ended.
func opError(op, name string, err error) error {
	switch {
	case errors.Is(err, dispatch.ErrClosed):
		err = ErrClosed
	case errors.Is(err, dispatch.ErrInside):
		err = ErrInHandler
	}
	if name == "" {
		return fmt.Errorf("engine: %s: %w", op, err)
	}
	return fmt.Errorf("engine: %s %q: %w", op, name, err)
}
