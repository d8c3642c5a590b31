// Reentrant: a process manager, which is a handler that appends. An order that is placed
// leads to a request for payment, that to the payment, and that to the shipment.
//
// The handler appends events of types that it handles itself, with a mailbox for one event.
// It cannot get stuck: an append made with the handler's context waits for no mailbox, and the new
// event is handled after the present call has returned. The same context carries who caused what.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weirstore/weir/engine"
)

type (
	OrderPlaced struct {
		Order string
		Price int
	}
	PaymentRequested struct {
		Order  string
		Amount int
	}
	PaymentReceived struct{ Order, Receipt string }
	OrderShipped    struct{ Order string }
)

func main() {
	// An event that cannot be handled is parked, and its chain goes no further: without a
	// deadline the program would wait for its end for ever.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, w io.Writer) (err error) {
	eng, err := engine.Open(engine.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, eng.Close()) }()

	fulfilment := func(ctx context.Context, ev engine.Event) error {
		stream, next, err := react(ev)
		if err != nil {
			return err
		}
		_, err = eng.Append(ctx, stream, engine.Any, next)
		return err
	}
	_, err = eng.Handle("fulfilment", fulfilment, engine.Mailbox(1),
		engine.Types("OrderPlaced", "PaymentRequested", "PaymentReceived"))
	if err != nil {
		return err
	}

	// Customers are outsiders: with one event in the mailbox they wait, the handler does not.
	orders := []OrderPlaced{{"1", 30}, {"2", 250}, {"3", 45}}
	customers, customersCtx := errgroup.WithContext(ctx)
	for _, order := range orders {
		customers.Go(func() error {
			placed := engine.New(order).WithID(order.Order + "-placed")
			_, err := eng.Append(customersCtx, "order-"+order.Order, engine.NoStream, placed)
			return err
		})
	}
	if err := customers.Wait(); err != nil {
		return err
	}
	if err := awaitShipped(ctx, eng, len(orders)); err != nil {
		return err
	}
	for _, order := range orders {
		if err := printChain(ctx, w, eng, order.Order+"-placed"); err != nil {
			return err
		}
	}
	return nil
}

// react says what follows from an event, and in which stream. The ID makes it safe to say
// it twice: delivery is at least once, and what a stream has already is not stored again.
func react(ev engine.Event) (stream string, next engine.NewEvent, err error) {
	switch data := ev.Data.(type) {
	case OrderPlaced:
		stream = "payment-" + data.Order
		next = engine.New(PaymentRequested{data.Order, data.Price}).WithID(data.Order + "-payment-requested")
	case PaymentRequested: // a program that is no example calls the bank here
		stream = "payment-" + data.Order
		next = engine.New(PaymentReceived{data.Order, "receipt " + data.Order}).WithID(data.Order + "-payment-received")
	case PaymentReceived:
		stream = "order-" + data.Order
		next = engine.New(OrderShipped{data.Order}).WithID(data.Order + "-shipped")
	default:
		err = fmt.Errorf("fulfilment does not know %s", ev.Type)
	}
	return stream, next, err
}

// awaitShipped follows the log until so many orders are shipped. Engine.Wait would not do:
// it waits for the handling of what is there, and the chain's last event comes later.
func awaitShipped(ctx context.Context, eng *engine.Engine, orders int) error {
	for _, err := range eng.ReadAll(ctx, engine.Types("OrderShipped"), engine.Follow()) {
		if err != nil {
			return err
		}
		if orders--; orders == 0 {
			return nil
		}
	}
	return context.Cause(ctx) // the one thing that ends Follow without an error
}

// printChain prints the events that share a correlation.
func printChain(ctx context.Context, w io.Writer, eng *engine.Engine, correlation string) error {
	fmt.Fprintf(w, "correlation %s\n", correlation)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for ev, err := range eng.ReadAll(ctx) {
		if err != nil {
			return err
		}
		if ev.Correlation() != correlation {
			continue
		}
		cause := "began it"
		if ev.Meta.CausationID != "" {
			cause = "caused by " + ev.Meta.CausationID
		}
		fmt.Fprintf(table, "  %s@%d\t%s\t%s\t%s\n", ev.Stream, ev.Version, ev.Type, ev.Identity(), cause)
	}
	return table.Flush()
}
