package engine

import "time"

// clock gives wall-clock times that never go back. Within a second it counts on with
// the monotonic clock alone, at half the price (BenchmarkClock).
type clock struct {
	base time.Time
	last int64
}

func (c *clock) now() int64 {
	since := time.Since(c.base)
	if since > time.Second || c.base.IsZero() {
		c.base, since = time.Now(), 0
	}
	c.last = max(c.last, c.base.UnixNano()+int64(since))
	return c.last
}
