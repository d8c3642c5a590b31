package engine

import (
	"sync/atomic"
	"time"
)

// clock reads the wall clock. Within a second it counts on with the monotonic clock alone, at half
// the price (BenchmarkClock).
type clock struct{ base atomic.Pointer[clockBase] }

// clockBase is what the wall clock said at some moment. It is replaced, never changed.
type clockBase struct {
	at time.Time
	ns int64 // at, as Unix time
}

// now reads the clock. What it returns may be before what another call has returned.
func (c *clock) now() int64 {
	if b := c.base.Load(); b != nil {
		if since := time.Since(b.at); since <= time.Second {
			return b.ns + int64(since)
		}
	}
	at := time.Now()
	b := &clockBase{at, at.UnixNano()}
	c.base.Store(b)
	return b.ns
}

// latest is the time of the newest event, in Unix ns.
type latest int64

// later returns now, or, if that is before what later has returned, the latter: times that were
// read in one order may be used in another.
func (l *latest) later(now int64) int64 {
	*l = max(*l, latest(now))
	return int64(*l)
}
