package actor

import (
	"context"
	"sync/atomic"
)

// Mailbox is a bounded channel with many senders and one owner, and a gate that
// counts the messages accepted and not yet handled. The gate is what makes closing
// safe: the channel is closed by whoever proves, with one compare-and-swap, that
// the count is zero and that no sender can raise it any more. It costs one atomic
// operation a message on either side; a select on a done channel, the usual way,
// costs ten times that (docs/bench).
//
// Send may be called by anyone; Receive and Handled by the owner alone.
type Mailbox[M any] struct {
	ch   chan M
	gate atomic.Uint64
}

// The gate word: flags in the lowest bits, the count above them.
const (
	gateClosed  uint64 = 1 << 0 // nothing is accepted any more
	gateFinal   uint64 = 1 << 1 // …for good: not merely given up while idle
	gateDiscard uint64 = 1 << 2 // the owner drops what it has not begun
	gateOne     uint64 = 1 << 3 // one message accepted and not yet handled
)

// NewMailbox returns an open mailbox for up to capacity waiting messages (at least 1).
func NewMailbox[M any](capacity int) *Mailbox[M] {
	return &Mailbox[M]{ch: make(chan M, max(capacity, 1))}
}

// Send gives m to the owner. When the mailbox is full it blocks until there is
// room or ctx is done, whose cause it then returns; otherwise ctx is not looked at.
// It returns [ErrStopped] when the mailbox is closed. After any error m was not
// accepted.
func (b *Mailbox[M]) Send(ctx context.Context, m M) error {
	if err := b.enter(); err != nil {
		return err
	}
	// Try first: a select with a second case costs five plain sends.
	select {
	case b.ch <- m:
		return nil
	default:
	}
	return b.wait(ctx, m)
}

// wait waits for room, which is counted.
func (b *Mailbox[M]) wait(ctx context.Context, m M) error {
	sent := false
	defer func() {
		if !sent { // or ctx, which is the caller's code, has panicked
			b.leave(1)
		}
	}()
	select {
	case b.ch <- m:
		sent = true
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// enter counts one message in, unless the mailbox is closed. It is a
// compare-and-swap loop and not an add that is taken back: after closing, the
// count must fall only, so that it reaches zero once.
func (b *Mailbox[M]) enter() error {
	for {
		g := b.gate.Load()
		switch {
		case g&gateFinal != 0:
			return ErrStopped
		case g&gateClosed != 0:
			return errRetired
		case b.gate.CompareAndSwap(g, g+gateOne):
			return nil
		}
	}
}

// leave counts n messages out. Who brings the count of a closed mailbox to zero
// closes the channel: nobody else can be sending, and the owner is to be told.
func (b *Mailbox[M]) leave(n int) {
	g := b.gate.Add(-uint64(n) * gateOne)
	if g&gateClosed != 0 && g < gateOne {
		close(b.ch)
	}
}

// Receive blocks until there is a message and appends up to cap(buf)-len(buf) of
// those that wait to buf, without blocking for more. It returns false, and buf as
// it was, once the mailbox is closed and everything accepted was received.
func (b *Mailbox[M]) Receive(buf []M) ([]M, bool) {
	m, ok := <-b.ch
	if !ok {
		return buf, false
	}
	return b.more(append(buf, m)), true
}

// TryReceive is Receive without blocking: it may return buf as it was, and true.
func (b *Mailbox[M]) TryReceive(buf []M) ([]M, bool) {
	select {
	case m, ok := <-b.ch:
		if !ok {
			return buf, false
		}
		return b.more(append(buf, m)), true
	default:
		return buf, true
	}
}

func (b *Mailbox[M]) more(buf []M) []M {
	for len(buf) < cap(buf) {
		select {
		case m, ok := <-b.ch:
			if !ok {
				return buf // the next Receive says so
			}
			buf = append(buf, m)
		default:
			return buf
		}
	}
	return buf
}

// Handled tells that the owner is done with n of the messages it received.
func (b *Mailbox[M]) Handled(n int) {
	if n > 0 { // or the count of a closed mailbox would reach zero twice
		b.leave(n)
	}
}

// Close accepts nothing more. What was accepted, blocked senders included, is
// still received; then Receive returns false.
func (b *Mailbox[M]) Close() { b.finish(gateFinal) }

// finish closes the mailbox for good and reports whether it did, now or before. It
// does nothing to a retired mailbox: that one may already have a successor.
func (b *Mailbox[M]) finish(flags uint64) bool {
	for {
		g := b.gate.Load()
		if g&(gateClosed|gateFinal) == gateClosed {
			return false
		}
		if !b.gate.CompareAndSwap(g, g|gateClosed|flags) {
			continue
		}
		if g&gateClosed == 0 && g < gateOne {
			close(b.ch) // nobody can be sending, and the last leave is over
		}
		return true
	}
}

// retire closes the mailbox if nothing is accepted and not yet handled, and
// reports whether it did. Whoever succeeds knows that the owner has finished its
// last turn and will touch nothing more, so another goroutine may become the owner.
func (b *Mailbox[M]) retire() bool {
	g := b.gate.Load()
	if g != 0 || !b.gate.CompareAndSwap(0, gateClosed) {
		return false
	}
	close(b.ch)
	return true
}

// open reports whether the owner has, or may yet get, something to do.
func (b *Mailbox[M]) open() bool {
	g := b.gate.Load()
	return g&gateClosed == 0 || g >= gateOne
}

// Len returns how many messages were accepted and are not yet handled.
func (b *Mailbox[M]) Len() int { return int(b.gate.Load() / gateOne) }

// Cap returns how many messages may wait without blocking their senders.
func (b *Mailbox[M]) Cap() int { return cap(b.ch) }
