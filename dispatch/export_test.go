package dispatch

import (
	"hash/maphash"

	"github.com/weirstore/weir/actor"
)

// Waiters returns how many calls of Handler.Wait are counted.
func (d *Dispatcher[E]) Waiters() int { return int(d.waiting.Load()) }

// AtDoor returns how many producers wait.
func (d *Dispatcher[E]) AtDoor() int { return int(d.door.waiting.Load()) }

// Pulses returns how many workers the watchdog knows.
func (d *Dispatcher[E]) Pulses() int {
	d.watch.mu.Lock()
	defer d.watch.mu.Unlock()
	return len(d.watch.pulses)
}

// Seats returns how many goroutines are known as a handler's.
func (d *Dispatcher[E]) Seats() int {
	d.seats.mu.Lock()
	defer d.seats.mu.Unlock()
	return len(d.seats.byID)
}

// SpyOnWakes replaces the signal on which the handler's goroutine is parked by one that
// nobody waits for; woken tells whether somebody has tried to wake it since. To be
// called, like the undo that it returns, while everybody is blocked.
func (h *Handler[E]) SpyOnWakes() (woken func() bool, undo func()) {
	old, spy := h.mail.sig, actor.NewSignal()
	spy.Arm()
	h.mail.sig = spy
	return func() bool { return !spy.Parked() }, func() {
		h.mail.sig = old
		old.Wake()
	}
}

// Fill returns how many events are in the mailbox.
func (h *Handler[E]) Fill() int { return int(h.mail.fill()) }

// WorkerOf returns the index of the worker that has a key.
func (h *Handler[E]) WorkerOf(key string) int {
	return int(maphash.String(h.keyed.seed, key) % uint64(len(h.keyed.workers)))
}

// Remembered returns how many events were handled before their predecessors.
func (h *Handler[E]) Remembered() int {
	h.keyed.mu.Lock()
	defer h.keyed.mu.Unlock()
	return len(h.keyed.again)
}

// Mailbox is a handler's mailbox by itself.
type Mailbox struct{ mailbox }

func NewMailbox() *Mailbox { return &Mailbox{mailbox{window: 8, sig: actor.NewSignal()}} }

func (m *Mailbox) Reset(from, join uint64)     { m.reset(from, join) }
func (m *Mailbox) Offer(first, last, n uint64) { m.offer(first, last, n) }
func (m *Mailbox) Handled(upTo, n uint64)      { m.handled(upTo, n) }
func (m *Mailbox) Fill() uint64                { return m.fill() }

// Asleep reports whether the handler's goroutine sleeps, or is about to.
func (h *Handler[E]) Asleep() bool { return h.mail.sig.Parked() }

// Asleep reports whether the dispatcher's goroutine sleeps, or is about to.
func (d *Dispatcher[E]) Asleep() bool { return d.sig.Parked() }
