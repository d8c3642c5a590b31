package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// onEach runs an example over memory and over files: it is the same for both.
func onEach(fn func(engine.Backend)) {
	fn(engine.NewMemory())
	dir := must(os.MkdirTemp("", "weir"))
	defer os.RemoveAll(dir)
	fn(must(filestore.Open(dir, filestore.Options{})))
}

// A snapshot makes the events before it superfluous, a customer has to be forgotten, and
// of each sensor the last two readings are enough.
func ExampleEngine_Compact() {
	onEach(func(backend engine.Backend) {
		eng := must(engine.Open(engine.Options{
			Backend:   backend,
			Logger:    slog.New(slog.NewTextHandler(io.Discard, nil)),
			Retention: []engine.RetentionRule{{Category: "sensor", MaxCount: 2}},
		}))
		defer eng.Close()
		ctx := context.Background()
		for _, stream := range []string{"account-7", "customer-1", "sensor-3"} {
			must(eng.Append(ctx, stream, engine.NoStream, engine.New(Deposited{1}), engine.New(Deposited{2}), engine.New(Deposited{3})))
		}

		if err := eng.Truncate(ctx, "account-7", 3); err != nil { // versions 1 and 2
			log.Fatal(err)
		}
		if err := eng.Delete(ctx, "customer-1", engine.StreamExists); err != nil {
			log.Fatal(err)
		}
		done := must(eng.Compact(ctx)) // now and then: it applies the rules, and gives space back

		fmt.Println(eng.Stats().Backend+": the rules removed", done.Removed)
		for ev, err := range eng.ReadAll(ctx) {
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println(ev.Position, ev.Stream, "version", ev.Version) // neither ever changes
		}
		_, err := eng.Append(ctx, "customer-1", engine.Any, engine.New(Deposited{4}))
		_, deleted := errors.AsType[*engine.StreamDeletedError](err)
		fmt.Println("deleted:", deleted)
	})
	// Output:
	// memory: the rules removed 1
	// 3 account-7 version 3
	// 8 sensor-3 version 2
	// 9 sensor-3 version 3
	// deleted: true
	// file: the rules removed 1
	// 3 account-7 version 3
	// 8 sensor-3 version 2
	// 9 sensor-3 version 3
	// deleted: true
}
