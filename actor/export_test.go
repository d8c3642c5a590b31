package actor

// ErrRetired is what a sender sees of a mailbox that was given up while idle.
var ErrRetired = errRetired

// Retire gives the mailbox up, as an idle owner or the passivator does.
func (b *Mailbox[M]) Retire() bool { return b.retire() }

// Retire makes an idle actor passive now.
func (a *Actor[M]) Retire() bool {
	act := a.active.Load()
	return act != nil && act.box.retire()
}

// Life identifies the present activation; nil while there is none.
func (a *Actor[M]) Life() any {
	if act := a.active.Load(); act != nil {
		return act
	}
	return nil
}

// BeginSend is what Send does when it finds the actor lent, up to the point where it gives
// its message to the new mailbox: a sender that loses the processor there.
func (a *Actor[M]) BeginSend() error { return a.sys.activate(a, a.sys.lent) }
