package actor

import "sync/atomic"

// Signal wakes one goroutine, the waiter, from any number of others. [Signal.Wake]
// costs one atomic load when the waiter is not parked, which is what makes it
// cheap to call after every event; a channel send or a sync.Cond would be paid
// each time.
//
// The waiter calls Arm, then looks for work once more, and then calls either
// Disarm (there was some) or Wait. The order matters: parked is stored before the
// second look, so a waker either is seen by that look or sees the flag. The other
// order loses wake-ups (TestSignalLosesNoWakeup).
//
// Use NewSignal. One waiter, many wakers.
type Signal struct {
	parked atomic.Bool
	// wake holds at most one token: only the waker whose CAS un-parked the waiter
	// sends, and the waiter takes it before it can park again.
	wake chan struct{}
}

// NewSignal returns a Signal whose waiter is not parked.
func NewSignal() *Signal { return &Signal{wake: make(chan struct{}, 1)} }

// Arm announces that the waiter is about to park.
func (s *Signal) Arm() { s.parked.Store(true) }

// Disarm takes the announcement back. If a waker was faster its token is consumed,
// or the next Wait would return at once.
func (s *Signal) Disarm() {
	if !s.parked.CompareAndSwap(true, false) {
		<-s.wake
	}
}

// Wait blocks the armed waiter until Wake.
func (s *Signal) Wait() { <-s.wake }

// C is the channel on which the armed waiter is woken, for use in a select. If
// another case wins, the waiter must call Disarm.
func (s *Signal) C() <-chan struct{} { return s.wake }

// Wake un-parks the waiter if it is parked, reports whether it was, and never blocks.
func (s *Signal) Wake() bool {
	if s.parked.Load() && s.parked.CompareAndSwap(true, false) {
		s.wake <- struct{}{}
		return true
	}
	return false
}

// Parked reports whether the waiter is parked or about to be.
func (s *Signal) Parked() bool { return s.parked.Load() }
