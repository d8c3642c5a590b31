package weirtest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/weirtest"
)

// printer stands for the *testing.T of a test: it prints what that would.
type printer struct {
	testing.TB
	cleanups []func()
}

func (p *printer) Helper()                           {}
func (p *printer) Context() context.Context          { return context.Background() }
func (p *printer) Cleanup(fn func())                 { p.cleanups = append(p.cleanups, fn) }
func (p *printer) Failed() bool                      { return false }
func (p *printer) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (p *printer) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// end is what testing does at the end of a test.
func (p *printer) end() {
	for _, fn := range p.cleanups {
		fn()
	}
}

func ExampleDecide() {
	t := &printer{} // in a test: its *testing.T
	account := &engine.Decider[int, Withdraw]{
		Evolve: func(balance int, ev engine.Event) int {
			switch data := ev.Data.(type) {
			case Deposited:
				return balance + data.Amount
			case Withdrawn:
				return balance - data.Amount
			}
			return balance
		},
		Decide: func(balance int, cmd Withdraw) ([]engine.NewEvent, error) {
			if balance < 0 { // the bug: it should be balance < cmd.Amount
				return nil, errNotEnough
			}
			return []engine.NewEvent{engine.New(Withdrawn(cmd))}, nil
		},
	}

	weirtest.Decide(t, account).
		Given(Deposited{100}).
		When(Withdraw{30}).
		Then(Withdrawn{30})

	weirtest.Decide(t, account).
		Given(Deposited{100}, Withdrawn{70}).
		When(Withdraw{50}).
		ThenError(errNotEnough)
	// Output:
	// weirtest: when weirtest_test.Withdraw{Amount:50}
	//   given Deposited {Amount:100}
	//   given Withdrawn {Amount:70}
	// want error: not enough money
	// got events:
	//   + Withdrawn {Amount:50}
}

func ExampleHandle() {
	t := &printer{} // in a test: its *testing.T
	defer t.end()
	setup := func(e *engine.Engine) error {
		_, err := engine.Handle(e, "shipper", func(ctx context.Context, ev engine.Of[Placed]) error {
			_, err := e.Append(ctx, "shipment-of-"+ev.Stream, engine.Any, engine.New(Shipped{"coffee"})) // the bug
			return err
		})
		return err
	}

	weirtest.Handle(t, setup).
		When("order-7", Placed{"tea"}).
		Then(weirtest.In("shipment-of-order-7", Shipped{"tea"}))
	// Output:
	// weirtest: when "order-7"
	//   gets Placed {Goods:tea}
	// then (- wanted, + got)
	// in "shipment-of-order-7"
	//   - Shipped {Goods:tea}
	//   + Shipped {Goods:coffee}
}

func ExampleRunTwice() {
	t := &printer{} // in a test: its *testing.T
	defer t.end()
	mails := 0 // outside of setup: a mail that was sent outlives a crash
	setup := func(e *engine.Engine) error {
		_, err := engine.Handle(e, "welcome", func(context.Context, engine.Of[Placed]) error {
			mails++ // the bug: it does not remember whom it has written to
			return nil
		})
		return err
	}
	check := func(*engine.Engine) any { return mails }

	weirtest.RunTwice(t, setup, check, weirtest.In("order-7", Placed{"tea"}))
	// Output:
	// weirtest: check returns something else when everything was handled a second time (- once, + twice)
	//   - 1
	//   + 2
}

// A simulation is a test of its own: this one runs 200 times, each time with other failures and crashes.
func ExampleSimulate() {
	test := func(t *testing.T) {
		weirtest.Simulate(t, 1, 200, func(sim *weirtest.Sim) {
			totals := &database{seen: make(map[string]bool)} // outside of Open: it outlives a crash
			sim.Open(func(e *engine.Engine) error {
				_, err := engine.Handle(e, "totals", weirtest.Flaky(sim, totals.add(true)), engine.FromStart())
				return err
			})
			for i := range 10 {
				sim.Go(func(e *engine.Engine) error { // a client
					deposit := engine.New(Deposited{1}).WithID(fmt.Sprint(i)) // it may be sent twice
					_, err := e.Append(sim.Context(), "account-7", engine.Any, deposit)
					return err
				})
			}
			sim.Settle()
			if totals.total != 10 {
				sim.Errorf("the total is %d", totals.total)
			}
		})
	}
	_ = test // go test calls it
}
