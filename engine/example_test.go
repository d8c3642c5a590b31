package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"time"

	"github.com/weirstore/weir/engine"
)

type (
	Opened    struct{ Owner string }
	Deposited struct{ Amount int }
	Withdrawn struct{ Amount int }
)

// must keeps the examples short: a program would handle the error.
func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}

// start opens an engine that logs nothing.
func start() *engine.Engine {
	return must(engine.Open(engine.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}))
}

func ExampleEngine_Append() {
	eng := start()
	defer eng.Close()
	ctx := context.Background()

	res := must(eng.Append(ctx, "account-7", engine.NoStream,
		engine.New(Opened{"Ann"}),
		engine.New(Deposited{100})))
	fmt.Println("versions", res.First, "to", res.Last, "at position", res.Position)

	// Somebody else was faster: the stream is not at version 1 any more.
	_, err := eng.Append(ctx, "account-7", engine.Exactly(1), engine.New(Withdrawn{50}))
	if conflict, ok := errors.AsType[*engine.VersionConflictError](err); ok {
		fmt.Println("expected", conflict.Expected, "but it is", conflict.Actual)
	}
	// Output:
	// versions 1 to 2 at position 2
	// expected 1 but it is 2
}

func ExampleEngine_Submit() {
	eng := start()
	defer eng.Close()
	ctx := context.Background()

	// All of these may be under way at once. They are stored in this order.
	var pending []*engine.Pending
	for _, amount := range []int{100, 20, 3} {
		pending = append(pending, must(eng.Submit(ctx, "account-7", engine.Any, engine.New(Deposited{amount}))))
	}
	for _, p := range pending {
		res := must(p.Wait(ctx)) // what Append would have returned
		fmt.Println("version", res.Last)
	}
	// Output:
	// version 1
	// version 2
	// version 3
}

func ExampleNewEvent_WithID() {
	eng := start()
	defer eng.Close()
	ctx := context.Background()

	// The same request comes twice: it is stored once.
	for range 2 {
		res := must(eng.Append(ctx, "account-7", engine.Any, engine.New(Deposited{100}).WithID("request-42")))
		fmt.Println("version", res.Last, "duplicate", res.Duplicate)
	}
	// Output:
	// version 1 duplicate false
	// version 1 duplicate true
}

func ExampleEngine_Read() {
	eng := start()
	defer eng.Close()
	ctx := context.Background()
	must(eng.Append(ctx, "account-7", engine.NoStream,
		engine.New(Opened{"Ann"}), engine.New(Deposited{100}), engine.New(Withdrawn{30})))

	balance := 0
	for ev, err := range eng.Read(ctx, "account-7") {
		if err != nil {
			log.Fatal(err)
		}
		switch data := ev.Data.(type) {
		case Deposited:
			balance += data.Amount
		case Withdrawn:
			balance -= data.Amount
		}
	}
	fmt.Println("balance", balance)
	// Output: balance 70
}

func ExampleEngine_ReadAll() {
	eng := start()
	defer eng.Close()
	ctx := context.Background()
	must(eng.Append(ctx, "account-7", engine.Any, engine.New(Opened{"Ann"}), engine.New(Deposited{100})))
	must(eng.Append(ctx, "account-8", engine.Any, engine.New(Opened{"Bob"})))
	must(eng.Append(ctx, "order-1", engine.Any, engine.New(Deposited{1})))

	for ev, err := range eng.ReadAll(ctx, engine.Categories("account"), engine.Backward(), engine.Limit(2)) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(ev.Position, ev.Stream, ev.Type)
	}
	// Output:
	// 3 account-8 Opened
	// 2 account-7 Deposited
}

func ExampleFollow() {
	eng := start()
	defer eng.Close()
	ctx := context.Background()
	must(eng.Append(ctx, "account-7", engine.Any, engine.New(Deposited{1})))

	n := 1
	for ev, err := range eng.Read(ctx, "account-7", engine.Follow()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("deposited", ev.Data.(Deposited).Amount)
		if n++; n > 3 {
			break
		}
		must(eng.Append(ctx, "account-7", engine.Any, engine.New(Deposited{n})))
	}
	// Output:
	// deposited 1
	// deposited 2
	// deposited 3
}

func ExampleHandle() {
	eng := start()
	defer eng.Close()
	ctx := context.Background()

	balance := 0 // touched by the handler's goroutine alone
	_, err := engine.Handle(eng, "balance", func(ctx context.Context, ev engine.Of[Deposited]) error {
		balance += ev.Data.Amount
		return nil
	}, engine.FromStart(), engine.Overflow(engine.CatchUp))
	if err != nil {
		log.Fatal(err)
	}

	res := must(eng.Append(ctx, "account-7", engine.Any, engine.New(Deposited{100}), engine.New(Deposited{11})))
	if err := eng.Wait(ctx, res.Position, "balance"); err != nil { // read your own writes
		log.Fatal(err)
	}
	fmt.Println("balance", balance)
	// Output: balance 111
}

func ExampleHandler_Redrive() {
	eng := start()
	defer eng.Close()
	ctx := context.Background()

	mailServer := errors.New("mail server is down")
	h := must(engine.Handle(eng, "mailer", func(ctx context.Context, ev engine.Of[Opened]) error {
		if mailServer != nil {
			return mailServer
		}
		fmt.Println("mail to", ev.Data.Owner)
		return nil
	}, engine.Retry(2, time.Millisecond), engine.OnFailure(engine.Park)))

	res := must(eng.Append(ctx, "account-7", engine.Any, engine.New(Opened{"Ann"})))
	if err := eng.Wait(ctx, res.Position); err != nil {
		log.Fatal(err)
	}
	for _, p := range h.Parked() {
		fmt.Println(p.Event.Stream, "is parked after", p.Attempts, "attempts:", p.Err)
	}
	mailServer = nil
	fmt.Println(must(h.Redrive(ctx)), "redriven")
	// Output:
	// account-7 is parked after 3 attempts: mail server is down
	// mail to Ann
	// 1 redriven
}

func ExampleEngine_Stats() {
	eng := start()
	defer eng.Close()
	ctx := context.Background()
	h := must(eng.Handle("reports", func(ctx context.Context, ev engine.Event) error { return nil }))
	if err := h.Pause(ctx); err != nil {
		log.Fatal(err)
	}
	must(eng.Append(ctx, "account-7", engine.Any, engine.New(Deposited{1}), engine.New(Deposited{2})))

	for _, s := range eng.Stats().Handlers {
		fmt.Println(s.Name, "is", s.State, "at position", s.Position, "with", s.Lag, "events before it")
	}
	// Output: reports is paused at position 0 with 2 events before it
}

func ExampleEngine_Shutdown() {
	eng := start()
	must(eng.Handle("slow", func(ctx context.Context, ev engine.Event) error {
		<-ctx.Done() // cancelled at the deadline, last of all
		return ctx.Err()
	}))
	must(eng.Append(context.Background(), "account-7", engine.Any, engine.New(Deposited{1})))

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	report, err := eng.Shutdown(ctx)
	fmt.Println(err)
	fmt.Println(report.Handlers[0].Name, "has", report.Handlers[0].Lag, "event before it")
	// Output:
	// engine: shutdown: context deadline exceeded; handler "slow" is at position 0, lag 1, live
	// slow has 1 event before it
}
