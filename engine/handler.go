package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/weirstore/weir/dispatch"
)

// Handler is a registered handler. Its methods may be called from anywhere, inside
// handlers too: there, what would wait for a handler does not wait, and says so.
type Handler struct {
	h   *dispatch.Handler[Event]
	eng *Engine
}

// Handler returns the handler of that name, and false if there is none.
func (e *Engine) Handler(name string) (*Handler, bool) {
	h, ok := e.dispatcher.Handler(name)
	if !ok {
		return nil, false
	}
	return &Handler{h, e}, true
}

// Name returns the handler's name.
func (h *Handler) Name() string { return h.h.Name() }

// Position returns the position up to which everything that concerns the handler is handled.
func (h *Handler) Position() Position { return Position(h.h.Position()) }

// Pause makes the handler handle nothing more until Resume, and blocks until the call
// that it is in has returned, or ctx is done. Appends go on; a paused handler blocks nobody.
// From inside a handler it does not wait. It returns a [*StoppedError] if the handler has stopped.
func (h *Handler) Pause(ctx context.Context) error { return handlerError("pause", h, h.h.Pause(ctx)) }

// Resume makes a paused or stopped handler go on where it stood. It does not wait.
func (h *Handler) Resume() error { return handlerError("resume", h, h.h.Resume()) }

// Remove ends the handler after the call that it is in, stores its checkpoint, and frees
// its name. It blocks until then or until ctx is done, at which the context of the call is
// cancelled. From inside a handler it does not wait.
func (h *Handler) Remove(ctx context.Context) error {
	return handlerError("remove", h, h.h.Remove(ctx))
}

// Parked returns the parked events, in the order in which they were parked. The payload of one
// that cannot be decoded is left as it is stored.
func (h *Handler) Parked() []Parked { return h.eng.decodeParked(h.h.Parked()) }

// Redrive handles the parked events once more, in the order of their positions, and returns
// how many are handled now. One that fails stays parked, and with keyed workers the later ones of its key. New events
// wait meanwhile. It blocks until done, or ctx is done. A handler that is paused returns [ErrPaused],
// one that has stopped a [*StoppedError]. From inside a handler it returns [ErrInHandler].
func (h *Handler) Redrive(ctx context.Context) (int, error) {
	n, err := h.h.Redrive(ctx)
	return n, handlerError("redrive", h, err)
}

// Discard takes the parked event at pos off the list, unhandled, and reports whether it
// was there. With keyed workers its key goes on once nothing of it is parked. If the backend fails
// it stays. A handler that has ended returns [ErrRemoved], or [ErrClosed].
func (h *Handler) Discard(pos Position) (bool, error) {
	ok, err := h.h.Discard(uint64(pos))
	return ok, handlerError("discard", h, err)
}

// Stats returns how the handler is doing.
func (h *Handler) Stats() HandlerStats { return handlerStats(h.h.Stats()) }

// decodeParked decodes the payloads of parked events.
func (e *Engine) decodeParked(parked []Parked) []Parked {
	if e.caps.Encoded {
		for i := range parked {
			_ = e.decode(&parked[i].Event, nil) // that error is what it is parked with
		}
	}
	return parked
}

// Parked is an event that a handler has put aside, with the error that it failed with.
type Parked = dispatch.Parked[Event]

func handlerError(op string, h *Handler, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrRemoved):
		err = h.eng.goneError()
	}
	return opError(op, h.Name(), err)
}

// Wait blocks until the named handlers have handled everything up to a position that
// concerns them; without names, all that are neither paused nor stopped now. That is how to read
// your own writes: append, wait for the result's Position, query the read model.
//
// It returns ctx's cause when ctx is done first, a [*StoppedError] when a handler has
// stopped before the position, [ErrRemoved] when one is removed or was never there, [ErrClosed], or
// [ErrInHandler] from inside a handler: handlers that wait for handlers could wait in a circle.
func (e *Engine) Wait(ctx context.Context, pos Position, handlers ...string) error {
	op := fmt.Sprintf("wait for position %d", pos)
	name, err := e.wait(ctx, pos, handlers...)
	_, stopped := errors.AsType[*StoppedError](err)
	switch {
	case err == nil:
		return nil
	case name == "" || stopped:
		return opError(op, "", err)
	case err == errNoHandler:
		return opError("wait for handler", name, e.goneError())
	}
	return opError(op+", handler", name, err)
}

// errNoHandler is what wait says of a name that no handler has.
var errNoHandler = errors.New("no such handler")

// wait waits for handlers, and says which one it has failed at.
func (e *Engine) wait(ctx context.Context, pos Position, handlers ...string) (name string, err error) {
	if e.insideDecide() {
		return "", ErrInDecide
	}
	var wait []*dispatch.Handler[Event]
	if len(handlers) == 0 {
		for _, h := range e.dispatcher.Handlers() {
			if h.Running() {
				wait = append(wait, h)
			}
		}
		if e.gate.sealed() { // or nothing would be left to wait for, whatever was handled
			return "", ErrClosed
		}
	}
	for _, name := range handlers {
		h, ok := e.dispatcher.Handler(name)
		if !ok {
			return name, errNoHandler
		}
		wait = append(wait, h)
	}
	for _, h := range wait {
		err := h.Wait(ctx, uint64(pos))
		if errors.Is(err, ErrRemoved) {
			if len(handlers) == 0 && !e.gate.closed() {
				continue // it was one of all, and is no more
			}
			err = e.goneError()
		}
		if err != nil {
			return h.Name(), err
		}
	}
	return "", nil
}

// goneError says why there is no such handler.
func (e *Engine) goneError() error {
	if e.gate.closed() {
		return ErrClosed
	}
	return ErrRemoved
}

// State says how a handler is doing.
type State = dispatch.State

const (
	Live     = dispatch.Live     // nothing is before it, or nothing older than a second
	Behind   = dispatch.Behind   // older events are, and it makes progress
	Stalled  = dispatch.Stalled  // events are before it, and it has made no progress for Options.StallAfter
	Retrying = dispatch.Retrying // its function has failed and will be called again
	Paused   = dispatch.Paused   // by Pause
	Stopped  = dispatch.Stopped  // by its failure policy, by overflow, or by an unreadable log
)

// HandlerStats is how a handler is doing: see [dispatch.Stats] for the fields.
type HandlerStats struct {
	dispatch.Stats
	Position Position
}

// MarshalJSON makes LastError its text, or null.
func (s HandlerStats) MarshalJSON() ([]byte, error) {
	type plain dispatch.Stats // without its own MarshalJSON, which knows nothing of Position
	var last any
	if s.LastError != nil {
		last = s.LastError.Error()
	}
	return json.Marshal(struct {
		plain
		Position  Position
		LastError any
	}{plain(s.Stats), s.Position, last})
}

func handlerStats(s dispatch.Stats) HandlerStats { return HandlerStats{s, Position(s.Position)} }

// Stats is how the engine is doing, at one moment or nearly so.
type Stats struct {
	Backend  string
	Head     Position
	Appended uint64 // events stored by this engine since Open
	InFlight int    // appends that have begun and not returned

	Streams       int // streams that appends were made to since Open, refused ones included
	ActiveStreams int // of these, how many have a goroutine now
	Goroutines    int // of the engine, all kinds

	Dispatched Position // up to here handlers were told what there is
	Waited     uint64   // appends that had to wait for a handler with the Block policy

	SnapshotsSaved  uint64 // since Open
	SnapshotsFailed uint64 // that could not be stored, or not be used; the first of each stream is logged

	Handlers []HandlerStats // sorted by name
	Taken    time.Time
}

// countAppended returns how many events this engine has stored. Where nobody else does, the head tells,
// and an append need not count.
func (e *Engine) countAppended() uint64 {
	if e.caps.Shared {
		return e.appended.Load()
	}
	return uint64(e.Head() - e.first)
}

// Stats returns how the engine and its handlers are doing. It waits for nobody, and takes
// a microsecond or so a handler.
func (e *Engine) Stats() Stats {
	s := Stats{
		Backend:       e.caps.Name,
		Head:          e.Head(),
		Appended:      e.countAppended(),
		InFlight:      e.gate.inFlight(),
		Streams:       e.streams.len(),
		ActiveStreams: e.owners.Active(),
		Goroutines:    e.group.Count(),
		Dispatched:    Position(e.dispatcher.Position()),
		Waited:        e.dispatcher.Waited(),

		SnapshotsSaved:  e.snapshots.saved.Load(),
		SnapshotsFailed: e.snapshots.failed.Load(),

		Taken: time.Now(),
	}
	for _, h := range e.dispatcher.Handlers() {
		s.Handlers = append(s.Handlers, handlerStats(h.Stats()))
	}
	return s
}
