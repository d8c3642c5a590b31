// Bank: two writers take money from one account at the same time, and its balance never
// goes below zero.
//
// Whether there is enough money is decided on what was read, and is true only as long as
// nobody else writes. So the append says which version the decision was made on. If
// somebody was faster nothing is stored, and the writer reads and decides anew. There is no
// lock, and nothing to release when a writer dies in between.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/weirstore/weir/engine"
)

type (
	Deposited struct{ Amount int }
	Withdrawn struct {
		By     string
		Amount int
	}
)

var errNotEnough = errors.New("not enough money")

// maxAttempts bounds the retries of one withdrawal. Each conflict is another writer's
// success, so the writers as a whole always get on and no pause is needed; but one who is always
// the slower should say so at some time.
const maxAttempts = 32

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, w io.Writer) (err error) {
	eng, err := engine.Open(engine.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, eng.Close()) }()

	const id = "account-7"
	if _, err := eng.Append(ctx, id, engine.NoStream, engine.New(Deposited{100})); err != nil {
		return err
	}
	if err := conflict(ctx, w, eng, id); err != nil {
		return err
	}

	if _, err := eng.Append(ctx, id, engine.StreamExists, engine.New(Deposited{180})); err != nil {
		return err
	}
	withdrawals, err := race(ctx, eng, id)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "together they take 10 from 200, %d times\n", withdrawals)

	end, err := load(ctx, eng, id)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s: balance %d, never below %d, version %d\n", id, end.balance, end.lowest, end.version)
	return nil
}

// conflict takes the calls apart to show how two writers get into each other's way: both
// read before either writes.
func conflict(ctx context.Context, w io.Writer, eng *engine.Engine, id string) error {
	seenByAlice, err := load(ctx, eng, id)
	if err != nil {
		return err
	}
	seenByBob, err := load(ctx, eng, id)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "alice sees %d, bob sees %d, each wants 80\n", seenByAlice.balance, seenByBob.balance)

	_, err = eng.Append(ctx, id, engine.Exactly(seenByAlice.version), engine.New(Withdrawn{"alice", 80}))
	if err != nil {
		return err
	}
	_, err = eng.Append(ctx, id, engine.Exactly(seenByBob.version), engine.New(Withdrawn{"bob", 80}))
	conflict, ok := errors.AsType[*engine.VersionConflictError](err)
	if !ok {
		return fmt.Errorf("bob was not refused: %v", err)
	}
	fmt.Fprintf(w, "alice is faster; bob is told: %v\n", conflict)

	// Bob does what withdraw does for everybody: read and decide anew.
	if err := withdraw(ctx, eng, id, "bob", 80); !errors.Is(err, errNotEnough) {
		return fmt.Errorf("bob was not refused: %v", err)
	}
	fmt.Fprintln(w, "bob looks again: not enough money")
	return nil
}

// race lets two writers take 10 at a time until the account is empty, and returns how
// often they got it.
func race(ctx context.Context, eng *engine.Engine, id string) (withdrawals int, err error) {
	names := []string{"alice", "bob"}
	counts := make([]int, len(names)) // each writer has its own, so no lock is needed
	writers, ctx := errgroup.WithContext(ctx)
	for i, name := range names {
		writers.Go(func() error {
			for {
				switch err := withdraw(ctx, eng, id, name, 10); {
				case errors.Is(err, errNotEnough):
					return nil
				case err != nil:
					return err
				}
				counts[i]++
			}
		})
	}
	err = writers.Wait()
	for _, n := range counts {
		withdrawals += n
	}
	return withdrawals, err
}

// withdraw reads, decides, and appends on the condition that what it has read is still
// true; and once more if it is not.
func withdraw(ctx context.Context, eng *engine.Engine, id, by string, amount int) error {
	var last error
	for range maxAttempts {
		acc, err := load(ctx, eng, id)
		if err != nil {
			return err
		}
		if acc.balance < amount {
			return errNotEnough
		}
		_, err = eng.Append(ctx, id, engine.Exactly(acc.version), engine.New(Withdrawn{by, amount}))
		if _, ok := errors.AsType[*engine.VersionConflictError](err); !ok {
			return err // nil, or something that another attempt does not mend
		}
		last = err
	}
	return fmt.Errorf("withdraw: gave up after %d attempts: %w", maxAttempts, last)
}

// account is what the events of a stream add up to.
type account struct {
	version engine.Version // of the last event: what a decision is made on
	balance int
	lowest  int
}

func load(ctx context.Context, eng *engine.Engine, id string) (account, error) {
	var acc account
	for ev, err := range eng.Read(ctx, id) {
		if err != nil {
			return account{}, err
		}
		switch data := ev.Data.(type) {
		case Deposited:
			acc.balance += data.Amount
		case Withdrawn:
			acc.balance -= data.Amount
		}
		acc.version, acc.lowest = ev.Version, min(acc.lowest, acc.balance)
	}
	return acc, nil
}
