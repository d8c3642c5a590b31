package dispatch

import (
	"context"
)

// CloseDoor refuses producers from now on: those who wait in Admit and those who come
// get [ErrClosed]. New handlers are refused too. Handlers go on.
func (d *Dispatcher[E]) CloseDoor() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.door.close()
}

// Quiesce blocks until every live handler has handled everything up to the log's head,
// and settled, which is called then, agrees; or until ctx is done, whose cause it returns.
// A handler that is stopped or paused is not waited for. At most one call at a time.
func (d *Dispatcher[E]) Quiesce(ctx context.Context, settled func() bool) error {
	d.quiescing.Store(true)
	defer d.quiescing.Store(false)
	for {
		if d.quiet(settled) {
			return nil
		}
		select {
		case <-d.settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// quiet reports whether no live handler has anything before it, and settled agrees. The
// head is read before and after: everything up to it was offered before the handlers are
// looked at, and nothing came while they were, so an empty mailbox stays empty. Settled is
// called when no handler is in a call, for a call may leave something in flight behind.
func (d *Dispatcher[E]) quiet(settled func() bool) bool {
	head := d.log.Head()
	if d.done.Load() < head {
		return false
	}
	for _, h := range d.Handlers() {
		attached := h.attached.Load()
		if h.want.Load() != wantRun {
			if attached {
				return false // on its way out, perhaps in its last call
			}
			continue
		}
		if !attached || !h.mail.empty() || h.tasks.Load() > 0 {
			return false
		}
	}
	return settled() && d.log.Head() == head
}

// Recheck makes a running Quiesce look again.
func (d *Dispatcher[E]) Recheck() { d.tellQuiescer() }

func (d *Dispatcher[E]) tellQuiescer() {
	if !d.quiescing.Load() {
		return
	}
	select {
	case d.settled <- struct{}{}:
	default: // a token is there already: the next look is yet to come
	}
}

// Interrupt makes every handler return after the call that it is in, for good, and does
// not wait.
func (d *Dispatcher[E]) Interrupt() {
	for _, h := range d.Handlers() {
		h.setWant(wantEnd, nil)
	}
}

// Cancel cancels the context of every handler, with the given cause.
func (d *Dispatcher[E]) Cancel(cause error) { d.cancel(cause) }

// End makes every handler return after the call that it is in, and then the dispatcher.
// It waits for them until ctx is done, whose cause it then returns: a call that does not
// return keeps its goroutine, and nothing else.
func (d *Dispatcher[E]) End(ctx context.Context) (err error) {
	d.CloseDoor()
	handlers := d.Handlers()
	d.Interrupt()
	for _, h := range handlers {
		select {
		case <-h.gone:
			continue
		default:
		}
		select {
		case <-h.gone:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	d.mu.Lock()
	d.ending = true
	d.mu.Unlock()
	d.poke()
	d.watch.end()
	select {
	case <-d.ended:
	default:
		select {
		case <-d.ended:
		case <-ctx.Done(): // stuck in the log
			err = context.Cause(ctx)
		}
	}
	if err == nil {
		d.cancel(ErrClosed) // frees the context; nobody is left to see it
	}
	return err
}
