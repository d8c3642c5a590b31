package dispatch

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// door is where producers wait while a handler with the [Block] policy has a full
// mailbox. It is open while the log's head is before limit.
type door struct {
	// limit is the position that the log may grow to: for each blocking handler, how
	// far the dispatcher has looked plus the room in the mailbox; the smallest of them.
	// Written by the dispatcher's goroutine.
	limit   atomic.Uint64
	waiting atomic.Int64
	waited  atomic.Uint64 // how many producers ever had to wait

	mu       sync.Mutex    // pure memory work
	opened   chan struct{} // closed and replaced when the door opens
	closing  chan struct{} // closed when producers are to be refused
	isClosed atomic.Bool   // set under mu
}

func newDoor() *door {
	d := &door{opened: make(chan struct{}), closing: make(chan struct{})}
	d.limit.Store(^uint64(0))
	return d
}

// doorYields is how often a producer that finds the door closed lets others run before it waits.
const doorYields = 4

// Admit lets a producer in: it blocks while a handler with the [Block] policy has a
// full mailbox, until ctx is done (whose cause it returns) or the dispatcher drains
// ([ErrClosed]). A handler of this dispatcher, known by its context or its goroutine,
// never waits: it might wait for itself.
//
// The number of events that a blocking handler has before it is thereby at most its
// window, plus the events that were let in while there was room, plus what handlers append.
func (d *Dispatcher[E]) Admit(ctx context.Context) error {
	if d.log.Head() < d.door.limit.Load() {
		return nil
	}
	return d.waitAtDoor(ctx)
}

// Limit returns the position at which Admit blocks those whom it may: nobody needs to call it as long as the
// log's head is before that.
func (d *Dispatcher[E]) Limit() uint64 { return d.door.limit.Load() }

func (d *Dispatcher[E]) waitAtDoor(ctx context.Context) error {
	if _, inside := d.Inside(ctx); inside {
		return nil
	}
	// Handlers may need no more than the processor: to wait so costs a fraction of what follows.
	for n := 0; n < doorYields && !d.door.isClosed.Load(); n++ {
		runtime.Gosched()
		if d.log.Head() < d.door.limit.Load() {
			return nil
		}
	}
	if d.seats.here() != nil {
		return nil
	}
	// Counted before the first look, so that a handler that makes room from now on
	// tells the dispatcher (see Handler.madeRoom).
	d.door.waiting.Add(1)
	defer d.door.waiting.Add(-1)
	for first := true; ; first = false {
		d.door.mu.Lock()
		opened := d.door.opened
		d.door.mu.Unlock()
		d.poke() // the limit may be old: let the dispatcher look again
		if d.log.Head() < d.door.limit.Load() {
			return nil
		}
		if first {
			d.door.waited.Add(1)
		}
		select {
		case <-opened:
		case <-d.door.closing:
			return ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// setLimit is called by the dispatcher's goroutine. A limit that rises, as it does with every event that is
// handled, is told when producers are half-way to the one that they know, or wait: each time that it is, all of
// them have to fetch it anew. They never know a higher one than is true.
func (r *door) setLimit(limit, head uint64) {
	known := r.limit.Load()
	if known < limit && known > head && known-head > (limit-head)/2 && r.waiting.Load() == 0 {
		limit = known
	}
	if limit != known {
		r.limit.Store(limit)
	}
	if r.isClosed.Load() { // maybe since limit was computed
		r.limit.Store(0)
		return
	}
	if head < limit && r.waiting.Load() > 0 {
		r.mu.Lock()
		close(r.opened)
		r.opened = make(chan struct{})
		r.mu.Unlock()
	}
}

// close refuses all who wait and all who come.
func (r *door) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.isClosed.Load() {
		r.isClosed.Store(true)
		r.limit.Store(0) // after isClosed, see setLimit
		close(r.closing)
	}
}
