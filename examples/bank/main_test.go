package main

import (
	"fmt"
	"strings"
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
	const want = `alice sees 100, bob sees 100, each wants 80
alice is faster; bob is told: engine: append "account-7": version conflict: expected 1, stream is at 2
bob looks again: not enough money
together they take 10 from 200, 20 times
account-7: balance 0, never below 0, version 23
`
	if out.String() != want {
		t.Errorf("got:\n%swant:\n%s", out.String(), want)
	}
}

// TestLastTen has both writers want the last 10 of an account, often enough that without
// the expected version both would get it on some.
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
		end, err := load(t.Context(), eng, id)
		if err != nil {
			t.Fatal(err)
		}
		if n != 1 || end.lowest < 0 {
			t.Fatalf("%s: %d withdrawals, balance %d", id, n, end.balance)
		}
	}
}
