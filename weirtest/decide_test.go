package weirtest_test

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/weirtest"
)

type (
	Deposited struct{ Amount int }
	Withdrawn struct{ Amount int }
	Withdraw  struct{ Amount int }
)

var errNotEnough = errors.New("not enough money")

// account returns a decider which lets the balance fall to the least.
func account(least int) *engine.Decider[int, Withdraw] {
	return &engine.Decider[int, Withdraw]{
		Evolve: func(balance int, ev engine.Event) int {
			switch data := ev.Data.(type) {
			case Deposited:
				balance += data.Amount
			case Withdrawn:
				balance -= data.Amount
			}
			return balance
		},
		Decide: func(balance int, cmd Withdraw) ([]engine.NewEvent, error) {
			if cmd.Amount == 0 {
				return nil, nil
			}
			if balance-cmd.Amount < least {
				return nil, fmt.Errorf("withdraw %d: %w", cmd.Amount, errNotEnough)
			}
			return []engine.NewEvent{engine.New(Withdrawn(cmd)).WithID("w")}, nil
		},
	}
}

func testAccount(t testing.TB, d *engine.Decider[int, Withdraw]) {
	funded := weirtest.Decide(t, d).Given(Deposited{100})
	funded.When(Withdraw{100}).Then(Withdrawn{100})
	funded.When(Withdraw{0}).Then()
	funded.Given(Withdrawn{70}).When(Withdraw{50}).ThenError(errNotEnough)
	funded.Given(Withdrawn{70}).When(Withdraw{50}).ThenError(nil)
	funded.When(Withdraw{1}).Then(engine.New(Withdrawn{1}).WithID("w"))
}

func TestDecide(t *testing.T) {
	testAccount(t, account(0))
	record(t, func(r *recorder) { testAccount(r, account(-30)) }).fails(t,
		"when weirtest_test.Withdraw{Amount:50}\n  given Deposited {Amount:100}\n  given Withdrawn {Amount:70}\n",
		"want error: not enough money\ngot events:\n  + Withdrawn {Amount:50}")
	record(t, func(r *recorder) { testAccount(r, account(50)) }).fails(t,
		"want events:\n  - Withdrawn {Amount:100}\ngot error: withdraw 100: not enough money")
}

func TestDecideSaysWhatDiffers(t *testing.T) {
	one := weirtest.Decide(t, account(0)).Given(Deposited{9})
	one.When(Withdraw{1}).Then(Withdrawn{1})
	several := &engine.Decider[int, []any]{
		Evolve: func(n int, _ engine.Event) int { return n },
		Decide: func(_ int, cmd []any) (events []engine.NewEvent, _ error) {
			for _, data := range cmd {
				events = append(events, engine.New(data))
			}
			return events, nil
		},
	}
	for name, test := range map[string]struct {
		got  []any
		want []any
		says string
	}{
		"one is missing":          {[]any{Deposited{1}, Deposited{3}}, []any{Deposited{1}, Deposited{2}, Deposited{3}}, "    Deposited {Amount:1}\n  - Deposited {Amount:2}\n    Deposited {Amount:3}\n"},
		"one is too many":         {[]any{Deposited{1}, Deposited{2}}, []any{Deposited{2}}, "  + Deposited {Amount:1}\n    Deposited {Amount:2}\n"},
		"one is another":          {[]any{Deposited{1}}, []any{Withdrawn{1}}, "  - Withdrawn {Amount:1}\n  + Deposited {Amount:1}\n"},
		"the order":               {[]any{Deposited{1}, Deposited{2}}, []any{Deposited{2}, Deposited{1}}, "  - Deposited {Amount:2}\n    Deposited {Amount:1}\n  + Deposited {Amount:2}\n"},
		"what looks the same":     {[]any{map[string]any{"n": 1}}, []any{map[string]any{"n": int64(1)}}, `["n"] int64: 1`},
		"the name":                {[]any{Deposited{1}}, []any{engine.NewEvent{Type: "Paid", Data: Deposited{1}}}, "  - Paid {Amount:1}\n  + Deposited {Amount:1}\n"},
		"an ID that was wanted":   {[]any{Deposited{1}}, []any{engine.New(Deposited{1}).WithID("a")}, "  - Deposited {Amount:1} ID a\n  + Deposited {Amount:1}\n"},
		"Extra that was wanted":   {[]any{Deposited{1}}, []any{engine.New(Deposited{1}).WithExtra("by", "ann")}, "  - Deposited {Amount:1} map[by:ann]\n"},
		"a pointer and its value": {[]any{&Deposited{1}}, []any{Deposited{1}}, "+ Deposited &"},
		"nothing was wanted":      {[]any{Deposited{1}}, nil, "  + Deposited {Amount:1}\n"},
		"an event that is nil":    {[]any{Deposited{1}}, []any{nil}, "event 1 is nil"},
	} {
		t.Run(name, func(t *testing.T) {
			record(t, func(r *recorder) { weirtest.Decide(r, several).When(test.got).Then(test.want...) }).fails(t, test.says)
		})
	}
	record(t, func(r *recorder) {
		one.When(Withdraw{10}).ThenError(errNotEnough)
		weirtest.Decide(r, account(0)).When(Withdraw{10}).ThenError(errors.ErrUnsupported)
	}).fails(t, "want error: unsupported operation\ngot error: withdraw 10: not enough money")
	record(t, func(r *recorder) { weirtest.Decide[int, int](r, nil) }).fails(t, "the decider is nil")
}

type (
	plain struct{}
	byPtr struct{}
	byVal struct{}
)

func (*byPtr) EventType() string { return "by.pointer" }
func (byVal) EventType() string  { return "by.value" }

// TestDecideNamesAsTheEngineDoes: Evolve may look at names and not at Go types.
func TestDecideNamesAsTheEngineDoes(t *testing.T) {
	names := &engine.Decider[[]string, int]{
		Evolve: func(names []string, ev engine.Event) []string { return append(names, ev.Type) },
		Decide: func(names []string, _ int) (events []engine.NewEvent, _ error) {
			return []engine.NewEvent{{Type: "names", Data: names}}, nil
		},
	}
	events := []any{plain{}, &plain{}, byVal{}, &byVal{}, byPtr{}, &byPtr{}, "text", 7, engine.NewEvent{Type: "given", Data: plain{}}}
	e, err := engine.Open(engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var want []string
	for i, data := range events {
		ev, ok := data.(engine.NewEvent)
		if !ok {
			ev = engine.New(data)
		}
		stream := fmt.Sprintf("a-%d", i)
		if _, err := e.Append(t.Context(), stream, engine.Any, ev); err != nil {
			t.Logf("%T: %v", data, err)
			events[i] = engine.NewEvent{Type: "refused", Data: data}
			want = append(want, "refused")
			continue
		}
		for ev, err := range e.Read(t.Context(), stream) {
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, ev.Type)
		}
	}
	t.Log(want)
	weirtest.Decide(t, names).Given(events...).When(0).Then(engine.NewEvent{Type: "names", Data: want})
}

// TestDecideMustNotChangeTheState: it is kept for the next command.
func TestDecideMustNotChangeTheState(t *testing.T) {
	changes := &engine.Decider[map[string]int, string]{
		Initial: func() map[string]int { return make(map[string]int) },
		Evolve: func(m map[string]int, ev engine.Event) map[string]int {
			m = maps.Clone(m)
			m[ev.Type]++
			return m
		},
		Decide: func(m map[string]int, key string) ([]engine.NewEvent, error) {
			m[key]++
			return nil, nil
		},
	}
	record(t, func(r *recorder) { weirtest.Decide(r, changes).Given(Deposited{1}).When("x").Then() }).fails(t,
		"Decide has changed the state", "- map[Deposited:1]\n  + map[Deposited:1 x:1]")
}
