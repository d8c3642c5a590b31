package engine

// Applier is what [NewAggregate] needs of a type T: that *T takes events. Apply is how an event changes the
// object, and nothing else does.
type Applier[T any] interface {
	*T
	Apply(ev Event)
}

// NewAggregate returns a decider for those who like objects. The state of a stream is a *T, zero at first, and
// a command is a function that calls one of its methods. Such a method looks at the object
// and returns the events that are to be stored, or an error; it changes nothing, since Apply does.
//
//	type Account struct{ Balance int }
//
//	func (a *Account) Apply(ev engine.Event) {
//		switch data := ev.Data.(type) {
//		case Withdrawn:
//			a.Balance -= data.Amount
//		…
//	}
//
//	func (a *Account) Withdraw(n int) ([]engine.NewEvent, error) {
//		if n > a.Balance {
//			return nil, ErrTooMuch
//		}
//		return []engine.NewEvent{engine.New(Withdrawn{n})}, nil
//	}
//
//	var accounts = engine.NewAggregate[Account]()
//
//	res, err := engine.Execute(ctx, eng, accounts, "account-7", func(a *Account) ([]engine.NewEvent, error) {
//		return a.Withdraw(50)
//	})
func NewAggregate[T any, P Applier[T]]() *Decider[P, func(P) ([]NewEvent, error)] {
	return &Decider[P, func(P) ([]NewEvent, error)]{
		Initial: func() P { return new(T) },
		Evolve: func(object P, ev Event) P {
			object.Apply(ev)
			return object
		},
		Decide: func(object P, command func(P) ([]NewEvent, error)) ([]NewEvent, error) {
			if command == nil {
				return nil, invalid("execute", "the command", nil, "a function")
			}
			return command(object)
		},
	}
}
