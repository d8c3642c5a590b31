package engine

import (
	"sync/atomic"
	"time"
)

// clock gives wall-clock times that never go back. Within a second it counts on with
// the monotonic clock alone, at half the price.
type clock struct {
	base atomic.Pointer[clockBase]
	last int64 // guarded by whoever calls later
}

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

// later returns what now has returned, or, if that is before what later has returned, the latter.
func (c *clock) later(now int64) int64 {
	c.last = max(c.last, now)
	return c.last
}
