package actor

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync/atomic"
)

// ownTurns is how many turns an owner goroutine of an actor that is lent has at least. Then it ends
// when its mailbox is empty: what made it necessary, a borrower that lost its processor or was slow, is
// over by then, and borrowing serves many senders faster than a goroutine does that must be asked and
// has to wake each of them. Going from one mode to the other and back costs some 2 µs.
const ownTurns = 8

// Receiver is the state that an actor owns.
type Receiver[M any] interface {
	// Receive handles a batch of messages, in the order in which they were accepted.
	// It is called by the owner goroutine, one call at a time, so it may touch the
	// receiver's state without locks. It must not wait for its own actor. The slice
	// is the actor's again when Receive returns.
	Receive(batch []M)
}

// Actor is a receiver and the mailbox in front of it. It differs from a goroutine
// that ranges over a channel in that it costs none while nobody sends: the first
// message starts the owner goroutine, and an idle owner ends.
//
// Make it with [System.New], or embed it and call [System.Init]; it must not be copied.
type Actor[M any] struct {
	// active is the present activation: nil before the first message and after the owner
	// has gone, sys.lent while it is borrowed. Written under sys.mu, but for the steps from nil to
	// lent and back.
	active atomic.Pointer[activation[M]]
	sys    *System[M]
	name   string
	recv   Receiver[M]
}

// yields is how often an owner that has just had company lets other goroutines run
// before it parks. Without it the scheduler runs the woken owner at once and no
// batches form; unbounded spinning starves whom it waits for.
const yields = 4

// Send gives m to the owner, which it starts if need be. It blocks while the
// mailbox is full, until there is room or ctx is done; it does not wait for m to be
// handled. After an error ([ErrStopped], or ctx's cause) m was not accepted.
func (a *Actor[M]) Send(ctx context.Context, m M) error {
	for {
		act := a.active.Load()
		if act != nil {
			if err := act.box.Send(ctx, m); err != errRetired {
				return err
			}
		}
		if err := a.sys.activate(a, act); err != nil {
			return err
		}
	}
}

// Drain accepts nothing more and finishes what was accepted. The channel it returns
// is closed when the owner has returned. It may be called many times, from anywhere.
func (a *Actor[M]) Drain() <-chan struct{} { return a.sys.end(a, gateFinal) }

// Stop accepts nothing more and discards what the owner has not begun. The channel
// it returns is closed when the owner has returned: a Receive that runs is waited for.
func (a *Actor[M]) Stop() <-chan struct{} { return a.sys.end(a, gateFinal|gateDiscard) }

// Active reports whether the actor has an owner goroutine at this moment.
func (a *Actor[M]) Active() bool {
	act := a.active.Load()
	return act != nil && act.box.open()
}

// Len returns how many messages were accepted and are not yet handled.
func (a *Actor[M]) Len() int {
	if act := a.active.Load(); act != nil {
		return act.box.Len()
	}
	return 0
}

// Name returns the name given to New.
func (a *Actor[M]) Name() string { return a.name }

// activation is one life of an actor's owner goroutine.
type activation[M any] struct {
	box   *Mailbox[M]
	actor *Actor[M]

	batch []M // owner: the goroutine. The messages of the present turn.

	// watched says that the passivator has this activation in its wheel. Set by the
	// owner, cleared by the passivator, which then looks at the gate once more.
	watched atomic.Bool
	used    atomic.Int64 // the tick in which the owner's last turn ended

	gone   chan struct{} // guarded by sys.mu; made by end, closed when the owner has returned
	exited bool          // guarded by sys.mu
}

// run is the owner goroutine.
func (act *activation[M]) run() {
	returned := false
	defer func() {
		if !returned {
			// runtime.Goexit inside Receive: this goroutine cannot be saved, but its actor can.
			act.failed(&PanicError{Where: act.where(), Value: ErrGoexit})
			act.actor.sys.restart(act)
		}
	}()
	for act.runTurns() {
	}
	returned = true
	act.actor.sys.exit(act)
}

// runTurns receives and handles until the mailbox is closed and empty; it returns
// true when a panic ended a turn and the next is to be begun.
func (act *activation[M]) runTurns() (again bool) {
	defer func() {
		if v := recover(); v != nil {
			act.failed(&PanicError{Where: act.where(), Value: v, Stack: debug.Stack()})
			again = true
		}
	}()
	sys, box, last, turns := act.actor.sys, act.box, 0, 0
	if cap(act.batch) == 0 {
		act.batch = make([]M, 0, min(sys.cfg.Batch, 8)) // grown by the first turn that fills it
	}
	if !act.watched.Load() { // a turn that panicked took long
		sys.watch(act)
	}
	for {
		open := true
		for n := 0; last > 1 && n < yields && open && len(act.batch) == 0; n++ {
			runtime.Gosched()
			act.batch, open = box.TryReceive(act.batch)
		}
		if len(act.batch) == 0 {
			act.batch, open = box.Receive(act.batch)
		}
		if !open {
			return false
		}
		if box.gate.Load()&gateDiscard != 0 {
			for _, m := range act.batch {
				sys.cfg.Discard(m, ErrStopped)
			}
		} else {
			act.actor.recv.Receive(act.batch)
		}
		last = act.done()
		turns++
		switch {
		case turns >= ownTurns && sys.cfg.Lend && box.retire():
			return false // let senders be its owner
		case sys.count.Load() > int64(sys.cfg.Linger) && box.retire():
			return false // too many actors are active for this one to stay in case of more
		case !act.watched.Load():
			sys.watch(act)
		}
	}
}

// done ends a turn and returns how many messages it held.
func (act *activation[M]) done() int {
	n := len(act.batch)
	clear(act.batch) // let go of what the messages point to
	if n == cap(act.batch) && n < act.actor.sys.cfg.Batch {
		act.batch = make([]M, 0, act.actor.sys.cfg.Batch)
	}
	act.batch = act.batch[:0]
	act.used.Store(act.actor.sys.tick.Load())
	act.box.Handled(n)
	return n
}

// failed ends a turn that panicked: its messages go to Discard with the reason.
func (act *activation[M]) failed(err *PanicError) {
	if len(act.batch) == 0 {
		return
	}
	for _, m := range act.batch {
		act.actor.sys.cfg.Discard(m, err)
	}
	act.done()
}

func (act *activation[M]) where() string {
	return (&goroutine{act.actor.sys.cfg.Kind, act.actor.name}).String()
}
