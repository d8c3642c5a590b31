package dispatch

import (
	"sync"
	"sync/atomic"

	"github.com/weirstore/weir/actor"
)

// mailbox is the bounded window of events given to one handler and not yet handled.
// It holds no events: only the range of the log that the handler has yet to read,
// and counts. The dispatcher widens the range at its end, the handler shortens it
// at its beginning.
type mailbox struct {
	window uint64 // events; immutable

	// sig parks the handler's goroutine while there is nothing to do.
	sig *actor.Signal

	mu   sync.Mutex // pure memory work
	from uint64     // everything at or before from is handled or does not concern the handler
	to   uint64     // the last position offered; the range is from < position ≤ to
	join uint64     // events at or before join were in the log when the handler joined: not counted

	// offered is written by the dispatcher, taken by the handler, both under mu.
	// Others read them, taken first, to learn the fill.
	offered atomic.Uint64
	taken   atomic.Uint64

	// mark is a position, and what was offered up to it. Once the range begins there, so
	// much is taken: an event that was removed after it was offered is never counted by the
	// handler, and would fill the mailbox for ever. Guarded by mu.
	mark struct{ pos, offered uint64 }
}

// fill returns how many events were offered and are not handled yet.
func (m *mailbox) fill() uint64 {
	taken := m.taken.Load() // first: offered is never behind it …
	offered := m.offered.Load()
	return offered - min(taken, offered) // … but after a reset in between
}

// reset starts a new membership: history (from, join] to read, nothing offered.
func (m *mailbox) reset(from, join uint64) {
	m.mu.Lock()
	m.from, m.to, m.join = from, join, join
	m.offered.Store(0)
	m.taken.Store(0)
	m.mark.pos, m.mark.offered = 0, 0
	m.mu.Unlock()
}

// offer gives n more events, of which first is the position of the first and last
// that of the last. Called by the dispatcher.
func (m *mailbox) offer(first, last, n uint64) {
	m.mu.Lock()
	if m.from >= m.to {
		m.from = first - 1 // what lies between does not concern the handler
	}
	m.to = last
	m.offered.Store(m.offered.Load() + n)
	m.mu.Unlock()
	m.sig.Wake()
}

// next returns the range to read; empty if from == to.
func (m *mailbox) next() (from, to uint64) {
	m.mu.Lock()
	from, to = m.from, max(m.from, m.to)
	m.mu.Unlock()
	return from, to
}

// handled moves the range's beginning to upTo, n counted events later. Whatever the
// handler has counted, with an empty range everything is taken.
func (m *mailbox) handled(upTo, n uint64) {
	m.mu.Lock()
	m.from = max(m.from, upTo)
	taken := m.taken.Load() + n
	if m.from >= m.mark.pos {
		taken = max(taken, m.mark.offered)
		m.mark.pos, m.mark.offered = m.to, m.offered.Load()
	}
	if m.from >= m.to {
		taken = m.offered.Load()
	}
	m.taken.Store(taken)
	m.mu.Unlock()
}

// overflow returns the newest offered position and how many events were offered by
// then, for skip.
func (m *mailbox) overflow() (last, offered uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.to, m.offered.Load()
}

// skip drops what was offered at the moment of overflow, but for its last event.
func (m *mailbox) skip(last, offered uint64) {
	m.mu.Lock()
	m.from = max(m.from, last-1)
	m.taken.Store(offered - 1)
	m.mu.Unlock()
}

// joined returns the position that the log was told up to when the handler joined.
func (m *mailbox) joined() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.join
}

// start returns the position that the range follows, and whether the range is empty.
func (m *mailbox) start() (from uint64, empty bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.from, m.from >= m.to
}

// empty reports whether nothing is left to read.
func (m *mailbox) empty() bool {
	_, empty := m.start()
	return empty
}

// history returns how many positions of what was in the log when the handler joined
// are still before it. While there are any, the handler blocks nobody.
func (m *mailbox) history() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.join - min(m.from, m.join)
}
