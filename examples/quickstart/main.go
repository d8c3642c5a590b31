// Quickstart: append events to a stream, react to them, read them back.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/weirstore/weir/engine"
)

type CustomerCreated struct{ FirstName, LastName string }
type CustomerDeleted struct{ Reason string }

func main() {
	ctx := context.Background()
	eng, err := engine.Open(engine.Options{}) // in memory
	check(err)
	defer func() { check(eng.Close()) }()
	_, err = eng.On("CustomerCreated", func(ctx context.Context, ev engine.Event) error {
		_, err := fmt.Printf("handler: welcome, %s\n", ev.Data.(CustomerCreated).FirstName)
		return err
	})
	check(err)
	_, err = eng.Append(ctx, "customer-1", engine.NoStream, engine.New(CustomerCreated{"John", "Smith"}))
	check(err)
	res, err := eng.Append(ctx, "customer-1", engine.Exactly(1), engine.New(CustomerDeleted{"moved away"}))
	check(err)
	check(eng.Wait(ctx, res.Position)) // until the handler has seen it all
	for ev, err := range eng.Read(ctx, "customer-1") {
		check(err)
		fmt.Printf("%s@%d %s %+v\n", ev.Stream, ev.Version, ev.Type, ev.Data)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
