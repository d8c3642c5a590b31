package dispatch

import (
	"math/rand/v2"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/weirstore/weir/actor"
)

// worker is a goroutine that calls the handler's function: a handler's main goroutine,
// or one of its keyed workers.
type worker[E any] struct {
	seat
	h *Handler[E]

	// owner: the worker's goroutine, or its successor after Goexit
	evs      []E                       // what is being handled
	i        int                       // index of the event being handled
	givenUp  int                       // how many of those before it were skipped or parked
	key      string                    // its key; keyed workers only
	contexts *[contextsAtOnce]Delivery // for the next events, because each needs its own
	given    int                       // how many of them are in use
	calling  bool                      // in the user's function
	dead     bool                      // Goexit took the goroutine that was calling
	// parked are the positions that the parked list had when the handler began, parkedTo the
	// last of them. Immutable; of a handler's main worker, nil for most.
	parked   map[uint64]struct{}
	parkedTo uint64

	attempt atomic.Int32 // failures of the present event
	pulse   pulse
}

func newWorker[E any](h *Handler[E], name string) *worker[E] {
	w := &worker[E]{h: h, given: contextsAtOnce}
	w.handler, w.owner, w.ctx = h.cfg.Name, h.d.seats, h.ctx
	w.pulse = pulse{handler: name, at: &w.at, slow: &h.counters.slow}
	h.d.watch.add(&w.pulse)
	return w
}

// isParked reports whether the event was in the parked list when the handler began: it was
// parked before a crash, and the checkpoint not yet behind it.
func (w *worker[E]) isParked(pos uint64) bool {
	_, ok := w.parked[pos]
	return ok
}

// load gives the worker events to deliver.
func (w *worker[E]) load(evs []E) { w.evs, w.i, w.givenUp = evs, 0, 0 }

// died tells the worker that its goroutine was lost, and reports whether that happened
// in a call of the handler's function: then deliver goes on with its failure.
func (w *worker[E]) died() bool {
	w.dead = w.calling
	w.calling = false
	return w.dead
}

// deliver handles what was loaded until it is done, which it reports, or the handler is
// told something else than to run. Afterwards w.i events are handled.
func (w *worker[E]) deliver() bool {
	w.pulse.begin(w.h.d.watch)
	defer w.pulse.end()
	if w.dead {
		w.dead = false
		if !w.failed(&actor.PanicError{Where: w.h.where(), Value: actor.ErrGoexit}) {
			return false
		}
	}
	for {
		err := w.run()
		if err == nil {
			return w.i == len(w.evs)
		}
		if !w.failed(err) {
			return false
		}
	}
}

// run calls the handler's function with one event after the other. It catches panics
// once a turn, not once an event: that costs nothing.
func (w *worker[E]) run() (err error) {
	h := w.h
	defer func() {
		if v := recover(); v != nil {
			err = &actor.PanicError{Where: h.where(), Value: v, Stack: debug.Stack()}
		}
		if err != nil {
			w.calling = false
		}
	}()
	for ; w.i < len(w.evs); w.i++ {
		if h.want.Load() != wantRun {
			return nil
		}
		ev := &w.evs[w.i]
		pos := h.d.log.Position(ev)
		if w.parked != nil && w.isParked(pos) {
			w.givenUp++
			continue
		}
		w.at.Store(pos)              // and thereby: everything before pos is handled
		if w.pulse.reported.Load() { // an earlier call; after at, see watchdog.look
			w.pulse.reported.Store(false)
			h.d.watch.kick()
		}
		if h.waiting.Load() > 0 {
			h.tellWaiters()
		}
		if w.seat.failed.Load() == pos {
			w.seat.failed.Store(0)
		}
		w.calling = true
		if err := h.cfg.Handle(w.context(pos), *ev); err != nil {
			return err
		}
		w.calling = false
		if w.attempt.Load() != 0 {
			w.attempt.Store(0)
		}
	}
	return nil
}

// context returns a new context for the event at pos.
func (w *worker[E]) context(pos uint64) *Delivery {
	if w.given == contextsAtOnce {
		w.contexts, w.given = new([contextsAtOnce]Delivery), 0
	}
	c := &w.contexts[w.given]
	w.given++
	c.seat, c.position = &w.seat, pos
	return c
}

// contextsAtOnce is how many contexts are allocated together. With half as many an event takes a fifth more
// time (docs/bench/NOTES.md).
const contextsAtOnce = 64

// failed applies the failure policy to the present event and reports whether to go on.
func (w *worker[E]) failed(err error) bool {
	h := w.h
	pos := h.d.log.Position(&w.evs[w.i])
	w.seat.failed.Store(pos) // the context of that call is no longer live
	if h.want.Load() == wantEnd && h.ctx.Err() != nil {
		return false // cancelled by shutdown: the event is not to blame and stays unhandled
	}
	h.counters.failures.Add(1)
	h.noteError(err)
	n := int(w.attempt.Add(1))
	if n <= h.cfg.Retry.Attempts {
		return w.backoff(n)
	}
	log := h.d.opts.Logger.With("handler", h.cfg.Name, "position", pos, "attempt", n, "err", err)
	switch h.cfg.After {
	case Skip:
		log.Error("weir: handler failed, event skipped")
		h.counters.skipped.Add(1)
	case Park:
		if err := h.park(Parked[E]{Event: w.evs[w.i], Key: w.key, Err: err, Stack: stackOf(err), Attempts: n, Time: time.Now()}); err != nil {
			h.halt(err)
			return false
		}
		log.Error("weir: handler failed, event parked")
	case Stop:
		w.attempt.Store(0) // before it may be resumed
		h.halt(err)
		return false
	}
	w.attempt.Store(0)
	w.givenUp++
	w.i++
	return true
}

// backoff waits before the n-th repetition and reports whether the handler still runs.
func (w *worker[E]) backoff(n int) bool {
	h := w.h
	h.mu.Lock()
	interrupted := h.interrupted
	h.mu.Unlock()
	pause := h.cfg.Retry.MaxBackoff
	if first := h.cfg.Retry.Backoff; first <= pause>>(n-1) { // compared so, it cannot overflow
		pause = first << (n - 1)
	}
	pause -= rand.N(pause/2 + 1)
	w.pulse.end() // waiting is not a slow call
	defer w.pulse.begin(h.d.watch)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		h.counters.retries.Add(1)
		return true
	case <-interrupted:
		return false
	}
}

// lagged calls the Lagged function. A panic there is logged and counted.
func (w *worker[E]) lagged(n, next uint64) {
	h := w.h
	defer func() {
		if v := recover(); v != nil {
			err := &actor.PanicError{Where: h.where() + ": Lagged", Value: v, Stack: debug.Stack()}
			h.counters.failures.Add(1)
			h.noteError(err)
			h.d.opts.Logger.Error("weir: handler failed when told that it lagged", "handler", h.cfg.Name, "err", err)
		}
	}()
	w.pulse.begin(h.d.watch)
	defer w.pulse.end()
	w.at.Store(next)
	if h.keyed != nil {
		defer w.at.Store(0) // the position is kept elsewhere, and the context no longer live
	}
	h.cfg.Lagged(w.context(next), n)
}

// now is the wall clock in nanoseconds.
func now() int64 { return time.Now().UnixNano() }
