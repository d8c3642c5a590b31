package dispatch

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/weirstore/weir/actor"
)

// Handler calls one function with the events that concern it. Its main goroutine
// reads the range that the mailbox holds and calls the function, or hands the events
// to its workers if there is a Key.
type Handler[E any] struct {
	d      *Dispatcher[E]
	cfg    Config[E]
	mail   mailbox
	ctx    context.Context
	cancel context.CancelCauseFunc

	// want is what the handler was told to be. Written under mu; read at every event.
	want atomic.Int32
	// attached says that the handler takes part: the dispatcher offers it events.
	// Written by the dispatcher's goroutine.
	attached atomic.Bool

	// owner: the dispatcher's goroutine
	round tally // what the present round has collected for this handler
	full  bool  // the mailbox was full and is not yet half empty
	live  bool  // history is read; from now on a full mailbox blocks

	// owner: the handler's main goroutine
	running bool // has joined and not left
	turn    turn // the turn that is under way
	buf     []E
	main    *worker[E]
	keyed   *keyed[E] // nil without a Key

	tasks atomic.Int32 // len(queue)

	mu          sync.Mutex    // pure memory work
	state       int32         // what the main goroutine has become: wantRun, wantPause, …
	changed     chan struct{} // closed and replaced when state or want changes
	interrupted chan struct{} // closed while want is not wantRun: ends a backoff
	queue       []func()      // for the main goroutine, run while no call is under way
	stopErr     error
	lastErr     error
	parked      []Parked[E]    // changed by who has the parking token
	held        map[string]int // parked events by key; a key in here is held back
	waiters     []waiter
	waiting     atomic.Int32 // len(waiters)

	// parking has room for one token. Who changes the parked list has it, from the call of
	// Config.Parking to the change in memory: so both see the same changes in the same order. A
	// mutex would be held across a call that may block.
	parking   chan struct{}
	noParking bool // the handler has ended; guarded by the parking token

	gone chan struct{} // closed when the main goroutine has returned for good

	counters counters
}

// counters are what Stats shows. Each is written where it happens.
type counters struct {
	handled, failures, retries, skipped, lagged, slow atomic.Uint64
	progressAt                                        atomic.Int64 // Unix ns of the last turn that left work behind
}

// What a handler can be told to be, and be.
const (
	wantRun int32 = iota
	wantPause
	wantStop
	wantEnd
)

// turn is a piece of the range that was read and is being handled.
type turn struct {
	active bool
	n      int    // events in buf
	upTo   uint64 // all that concerns the handler up to here is in buf
	join   uint64 // events at or before it are history, not counted
}

func newHandler[E any](d *Dispatcher[E], cfg Config[E], start uint64) *Handler[E] {
	h := &Handler[E]{
		d:           d,
		cfg:         cfg,
		changed:     make(chan struct{}),
		interrupted: make(chan struct{}),
		held:        make(map[string]int),
		parking:     make(chan struct{}, 1),
		gone:        make(chan struct{}),
	}
	h.mail.window = uint64(cfg.Window)
	h.mail.sig = actor.NewSignal()
	h.ctx, h.cancel = context.WithCancelCause(d.base)
	// A turn is at most a quarter of the window: room shows in the count at turn's end.
	h.buf = make([]E, min(max(cfg.Window/4, 1), 64))
	h.main = newWorker(h, cfg.Name)
	h.running = true
	if cfg.Key != nil {
		h.keyed = newKeyed(h)
	}
	h.setDone(start)
	return h
}

// start starts the goroutines, once the handler has joined.
func (h *Handler[E]) start() bool {
	if h.keyed != nil && !h.keyed.start() {
		return false
	}
	return h.d.opts.Group.Go("handler", h.cfg.Name, h.run)
}

// Name returns the handler's name.
func (h *Handler[E]) Name() string { return h.cfg.Name }

// Running reports whether the handler was told neither to pause nor to stop.
func (h *Handler[E]) Running() bool { return h.want.Load() == wantRun }

// run is the main goroutine.
func (h *Handler[E]) run() {
	leave := h.d.seats.enter(&h.main.seat)
	returned := false
	defer func() {
		leave()
		if returned {
			return
		}
		// runtime.Goexit in the user's code: this goroutine is lost, the handler is not.
		if !h.main.died() {
			h.halt(&actor.PanicError{Where: h.where(), Value: actor.ErrGoexit})
		}
		if !h.d.opts.Group.Go("handler", h.cfg.Name, h.run) {
			h.exit()
		}
	}()
	seated(h.loop)
	returned = true
	h.exit()
}

func (h *Handler[E]) exit() {
	if h.keyed != nil {
		h.keyed.end()
	}
	h.d.watch.remove(&h.main.pulse)
	h.cancel(ErrRemoved)
	h.endParking()
	if h.cfg.Ended != nil {
		h.cfg.Ended()
	}
	h.settle(wantEnd)
	h.d.forget(h)
	close(h.gone)
	h.d.tellQuiescer()
}

func (h *Handler[E]) where() string { return "handler " + h.cfg.Name }

// action is what the main goroutine is to do next.
type action int

const (
	nothing action = iota
	join           // take part
	leave          // take part no more, and settle
	step           // read and handle
	task           // run what was queued
	end            // return
)

// next decides what to do from what others have written since: it is called once
// more after the goroutine has announced that it parks.
func (h *Handler[E]) next() action {
	want := h.want.Load()
	quiet := h.keyed == nil || h.keyed.quiet()
	torn := h.keyed != nil && h.keyed.isTorn()
	switch {
	case (want != wantRun || torn) && h.running:
		if quiet {
			return leave
		}
	case want == wantEnd:
		return end
	case h.tasks.Load() > 0:
		if quiet {
			return task
		}
	case want != wantRun:
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.state != want {
			return leave // told to stop while paused, say
		}
	case !h.running:
		return join
	case h.turn.active:
		return step
	case h.keyed != nil:
		if h.keyed.canFeed() {
			return step
		}
	case !h.mail.empty():
		return step
	}
	return nothing
}

func (h *Handler[E]) loop() {
	for {
		do := h.next()
		if do == nothing {
			h.mail.sig.Arm()
			if do = h.next(); do == nothing {
				h.mail.sig.Wait()
				continue
			}
			h.mail.sig.Disarm()
		}
		switch do {
		case join:
			h.d.do(func() {
				if err := h.d.attach(h); err != nil {
					h.halt(err)
				}
			})
			h.running = true
			h.main.attempt.Store(0)
			if h.keyed != nil {
				h.keyed.join()
			}
			h.settle(wantRun)
		case leave:
			if h.keyed != nil {
				h.keyed.leave()
			}
			if h.turn.active { // Goexit took the goroutine, then the handler was interrupted
				h.finish()
			}
			h.main.dead = false
			h.d.do(func() { h.d.detach(h) })
			h.running = false
			if h.cfg.Checkpoint != nil {
				h.cfg.Checkpoint(h.done())
			}
			h.settle(h.want.Load())
		case step:
			if h.keyed != nil {
				h.keyed.feed()
			} else {
				h.step()
			}
		case task:
			h.runTask()
		case end:
			return
		}
	}
}

// settle publishes what the handler has become.
func (h *Handler[E]) settle(state int32) {
	h.mu.Lock()
	h.state = state
	h.changedLocked()
	h.mu.Unlock()
	h.tellWaiters()
	h.d.poke() // its room in the door's limit, and Quiesce, may depend on it
}

func (h *Handler[E]) changedLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// setWant tells the handler what to be. The end is for good.
func (h *Handler[E]) setWant(want int32, err error) bool {
	h.mu.Lock()
	was := h.want.Load()
	if was == wantEnd {
		h.mu.Unlock()
		return false
	}
	if want == wantStop {
		h.stopErr = err
	}
	h.want.Store(want)
	switch {
	case was == wantRun && want != wantRun:
		close(h.interrupted)
	case was != wantRun && want == wantRun:
		h.interrupted = make(chan struct{})
	}
	h.changedLocked()
	h.mu.Unlock()
	h.mail.sig.Wake()
	h.d.poke() // at once, although its present call may last: it blocks nobody any more
	return true
}

// halt stops the handler before the first event that it has not handled.
func (h *Handler[E]) halt(err error) {
	h.noteError(err)
	h.mu.Lock()
	stop := h.want.Load() == wantRun
	h.mu.Unlock()
	if stop && h.setWant(wantStop, err) {
		h.d.opts.Logger.Error("weir: handler stopped", "handler", h.cfg.Name, "position", h.Position(), "err", err)
	}
}

func (h *Handler[E]) noteError(err error) {
	h.mu.Lock()
	h.lastErr = err
	h.mu.Unlock()
}

// step handles one turn, or what is left of it after Goexit.
func (h *Handler[E]) step() {
	if !h.turn.active && !h.read() {
		return
	}
	h.main.deliver()
	h.finish()
}

// read begins a turn: it reads the next events of the range into buf.
func (h *Handler[E]) read() bool {
	if h.cfg.Overflow == Latest {
		h.jump()
	}
	from, to := h.mail.next()
	if from == to {
		return false
	}
	n, upTo, err := h.readLog(from, to, h.buf)
	if err != nil {
		h.halt(err)
		return false
	}
	h.turn = turn{active: true, n: n, upTo: upTo, join: h.mail.joined()}
	h.main.load(h.buf[:n])
	return true
}

// readLog guards against a log that panics: it is somebody else's code.
func (h *Handler[E]) readLog(after, to uint64, dst []E) (n int, upTo uint64, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, upTo, err = 0, after, &actor.PanicError{Where: h.where() + ": read the log", Value: v, Stack: debug.Stack()}
		}
	}()
	n, upTo, err = h.d.log.Read(h.ctx, after, to, h.cfg.Kinds, dst)
	if err == nil && upTo <= after {
		err = fmt.Errorf("dispatch: log read up to %d after %d: it does not advance", upTo, after)
	}
	return n, upTo, err
}

// finish ends a turn, or as much of it as was handled before an interruption.
func (h *Handler[E]) finish() {
	evs, i := h.main.evs, h.main.i
	upTo := h.turn.upTo
	if i < len(evs) {
		upTo = h.d.log.Position(&evs[i]) - 1
	}
	counted := 0
	for k := range evs[:i] {
		if h.d.log.Position(&evs[k]) > h.turn.join {
			counted = i - k
			break
		}
	}
	h.counters.handled.Add(uint64(i - h.main.givenUp))
	h.mail.handled(upTo, uint64(counted)) // before the position says so: who has waited for it sees no lag
	h.setDone(upTo)
	h.turn.active = false
	clear(h.buf[:h.turn.n]) // let go of payloads
	h.madeProgress()
}

// madeProgress tells who may wait for what this handler has handled.
func (h *Handler[E]) madeProgress() {
	if fill := h.mail.fill(); h.cfg.Overflow == Block && fill <= h.mail.window/2 && h.d.door.waiting.Load() > 0 {
		h.d.poke()
	}
	h.tellWaiters()
	if h.cfg.Progress != nil {
		h.cfg.Progress()
	}
	if h.mail.empty() {
		h.d.tellQuiescer()
	} else {
		h.counters.progressAt.Store(now())
	}
}

// done returns the position up to which the handler has handled what it was given.
func (h *Handler[E]) done() uint64 {
	if h.keyed != nil {
		return h.keyed.low.Load()
	}
	return h.main.at.Load() - 1
}

func (h *Handler[E]) setDone(pos uint64) {
	if h.keyed != nil {
		h.keyed.low.Store(pos)
		return
	}
	h.main.at.Store(pos + 1)
}

// Position returns the position up to which everything that concerns the handler is
// handled: if nothing is before it, that of the dispatcher. It never goes down.
func (h *Handler[E]) Position() uint64 {
	told := h.d.done.Load() // first: whatever the mailbox then lacks was handled
	if !h.attached.Load() {
		return h.done()
	}
	from, empty := h.mail.start()
	if empty {
		from = told
	}
	return max(from, h.done())
}

// jump makes a Latest handler with a full mailbox skip to the newest event offered,
// after telling it how many it is spared.
func (h *Handler[E]) jump() {
	if h.mail.fill() <= h.mail.window {
		return
	}
	last, offered := h.mail.overflow()
	var n uint64
	for from := h.done(); from < last-1; {
		got, upTo, err := h.readLog(from, last-1, h.buf)
		if err != nil {
			h.halt(err)
			return
		}
		for i := range h.buf[:got] {
			if h.keyed == nil || !h.keyed.hasHandled(h.d.log.Position(&h.buf[i])) {
				n++
			}
		}
		from = upTo
	}
	clear(h.buf)
	h.counters.lagged.Add(n)
	h.setDone(last - 1)
	h.mail.skip(last, offered)
	switch {
	case n == 0: // what filled the mailbox was removed from the log
	case h.cfg.Lagged == nil:
		h.d.opts.Logger.Warn("weir: handler lagged", "handler", h.cfg.Name, "skipped", n, "position", last-1)
	default:
		h.main.lagged(n, last)
	}
	h.madeProgress()
}

// collect adds what a round has found of one kind. Dispatcher's goroutine.
func (h *Handler[E]) collect(t tally) {
	if h.round.n == 0 {
		h.round = t
		return
	}
	h.round.first = min(h.round.first, t.first)
	h.round.last = max(h.round.last, t.last)
	h.round.n += t.n
}
