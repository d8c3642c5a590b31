package dispatch

import (
	"context"
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
	Err      error  // the last failure; a panic is an [*actor.PanicError] with its stack; nil if Held
	Attempts int
	Time     time.Time
	// Held says that the event was never tried: an earlier one of its key is parked.
	Held bool
}

// park puts an event aside and reports whether there was room.
func (h *Handler[E]) park(p Parked[E]) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.parked) >= h.cfg.MaxParked {
		return false
	}
	h.parked = append(h.parked, p)
	if h.cfg.Key != nil {
		h.held[p.Key]++
	}
	return true
}

// parkHeld parks an event if its key is held back; ok says whether there was room.
func (h *Handler[E]) parkHeld(ev E, key string) (held, ok bool) {
	h.mu.Lock()
	held = h.held[key] > 0
	h.mu.Unlock()
	return held, held && h.park(Parked[E]{Event: ev, Key: key, Time: time.Now(), Held: true})
}

// Parked returns the parked events, oldest first.
func (h *Handler[E]) Parked() []Parked[E] {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.parked)
}

// Redrive handles the parked events once more, in order, and returns how many are
// handled. One that fails again stays parked, and with it the later ones of its key.
// New events wait meanwhile. It blocks until done, until ctx is done (whose cause it
// returns; what is handled by then is handled), or until the handler leaves the running
// state. It cannot be called from inside a handler ([ErrInside]).
func (h *Handler[E]) Redrive(ctx context.Context) (int, error) {
	var n atomic.Int64 // the call may outlive ctx
	err := h.inMain(ctx, func() {
		failed := make(map[string]bool)
		for _, p := range h.Parked() {
			if ctx.Err() != nil || h.want.Load() != wantRun {
				return
			}
			if h.cfg.Key != nil && failed[p.Key] {
				continue
			}
			if err := h.once(p.Event); err != nil {
				failed[p.Key] = true
				h.repark(p, err)
				continue
			}
			h.unpark(h.d.log.Position(&p.Event))
			h.counters.handled.Add(1)
			n.Add(1)
		}
	})
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return int(n.Load()), err
}

// Discard takes the parked event at pos off the list, unhandled, and reports whether it was there.
func (h *Handler[E]) Discard(pos uint64) bool { return h.unpark(pos) }

func (h *Handler[E]) unpark(pos uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.parked, func(p Parked[E]) bool { return h.d.log.Position(&p.Event) == pos })
	if i < 0 {
		return false
	}
	if key := h.parked[i].Key; h.cfg.Key != nil {
		if h.held[key]--; h.held[key] == 0 {
			delete(h.held, key)
		}
	}
	h.parked = slices.Delete(h.parked, i, i+1)
	return true
}

func (h *Handler[E]) repark(p Parked[E], err error) {
	h.counters.failures.Add(1)
	h.noteError(err)
	pos := h.d.log.Position(&p.Event)
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.parked {
		if q := &h.parked[i]; h.d.log.Position(&q.Event) == pos {
			q.Err, q.Held, q.Time = err, false, time.Now()
			q.Attempts++
		}
	}
}

// once calls the handler's function with one event, in a goroutine of its own: a
// Goexit there is then nobody else's.
func (h *Handler[E]) once(ev E) error {
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
		err = w.run()
		w.pulse.end()
		if err == nil && w.i == 0 {
			err = fmt.Errorf("dispatch: handler %q was interrupted", h.cfg.Name)
		}
	})
	if !started {
		return ErrClosed
	}
	return <-done
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
