// Order: a process over three kinds of streams. An order is placed, paid and shipped; if it is not paid in
// time it is cancelled, and if it cannot be shipped the money is given back.
//
// Nobody who takes part knows the others: the cashier and the warehouse answer requests, and the process
// (fulfilment.go) says what comes next. It is stopped in the middle, with a payment still open, and goes on after a
// restart; then it is given all events once more, and does nothing twice.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, w io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "order-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	// Three orders: one goes well, one is never paid, and one cannot be shipped.
	shop, err := open(dir)
	if err != nil {
		return err
	}
	for _, placed := range []OrderPlaced{{"1", "Ada", "book", 20}, {"2", "Bob the Broke", "book", 20}, {"3", "Cleo", "unicorn", 900}} {
		res, err := shop.Append(ctx, "order-"+placed.Order, engine.NoStream, engine.New(placed))
		if err != nil {
			return errors.Join(err, shop.Close())
		}
		if err := shop.Settle(ctx, res); err != nil {
			return errors.Join(err, shop.Close())
		}
	}
	fmt.Fprintln(w, "before the restart:")
	if err := errors.Join(list(ctx, w, shop), shop.Close()); err != nil {
		return err
	}

	// After a restart, the time for Bob's payment runs out.
	if shop, err = open(dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shop.Close()) }()
	if err := waitFor[OrderCancelled](ctx, shop, "order-2"); err != nil {
		return err
	}
	fmt.Fprintln(w, "after it, and some time:")
	if err := list(ctx, w, shop); err != nil {
		return err
	}

	// Everything once more. Each event was handled already, and so nothing happens.
	before := shop.Head()
	h, _ := shop.Handler(fulfilment.Name)
	if err := h.Remove(ctx); err != nil {
		return err
	}
	if _, err := engine.Manage(shop, fulfilment, engine.FromStart(), engine.IgnoreCheckpoint()); err != nil {
		return err
	}
	if err := shop.Wait(ctx, before); err != nil {
		return err
	}
	fmt.Fprintf(w, "handled all over again: %d new events\n", shop.Head()-before)
	return nil
}

// open opens the shop, with everybody who works in it.
func open(dir string) (*engine.Engine, error) {
	files, err := filestore.Open(dir, filestore.Options{})
	if err != nil {
		return nil, err
	}
	shop, err := engine.Open(engine.Options{Backend: files})
	if err != nil {
		return nil, errors.Join(err, files.Close())
	}
	err = errors.Join(register(shop), hire(shop))
	if err == nil {
		_, err = engine.Manage(shop, fulfilment, engine.FromStart())
	}
	if err != nil {
		return nil, errors.Join(err, shop.Close())
	}
	return shop, nil
}

// hire registers those who answer the requests of the process. What they append has an ID, so that it
// is stored once although a handler may be called twice.
func hire(shop *engine.Engine) error {
	_, cashier := engine.Handle(shop, "cashier", func(ctx context.Context, ev engine.Of[PaymentRequested]) error {
		if ev.Data.Customer == "Bob the Broke" {
			return nil // never pays
		}
		paid := engine.New(PaymentReceived{ev.Data.Order}).WithID("paid")
		_, err := shop.Append(ctx, ev.Stream, engine.Any, paid)
		return err
	}, engine.FromStart())
	_, warehouse := engine.Handle(shop, "warehouse", func(ctx context.Context, ev engine.Of[ShipmentRequested]) error {
		answer := engine.New(Shipped{ev.Data.Order})
		if ev.Data.Item == "unicorn" {
			answer = engine.New(OutOfStock{ev.Data.Order})
		}
		_, err := shop.Append(ctx, ev.Stream, engine.Any, answer.WithID("answer"))
		return err
	}, engine.FromStart())
	return errors.Join(cashier, warehouse)
}

func list(ctx context.Context, w io.Writer, shop *engine.Engine) error {
	for _, id := range []string{"1", "2", "3"} {
		p, _, err := engine.LoadInstance(ctx, shop, fulfilment, id)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "  order %s of %s: %s\n", id, p.Customer, p.Status)
	}
	return nil
}

// waitFor returns once a stream has an event of type E.
func waitFor[E any](ctx context.Context, shop *engine.Engine, stream string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for ev, err := range shop.Read(ctx, stream, engine.Follow()) {
		if err != nil {
			return err
		}
		if _, ok := ev.Data.(E); ok {
			return shop.Settle(ctx, engine.Result{First: ev.Version, Last: ev.Version, Position: ev.Position})
		}
	}
	return fmt.Errorf("wait for %T in %q: %w", *new(E), stream, context.Cause(ctx))
}
