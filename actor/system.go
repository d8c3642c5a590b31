package actor

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what the actors of one [System] share. It is copied.
type Config[M any] struct {
	// Group starts the owner goroutines and the passivator. Required.
	Group *Group
	// Kind names the actors' goroutines in [Group.Running]: "stream" for example.
	Kind string
	// Mailbox is the capacity of each actor's channel, in messages. Default 64: more
	// buys nothing measurable, and costs 8 bytes each while the actor is active.
	Mailbox int
	// Batch is the most messages in one Receive. Default 64.
	Batch int
	// Idle is how long an actor keeps its goroutine without a message; it goes
	// between Idle and 1.25×Idle. Default 1s.
	Idle time.Duration
	// Linger is how many active actors may keep an idle goroutine at all. While more
	// are active, a goroutine ends as soon as its mailbox is empty. Default 16,384
	// (about 60 MB).
	Linger int
	// Lend says that actors are borrowed, see [Actor.Borrow]: an owner goroutine then ends when
	// nothing waits for it, so that senders can borrow the actor again.
	Lend bool
	// Prompt says that borrowers are done in less than a microsecond or so: who finds an actor
	// borrowed then waits awake for a moment.
	Prompt bool
	// Discard is called, in an owner goroutine, with each message that was accepted
	// and not handled: the error is [ErrStopped] after Stop, or a [*PanicError] when
	// the Receive that had it panicked. Whoever waits for an answer is told here.
	// Required. It must not panic.
	Discard func(m M, err error)
}

// System runs the actors of one kind: it starts their goroutines, takes them back
// when idle, and ends them all.
type System[M any] struct {
	cfg   Config[M]
	count atomic.Int64 // activations alive

	// lent stands in Actor.active while it is borrowed. Its mailbox is closed.
	lent    *activation[M]
	refused atomic.Bool // stopping is not zero: lend nothing more

	tick atomic.Int64 // the wheel's clock, in ticks; written by the passivator under mu

	mu       sync.Mutex // pure memory work, and the start of goroutines
	alive    map[*activation[M]]struct{}
	stopping uint64                  // gate flags for all; 0 while running
	ended    chan struct{}           // closed when stopping and no owner goroutine is left
	over     bool                    // ended is closed
	wheel    [slots][]*activation[M] // by the tick at which to look, modulo slots
	watching int                     // activations in the wheel

	passivator *Signal // wakes the passivator goroutine: something to watch, or the end
	quit       chan struct{}
}

// A tick is Idle/idleTicks. An activation is looked at when the ticks of Idle, and the
// one that had begun already, have passed since it was last used, and put ahead again if
// it was used meanwhile: one look per idle period whatever the traffic, and no timer an actor.
const (
	idleTicks = 4
	slots     = 8 // more than an activation is ever put ahead
)

// NewSystem returns a system without actors. It panics if Group or Discard is missing.
func NewSystem[M any](cfg Config[M]) *System[M] {
	if cfg.Group == nil || cfg.Discard == nil {
		panic(fmt.Sprintf("actor: NewSystem %q: Config.Group and Config.Discard are required", cfg.Kind))
	}
	cfg.Mailbox = orDefault(cfg.Mailbox, 64)
	cfg.Batch = orDefault(cfg.Batch, 64)
	cfg.Idle = orDefault(cfg.Idle, time.Second)
	cfg.Linger = orDefault(cfg.Linger, 16<<10)
	s := &System[M]{
		cfg:        cfg,
		alive:      make(map[*activation[M]]struct{}),
		ended:      make(chan struct{}),
		passivator: NewSignal(),
		quit:       make(chan struct{}),
		lent:       &activation[M]{box: NewMailbox[M](1)},
	}
	s.lent.box.retire()
	cfg.Group.Go(cfg.Kind+" passivator", "", s.runPassivator)
	return s
}

func orDefault[N int | time.Duration](n, standard N) N {
	if n <= 0 {
		return standard
	}
	return n
}

// New returns a passive actor.
func (s *System[M]) New(name string, recv Receiver[M]) *Actor[M] {
	a := new(Actor[M])
	s.Init(a, name, recv)
	return a
}

// Init makes a, which must be zero, an actor of s: New for actors embedded in
// another struct.
func (s *System[M]) Init(a *Actor[M], name string, recv Receiver[M]) {
	a.sys, a.name, a.recv = s, name, recv
}

// Active returns how many actors have an owner goroutine.
func (s *System[M]) Active() int { return int(s.count.Load()) }

// Drain makes every actor accept nothing more and finish what it has accepted. The
// channel it returns is closed when all owner goroutines have returned. It does not know who has borrowed
// an actor that nobody else has sent to: nothing more is lent, and who has borrowed gives back.
func (s *System[M]) Drain() <-chan struct{} { return s.endAll(gateFinal) }

// Stop makes every actor accept nothing more and discard what it has not begun. The
// channel it returns is closed when all owner goroutines have returned.
func (s *System[M]) Stop() <-chan struct{} { return s.endAll(gateFinal | gateDiscard) }

func (s *System[M]) endAll(flags uint64) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.stopping == 0
	s.stopping |= flags
	s.refused.Store(true)
	for act := range s.alive {
		act.box.finish(flags)
	}
	if first {
		close(s.quit)
		s.endedLocked()
	}
	return s.ended
}

// endedLocked closes ended once no owner goroutine is left.
func (s *System[M]) endedLocked() {
	if s.stopping != 0 && !s.over && len(s.alive) == 0 {
		s.over = true
		close(s.ended)
	}
}

// activate gives a an activation in place of old, unless somebody was faster. If the
// actor is borrowed, the goroutine is started when it is given back.
func (s *System[M]) activate(a *Actor[M], old *activation[M]) error {
	s.mu.Lock()
	now := a.active.Load()
	if now != old && now != nil {
		s.mu.Unlock()
		return nil
	}
	if s.stopping != 0 {
		s.mu.Unlock()
		return ErrStopped
	}
	act := &activation[M]{box: NewMailbox[M](s.cfg.Mailbox), actor: a}
	act.used.Store(s.tick.Load())
	// Not in the wheel before it has a goroutine: the passivator would give it up, and a
	// successor be started beside the borrower. Its owner puts it there.
	if !a.active.CompareAndSwap(now, act) {
		s.mu.Unlock()
		return nil // lent, or given back
	}
	s.alive[act] = struct{}{}
	s.count.Add(1)
	s.mu.Unlock()
	if now != s.lent {
		s.launch(act)
	}
	return nil
}

// launch starts the owner goroutine of an activation.
func (s *System[M]) launch(act *activation[M]) {
	if !s.cfg.Group.Go(s.cfg.Kind, act.actor.name, act.run) {
		// The group is closed, which its owner should not do before the system is stopped.
		act.box.finish(gateFinal | gateDiscard)
		act.run()
	}
}

// restart gives act a new goroutine after Goexit took the one it had.
func (s *System[M]) restart(act *activation[M]) { s.launch(act) }

// exit is the last thing that an owner goroutine does.
func (s *System[M]) exit(act *activation[M]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if act.box.gate.Load()&gateFinal == 0 { // or it stays, to refuse whoever sends
		act.actor.active.CompareAndSwap(act, nil) // unless it has a successor
	}
	delete(s.alive, act)
	s.count.Add(-1)
	act.exited = true
	if act.gone != nil {
		close(act.gone)
	}
	s.endedLocked()
}

// end ends one actor for good.
func (s *System[M]) end(a *Actor[M], flags uint64) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		act := a.active.Load()
		if act != nil && act.box.finish(flags) {
			return act.goneLocked()
		}
		// Passive, being given up, or borrowed. A tomb refuses whoever comes.
		tomb := &activation[M]{box: NewMailbox[M](1), actor: a}
		tomb.box.finish(gateFinal)
		if !a.active.CompareAndSwap(act, tomb) {
			continue // lent, or given back
		}
		switch {
		case act == s.lent: // the borrower starts the tomb's goroutine, which ends at once
			s.alive[tomb] = struct{}{}
			s.count.Add(1)
		case act == nil || act.exited:
			tomb.exited = true
		default:
			tomb.gone = act.goneLocked()
		}
		return tomb.goneLocked()
	}
}

func (act *activation[M]) goneLocked() chan struct{} {
	if act.gone == nil {
		act.gone = make(chan struct{})
		if act.exited {
			close(act.gone)
		}
	}
	return act.gone
}

// watch puts an activation (back) into the wheel. Called by its owner.
func (s *System[M]) watch(act *activation[M]) {
	s.mu.Lock()
	s.watchLocked(act, act.used.Load()+idleTicks+1)
	s.mu.Unlock()
}

func (s *System[M]) watchLocked(act *activation[M], due int64) {
	act.watched.Store(true)
	slot := &s.wheel[max(due, s.tick.Load()+1)%slots]
	*slot = append(*slot, act)
	if s.watching++; s.watching == 1 {
		s.passivator.Wake()
	}
}

// runPassivator is the passivator goroutine: the clock of the idle. It sleeps
// without a timer while there is nothing to watch, so that an engine at rest costs
// nothing and a test under synctest sees a deadlock as one.
func (s *System[M]) runPassivator() {
	tick := time.NewTimer(s.cfg.Idle)
	defer tick.Stop()
	for {
		s.passivator.Arm()
		s.mu.Lock()
		idle := s.watching == 0
		s.mu.Unlock()
		if idle {
			select {
			case <-s.passivator.C():
			case <-s.quit:
				return
			}
		} else {
			s.passivator.Disarm()
		}
		tick.Reset(max(s.cfg.Idle/idleTicks, 1))
		select {
		case <-tick.C:
			s.turnWheel()
		case <-s.quit:
			return
		}
	}
}

// turnWheel moves the wheel on by one tick and retires who is due and was not used since
// it was put there.
func (s *System[M]) turnWheel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.tick.Add(1)
	slot := &s.wheel[now%slots]
	due := *slot
	*slot = nil
	s.watching -= len(due)
	for _, act := range due {
		if act.box.gate.Load()&gateClosed != 0 {
			continue
		}
		if at := act.used.Load() + idleTicks + 1; at > now {
			s.watchLocked(act, at) // used since
			continue
		}
		// A busy owner is not looked at again until it is about to park. The flag is
		// cleared before the gate is read: either retire succeeds, or the owner's turn
		// ends after the flag was cleared and the owner sees it.
		act.watched.Store(false)
		act.box.retire()
	}
}

// Wait blocks until every owner has returned after Drain or Stop, or ctx is done.
func (s *System[M]) Wait(ctx context.Context) error {
	select {
	case <-s.ended: // no matter whether ctx is done too
		return nil
	default:
	}
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("actor: %d %s actors still run: %w", s.Active(), s.cfg.Kind, context.Cause(ctx))
	}
}
