package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/weirstore/weir/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOutput(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	const want = `alice takes 80: version 2
bob wants 201: not enough money
together they take 10 from 200, 20 times
account-7: balance 0, never below 0, version 22
after the transfer, account-7: balance 30
after the transfer, account-8: balance 20
`
	if out.String() != want {
		t.Errorf("got:\n%swant:\n%s", out.String(), want)
	}
}

// TestLastTen has both writers want the last 10 of an account, often enough that both would
// get it on some if the decision were made on anything but the state at its end.
func TestLastTen(t *testing.T) {
	eng, err := engine.Open(engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer eng.Close()
	for i := range 2000 {
		id := fmt.Sprintf("account-%d", i)
		if _, err := eng.Append(t.Context(), id, engine.NoStream, engine.New(Deposited{10})); err != nil {
			t.Fatal(err)
		}
		n, err := race(t.Context(), eng, id)
		if err != nil {
			t.Fatal(err)
		}
		end, _, err := engine.Load(t.Context(), eng, account, id)
		if err != nil {
			t.Fatal(err)
		}
		if n != 1 || end.Lowest < 0 {
			t.Fatalf("%s: %d withdrawals, balance %d", id, n, end.Balance)
		}
	}
}

// TestTransfers moves money in a circle, from many goroutines: none is made or lost.
func TestTransfers(t *testing.T) {
	eng, err := engine.Open(engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer eng.Close()
	const accounts = 3
	for i := range accounts {
		if _, err := eng.Append(t.Context(), fmt.Sprintf("account-%d", i), engine.NoStream, engine.New(Deposited{100})); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			for range 50 {
				err := transfer(t.Context(), eng, fmt.Sprintf("account-%d", i%accounts), fmt.Sprintf("account-%d", (i+1)%accounts), 9)
				if _, slow := errors.AsType[*engine.TxError](err); err != nil && !slow && !errors.Is(err, errNotEnough) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	total := 0
	for i := range accounts {
		a, _, err := engine.Load(t.Context(), eng, account, fmt.Sprintf("account-%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if total += a.Balance; a.Lowest < 0 {
			t.Errorf("account-%d was at %d", i, a.Lowest)
		}
	}
	if total != accounts*100 {
		t.Errorf("the accounts hold %d, want %d", total, accounts*100)
	}
}
