// Bank: many writers take money from one account at the same time, and its balance never
// goes below zero.
//
// Whether there is enough money is decided in the goroutine that owns the account's stream,
// on a state that has all its events. So there is no conflict, no retry and no lock: a withdrawal is accepted,
// or it is refused. Moving money from one account to another is a transaction over both streams.
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

// Account is what the events of a stream add up to.
type Account struct{ Balance, Lowest int }

// Withdraw is a command.
type Withdraw struct {
	By     string
	Amount int
}

var errNotEnough = errors.New("not enough money")

var account = &engine.Decider[Account, Withdraw]{
	Evolve: func(a Account, ev engine.Event) Account {
		switch data := ev.Data.(type) {
		case Deposited:
			a.Balance += data.Amount
		case Withdrawn:
			a.Balance -= data.Amount
		}
		a.Lowest = min(a.Lowest, a.Balance)
		return a
	},
	Decide: func(a Account, cmd Withdraw) ([]engine.NewEvent, error) {
		if a.Balance < cmd.Amount {
			return nil, errNotEnough
		}
		return []engine.NewEvent{engine.New(Withdrawn(cmd))}, nil
	},
}

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

	if _, err := eng.Append(ctx, "account-7", engine.NoStream, engine.New(Deposited{280})); err != nil {
		return err
	}
	res, err := engine.Execute(ctx, eng, account, "account-7", Withdraw{"alice", 80})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "alice takes 80: version %d\n", res.Last)
	_, err = engine.Execute(ctx, eng, account, "account-7", Withdraw{"bob", 201})
	fmt.Fprintf(w, "bob wants 201: %v\n", err)

	withdrawals, err := race(ctx, eng, "account-7")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "together they take 10 from 200, %d times\n", withdrawals)
	end, version, err := engine.Load(ctx, eng, account, "account-7")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "account-7: balance %d, never below %d, version %d\n", end.Balance, end.Lowest, version)

	if _, err := eng.Append(ctx, "account-8", engine.NoStream, engine.New(Deposited{50})); err != nil {
		return err
	}
	if err := transfer(ctx, eng, "account-8", "account-7", 30); err != nil {
		return err
	}
	for _, id := range []string{"account-7", "account-8"} {
		a, _, err := engine.Load(ctx, eng, account, id)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "after the transfer, %s: balance %d\n", id, a.Balance)
	}
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
				switch _, err := engine.Execute(ctx, eng, account, id, Withdraw{name, 10}); {
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

// maxAttempts bounds the retries of one transfer. Each conflict is another writer's success,
// so the writers as a whole always get on; but one who is always the slower should say so at some time.
const maxAttempts = 32

// transfer moves money: either both events are stored, or none. The decision is made on
// what was read here, outside of the streams, so the transaction says on which version; if somebody was
// faster nothing is stored, and it is decided anew.
func transfer(ctx context.Context, eng *engine.Engine, from, to string, amount int) error {
	var last error
	for range maxAttempts {
		a, version, err := engine.Load(ctx, eng, account, from)
		if err != nil {
			return err
		}
		if a.Balance < amount {
			return errNotEnough
		}
		_, err = eng.Commit(ctx, engine.Tx{Writes: []engine.TxWrite{
			{Stream: from, Expected: engine.Exactly(version), Events: []engine.NewEvent{engine.New(Withdrawn{"transfer", amount})}},
			{Stream: to, Expected: engine.StreamExists, Events: []engine.NewEvent{engine.New(Deposited{amount})}},
		}})
		if _, refused := errors.AsType[*engine.TxError](err); !refused {
			return err // nil, or something that another attempt does not mend
		}
		last = err
	}
	return fmt.Errorf("transfer: gave up after %d attempts: %w", maxAttempts, last)
}
