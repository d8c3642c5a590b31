package weirtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/weirtest"
)

// ledger is a read model, in one of two ways: it adds up what comes, or keeps it by the
// event's identity.
type ledger struct {
	total int
	by    map[string]*int
}

func (l *ledger) handler(idempotent bool) func(e *engine.Engine) error {
	return func(e *engine.Engine) error {
		_, err := engine.Handle(e, "ledger", func(_ context.Context, ev engine.Of[Deposited]) error {
			if l.by[ev.Identity()] == nil || !idempotent {
				l.by[ev.Identity()] = &ev.Data.Amount
				l.total += ev.Data.Amount
			}
			return nil
		})
		return err
	}
}

var deposits = weirtest.In("account-1", Deposited{3}, Deposited{4})

func TestRunTwiceComparesWhatHandlersHaveMade(t *testing.T) {
	test := func(t testing.TB, idempotent bool) {
		l := &ledger{by: make(map[string]*int)}
		weirtest.RunTwice(t, l.handler(idempotent), func(*engine.Engine) any { return l }, deposits, weirtest.In("account-2", Deposited{5}))
		if !idempotent && l.total != 24 {
			t.Errorf("the total is %d, want 24: all events twice", l.total)
		}
	}
	test(t, true)
	r := record(t, func(r *recorder) { test(r, false) })
	r.fails(t, "(- once, + twice)\n  - .total: 12\n  + .total: 24\n")

	// What is built anew, by setup, may add up.
	var l *ledger
	weirtest.RunTwice(t, func(e *engine.Engine) error {
		l = &ledger{by: make(map[string]*int)}
		return l.handler(false)(e)
	}, func(*engine.Engine) any { return l }, deposits)
}

// shipper appends because of what it gets. Its events have IDs, if it is right.
func shipper(withIDs bool) func(e *engine.Engine) error {
	return func(e *engine.Engine) error {
		_, err := engine.Handle(e, "shipper", func(ctx context.Context, ev engine.Of[Placed]) error {
			shipped := engine.New(Shipped(ev.Data))
			if withIDs {
				shipped = shipped.WithID(ev.Identity())
			}
			_, err := e.Append(ctx, "shipments", engine.Any, shipped)
			return err
		})
		return err
	}
}

func TestRunTwiceComparesWhatHandlersHaveAppended(t *testing.T) {
	weirtest.RunTwice(t, shipper(true), nil, weirtest.In("order-1", Placed{"tea"}))
	record(t, func(r *recorder) {
		weirtest.RunTwice(r, shipper(false), nil, weirtest.In("order-1", Placed{"tea"}))
	}).fails(t, "have appended again\n  + Shipped {Goods:tea}  in \"shipments\", because of order-1@1\n")
}

// TestRunTwiceShowsSomething: a test in which nothing came twice is no test.
func TestRunTwiceShowsSomething(t *testing.T) {
	nothing := func(context.Context, engine.Event) error { return nil }
	record(t, func(r *recorder) {
		weirtest.RunTwice(r, func(e *engine.Engine) error {
			_, err := e.On("Deposited", nothing)
			return err
		}, nil, deposits)
	}).fails(t, "no named handler")
	record(t, func(r *recorder) {
		weirtest.RunTwice(r, func(e *engine.Engine) error {
			_, err := e.Handle("late", nothing, engine.IgnoreCheckpoint())
			return err
		}, nil, deposits)
	}).fails(t, `handler "late" has handled 2 events, and only 0 of them a second time`)
	weirtest.RunTwice(t, func(e *engine.Engine) error {
		_, err := e.Handle("anew", nothing, engine.IgnoreCheckpoint(), engine.FromStart())
		return err
	}, nil, deposits)
}

func TestRunTwiceFindsAHandlerThatFailsTheSecondTime(t *testing.T) {
	seen := make(map[string]bool)
	record(t, func(r *recorder) {
		weirtest.RunTwice(r, func(e *engine.Engine) error {
			_, err := e.Handle("once", func(_ context.Context, ev engine.Event) error {
				if seen[ev.Identity()] {
					return errNoSuchGoods
				}
				seen[ev.Identity()] = true
				return nil
			}, engine.Retry(1, time.Millisecond))
			return err
		}, nil, deposits)
	}).fails(t, `the second time: handler "once" has given up: no such goods`)
}

// TestCheckIsComparedDeeply: by what pointers lead to at the time, and not by their addresses.
func TestCheckIsComparedDeeply(t *testing.T) {
	type inner struct {
		n    int
		next *inner
	}
	circle := &inner{n: 1}
	circle.next = circle
	now := time.Now()
	calls := 0
	view := func(n int) any {
		return map[string]any{
			"map": map[int]*inner{1: {n: n}}, "slice": []any{nil, n, "a", 1.5, true, struct{}{}}, "func": func() {}, "chan": make(chan int),
			"circle": circle, "time": now.Round(0), "nil": (*inner)(nil),
		}
	}
	same := func(*engine.Engine) any { return view(1) }
	weirtest.RunTwice(t, shipper(true), same, weirtest.In("order-1", Placed{"tea"}))
	record(t, func(r *recorder) {
		weirtest.RunTwice(r, shipper(true), func(*engine.Engine) any { calls++; return view(calls) }, weirtest.In("order-1", Placed{"tea"}))
	}).fails(t, "  - [\"map\"][1].n: 1\n  - [\"slice\"][1]: 1\n  + [\"map\"][1].n: 2\n  + [\"slice\"][1]: 2\n")
}
