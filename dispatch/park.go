package dispatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weirstore/weir/actor"
)

// Parked is an event that a handler has put aside.
type Parked[E any] struct {
	Event    E
	Key      string // with keyed workers
	Err      error  // the last failure; nil if Held
	Stack    string // of a panic
	Attempts int
	Time     time.Time
	// Held says that the event was never tried: an earlier one of its key is parked.
	Held bool
}

// loadParked begins the parked list with what Parking.Load returns.
func (h *Handler[E]) loadParked() error {
	if h.cfg.Parking.Load == nil {
		return nil
	}
	list, err := h.cfg.Parking.Load()
	if err != nil || len(list) == 0 {
		return err
	}
	h.main.parked = make(map[uint64]struct{}, len(list))
	held := make(map[string]int)
	for i := range list {
		p := &list[i]
		p.Key = "" // which the handler may have had other ones of when it was parked
		if h.keyed != nil {
			if p.Key, err = h.keyed.keyOf(&p.Event); err != nil {
				return err
			}
			held[p.Key]++
		}
		pos := h.d.log.Position(&p.Event)
		h.main.parked[pos] = struct{}{}
		h.main.parkedTo = max(h.main.parkedTo, pos)
	}
	h.mu.Lock() // it can be found by its name already
	h.parked, h.held = list, held
	h.mu.Unlock()
	return nil
}

// park puts an event aside, unless the list is full.
func (h *Handler[E]) park(p Parked[E]) error {
	h.parking <- struct{}{}
	defer func() { <-h.parking }()
	return h.parkToken(p)
}

// parkToken is park. REQUIRES: the parking token.
func (h *Handler[E]) parkToken(p Parked[E]) error {
	h.mu.Lock()
	full := len(h.parked) >= h.cfg.MaxParked
	h.mu.Unlock()
	if full {
		return ErrParkedFull
	}
	if err := h.keepParked(p); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parked = append(h.parked, p)
	if h.cfg.Key != nil {
		h.held[p.Key]++
	}
	return nil
}

// keepParked stores an entry where it outlives the handler.
func (h *Handler[E]) keepParked(p Parked[E]) error {
	if h.cfg.Parking.Park == nil {
		return nil
	}
	if err := h.cfg.Parking.Park(p); err != nil {
		return fmt.Errorf("park the event at position %d: %w", h.d.log.Position(&p.Event), err)
	}
	return nil
}

// parkHeld parks an event if its key is held back. If that fails the event is not handled.
func (h *Handler[E]) parkHeld(ev E, key string) (held bool, err error) {
	pos := h.d.log.Position(&ev)
	if !h.holds(key, pos) {
		return false, nil
	}
	h.parking <- struct{}{}
	defer func() { <-h.parking }()
	if !h.holds(key, pos) { // the last one of the key was taken off meanwhile
		return false, nil
	}
	return true, h.parkToken(Parked[E]{Event: ev, Key: key, Time: time.Now(), Held: true})
}

// holds reports whether an earlier event of the key is parked. An event that was handled
// before a crash, and comes again, may be before all of them.
func (h *Handler[E]) holds(key string, pos uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held[key] == 0 || pos > h.main.parkedTo {
		return h.held[key] > 0
	}
	return slices.ContainsFunc(h.parked, func(p Parked[E]) bool { return p.Key == key && h.d.log.Position(&p.Event) < pos })
}

// endParking lets nobody change the list any more: the next handler of the name has it.
func (h *Handler[E]) endParking() {
	h.parking <- struct{}{}
	h.noParking = true
	<-h.parking
}

// Parked returns the parked events, in the order in which they were parked.
func (h *Handler[E]) Parked() []Parked[E] {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.parked)
}

// Redrive handles the parked events once more, in the order of their positions, and returns how
// many are handled. One that fails again stays parked, and with it the later ones of its key.
// New events wait meanwhile. It blocks until done, or until ctx is done (whose cause it
// returns; what is handled by then is handled). A handler that is paused, or is while it
// redrives, returns [ErrPaused], one that has stopped its [*StoppedError]. It cannot be called
// from inside a handler ([ErrInside]).
func (h *Handler[E]) Redrive(ctx context.Context) (int, error) {
	var n atomic.Int64 // the call may outlive ctx
	var failed error
	err := h.inMain(ctx, func() { failed = h.redrive(ctx, &n) })
	if err == nil {
		err = failed
	}
	return int(n.Load()), err
}

// redrive is the part of Redrive that the main goroutine does.
func (h *Handler[E]) redrive(ctx context.Context, n *atomic.Int64) error {
	if err := h.notRunning(); err != nil {
		return err
	}
	failed := make(map[string]bool)
	list := h.Parked()
	// After a crash an event comes again that may be before those in the list, and is parked
	// behind them when it then fails.
	slices.SortFunc(list, func(a, b Parked[E]) int {
		return cmp.Compare(h.d.log.Position(&a.Event), h.d.log.Position(&b.Event))
	})
	for _, p := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		pos := h.d.log.Position(&p.Event)
		if h.cfg.Key != nil && failed[p.Key] || h.parkedAt(pos) < 0 { // discarded meanwhile
			continue
		}
		tried, err := h.once(p.Event)
		switch {
		case !tried:
			return err
		case err != nil:
			failed[p.Key] = true
			if err := h.repark(pos, err); err != nil {
				return err
			}
			continue
		}
		if _, err := h.unpark(pos); err != nil {
			return err // it is handled, and may be once more: the list still has it
		}
		h.counters.handled.Add(1)
		n.Add(1)
	}
	return nil
}

// Discard takes the parked event at pos off the list, unhandled, and reports whether it was
// there. If it could not be taken off where the list is kept, it stays. A handler that has ended
// returns [ErrRemoved].
func (h *Handler[E]) Discard(pos uint64) (bool, error) { return h.unpark(pos) }

func (h *Handler[E]) unpark(pos uint64) (bool, error) {
	h.parking <- struct{}{}
	defer func() { <-h.parking }()
	if h.noParking {
		return false, ErrRemoved
	}
	i := h.parkedAt(pos)
	if i < 0 {
		return false, nil
	}
	if h.cfg.Parking.Unpark != nil {
		if err := h.cfg.Parking.Unpark(pos); err != nil {
			return false, fmt.Errorf("unpark the event at position %d: %w", pos, err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if key := h.parked[i].Key; h.cfg.Key != nil {
		if h.held[key]--; h.held[key] == 0 {
			delete(h.held, key)
		}
	}
	h.parked = slices.Delete(h.parked, i, i+1)
	return true, nil
}

// parkedAt returns the index of the entry of pos, which stays the same while the caller has
// the parking token; -1 if there is none.
func (h *Handler[E]) parkedAt(pos uint64) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.IndexFunc(h.parked, func(p Parked[E]) bool { return h.d.log.Position(&p.Event) == pos })
}

// repark notes that an event has failed once more, unless it was discarded meanwhile.
func (h *Handler[E]) repark(pos uint64, err error) error {
	h.counters.failures.Add(1)
	h.noteError(err)
	h.parking <- struct{}{}
	defer func() { <-h.parking }()
	i := h.parkedAt(pos)
	if i < 0 {
		return nil
	}
	h.mu.Lock()
	p := h.parked[i]
	h.mu.Unlock()
	p.Err, p.Stack, p.Held, p.Time = err, stackOf(err), false, time.Now()
	p.Attempts++
	if err := h.keepParked(p); err != nil {
		return err
	}
	h.mu.Lock()
	h.parked[i] = p
	h.mu.Unlock()
	return nil
}

// stackOf returns the stack of a panic; "" for another error.
func stackOf(err error) string {
	if p, ok := errors.AsType[*actor.PanicError](err); ok {
		return string(p.Stack)
	}
	return ""
}

// once calls the handler's function with one event, in a goroutine of its own: a
// Goexit there is then nobody else's. It reports whether the event was tried: not if the
// handler was told something else than to run, or cancelled the call.
func (h *Handler[E]) once(ev E) (tried bool, err error) {
	w := newWorker(h, h.cfg.Name+" redrive")
	defer h.d.watch.remove(&w.pulse)
	done := make(chan error, 1)
	started := h.d.opts.Group.Go("redrive", h.cfg.Name, func() {
		leave := h.d.seats.enter(&w.seat)
		err := error(&actor.PanicError{Where: h.where(), Value: actor.ErrGoexit})
		defer func() {
			w.at.Store(0)
			leave()
			done <- err
		}()
		w.load([]E{ev})
		w.pulse.begin(h.d.watch)
		seated(func() { err = w.run() })
		w.pulse.end()
	})
	if !started {
		return false, ErrClosed
	}
	err = <-done
	switch {
	case err == nil && w.i == 0:
		return false, cmp.Or(h.notRunning(), ErrPaused) // resumed just now
	case err != nil && h.want.Load() == wantEnd && h.ctx.Err() != nil:
		return false, ErrRemoved // as in worker.failed: the event is not to blame
	}
	return true, err
}

// inMain runs fn in the handler's main goroutine while no call is under way, and waits
// for it.
func (h *Handler[E]) inMain(ctx context.Context, fn func()) error {
	if h.calledInside(ctx) {
		return ErrInside
	}
	done := make(chan struct{})
	h.mu.Lock()
	h.queue = append(h.queue, func() {
		defer close(done)
		fn()
	})
	h.tasks.Add(1)
	h.mu.Unlock()
	h.mail.sig.Wake()
	select {
	case <-done:
		return nil
	case <-h.gone:
		select {
		case <-done:
			return nil
		default:
			return ErrRemoved
		}
	case <-ctx.Done():
		return context.Cause(ctx) // fn looks at ctx too, and ends
	}
}

// runTask runs the oldest queued function. Main goroutine.
func (h *Handler[E]) runTask() {
	h.mu.Lock()
	fn := h.queue[0]
	h.queue = h.queue[1:]
	h.mu.Unlock()
	fn()
	h.tasks.Add(-1)
	h.d.tellQuiescer()
}
