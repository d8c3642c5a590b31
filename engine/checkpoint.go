package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
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
	// parked says that its parked list has changed: that is durable with the next save.
	parked atomic.Bool

	// owner: turn
	h     *dispatch.Handler[Event] // nil until Add has returned, and once it has ended
	ended bool
	left  Position // where it was when it left last
	saved Position // what the backend has, as far as is known
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
// Once the handler is there, joined is to be called with it.
func (c *checkpoints) keep(config *handlerConfig, start Position) *keptHandler {
	k := &keptHandler{name: config.Name}
	afresh := config.afresh
	config.Resume = func() (uint64, bool, error) {
		pos, err := c.begin(k, start, afresh)
		return uint64(pos), true, err
	}
	config.Checkpoint = func(pos uint64) { c.report(c.leave(k, Position(pos))) }
	config.Ended = func() { c.end(k) }
	if c.runs {
		config.Progress = c.progress
	}
	return k
}

// joined tells where the handler's position is to be found.
func (c *checkpoints) joined(k *keptHandler, h *dispatch.Handler[Event]) {
	if c.take(c.eng.ctx) != nil {
		return // shutdown has run out of time
	}
	defer c.give()
	if !k.ended {
		k.h = h
	}
}

// begin returns where a handler begins: where one of its name has stood, or at start. That
// is stored at once then: after a crash it must not begin later, nor, if the checkpoint is
// ignored, where the other one was. An earlier handler of the name is gone by now.
func (c *checkpoints) begin(k *keptHandler, start Position, afresh bool) (pos Position, err error) {
	if c.take(c.eng.ctx) != nil {
		return 0, ErrClosed
	}
	defer c.give()
	defer recovered(&err, "load checkpoint")
	found := false
	if !afresh {
		if pos, found, err = c.eng.backend.LoadCheckpoint(c.eng.ctx, k.name); err != nil {
			return 0, err
		}
	}
	if !found {
		pos = start
		if err := c.eng.backend.SaveCheckpoints(c.eng.ctx, []Checkpoint{{k.name, pos}}); err != nil {
			return 0, err
		}
	}
	k.saved, k.left = pos, pos
	if old := c.kept[k.name]; old != nil && found {
		k.left = max(pos, old.left) // which could not be stored yet
	}
	c.kept[k.name] = k
	return k.left, nil
}

// leave stores where a handler stands that has paused, stopped or ended. It runs in the
// handler's goroutine, after its last call. During a shutdown it is left to finish, which stores
// all in one batch.
func (c *checkpoints) leave(k *keptHandler, pos Position) error {
	if c.take(c.eng.ctx) != nil {
		return nil // shutdown has run out of time: finish asks the handler itself
	}
	defer c.give()
	k.left = pos
	if c.eng.gate.sealed() || c.kept[k.name] != k {
		return nil
	}
	err := c.saveTurn(context.WithoutCancel(c.eng.ctx), k)
	if err != nil && c.runs {
		c.progress() // it is tried again, although the handler may not move any more
	}
	return err
}

// end lets go of a handler that has ended, unless it is yet to be stored where it stands.
func (c *checkpoints) end(k *keptHandler) {
	if c.take(c.eng.ctx) != nil {
		return
	}
	defer c.give()
	k.h, k.ended = nil, true
	if c.kept[k.name] == k && k.left <= k.saved && !k.parked.Load() {
		delete(c.kept, k.name)
	}
}

// parkedChanged is called when a handler's parked list has changed in the backend.
func (c *checkpoints) parkedChanged(k *keptHandler) {
	if c.runs {
		k.parked.Store(true)
		c.progress()
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
	err := c.saveAll(ctx)
	c.report(err)
	return err
}

func (c *checkpoints) saveAll(ctx context.Context) error {
	if err := c.take(ctx); err != nil {
		return err
	}
	defer c.give()
	c.moved.Store(false) // first: who moves from here on says so again
	return c.saveTurn(ctx, slices.Collect(maps.Values(c.kept))...)
}

// saveTurn stores the positions of those handlers, in one call, that have moved or whose
// parked lists have changed. Those that have ended are forgotten then. REQUIRES: turn.
func (c *checkpoints) saveTurn(ctx context.Context, handlers ...*keptHandler) (err error) {
	var list []Checkpoint
	var moved []*keptHandler
	for _, k := range handlers {
		pos := k.left
		if k.h != nil {
			pos = max(pos, Position(k.h.Position()))
		}
		if k.parked.Swap(false) || pos > k.saved { // swapped first: what changes from here on says so again
			list, moved = append(list, Checkpoint{k.name, pos}), append(moved, k)
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := c.store(ctx, slices.Clone(list)); err != nil {
		for _, k := range moved {
			k.parked.Store(true) // if it has not, one save too many
		}
		return fmt.Errorf("save checkpoints of %d handlers: %w", len(list), err)
	}
	for i, k := range moved {
		k.saved = list[i].Position
		if k.ended {
			delete(c.kept, k.name)
		}
	}
	return nil
}

// store guards against a backend that panics.
func (c *checkpoints) store(ctx context.Context, list []Checkpoint) (err error) {
	defer recovered(&err, "save checkpoints")
	return c.eng.backend.SaveCheckpoints(ctx, list)
}

// report logs a failure: those who could be told it are handlers and the goroutine. It is
// called without the turn, for a logger may call the engine.
func (c *checkpoints) report(err error) {
	if err != nil {
		c.failed.Add(1)
		c.eng.opts.Logger.Error("weir: checkpoints not saved", "err", err)
	}
}

// finish stores, in one batch, where all handlers stand once they have left, and ends the
// goroutine. A handler in a call that does not return stands before that event.
func (c *checkpoints) finish(ctx context.Context) error {
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
