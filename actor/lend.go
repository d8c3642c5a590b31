package actor

import "runtime"

// Lending: a goroutine that has something for a passive actor may be its owner for a moment.
//
//	nil ──Borrow──▶ lent ──GiveBack──▶ nil
//	                 │ Send
//	                 ▼
//	            activation with a mailbox ──GiveBack──▶ its goroutine starts
//
// The step to lent is the token: who makes it is the owner, and no other goroutine is
// until it was given back. What one owner wrote the next one sees, by the atomic pointer.

// spins is how often Borrow looks at an actor that another has borrowed before it lets other goroutines run, and
// patience how often it does both. Who has it is done in less than a microsecond most often, and to sleep and be woken
// costs several; who has lost its processor needs others to let it run.
const (
	spins    = 64
	patience = 8
)

// Borrow makes the calling goroutine the owner of a passive actor, and reports whether it did:
// not if there is an owner, or the end has begun. Until [Actor.GiveBack], which must be called whatever
// happens, the caller may do what Receive does, in its own goroutine and for a fifth of the price of
// asking another. What others send meanwhile waits, until an owner goroutine takes over.
func (a *Actor[M]) Borrow() bool {
	s := a.sys
	for n := 0; ; {
		switch a.active.Load() {
		case nil:
			if !a.active.CompareAndSwap(nil, s.lent) {
				continue
			}
			if s.refused.Load() { // after the step, so that whoever ends the system is seen or sees it
				a.GiveBack()
				return false
			}
			return true
		case s.lent:
			if !s.cfg.Prompt {
				return false
			}
			if n++; n%spins == 0 {
				if n == patience*spins {
					return false
				}
				runtime.Gosched()
			}
		default:
			return false
		}
	}
}

// GiveBack ends what Borrow began. If others have sent meanwhile, or ended the actor, there is
// an activation, whose goroutine is started.
func (a *Actor[M]) GiveBack() {
	if s := a.sys; !a.active.CompareAndSwap(s.lent, nil) {
		s.launch(a.active.Load())
	}
}
