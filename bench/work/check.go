package work

import (
	"fmt"
	"sync/atomic"

	"github.com/weirstore/weir/bench/contender"
)

// checker sees the events that a handler or a reader gets. One goroutine at a time uses it.
type checker struct {
	last  []uint64 // by key: the Seq that was seen last
	total int      // how many events there will be
	n     int
	wrong string        // the first thing that was wrong
	done  chan struct{} // closed with the last event
	// progress is n now and then, for whoever gives up waiting.
	progress atomic.Int64
}

func newChecker(keys, total int) *checker {
	return &checker{last: make([]uint64, keys), total: total, done: make(chan struct{})}
}

func (c *checker) see(ev contender.Event) {
	switch {
	case ev.Key >= uint64(len(c.last)):
		c.fail("event of unknown key %d", ev.Key)
	case ev.Seq != c.last[ev.Key]+1:
		c.fail("key %d: event %d after %d", ev.Key, ev.Seq, c.last[ev.Key])
		c.last[ev.Key] = ev.Seq
	default:
		c.last[ev.Key]++
	}
	c.n++
	if c.n&1023 == 0 {
		c.progress.Store(int64(c.n))
	}
	if c.n == c.total {
		close(c.done)
	}
}

func (c *checker) fail(format string, args ...any) {
	if c.wrong == "" {
		c.wrong = fmt.Sprintf(format, args...)
	}
}

// verify says whether all was seen, once and in order. Nobody may be calling see any more.
func (c *checker) verify(what string) error {
	if c.wrong != "" {
		return fmt.Errorf("%s: %s", what, c.wrong)
	}
	if c.n != c.total {
		return fmt.Errorf("%s: %d of %d events", what, c.n, c.total)
	}
	return nil
}
