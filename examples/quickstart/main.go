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
	if err != nil {
		log.Fatal(err)
	}
	defer eng.Close()

	eng.On("CustomerCreated", func(ctx context.Context, ev engine.Event) error {
		fmt.Printf("handler: welcome, %s\n", ev.Data.(CustomerCreated).FirstName)
		return nil
	})

	eng.Append(ctx, "customer-1", engine.NoStream, engine.New(CustomerCreated{"John", "Smith"}))
	res, err := eng.Append(ctx, "customer-1", engine.Exactly(1), engine.New(CustomerDeleted{"moved away"}))
	if err != nil {
		log.Fatal(err)
	}
	eng.Wait(ctx, res.Position) // until the handler has seen it all

	for ev, err := range eng.Read(ctx, "customer-1") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %d: %s %+v\n", ev.Stream, ev.Version, ev.Type, ev.Data)
	}
}
