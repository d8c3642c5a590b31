package engine

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/weirstore/weir/dispatch"
)

// checkpoints stores the positions of named handlers: while they move, when they leave, and
// at the end. All saves of an engine go through it, one at a time, so that none can overtake
// a newer one, nor be that of a handler whose name another has meanwhile.
type checkpoints struct {
	eng *Engine
	// turn has room for one token: who has it may call the backend, and owns the fields that
	// say so. A mutex would be held across a call that blocks.
	turn chan struct{}
	// kept are the handlers by name, from their registration on. owner: turn
	kept map[string]*keptHandler

	// What follows is for the goroutine, if there is one: only backends that outlive the
	// process need checkpoints before a handler leaves.
	runs   bool
	moved  atomic.Bool   // a save is due, and the goroutine was told
	due    chan struct{} // cap 1: moved was set
	quit   chan struct{}
	failed atomic.Uint64 // saves that failed
}

// keptHandler is a named handler of this engine: one registration, not one name.
type keptHandler struct {
	name string
	h    *dispatch.Handler[Event] // nil until Add has returned. owner: turn
	left Position                 // where it was when it left last. owner: turn
	// saved is what the backend has, as far as is known. owner: turn
	saved Position
}

func newCheckpoints(e *Engine) *checkpoints {
	c := &checkpoints{
		eng:  e,
		turn: make(chan struct{}, 1),
		kept: make(map[string]*keptHandler),
		due:  make(chan struct{}, 1),
		quit: make(chan struct{}),
	}
	if caps := e.backend.Caps(); caps.Durable || caps.Reopen {
		c.runs = e.group.Go("checkpointer", "", c.run)
	}
	return c
}

// take waits for the turn.
func (c *checkpoints) take(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *checkpoints) give() { <-c.turn }

// keep makes a named handler's checkpoint follow it: it fills in what the handler calls.
// Once the handler is there, the function that it returns is to be called with it.
func (c *checkpoints) keep(config *handlerConfig, start Position) (joined func(*dispatch.Handler[Event])) {
	k := &keptHandler{name: config.Name}
	afresh := config.afresh
	config.Resume = func() (uint64, bool, error) {
		pos, err := c.begin(k, start, afresh)
		return uint64(pos), true, err
	}
	config.Checkpoint = func(pos uint64) { c.leave(k, Position(pos)) }
	if c.runs {
		config.Progress = c.progress
	}
	return func(h *dispatch.Handler[Event]) {
		c.turn <- struct{}{}
		defer c.give()
		k.h = h
	}
}

// begin returns where a handler begins: where one of its name has stood, or at start. That
// is stored at once then: after a crash it must not begin later, nor, if the checkpoint is
// ignored, where the other one was. An earlier handler of the name is gone by now.
func (c *checkpoints) begin(k *keptHandler, start Position, afresh bool) (pos Position, err error) {
	c.turn <- struct{}{}
	defer c.give()
	defer recovered(&err, "load checkpoint")
	c.kept[k.name] = k
	found := false
	if !afresh {
		if pos, found, err = c.eng.backend.LoadCheckpoint(c.eng.ctx, k.name); err != nil {
			return 0, err
		}
	}
	if !found {
		pos = start
		err = c.eng.backend.SaveCheckpoints(c.eng.ctx, []Checkpoint{{k.name, pos}})
	}
	k.saved, k.left = pos, pos
	return pos, err
}

// leave stores where a handler stands that has paused, stopped or ended. It runs in the
// handler's goroutine, after its last call. During a shutdown it is left to end, which stores
// all in one batch.
func (c *checkpoints) leave(k *keptHandler, pos Position) {
	c.turn <- struct{}{}
	defer c.give()
	k.left = pos
	if c.eng.gate.sealed() || c.kept[k.name] != k {
		return
	}
	if pos > k.saved {
		c.report(c.saveTurn(context.WithoutCancel(c.eng.ctx), k))
	}
}

// progress is called by handlers after each turn.
func (c *checkpoints) progress() {
	if c.moved.Load() || !c.moved.CompareAndSwap(false, true) {
		return
	}
	select {
	case c.due <- struct{}{}:
	default: // the goroutine is at it, after a save that failed
	}
}

// run is the checkpointer's goroutine. It sleeps while nothing moves; the first progress
// begins the time after which everything that has moved since is stored.
func (c *checkpoints) run() {
	for {
		select {
		case <-c.due:
		case <-c.quit:
			return
		}
		for wait := c.eng.opts.CheckpointEvery; ; wait = min(2*wait, max(wait, time.Minute)) {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-c.quit:
				timer.Stop()
				return
			}
			if c.save(c.eng.ctx) == nil || c.eng.ctx.Err() != nil {
				break
			}
		}
	}
}

// save stores the positions of all handlers that have moved.
func (c *checkpoints) save(ctx context.Context) error {
	if err := c.take(ctx); err != nil {
		return err
	}
	defer c.give()
	c.moved.Store(false) // first: who moves from here on says so again
	err := c.saveTurn(ctx, nil)
	c.report(err)
	return err
}

// saveTurn stores the position of one handler, or of all with nil, in one call, if it has
// moved. One that is gone is forgotten once it is stored. REQUIRES: turn.
func (c *checkpoints) saveTurn(ctx context.Context, one *keptHandler) (err error) {
	defer recovered(&err, "save checkpoints")
	var list []Checkpoint
	look := func(k *keptHandler) {
		pos := k.left
		if k.h != nil {
			pos = max(pos, Position(k.h.Position()))
		}
		switch {
		case pos > k.saved:
			list = append(list, Checkpoint{k.name, pos})
		case k.isGone():
			delete(c.kept, k.name)
		}
	}
	if one != nil {
		look(one)
	} else {
		for _, k := range c.kept {
			look(k)
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := c.eng.backend.SaveCheckpoints(ctx, list); err != nil {
		return fmt.Errorf("save checkpoints of %d handlers: %w", len(list), err)
	}
	for _, saved := range list {
		if k := c.kept[saved.Handler]; k != nil {
			k.saved = saved.Position
		}
	}
	return nil
}

func (k *keptHandler) isGone() bool {
	if k.h == nil {
		return false
	}
	select {
	case <-k.h.Gone():
		return true
	default:
		return false
	}
}

// report logs a failure: those who could be told it are handlers and the goroutine.
func (c *checkpoints) report(err error) {
	if err != nil {
		c.failed.Add(1)
		c.eng.opts.Logger.Error("weir: checkpoints not saved", "err", err)
	}
}

// end stores, in one batch, where all handlers stand once they have left, and ends the
// goroutine. A handler in a call that does not return stands before that event.
func (c *checkpoints) end(ctx context.Context) error {
	close(c.quit)
	saved := make(chan error, 1)
	if !c.eng.group.Go("checkpoints", "", func() { saved <- c.save(ctx) }) {
		return ErrClosed
	}
	select {
	case err := <-saved:
		return err
	case <-ctx.Done():
		return fmt.Errorf("save checkpoints: %w", context.Cause(ctx)) // the backend does not heed ctx
	}
}
