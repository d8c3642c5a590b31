package dispatch

import (
	"context"
)

// calledInside reports whether the caller is a call of a handler of this dispatcher.
func (h *Handler[E]) calledInside(ctx context.Context) bool {
	if _, inside := h.d.Inside(ctx); inside {
		return true
	}
	return h.d.InsideGoroutine()
}

// Pause makes the handler handle nothing more until Resume, and blocks until the call
// that it is in has returned, or ctx is done. The log goes on; a paused handler blocks
// nobody. Called from inside a handler it does not wait. A handler that has stopped
// returns its [*StoppedError].
func (h *Handler[E]) Pause(ctx context.Context) error {
	if err := h.ended(); err != nil {
		return err
	}
	if !h.setWant(wantPause, nil) {
		return ErrRemoved
	}
	if h.calledInside(ctx) {
		return nil
	}
	return h.awaitState(ctx, wantPause)
}

// Resume makes a paused or stopped handler go on where it stood. It does not wait.
func (h *Handler[E]) Resume() error {
	if !h.setWant(wantRun, nil) {
		return ErrRemoved
	}
	return nil
}

// Remove ends the handler after the call that it is in, and frees its name. It blocks
// until then, or until ctx is done: the handler's context is then cancelled, and the
// handler ends when the call returns. Called from inside a handler it does not wait.
func (h *Handler[E]) Remove(ctx context.Context) error {
	h.setWant(wantEnd, nil)
	if h.calledInside(ctx) {
		return nil
	}
	select {
	case <-h.gone:
		return nil
	default:
	}
	select {
	case <-h.gone:
		return nil
	case <-ctx.Done():
		h.cancel(context.Cause(ctx))
		return context.Cause(ctx)
	}
}

// Gone returns a channel that is closed when the handler was removed and its function
// is no longer running.
func (h *Handler[E]) Gone() <-chan struct{} { return h.gone }

// awaitState waits until the main goroutine has become state, or never will because it
// was told something else.
func (h *Handler[E]) awaitState(ctx context.Context, state int32) error {
	for {
		h.mu.Lock()
		reached, changed := h.state == state || h.want.Load() != state, h.changed
		h.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ended returns why the handler will handle nothing more unless somebody acts.
func (h *Handler[E]) ended() error {
	switch h.want.Load() {
	case wantEnd:
		return ErrRemoved
	case wantStop:
		h.mu.Lock()
		err := h.stopErr
		h.mu.Unlock()
		return &StoppedError{Handler: h.cfg.Name, Position: h.Position(), Err: err}
	}
	return nil
}

// notRunning returns why the handler handles nothing now, nil if it does.
func (h *Handler[E]) notRunning() error {
	if h.want.Load() == wantPause {
		return ErrPaused
	}
	return h.ended()
}

// waiter is a call of Wait.
type waiter struct {
	pos  uint64
	done chan struct{} // closed when pos is reached or never will be
}

// Wait blocks until the handler has handled everything up to pos that concerns it. It
// returns ctx's cause when ctx is done first, a [*StoppedError] when the handler
// has stopped before pos, and [ErrRemoved] when it is removed. A paused handler is waited
// for. Called from inside a handler it returns [ErrInside]: handlers that wait for
// handlers could wait in a circle.
func (h *Handler[E]) Wait(ctx context.Context, pos uint64) error {
	if h.Position() >= pos {
		return nil
	}
	if h.calledInside(ctx) {
		return ErrInside
	}
	w := waiter{pos, make(chan struct{})}
	h.mu.Lock()
	h.waiters = append(h.waiters, w)
	h.mu.Unlock()
	// Counted before the second look: whoever makes progress from now on tells.
	h.d.waiting.Add(1)
	h.waiting.Add(1)
	defer func() {
		h.waiting.Add(-1)
		h.d.waiting.Add(-1)
	}()
	h.tellWaiters()
	select {
	case <-w.done:
	case <-ctx.Done():
		h.dropWaiter(w)
		return context.Cause(ctx)
	}
	if h.Position() >= pos {
		return nil
	}
	if err := h.ended(); err != nil {
		return err
	}
	return h.Wait(ctx, pos) // it stopped and was resumed
}

// tellWaiters wakes those whose position is reached, or all if there is no hope.
func (h *Handler[E]) tellWaiters() {
	if h.waiting.Load() == 0 {
		return
	}
	pos, hopeless := h.Position(), h.want.Load() >= wantStop
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := h.waiters[:0]
	for _, w := range h.waiters {
		if w.pos <= pos || hopeless {
			close(w.done)
		} else {
			kept = append(kept, w)
		}
	}
	clear(h.waiters[len(kept):])
	h.waiters = kept
}

func (h *Handler[E]) dropWaiter(w waiter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.waiters {
		if h.waiters[i].done == w.done {
			h.waiters[i] = h.waiters[len(h.waiters)-1]
			h.waiters = h.waiters[:len(h.waiters)-1]
			return
		}
	}
}
