package engine_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// Retention is the same whatever keeps the events: positions and versions of what is left
// never change.
func ExampleEngine_Compact() {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	dir := must(os.MkdirTemp("", "weir"))
	defer os.RemoveAll(dir)
	for _, backend := range []engine.Backend{
		engine.NewMemory(),
		must(filestore.Open(dir, filestore.Options{Logger: quiet})),
	} {
		eng := must(engine.Open(engine.Options{
			Backend: backend,
			Logger:  quiet,
			// Of each audit stream the last two events, whenever Compact is called.
			Retention: []engine.RetentionRule{{Category: "audit", MaxCount: 2}},
		}))
		ctx := context.Background()
		for i := range 5 {
			for _, stream := range []string{"account-1", "account-2", "audit-1"} {
				must(eng.Append(ctx, stream, engine.Any, engine.New(Deposited{i})))
			}
		}
		if err := eng.Truncate(ctx, "account-1", 4); err != nil { // what was before version 4
			log.Fatal(err)
		}
		if err := eng.Delete(ctx, "account-2", engine.Any); err != nil { // for good
			log.Fatal(err)
		}
		done := must(eng.Compact(ctx))
		fmt.Printf("%s: the rules removed %d events\n", eng.Stats().Backend, done.Removed)
		for ev, err := range eng.ReadAll(ctx) {
			if err != nil {
				log.Fatal(err)
			}
			fmt.Printf("  %s@%d at %d\n", ev.Stream, ev.Version, ev.Position)
		}
		_, err := eng.Append(ctx, "account-2", engine.Any, engine.New(Deposited{6}))
		fmt.Println(" ", err)
		if err := eng.Close(); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// memory: the rules removed 3 events
	//   account-1@4 at 10
	//   audit-1@4 at 12
	//   account-1@5 at 13
	//   audit-1@5 at 15
	//   engine: stream "account-2" is deleted
	// file: the rules removed 3 events
	//   account-1@4 at 10
	//   audit-1@4 at 12
	//   account-1@5 at 13
	//   audit-1@5 at 15
	//   engine: stream "account-2" is deleted
}
