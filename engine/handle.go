package engine

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/weirstore/weir/dispatch"
)

// OverflowPolicy says what happens when a handler's mailbox is full.
type OverflowPolicy = dispatch.Overflow

const (
	// Block, the default, makes appends from outside wait until the mailbox is half empty.
	// It applies once the handler has read what was stored before it joined.
	Block = dispatch.Block
	// CatchUp makes nobody wait: the handler reads on from the log at its own pace.
	CatchUp = dispatch.CatchUp
	// Latest makes the handler jump to the newest event, and tells it (see [OnLagged]) how
	// many it will not see.
	Latest = dispatch.Latest
	// Fail stops the handler with [ErrOverflow]; Resume goes on where it stood.
	Fail = dispatch.Fail
)

// FailurePolicy says what becomes of an event whose last retry has failed.
type FailurePolicy = dispatch.AfterRetries

const (
	// Skip logs it, counts it, and goes on. The default of handlers without a name.
	Skip = dispatch.Skip
	// Park puts the event aside for [Handler.Redrive] and goes on; with keyed workers later
	// events of its key are put aside too, so that their order survives. The default of named
	// handlers, whose list of parked events the backend keeps: a handler that is registered again
	// under its name has it. Others have it as long as they live.
	Park = dispatch.Park
	// Stop stops the handler before the event.
	Stop = dispatch.Stop
)

// handlerConfig is what the options of a handler say.
type handlerConfig struct {
	dispatch.Config[Event]
	op        string // the call, for errors
	named     bool
	afresh    bool   // whatever the checkpoint
	standard  string // the type that Types takes the place of
	typeNames []string
	keyReads  bool     // the key function may look at the payload
	begin     string   // the option that says where to begin
	start     Position // there, if one does
}

func handlerOption(name string, apply func(*handlerConfig) *InvalidError) HandlerOption {
	return option{name: name, apply: apply}
}

// FromStart gives a handler everything that is in the log, before what comes. Without
// it a handler gets what is stored after it was registered. A named handler that has a checkpoint
// goes on there, whatever this says; see [IgnoreCheckpoint].
func FromStart() HandlerOption {
	return handlerOption("FromStart", func(c *handlerConfig) *InvalidError {
		return c.setStart("FromStart", 0)
	})
}

// StartAfter gives a handler what is stored after a position, which must not be beyond
// the newest event.
func StartAfter(pos Position) HandlerOption {
	return handlerOption("StartAfter", func(c *handlerConfig) *InvalidError {
		return c.setStart("StartAfter", pos)
	})
}

func (c *handlerConfig) setStart(name string, pos Position) *InvalidError {
	if c.begin != "" {
		return refuse(name, pos, "no second beginning beside "+c.begin)
	}
	c.begin, c.start = name, pos
	return nil
}

// IgnoreCheckpoint makes a named handler begin where the other options say, although
// the backend has a checkpoint for its name: to build a read model anew. From then on that is
// its checkpoint. Parked events that come again are not parked any more; those before the new
// beginning, which do not, still are.
func IgnoreCheckpoint() HandlerOption {
	return handlerOption("IgnoreCheckpoint", func(c *handlerConfig) *InvalidError {
		c.afresh = true
		return nil
	})
}

// Mailbox sets how many events may be before a handler until its mailbox is full. Default
// 1024. A mailbox holds no events, so a large one costs nothing.
func Mailbox(events int) HandlerOption {
	return handlerOption("Mailbox", func(c *handlerConfig) *InvalidError {
		c.Window = events
		return positive("Mailbox", events)
	})
}

// Overflow sets what happens when the mailbox is full. Default [Block].
func Overflow(p OverflowPolicy) HandlerOption {
	return handlerOption("Overflow", func(c *handlerConfig) *InvalidError {
		if p > Fail {
			return refuse("Overflow", p, "Block, CatchUp, Latest or Fail")
		}
		c.Overflow = p
		return nil
	})
}

// OnLagged sets the function that a [Latest] handler calls before it jumps over n events.
// Without one the jump is logged. It is counted either way.
func OnLagged(fn func(ctx context.Context, n uint64)) HandlerOption {
	return handlerOption("OnLagged", func(c *handlerConfig) *InvalidError {
		if fn == nil {
			return refuse("function of OnLagged", nil, "one")
		}
		c.Lagged = fn
		return nil
	})
}

// Keyed makes n goroutines handle events side by side, each stream's in order.
func Keyed(n int) HandlerOption {
	return handlerOption("Keyed", func(c *handlerConfig) *InvalidError {
		c.Workers, c.Key, c.keyReads = n, func(ev *Event) string { return ev.Stream }, false
		return positive("Keyed", n)
	})
}

// KeyedBy makes n goroutines handle events side by side, those of one key in order. Key
// must be a pure function of the event. A handler whose key function panics, or gets an event that
// cannot be decoded, stops.
func KeyedBy(n int, key func(Event) string) HandlerOption {
	return handlerOption("Keyed", func(c *handlerConfig) *InvalidError {
		if key == nil {
			return refuse("key function of KeyedBy", nil, "one")
		}
		c.Workers, c.Key, c.keyReads = n, func(ev *Event) string { return key(*ev) }, true
		return positive("Keyed", n)
	})
}

// Retry repeats a failing call up to n times: after backoff, then after twice that, and
// so on, up to a minute; each pause is shortened by a random part of up to a half. The handler's
// position does not move meanwhile. Default for named handlers: 3, 100ms; for others none,
// which is Retry(0, 0).
func Retry(n int, backoff time.Duration) HandlerOption {
	return handlerOption("Retry", func(c *handlerConfig) *InvalidError {
		if n < 0 {
			return refuse("Retry", n, "0 or more")
		}
		c.Retry.Attempts, c.Retry.Backoff = n, backoff
		if n == 0 && backoff == 0 {
			return nil
		}
		return positive("backoff of Retry", backoff)
	})
}

// OnFailure sets what becomes of an event whose last retry has failed.
func OnFailure(p FailurePolicy) HandlerOption {
	return handlerOption("OnFailure", func(c *handlerConfig) *InvalidError {
		if p > Stop {
			return refuse("OnFailure", p, "Park, Skip or Stop")
		}
		c.After = p
		return nil
	})
}

// MaxParked sets how many events a handler may park before it stops with
// [ErrParkedFull]. Default 10,000.
func MaxParked(events int) HandlerOption {
	return handlerOption("MaxParked", func(c *handlerConfig) *InvalidError {
		c.MaxParked = events
		return positive("MaxParked", events)
	})
}

// On calls fn with every event of a type that is stored from now on, in order, exactly
// once while the engine lives. An error that fn returns, or a panic, is logged and counted; fn then
// goes on with the next event. For retries, a checkpoint, or a start in the past, give the handler
// a name with [Engine.Handle] or [Handle].
//
// The function runs in a goroutine of the handler's own, after the event was stored, and
// may append: with ctx, see [Engine.Append].
func (e *Engine) On(eventType string, fn func(ctx context.Context, ev Event) error, opts ...HandlerOption) (*Handler, error) {
	if err := checkName("on", "event type", eventType); err != nil {
		return nil, err
	}
	c := handlerConfig{op: "on " + quote(eventType), standard: eventType}
	c.Name = e.anonymousName(eventType)
	c.Handle, c.After = fn, Skip
	return e.handle(c, nil, opts)
}

// Handle registers a handler under a name that no other handler of the engine has. It
// gets the events of the types that [Types] says, or all. See [Handle] for one Go type.
//
// Delivery is at least once: exactly once while the handler is neither stopped nor
// removed, and from the checkpoint on when a handler of the same name is registered again.
// The checkpoint is stored by the backend when the handler is registered, pauses, stops, is removed
// or shut down, and, with a backend that outlives the process, while it makes progress: after a
// crash at most what was handled within [Options.CheckpointEvery] and the time of one save is handled
// again. A checkpoint is never ahead of what is handled or parked.
func (e *Engine) Handle(name string, fn func(ctx context.Context, ev Event) error, opts ...HandlerOption) (*Handler, error) {
	return e.handle(namedHandler(name, fn), nil, opts)
}

// Handle registers a named handler for the events whose payload has type T, which it
// registers (see [Register]). With [Types] the handler gets those types instead: their payloads must
// all be T, which may then be an interface. Another payload makes the call fail with a [*PayloadError],
// and stored bytes that are no T with a [*DecodeError].
func Handle[T any](e *Engine, name string, fn func(ctx context.Context, ev Of[T]) error, opts ...HandlerOption) (*Handler, error) {
	var call func(context.Context, Event) error
	if fn != nil {
		call = func(ctx context.Context, ev Event) error {
			data, ok := ev.Data.(T)
			if !ok {
				return &PayloadError{ev.Type, reflect.TypeFor[T](), reflect.TypeOf(ev.Data)}
			}
			return fn(ctx, Of[T]{ev, data})
		}
	}
	return e.handle(namedHandler(name, call), reflect.TypeFor[T](), opts)
}

func namedHandler(name string, fn func(context.Context, Event) error) handlerConfig {
	var c handlerConfig
	c.op, c.named, c.Name, c.Handle, c.After = "handle "+quote(name), true, name, fn, Park
	c.Retry = dispatch.Retry{Attempts: 3, Backoff: 100 * time.Millisecond}
	return c
}

func (e *Engine) handle(c handlerConfig, goes reflect.Type, opts []HandlerOption) (*Handler, error) {
	var errs []error
	if c.named {
		errs = append(errs, checkName("handle", "handler name", c.Name))
	}
	if c.Handle == nil {
		errs = append(errs, invalid(c.op, "the function", nil, "one"))
	}
	for _, opt := range opts {
		if opt == nil {
			errs = append(errs, invalid(c.op, "an option", nil, "a HandlerOption"))
			continue
		}
		o := opt.handlerOption()
		if o.apply == nil {
			errs = append(errs, invalid(c.op, "an option", o.name, "one for handlers"))
		} else if bad := o.apply(&c); bad != nil {
			bad.Op = c.op
			errs = append(errs, bad)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if e.gate.closed() {
		return nil, fmt.Errorf("engine: %s: %w", c.op, ErrClosed)
	}
	if len(c.typeNames) == 0 && c.standard != "" {
		c.typeNames = []string{c.standard}
	}
	if goes != nil && len(c.typeNames) == 0 {
		t, err := e.types.ofGo(goes)
		if err != nil {
			return nil, err
		}
		c.typeNames = []string{t.name}
	}
	if e.guard != nil {
		c.Handle = e.guard.handler(c.Handle)
	}
	if e.caps.Encoded { // around the guard: it looks at what handlers get
		e.decodeFor(&c, goes)
	}
	var err error
	if c.Kinds, err = e.types.set(c.op, c.typeNames); err != nil {
		return nil, err
	}
	head := e.Head()
	if c.begin != "" && c.start > head {
		return nil, invalid(c.op, c.begin, c.start, fmt.Sprintf("at most %d, the position of the newest event", head))
	}
	start := head
	if c.begin != "" {
		start = c.start
	}
	var kept *keptHandler
	if c.named {
		kept = e.checkpoints.keep(&c, start)
		c.Parking = e.parking(&c, start, kept)
	}
	h, err := e.dispatcher.Add(c.Config, uint64(start))
	for !c.named && errors.Is(err, ErrExists) { // somebody has chosen just that name
		c.Name = e.anonymousName(c.typeNames[0])
		h, err = e.dispatcher.Add(c.Config, uint64(start))
	}
	if err != nil {
		return nil, opError("handle", c.Name, err)
	}
	if kept != nil {
		e.checkpoints.joined(kept, h)
	}
	return &Handler{h, e}, nil
}

func (e *Engine) anonymousName(eventType string) string {
	return fmt.Sprintf("on %s #%d", eventType, e.anon.Add(1))
}
