package actor

import "runtime/debug"

// Lending: the goroutine that sends to a passive actor is its owner for that message.
//
//	nil ──Send──▶ lent ──Receive returns──▶ nil
//	                │ another Send
//	                ▼
//	           activation with a mailbox ──Receive returns──▶ its goroutine starts
//
// The step to lent is the token: who makes it is the owner, and no other goroutine is
// until it was given back. What one owner wrote the next one sees, by the atomic pointer.

// borrow handles m in the sender's goroutine, which owns the actor.
func (a *Actor[M]) borrow(m M) error {
	s := a.sys
	s.lending.Add(1)
	defer s.giveBack(a)
	if s.refused.Load() {
		return ErrStopped
	}
	turn := s.turns.Get().(*[1]M)
	turn[0] = m
	a.own(turn)
	*turn = [1]M{}
	s.turns.Put(turn)
	return nil
}

// own calls Receive. When that panics, or ends the goroutine, the message is discarded.
func (a *Actor[M]) own(turn *[1]M) {
	returned := false
	defer func() {
		if returned {
			return
		}
		err := &PanicError{Where: (&goroutine{a.sys.cfg.Kind, a.name}).String(), Value: ErrGoexit}
		if v := recover(); v != nil {
			err.Value, err.Stack = v, debug.Stack()
		}
		a.sys.cfg.Discard(turn[0], err)
	}()
	a.recv.Receive(turn[:])
	returned = true
}

// giveBack ends the sender's ownership. If others have sent meanwhile, or ended the actor,
// there is an activation whose goroutine is to be started.
func (s *System[M]) giveBack(a *Actor[M]) {
	if !a.active.CompareAndSwap(s.lent, nil) {
		s.launch(a.active.Load())
	}
	if s.lending.Add(-1) == 0 && s.refused.Load() {
		s.mu.Lock()
		s.endedLocked()
		s.mu.Unlock()
	}
}
