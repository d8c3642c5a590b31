package dispatch

import (
	"fmt"
	"hash/maphash"
	"maps"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/weirstore/weir/actor"
)

// keyed is the part of a handler that spreads events over workers by key. The main
// goroutine reads the log and hands each event to the worker of its key; a ring
// remembers the order, so that the handler's position is that of the oldest event
// which is not handled. A slow key holds up the events of its own worker, and the
// others only once the ring is full.
type keyed[E any] struct {
	h       *Handler[E]
	workers []*keyedWorker[E]
	seed    maphash.Seed

	low atomic.Uint64 // everything up to here is handled; the handler's position

	mu    sync.Mutex // pure memory work
	ring  []slot[E]
	head  uint64              // the next slot to give out, counted from the beginning
	tail  uint64              // the oldest that is not handled
	out   int                 // slots that a worker has
	torn  bool                // a slot came back unhandled: nothing is handled until all was taken back
	fed   uint64              // position up to which the main goroutine has given out
	again map[uint64]struct{} // positions above low that were handled before an interruption
}

type keyedWorker[E any] struct {
	*worker[E]
	// in has room for the whole ring, so that giving out never waits for a worker.
	in   chan *slot[E]
	slot *slot[E] // owner: the worker's goroutine
}

// slot is an event that was given to a worker.
type slot[E any] struct {
	ev      [1]E
	pos     uint64
	key     string
	handled bool
	counted bool
}

func newKeyed[E any](h *Handler[E]) *keyed[E] {
	// 64 a worker keep all of them busy; more than the window would not be bounded by it.
	size := min(64*h.cfg.Workers, h.cfg.Window)
	k := &keyed[E]{h: h, seed: maphash.MakeSeed(), ring: make([]slot[E], size), again: make(map[uint64]struct{})}
	for i := range h.cfg.Workers {
		w := newWorker(h, fmt.Sprintf("%s/%d", h.cfg.Name, i))
		k.workers = append(k.workers, &keyedWorker[E]{worker: w, in: make(chan *slot[E], size)})
	}
	return k
}

func (k *keyed[E]) start() bool {
	for i, w := range k.workers {
		if !k.h.d.opts.Group.Go("worker", fmt.Sprintf("%s/%d", k.h.cfg.Name, i), func() { k.runWorker(w) }) {
			return false // exit lets those return that were started
		}
	}
	return true
}

// end lets the workers return. Only the main goroutine sends to them, and it calls end last.
func (k *keyed[E]) end() {
	for _, w := range k.workers {
		close(w.in)
		k.h.d.watch.remove(&w.pulse)
	}
}

// quiet reports whether no worker has anything.
func (k *keyed[E]) quiet() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.out == 0
}

// isTorn reports whether an event came back unhandled. Later ones of its key must then
// not be handled before it, even if the handler was resumed meanwhile: the main goroutine
// takes everything back and joins anew.
func (k *keyed[E]) isTorn() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.torn
}

// canFeed reports whether there is something to give out, and room for it.
func (k *keyed[E]) canFeed() bool {
	from, to := k.h.mail.next()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.torn {
		return false
	}
	if k.overflows() {
		return k.out == 0 // the jump waits until all that was given out is handled
	}
	return max(from, k.fed) < to && k.head-k.tail < uint64(len(k.ring))
}

func (k *keyed[E]) overflows() bool {
	return k.h.cfg.Overflow == Latest && k.h.mail.fill() > k.h.mail.window
}

// feed reads a turn and gives its events out. Main goroutine.
func (k *keyed[E]) feed() {
	h := k.h
	if k.overflows() {
		if !k.quiet() {
			return // it did not overflow yet when canFeed looked
		}
		h.jump()
		k.join()
	}
	from, to := h.mail.next()
	k.mu.Lock()
	from = max(from, k.fed)
	room := min(uint64(len(h.buf)), uint64(len(k.ring))-(k.head-k.tail))
	k.mu.Unlock()
	if from >= to || room == 0 {
		return
	}
	n, upTo, err := h.readLog(from, to, h.buf[:room])
	if err != nil {
		h.halt(err)
		return
	}
	joined := h.mail.joined()
	for i := range h.buf[:n] {
		ev := &h.buf[i]
		pos := h.d.log.Position(ev)
		key, err := k.keyOf(ev)
		if err != nil {
			h.halt(err)
			upTo = pos - 1
			break
		}
		k.give(ev, pos, key, pos > joined)
	}
	clear(h.buf[:n])
	k.mu.Lock()
	k.fed = upTo
	k.advanceLocked()
	k.mu.Unlock()
	h.madeProgress()
}

// keyOf calls the user's Key function. If that panics the handler stops: without a
// key there is no order to keep.
func (k *keyed[E]) keyOf(ev *E) (key string, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &actor.PanicError{Where: k.h.where() + ": Key", Value: v, Stack: debug.Stack()}
		}
	}()
	return k.h.cfg.Key(ev), nil
}

// give hands an event to the worker of its key.
func (k *keyed[E]) give(ev *E, pos uint64, key string, counted bool) {
	k.mu.Lock()
	s := &k.ring[k.head%uint64(len(k.ring))]
	*s = slot[E]{ev: [1]E{*ev}, pos: pos, key: key, counted: counted}
	k.head++
	if _, ok := k.again[pos]; ok {
		delete(k.again, pos)
		s.handled = true
		k.mu.Unlock()
		return
	}
	k.out++
	k.mu.Unlock()
	w := k.workers[maphash.String(k.seed, key)%uint64(len(k.workers))]
	w.in <- s // never blocks: see keyedWorker.in
}

// runWorker is a worker's goroutine.
func (k *keyed[E]) runWorker(w *keyedWorker[E]) {
	leave := k.h.d.seats.enter(&w.seat)
	returned := false
	defer func() {
		leave()
		if returned {
			return
		}
		w.died() // Goexit in the user's code, the only one that this goroutine runs
		if !k.h.d.opts.Group.Go("worker", w.pulse.handler, func() { k.runWorker(w) }) {
			k.finish(w.slot, false)
		}
	}()
	seated(func() {
		if w.dead {
			k.deliver(w, w.slot)
		}
		for s := range w.in {
			w.slot = s
			k.handle(w, s)
		}
	})
	returned = true
}

func (k *keyed[E]) handle(w *keyedWorker[E], s *slot[E]) {
	h := k.h
	if h.want.Load() != wantRun || k.isTorn() {
		k.finish(s, false)
		return
	}
	if h.main.isParked(s.pos) {
		k.finish(s, true)
		return
	}
	if held, err := h.parkHeld(s.ev[0], s.key); held {
		if err != nil {
			h.halt(err)
		}
		k.finish(s, err == nil)
		return
	}
	w.key = s.key
	w.load(s.ev[:])
	k.deliver(w, s)
}

// deliver calls the function with the event that is loaded, and takes the slot back.
func (k *keyed[E]) deliver(w *keyedWorker[E], s *slot[E]) {
	ok := w.deliver()
	w.at.Store(0) // the context of the event is no longer live
	w.attempt.Store(0)
	k.h.counters.handled.Add(uint64(w.i - w.givenUp))
	k.finish(s, ok)
}

// finish takes a slot back, handled or not.
func (k *keyed[E]) finish(s *slot[E], handled bool) {
	h := k.h
	k.mu.Lock()
	s.handled = handled
	k.torn = k.torn || !handled
	k.out--
	wake := k.out == 0 || k.head-k.tail == uint64(len(k.ring))
	k.advanceLocked()
	k.mu.Unlock()
	h.madeProgress()
	if wake {
		h.mail.sig.Wake()
	}
}

// advanceLocked moves low past what is handled.
func (k *keyed[E]) advanceLocked() {
	var counted uint64
	low := k.low.Load()
	for ; k.tail < k.head; k.tail++ {
		s := &k.ring[k.tail%uint64(len(k.ring))]
		if !s.handled {
			low = max(low, s.pos-1)
			break
		}
		low = s.pos
		if s.counted {
			counted++
		}
		*s = slot[E]{}
	}
	if k.tail == k.head {
		low = max(low, k.fed)
	}
	k.low.Store(low)
	k.h.mail.handled(low, counted)
}

// join takes the handler's position over as the place to read on from.
func (k *keyed[E]) join() {
	k.mu.Lock()
	k.fed = k.low.Load()
	maps.DeleteFunc(k.again, func(pos uint64, _ struct{}) bool { return pos <= k.fed }) // jumped over
	k.mu.Unlock()
}

// hasHandled reports whether an event above low was handled already.
func (k *keyed[E]) hasHandled(pos uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.again[pos]
	return ok
}

// leave takes back what was given out and not handled, once all workers are quiet. What
// was handled out of order is remembered, so that it is not handled again.
func (k *keyed[E]) leave() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for ; k.tail < k.head; k.tail++ {
		s := &k.ring[k.tail%uint64(len(k.ring))]
		if s.handled {
			k.again[s.pos] = struct{}{}
		}
		*s = slot[E]{}
	}
	k.fed = k.low.Load()
	k.torn = false
}
