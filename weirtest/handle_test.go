package weirtest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/weirtest"
)

type (
	Placed    struct{ Goods string }
	Requested struct{ Goods string }
	Shipped   struct{ Goods string }
	Booked    struct{ What string }

	left int
)

var errNoSuchGoods = errors.New("no such goods")

// shop registers two handlers that are a chain, and append to several streams. Wrong makes
// the first request something else.
func shop(wrong bool) func(e *engine.Engine) error {
	return func(e *engine.Engine) error {
		if err := engine.Register[Requested](e, "shipment.requested"); err != nil {
			return err
		}
		_, err := engine.Handle(e, "requests", func(ctx context.Context, ev engine.Of[Placed]) error {
			goods := ev.Data.Goods
			if goods == "air" {
				return errNoSuchGoods
			}
			if wrong {
				goods += "?"
			}
			_, err := e.Append(ctx, "shipment-"+ev.Stream, engine.Any, engine.New(Requested{goods}).WithID(ev.Identity()))
			return err
		}, engine.Retry(1, time.Millisecond))
		if err != nil {
			return err
		}
		_, err = engine.Handle(e, "shipper", func(ctx context.Context, ev engine.Of[Requested]) error {
			if _, err := e.Append(ctx, ev.Stream, engine.Any, engine.New(Shipped(ev.Data))); err != nil {
				return err
			}
			// Without its context: no correlation, and it is waited for nevertheless.
			_, err := e.Append(context.Background(), "books", engine.Any, engine.New(Booked{ev.Data.Goods}))
			return err
		})
		return err
	}
}

func TestHandle(t *testing.T) {
	test := func(t testing.TB, wrong bool) {
		weirtest.Handle(t, shop(wrong)).
			Given("order-1", Placed{"milk"}).
			When("order-2", Placed{"tea"}).
			Then(weirtest.In("shipment-order-2", Requested{"tea"}, Shipped{"tea"}),
				weirtest.In("books", Booked{"tea"}))
	}
	test(t, false)
	synctest.Test(t, func(t *testing.T) { test(t, false) })
	record(t, func(r *recorder) { test(r, true) }).fails(t,
		"when \"order-2\"\n  gets Placed {Goods:tea}\n",
		"in \"books\"\n  - Booked {What:tea}\n  + Booked {What:tea?}\n",
		"in \"shipment-order-2\"\n  - shipment.requested {Goods:tea}\n")
}

func TestHandleComparesAllThatWasAppended(t *testing.T) {
	record(t, func(r *recorder) {
		weirtest.Handle(r, shop(false)).When("order-2", Placed{"tea"}).
			Then(weirtest.In("shipment-order-2", Requested{"tea"}, Shipped{"tea"}))
	}).fails(t, "in \"books\"\n  + Booked {What:tea}\n")
	record(t, func(r *recorder) {
		weirtest.Handle(r, shop(false)).When("order-2", Placed{"tea"}, Placed{"milk"}).
			Then(weirtest.In("other", engine.NewEvent{Type: "other", Data: 1}))
	}).fails(t, "in \"other\"\n  - other 1\n", "  + Booked {What:milk}\n")
	weirtest.Handle(t, shop(false)).When("books", Booked{"tea"}).Then()
}

func TestHandlerThatFails(t *testing.T) {
	weirtest.Handle(t, shop(false)).When("order-1", Placed{"air"}).ThenError(errNoSuchGoods)
	weirtest.Handle(t, shop(false)).When("order-1", Placed{"air"}).ThenError(nil)
	record(t, func(r *recorder) {
		weirtest.Handle(r, shop(false)).When("order-1", Placed{"air"}).Then()
	}).fails(t, `handler "requests" has given up: no such goods`)
	record(t, func(r *recorder) {
		weirtest.Handle(r, shop(false)).When("order-1", Placed{"air"}).ThenError(errors.ErrUnsupported)
	}).fails(t, "want error: unsupported operation\n", `handler "requests" has given up: no such goods`)
	record(t, func(r *recorder) {
		weirtest.Handle(r, shop(false)).When("order-1", Placed{"tea"}).ThenError(errNoSuchGoods)
	}).fails(t, "no handler has given up")

	stops := func(e *engine.Engine) error {
		_, err := e.Handle("stops", func(context.Context, engine.Event) error { return errNoSuchGoods },
			engine.Retry(0, 0), engine.OnFailure(engine.Stop))
		return err
	}
	weirtest.Handle(t, stops).When("a-1", Placed{"air"}).ThenError(errNoSuchGoods)
	record(t, func(r *recorder) { weirtest.Handle(r, stops).When("a-1", Placed{"air"}).Then() }).fails(t,
		`handler "stops" has given up: no such goods`)
	record(t, func(r *recorder) {
		weirtest.Handle(r, func(*engine.Engine) error { return errNoSuchGoods })
	}).fails(t, "setup: no such goods")
	record(t, func(r *recorder) { weirtest.Handle(r, stops).When("", 1) }).fails(t, "stream name")
}

func TestWaitCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handled int
		r := record(t, func(r *recorder) {
			e, err := engine.Open(engine.Options{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			if _, err := engine.Handle(e, "slow", func(ctx context.Context, ev engine.Of[left]) error {
				time.Sleep(time.Hour)
				if handled++; ev.Data > 0 {
					_, err := e.Append(ctx, "n-1", engine.Any, engine.New(ev.Data-1))
					return err
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if _, err := e.Append(t.Context(), "n-1", engine.Any, engine.New(left(3))); err != nil {
				t.Fatal(err)
			}
			weirtest.WaitCaughtUp(r, e)
			weirtest.WaitCaughtUp(r, e, "slow")
		})
		r.passes(t)
		if handled != 4 {
			t.Errorf("%d are handled, want 3, 2, 1 and 0", handled)
		}
	})
}

func TestWaitCaughtUpSaysWhoIsLate(t *testing.T) {
	for name, test := range map[string]struct {
		fn       func(ctx context.Context, ev engine.Event) error
		handlers []string
		says     []string
	}{
		"hangs":          {func(ctx context.Context, _ engine.Event) error { <-ctx.Done(); return nil }, nil, []string{"handler h: ", "lag 2", "nearly over"}},
		"hangs, by name": {func(ctx context.Context, _ engine.Event) error { <-ctx.Done(); return nil }, []string{"h"}, []string{"position 2", "handler h: ", "lag 2"}},
		"stopped":        {func(context.Context, engine.Event) error { return errNoSuchGoods }, nil, []string{"handler h: stopped", "no such goods"}},
		"no such one":    {func(context.Context, engine.Event) error { return nil }, []string{"g"}, []string{`"g"`}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, err := engine.Open(engine.Options{Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := e.Handle("h", test.fn, engine.Retry(0, 0), engine.OnFailure(engine.Stop)); err != nil {
					t.Fatal(err)
				}
				if _, err := e.Append(t.Context(), "a-1", engine.Any, engine.New(left(1)), engine.New(left(2))); err != nil {
					t.Fatal(err)
				}
				for range 2 { // it may have stopped before it is waited for
					record(t, func(r *recorder) { weirtest.WaitCaughtUp(r, e, test.handlers...) }).fails(t, test.says...)
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if _, err := e.Shutdown(ctx); err != nil {
					t.Log(err)
				}
			})
		})
	}
}

// TestWaitCaughtUpEndsWithTheTest: its context ends, or its time is nearly over.
func TestWaitCaughtUpEndsWithTheTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, err := engine.Open(engine.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		release := make(chan struct{})
		defer close(release)
		if _, err := e.On("left", func(context.Context, engine.Event) error { <-release; return nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Append(t.Context(), "a-1", engine.Any, engine.New(left(1))); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		record(t, func(r *recorder) {
			weirtest.WaitCaughtUp(&timed{r, began.Add(time.Minute)}, e)
		}).fails(t, "nearly over", "lag 1")
		if took := time.Since(began); took != 59*time.Second {
			t.Errorf("it took %v of a minute", took)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(fmt.Errorf("over"))
		record(t, func(r *recorder) {
			r.ctx = ctx
			weirtest.WaitCaughtUp(r, e)
		}).fails(t, "over", "lag 1")
	})
}

// timed is a test with a deadline.
type timed struct {
	*recorder
	end time.Time
}

func (t *timed) Deadline() (time.Time, bool) { return t.end, true }
