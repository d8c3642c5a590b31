package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/weirtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOutput(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	before, after, _ := strings.Cut(out.String(), "after it, and some time:\n")
	const want = `  order 1 of Ada: is fulfilled
  order 2 of Bob the Broke: is cancelled
  order 3 of Cleo: is cancelled, and the money given back
handled all over again: 0 new events
`
	if after != want {
		t.Errorf("got:\n%swant:\n%s", after, want)
	}
	// Bob's order may be cancelled by then, if the machine is slow.
	for _, line := range []string{"  order 1 of Ada: is fulfilled\n", "  order 2 of Bob the Broke: ", "  order 3 of Cleo: is cancelled, and the money given back\n"} {
		if !strings.Contains(before, line) {
			t.Errorf("before the restart there is no %q in\n%s", line, before)
		}
	}
}

// TestPaidTooLate: who pays after the time has run out gets the money back.
func TestPaidTooLate(t *testing.T) {
	weirtest.Simulate(t, 1, 20, func(sim *weirtest.Sim) {
		sim.Open(setUp)
		sim.Go(func(e *engine.Engine) error {
			_, err := e.Append(sim.Context(), "order-9", engine.Any, engine.New(OrderPlaced{"9", "Bob the Broke", "book", 20}).WithID("placed"))
			return err
		})
		sim.Settle()
		time.Sleep(time.Minute) // of the bubble
		sim.Settle()
		sim.Go(func(e *engine.Engine) error {
			_, err := e.Append(sim.Context(), "payment-9", engine.Any, engine.New(PaymentReceived{"9"}).WithID("late"))
			return err
		})
		sim.Settle()
		want(sim, "order-9", "OrderPlaced", "OrderCancelled")
		want(sim, "payment-9", "PaymentRequested", "PaymentReceived", "PaymentRefunded")
		want(sim, "shipment-9")
	})
}

// TestOrders has many orders at once, while the process dies, handlers fail, and calls are slow:
// whatever happens, each order ends in one way, once.
func TestOrders(t *testing.T) {
	weirtest.Simulate(t, 1, 100, func(sim *weirtest.Sim) {
		sim.Open(setUp)
		const orders = 6
		for i := range orders {
			sim.Go(func(e *engine.Engine) error {
				id := fmt.Sprint(i)
				placed := OrderPlaced{id, []string{"Ada", "Bob the Broke"}[i%2], []string{"book", "unicorn"}[i/2%2], 20}
				_, err := e.Append(sim.Context(), "order-"+id, engine.Any, engine.New(placed).WithID("placed"))
				return err
			})
		}
		sim.Settle()
		time.Sleep(time.Minute)
		sim.Settle()
		for i := range orders {
			order, payment, shipment := fmt.Sprint("order-", i), fmt.Sprint("payment-", i), fmt.Sprint("shipment-", i)
			switch {
			case i%2 == 1: // nobody pays
				want(sim, order, "OrderPlaced", "OrderCancelled")
				want(sim, payment, "PaymentRequested")
				want(sim, shipment)
			case i/2%2 == 1: // nobody has one
				want(sim, order, "OrderPlaced", "OrderCancelled")
				want(sim, payment, "PaymentRequested", "PaymentReceived", "PaymentRefunded")
				want(sim, shipment, "ShipmentRequested", "OutOfStock")
			default:
				want(sim, order, "OrderPlaced", "OrderFulfilled")
				want(sim, payment, "PaymentRequested", "PaymentReceived")
				want(sim, shipment, "ShipmentRequested", "Shipped")
			}
		}
	})
}

func setUp(e *engine.Engine) error {
	if err := hire(e); err != nil {
		return err
	}
	_, err := engine.Manage(e, fulfilment, engine.FromStart())
	return err
}

func want(sim *weirtest.Sim, stream string, types ...string) {
	sim.Helper()
	var got []string
	err := sim.Do(func(e *engine.Engine) error {
		got = nil
		for ev, err := range e.Read(sim.Context(), stream) {
			if err != nil {
				return err
			}
			got = append(got, ev.Type)
		}
		return nil
	})
	if err != nil {
		sim.Error(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(types) {
		sim.Errorf("%s has %v, want %v", stream, got, types)
	}
}
