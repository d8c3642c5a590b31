package dispatch

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Overflow says what happens when a handler's mailbox is full: when as many events
// as its window counts were offered to it and are not handled.
type Overflow uint8

const (
	// Block makes producers wait in [Dispatcher.Admit] until the mailbox is half
	// empty. It applies once the handler has read what was in the log when it joined.
	Block Overflow = iota
	// CatchUp makes nobody wait: the handler reads on at its own pace.
	CatchUp
	// Latest makes the handler jump to the newest event offered, after a call of
	// Lagged with the number of events that it will not see.
	Latest
	// Fail stops the handler with [ErrOverflow]. It can be resumed where it stood.
	Fail
)

func (o Overflow) String() string { return name(o, "block", "catch-up", "latest", "fail") }

// AfterRetries says what becomes of an event whose last retry has failed.
type AfterRetries uint8

const (
	// Skip logs the event's position and error, counts it, and goes on.
	Skip AfterRetries = iota
	// Park keeps the event with its error for [Handler.Redrive], and goes on. With a
	// Key, later events of the same key are parked unseen, so that their order survives.
	Park
	// Stop stops the handler before the event.
	Stop
)

func (a AfterRetries) String() string { return name(a, "skip", "park", "stop") }

func name[N ~uint8](n N, names ...string) string {
	if int(n) < len(names) {
		return names[n]
	}
	return fmt.Sprintf("%T(%d)", n, n)
}

// Retry says how often and when a failed call is repeated: after Backoff, then after
// twice that, and so on up to MaxBackoff; each pause is shortened by a random part of
// up to a half, so that many handlers do not come back in step.
type Retry struct {
	Attempts   int           // repetitions after the first failure; 0 for none
	Backoff    time.Duration // default 100ms
	MaxBackoff time.Duration // default 1 minute
}

// Config describes a handler. Name and Handle are required.
type Config[E any] struct {
	Name   string
	Kinds  *KindSet // nil for all
	Handle func(ctx context.Context, ev E) error

	// Key and Workers make K goroutines handle events side by side; events of equal
	// key stay in order. Key must be a pure function. Either both or neither.
	Key     func(ev *E) string
	Workers int

	Window    int // mailbox size in events; default 1024
	Overflow  Overflow
	Lagged    func(ctx context.Context, n uint64) // for Latest; may be nil
	Retry     Retry
	After     AfterRetries
	MaxParked int // parked events before the handler stops; default 10,000

	// Resume returns the position to begin after instead of the one given to Add, if there
	// is one. It is called by Add, once the name is the handler's. May be nil.
	Resume func() (pos uint64, ok bool, err error)
	// Checkpoint is called, in the handler's goroutine, when the handler has paused,
	// stopped or ended, with its position. May be nil. It must not panic.
	Checkpoint func(pos uint64)
	// Ended is called once, when the handler has ended or could not be added, before its name is
	// free. May be nil. It must not panic.
	Ended func()
	// Progress is called after each turn, when the position may have moved: often, by all of
	// the handler's goroutines, so it must be cheap and must not block. May be nil.
	Progress func()
	// Parking keeps the parked list where it outlives the handler. Without it the list ends
	// with the handler.
	Parking Parking[E]
}

// Parking are the calls by which a handler keeps its parked list elsewhere, all three or
// none. One is made at a time, in the goroutine of Add, of whatever handles an event, or of
// Discard, and no lock is held meanwhile. They must not panic.
type Parking[E any] struct {
	// Load returns the list to begin with. Add calls it after Resume. An event in it is not
	// handled again, even if it lies behind the position to begin after.
	Load func() ([]Parked[E], error)
	// Park adds an event, or replaces the entry of its position. It returns before the
	// handler's position passes the event; if it fails the handler stops before it.
	Park func(Parked[E]) error
	// Unpark takes off an event that was handled by Redrive, or is discarded.
	Unpark func(pos uint64) error
}

func (c *Config[E]) setDefaults() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" {
		bad("Name is empty")
	}
	if c.Handle == nil {
		bad("Handle is nil")
	}
	if (c.Key == nil) != (c.Workers == 0) {
		bad("Key and Workers go together")
	}
	for _, n := range []struct {
		field string
		value int
	}{{"Workers", c.Workers}, {"Window", c.Window}, {"MaxParked", c.MaxParked}, {"Retry.Attempts", c.Retry.Attempts}} {
		if n.value < 0 {
			bad("%s is %d, want 0 or more", n.field, n.value)
		}
	}
	if p := &c.Parking; (p.Load == nil) != (p.Park == nil) || (p.Load == nil) != (p.Unpark == nil) {
		bad("Parking.Load, Park and Unpark go together")
	}
	if c.Overflow > Fail || c.After > Stop {
		bad("unknown policy %v, %v", c.Overflow, c.After)
	}
	if c.Retry.Backoff < 0 || c.Retry.MaxBackoff < 0 {
		bad("Retry has a negative backoff")
	}
	setDefault(&c.Window, 1024)
	setDefault(&c.MaxParked, 10_000)
	setDefault(&c.Retry.Backoff, 100*time.Millisecond)
	setDefault(&c.Retry.MaxBackoff, time.Minute)
	c.Retry.MaxBackoff = max(c.Retry.MaxBackoff, c.Retry.Backoff)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("dispatch: handler %q: %w", c.Name, err)
	}
	return nil
}

func setDefault[N int | time.Duration](n *N, standard N) {
	if *n == 0 {
		*n = standard
	}
}
