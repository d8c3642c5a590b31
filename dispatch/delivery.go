package dispatch

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirstore/weir/internal/stack"
)

// seat is a goroutine that calls a handler's function: its main goroutine or one of
// its workers. It is the part of them that does not depend on the event type.
type seat struct {
	handler string
	owner   *seats
	ctx     context.Context // the handler's; its Done is the last thing that shutdown touches

	// at is the position of the event being handled, or, between turns, of the first
	// that is not. Everything before it that this seat was given is handled.
	// Written by the seat's goroutine.
	at atomic.Uint64
	// failed is the position at which the last call failed, until it is called again: the
	// event is still the one at hand, but no call has it.
	failed atomic.Uint64
}

// Delivery is the context that a handler's function gets with one event. It costs
// 16 bytes, and an append made with it is known to come from inside the handler.
type Delivery struct {
	seat     *seat
	position uint64
}

type deliveryKey struct{}

var _ context.Context = (*Delivery)(nil)

func (d *Delivery) Deadline() (time.Time, bool) { return d.seat.ctx.Deadline() }
func (d *Delivery) Done() <-chan struct{}       { return d.seat.ctx.Done() }
func (d *Delivery) Err() error                  { return d.seat.ctx.Err() }

func (d *Delivery) Value(key any) any {
	if key == (deliveryKey{}) {
		return d
	}
	return d.seat.ctx.Value(key)
}

// Handler returns the name of the handler.
func (d *Delivery) Handler() string { return d.seat.handler }

// Position returns the position of the event.
func (d *Delivery) Position() uint64 { return d.position }

// Live reports whether the event is still being handled. A goroutine that outlives
// the call it was started in holds a context that is no longer live.
func (d *Delivery) Live() bool {
	return d.seat.at.Load() == d.position && d.seat.failed.Load() != d.position
}

// seats knows the seats of one dispatcher by their goroutine.
type seats struct {
	mu   sync.Mutex // pure memory work
	byID map[uint64]*seat
}

// enter registers the calling goroutine as s; the function it returns undoes that.
func (s *seats) enter(seat *seat) (leave func()) {
	id := goroutineID()
	s.mu.Lock()
	s.byID[id] = seat
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		delete(s.byID, id)
		s.mu.Unlock()
	}
}

// here returns the seat that the calling goroutine is, nil for outsiders. Of most of those the stack
// tells, whose look costs a third of what the goroutine's number does, and takes no lock of the runtime's.
func (s *seats) here() *seat {
	if !stack.Has(seatPC) { // it is a seat of no dispatcher
		return nil
	}
	id := goroutineID()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// seated runs what a seat does in its goroutine, and marks the stack: seatPC is found there.
//
//go:noinline
func seated(run func()) {
	run()
	runtime.KeepAlive(run) // a call that is the last one might be made a jump some day
}

// seatPC is where run returns to in seated.
var seatPC = func() (pc uintptr) {
	seated(func() { pc = stack.Return() })
	return pc
}()

// goroutineID parses the number out of the first line of the stack. It takes more than a
// microsecond, and is called where a goroutine starts or is about to block, to tell a
// handler that lost its context from an outsider: the one would wait for itself.
func goroutineID() uint64 {
	var buf [40]byte
	line := buf[:runtime.Stack(buf[:], false)]
	var id uint64
	for _, c := range line[len("goroutine "):] {
		if c < '0' || c > '9' {
			break
		}
		id = id*10 + uint64(c-'0')
	}
	return id
}
