package weirtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weirstore/weir/engine"
)

// errDied is what everything returns once the process has died.
var errDied = errors.New("weirtest: the process has died")

// life is one process of a simulation: an engine, and the backend that it was opened on.
// What it stores is in the simulation's memory, which outlives it; once it is dead it can neither
// read nor write there.
type life struct {
	*engine.Memory
	sim    *Sim
	n      int
	engine *engine.Engine // set before ready
	err    error          // of opening it; set before ready
	ready  chan struct{}  // closed when it is set up, or cannot be
	died   chan struct{}  // closed when it is dead
	idle   chan struct{}  // closed when it is dead, and no wrapped function runs

	mu    sync.Mutex // guards what follows; after Sim.mu
	dead  bool
	calls int // of wrapped functions, under way
}

// begin makes the next life the newest. It is still to be opened.
func (s *Sim) begin() *life {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.beginLocked()
}

func (s *Sim) beginLocked() *life {
	l := &life{
		Memory: s.memory, sim: s, n: s.crashed + 1,
		ready: make(chan struct{}), died: make(chan struct{}), idle: make(chan struct{}),
	}
	s.life, s.sites, s.attempts = l, 0, make(map[string]int)
	return l
}

// newest returns the newest life, or nil before Open.
func (s *Sim) newest() *life {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life
}

// current returns the newest life, as soon as it is set up.
func (s *Sim) current() *life {
	l := s.newest()
	if l == nil {
		s.Fatalf("weirtest: Sim.Open was not called")
	}
	<-l.ready
	return l
}

// open opens the engine. Whatever happens in setup, those who wait for it go on.
func (l *life) open() {
	l.err = errors.New("setup has not returned")
	defer func() {
		if l.err != nil {
			l.sim.Errorf("weirtest: open engine %d: %v", l.n, l.err)
		}
		close(l.ready)
	}()
	defer l.sim.recovered("setup")
	l.engine, l.err = open(l, l.sim.setup)
}

func (l *life) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// crashLocked ends a life, and begins the next one. REQUIRES: s.mu.
func (s *Sim) crashLocked(l *life, where string) {
	if s.life != l {
		return // it is dead already
	}
	s.crashed++
	s.noteLocked("crash %d %s", s.crashed, where)
	l.mu.Lock()
	l.dead = true
	close(l.died)
	if l.calls == 0 {
		close(l.idle)
	}
	l.mu.Unlock()
	next := s.beginLocked()
	go func() {
		l.throwAway()
		next.open()
	}()
}

// throwAway ends what is left of a dead life: nothing of it may reach what comes after.
func (l *life) throwAway() {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errDied)
	_, _ = l.engine.Shutdown(ctx) // always an error: ctx is done
	<-l.idle
}

// point is a place where the process may die. It reports whether it is dead.
func (l *life) point(where string) bool {
	s := l.sim
	select {
	case <-l.ready: // not while it is set up
		s.mu.Lock()
		if !s.quiet && s.crashed < s.crashes && s.draw(fmt.Sprintf("crash %d %s", l.n, where)).IntN(16) == 0 {
			s.crashLocked(l, where)
		}
		s.mu.Unlock()
	default:
	}
	return l.isDead()
}

// alive calls fn, unless the process has died.
func (l *life) alive(fn func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return errDied
	}
	return fn()
}

// enter counts the call of a wrapped function in, unless the process has died.
func (l *life) enter() bool {
	return l.alive(func() error { l.calls++; return nil }) == nil
}

func (l *life) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls--; l.calls == 0 && l.dead {
		close(l.idle)
	}
}

// Caps implements [engine.Backend]. It is not Prompt: a commit takes time.
func (l *life) Caps() engine.Caps { return engine.Caps{Name: "simulation", Reopen: true} }

// Close leaves the memory to the next life.
func (l *life) Close() error { return nil }

// Commit takes its time before and after, and the process may die at both.
func (l *life) Commit(ctx context.Context, writes []*engine.Write) error {
	what := fmt.Sprintf("the commit of %s@%d", writes[0].Stream.Name, writes[0].After+1)
	l.pause("before " + what)
	if l.point("before " + what) {
		return errDied
	}
	if err := l.alive(func() error { return l.Memory.Commit(ctx, writes) }); err != nil {
		return err
	}
	l.pause("after " + what)
	if l.point("after " + what) {
		return fmt.Errorf("%w: %w", engine.ErrOutcomeUnknown, errDied)
	}
	return nil
}

func (l *life) pause(where string) {
	sleep(context.Background(), l.died, l.sim.upTo(fmt.Sprintf("%d %s", l.n, where), time.Millisecond))
}

// SaveCheckpoints is where the process may die with what handlers have done since.
func (l *life) SaveCheckpoints(ctx context.Context, checkpoints []engine.Checkpoint) error {
	if len(checkpoints) > 0 && l.point(fmt.Sprintf("before the checkpoint of %s at %d", checkpoints[0].Handler, checkpoints[0].Position)) {
		return errDied
	}
	return l.alive(func() error { return l.Memory.SaveCheckpoints(ctx, checkpoints) })
}

// What follows of [engine.Backend] and [engine.Retention] does nothing new but fail once the process
// has died.

func (l *life) Load(ctx context.Context, stream string) (state engine.StreamState, err error) {
	err = l.alive(func() (err error) { state, err = l.Memory.Load(ctx, stream); return err })
	return state, err
}

func (l *life) Types(after engine.Position, dst []engine.TypeID) (n int, err error) {
	err = l.alive(func() (err error) { n, err = l.Memory.Types(after, dst); return err })
	return n, err
}

func (l *life) ReadAll(ctx context.Context, q engine.Query, dst []engine.Event) (n int, next engine.Position, err error) {
	err = l.alive(func() (err error) { n, next, err = l.Memory.ReadAll(ctx, q, dst); return err })
	return n, next, err
}

func (l *life) ReadStream(ctx context.Context, stream engine.StreamState, q engine.StreamQuery, dst []engine.Event) (n int, next engine.Version, err error) {
	err = l.alive(func() (err error) { n, next, err = l.Memory.ReadStream(ctx, stream, q, dst); return err })
	return n, next, err
}

func (l *life) Park(ctx context.Context, handler string, parked engine.ParkedRecord) error {
	return l.alive(func() error { return l.Memory.Park(ctx, handler, parked) })
}

func (l *life) Unpark(ctx context.Context, handler string, pos engine.Position) error {
	return l.alive(func() error { return l.Memory.Unpark(ctx, handler, pos) })
}

func (l *life) Truncate(ctx context.Context, stream engine.StreamState, before engine.Version) error {
	return l.alive(func() error { return l.Memory.Truncate(ctx, stream, before) })
}

func (l *life) Delete(ctx context.Context, stream engine.StreamState) error {
	return l.alive(func() error { return l.Memory.Delete(ctx, stream) })
}

func (l *life) Compact(ctx context.Context, rules []engine.RetentionRule) (engine.Compaction, error) {
	if l.isDead() { // it may wait for another one, so not under the lock
		return engine.Compaction{}, errDied
	}
	return l.Memory.Compact(ctx, rules)
}
