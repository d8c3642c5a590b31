package engine

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/weirstore/weir/dispatch"
)

// PayloadGuard says whether an engine looks for handlers that change payloads: see Options.GuardPayloads.
type PayloadGuard uint8

const (
	// GuardAuto, the default, is GuardOn in builds with the race detector, and else GuardOff.
	GuardAuto PayloadGuard = iota
	GuardOn
	GuardOff
)

func (g PayloadGuard) on() bool { return g == GuardOn || g == GuardAuto && raceDetector }

// MutationError means that the payload of an event, or its Meta.Extra, has changed while a handler or the
// Evolve function of a [Decider] was called with it. It goes through the handler's failure policy. The
// value stays changed for all who read it.
type MutationError struct {
	// By is who has done it: `handler "totals"`, or `Evolve of *engine.Decider[…]`. If several
	// were called with the event at that time it is one of these.
	By []string
	// Meanwhile are others that were called with other events at that time. It was one of them
	// only if it had kept the event from an earlier call, or if events share memory.
	Meanwhile []string

	Stream   string
	Version  Version
	Position Position
	Type     string
	// Path is what has changed first, as in "Data.Items[2].Price". The keys of maps are left out,
	// as payloads are never logged.
	Path string
	Err  error // what the call has returned
}

func (e *MutationError) Error() string {
	var b strings.Builder
	b.WriteString("engine: ")
	if len(e.By) > 1 {
		b.WriteString("one of ")
	}
	fmt.Fprintf(&b, "%s has changed the payload of %q, version %d, position %d, of event type %q, at %s",
		strings.Join(e.By, ", "), e.Stream, e.Version, e.Position, e.Type, e.Path)
	if len(e.Meanwhile) > 0 {
		fmt.Fprintf(&b, " (or, if it has kept that event or has one that shares memory with it, %s)", strings.Join(e.Meanwhile, ", "))
	}
	b.WriteString("; payloads are shared, and this one stays changed for all who read it")
	if e.Err != nil {
		fmt.Fprintf(&b, "; the call returned: %v", e.Err)
	}
	return b.String()
}

func (e *MutationError) Unwrap() error { return e.Err }

// guard finds out who changes payloads: it takes a fingerprint of an event before a call and compares
// it afterwards. Nothing is kept between calls.
type guard struct {
	logger *slog.Logger
	walks  atomic.Int64 // fingerprints taken
	failed atomic.Int64 // that ended in a panic: the value was being changed

	mu    sync.Mutex // pure memory work
	calls map[*guarded]struct{}
}

// guarded is one call with an event.
type guarded struct {
	who     caller
	ev      *Event
	before  *fingerprint
	sharing []caller // guarded by guard.mu: who was called with the event meanwhile
	others  []caller // guarded by guard.mu: who was called with another
}

// caller is who is called with an event.
type caller struct {
	handler string
	decider any // the address of a Decider; nil for handlers
}

func (c caller) String() string {
	if c.decider != nil {
		return fmt.Sprintf("Evolve of %T", c.decider)
	}
	return fmt.Sprintf("handler %q", c.handler)
}

// maxCallers is how many that were called meanwhile are remembered of a call.
const maxCallers = 16

func newGuard(opts *Options) *guard {
	if !opts.GuardPayloads.on() {
		return nil
	}
	return &guard{logger: opts.Logger, calls: make(map[*guarded]struct{})}
}

// handler returns a handler's function with the guard around it.
func (g *guard) handler(fn func(context.Context, Event) error) func(context.Context, Event) error {
	var logged atomic.Uint64 // position of the event that was logged last: a retry is not logged again
	return func(ctx context.Context, ev Event) (err error) {
		if !mutable(&ev) {
			return fn(ctx, ev)
		}
		var who caller
		if d, ok := ctx.(*dispatch.Delivery); ok {
			who.handler = d.Handler()
		}
		shared := ev // whatever the function makes of its own copy
		c := g.begin(who, &shared)
		returned := false
		defer func() { // after a panic and a Goexit too, which stay what they are
			bad := g.end(c, err)
			if bad == nil {
				return
			}
			if logged.Swap(uint64(shared.Position)) != uint64(shared.Position) {
				g.log(bad)
			}
			if returned {
				err = bad
			}
		}()
		err = fn(ctx, ev)
		returned = true
		return err
	}
}

// evolve gives an event to a decider's Evolve, with the guard around it, if there is one.
func (g *guard) evolve(decider any, ev Event, evolve func(Event)) (err error) {
	if g == nil || !mutable(&ev) {
		evolve(ev)
		return nil
	}
	shared := ev // on the heap only here
	c := g.begin(caller{decider: decider}, &shared)
	defer func() {
		if bad := g.end(c, nil); bad != nil {
			g.log(bad)
			err = bad
		}
	}()
	evolve(ev)
	return nil
}

func (g *guard) log(bad *MutationError) { g.logger.Error("weir: payload changed", "err", bad) }

// begin notes a call that is about to be made.
func (g *guard) begin(who caller, ev *Event) *guarded {
	c := &guarded{who: who, ev: ev}
	g.mu.Lock() // before the fingerprint: whoever is called from now on may change what it sees
	for other := range g.calls {
		c.meets(other)
		other.meets(c)
	}
	g.calls[c] = struct{}{}
	g.mu.Unlock()
	c.before = g.fingerprint(ev)
	return c
}

// meets notes that another call was made at the same time. REQUIRES: guard.mu.
func (c *guarded) meets(other *guarded) {
	list := &c.others
	if c.ev.Position == other.ev.Position {
		list = &c.sharing
	}
	if other.who != c.who && len(*list) < maxCallers && !slices.Contains(*list, other.who) {
		*list = append(*list, other.who)
	}
}

// fingerprint returns nil if the event cannot be read, because somebody is changing it.
func (g *guard) fingerprint(ev *Event) (f *fingerprint) {
	g.walks.Add(1)
	defer func() {
		if recover() != nil {
			g.failed.Add(1)
			f = nil
		}
	}()
	return fingerprintOf(ev)
}

// end returns what is wrong after a call that has returned err.
func (g *guard) end(c *guarded, err error) *MutationError {
	path, same := "", true
	if c.before != nil {
		if after := g.fingerprint(c.ev); after != nil {
			if path, same = c.before.compare(after, c.ev); same {
				after.free()
			}
		}
		c.before.free()
	}
	g.mu.Lock() // after the comparison: who has joined meanwhile may have caused it
	delete(g.calls, c)
	g.mu.Unlock() // and nobody else has c any more
	if same {
		return nil
	}
	bad := &MutationError{Stream: c.ev.Stream, Version: c.ev.Version, Position: c.ev.Position, Type: c.ev.Type, Path: path, Err: err}
	for _, who := range append([]caller{c.who}, c.sharing...) {
		bad.By = append(bad.By, who.String())
	}
	for _, who := range c.others {
		if !slices.Contains(c.sharing, who) {
			bad.Meanwhile = append(bad.Meanwhile, who.String())
		}
	}
	slices.Sort(bad.By)
	slices.Sort(bad.Meanwhile)
	return bad
}
