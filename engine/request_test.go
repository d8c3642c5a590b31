package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// TestRequestsAreGivenBack: whatever becomes of a call, the gate then has its request again, empty.
// TestWhatDoesNotReturnLosesNothing does the same where somebody's code does not return.
func TestRequestsAreGivenBack(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	rich := engine.New(rvA{1}).WithID("i").WithExtra("k", "v").WithTags("t")
	many := make([]engine.NewEvent, 20)
	for i := range many {
		many[i] = engine.New(rvA{i}).WithID(fmt.Sprint("m", i))
	}
	d := &engine.Decider[int, int]{
		Evolve: func(n int, _ engine.Event) int { return n + 1 },
		Decide: func(_, n int) ([]engine.NewEvent, error) {
			if n < 0 {
				return nil, errors.New("refused")
			}
			return many[:n], nil
		},
	}
	type call func(e *engine.Engine, ctx context.Context) error
	appending := func(expected engine.Expected, events ...engine.NewEvent) call {
		return func(e *engine.Engine, ctx context.Context) error {
			_, err := e.Append(ctx, "s-1", expected, events...)
			return err
		}
	}
	submitting := func(expected engine.Expected, events ...engine.NewEvent) call {
		return func(e *engine.Engine, ctx context.Context) error {
			p, err := e.Submit(ctx, "s-1", expected, events...)
			if err == nil {
				_, err = p.Wait(context.Background())
			}
			return err
		}
	}
	executing := func(n int) call {
		return func(e *engine.Engine, ctx context.Context) error {
			_, err := engine.Execute(ctx, e, d, "s-1", n)
			return err
		}
	}
	calls := map[string]call{
		"append":                 appending(engine.Any, one),
		"append, rich":           appending(engine.Any, rich),
		"append, many":           appending(engine.Any, many...),
		"append, conflict":       appending(engine.NoStream, rich),
		"append, conflict, many": appending(engine.NoStream, many...),
		"append, nothing":        appending(engine.Any),
		"append, too many":       appending(engine.Any, make([]engine.NewEvent, 2000)...),
		"append, the last bad":   appending(engine.Any, rich, engine.New(rvA{2}).WithID("x"), engine.NewEvent{ID: "y"}),
		"append, a tag twice":    appending(engine.Any, rich, engine.New(rvA{2}).WithID("x").WithTags("t", "t")),
		"append, an ID twice":    appending(engine.Any, rich, rich),
		"append, too large":      appending(engine.Any, rich, event("A", strings.Repeat("x", 2000))),
		"append, no version":     appending(engine.Expected{}, rich),
		"append, no durability": func(e *engine.Engine, ctx context.Context) error {
			_, err := e.Append(engine.WithDurability(ctx, engine.Synced), "s-1", engine.Any, rich)
			return err
		},
		"append, ended": func(e *engine.Engine, _ context.Context) error {
			_, err := e.Append(ended, "s-1", engine.Any, rich)
			return err
		},
		"submit":           submitting(engine.Any, rich),
		"submit, many":     submitting(engine.Any, many...),
		"submit, conflict": submitting(engine.NoStream, rich),
		"submit, nothing":  submitting(engine.Any),
		"submit, not waited for": func(e *engine.Engine, ctx context.Context) error {
			_, err := e.Submit(ctx, "s-1", engine.Any, many...)
			return err
		},
		"execute":          executing(1),
		"execute, many":    executing(20),
		"execute, nothing": executing(0),
		"execute, refused": executing(-1),
		"truncate":         func(e *engine.Engine, ctx context.Context) error { return e.Truncate(ctx, "s-1", 1) },
		"truncate, more":   func(e *engine.Engine, ctx context.Context) error { return e.Truncate(ctx, "s-1", 2) },
		"truncate, wrong":  func(e *engine.Engine, ctx context.Context) error { return e.Truncate(ctx, "s-1", 1<<40) },
		"commit": func(e *engine.Engine, ctx context.Context) error {
			_, err := e.Commit(ctx, engine.Tx{Writes: []engine.TxWrite{
				{Stream: "s-1", Expected: engine.Any, Events: many[:2]}, {Stream: "s-2", Expected: engine.Any, Events: []engine.NewEvent{rich}},
			}})
			return err
		},
	}
	for name, call := range calls {
		for _, mode := range []string{"alone", "alone, and leaves", "beside another", "beside another, and leaves"} {
			t.Run(name+", "+mode, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := &hooked{Memory: engine.NewMemory(), hook: func(c string) {
						if c == "Commit" && mode != "alone" {
							time.Sleep(time.Second)
						}
					}}
					e := quietEngine(t, engine.Options{Backend: b, MaxBytes: 1000, MaxEvents: 1000})
					mustAppend(t, e, "s-1", one)
					var wg sync.WaitGroup
					ctx, wait := context.Background(), time.Second/2
					if strings.HasPrefix(mode, "beside") {
						wait += time.Second
						wg.Go(func() { mustAppend(t, e, "s-1", one) }) // has the stream for a second
						synctest.Wait()
					}
					if strings.HasSuffix(mode, "leaves") {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, wait)
						defer cancel()
					}
					_ = call(e, ctx) // whatever comes of it
					wg.Wait()
					time.Sleep(time.Minute)
					synctest.Wait()
					if wrong := e.Requests(); wrong != "" || e.Stats().InFlight != 0 {
						t.Errorf("%d in flight; %s", e.Stats().InFlight, wrong)
					}
					mustAppend(t, e, "s-1", one)
					mustClose(t, e)
				})
			})
		}
	}
}

type plainA struct{ N int }
type plainB struct{ N int }

// TestEventsAreToldApart tells events apart by what each is, not by what the one before was: a request remembers the type of the
// last event, and copies those that are like it in a loop of their own. Whatever comes in whatever order, what is
// stored and what is refused is what the event alone says.
func TestEventsAreToldApart(t *testing.T) {
	const limit = 60 // bytes of an append
	payloads := []struct {
		data    any
		own     string // the type that it has without being told
		size    int    // if it is measured
		nothing bool   // it is no value
	}{
		{data: plainA{1}, own: "plainA"},
		{data: plainB{2}, own: "plainB"},
		{data: &plainA{3}, own: "pointerA"},
		{data: (*plainA)(nil), nothing: true},
		{data: (*plainB)(nil), nothing: true},
		{data: nil, nothing: true},
		{data: "text", size: 4},
		{data: "", size: 0},
		{data: []byte("bytes"), size: 5},
		{data: []byte(nil), size: 0},
		{data: json.RawMessage("[1]"), own: "RawMessage", size: 3},
		{data: 7},
		{data: map[string]int(nil)},
		{data: (func())(nil)},
	}
	rounds := uint64(2000)
	if testing.Short() || engine.RaceDetector {
		rounds = 100
	}
	for seed := range rounds {
		rnd := rand.New(rand.NewPCG(seed, 0))
		e, err := engine.Open(engine.Options{MaxBytes: limit, MaxEvents: 12, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		for _, err := range []error{engine.Register[plainA](e, "plainA"), engine.Register[plainB](e, "plainB"), engine.Register[*plainA](e, "pointerA")} {
			if err != nil {
				t.Fatal(err)
			}
		}
		var want []engine.NewEvent
		ids := 0
		for range 1 + rnd.IntN(20) {
			n := 1 + rnd.IntN(12)
			events := make([]engine.NewEvent, n)
			stored := make([]engine.NewEvent, n)
			bad, size := -1, 0
			which := rnd.IntN(len(payloads))
			for i := range events {
				if rnd.IntN(3) == 0 {
					which = rnd.IntN(len(payloads))
				}
				p := payloads[which]
				ev := engine.NewEvent{Data: p.data, Type: []string{p.own, p.own, "", "plainA", "free", "other"}[rnd.IntN(6)]}
				switch rnd.IntN(10) {
				case 0:
					ids++
					ev.ID = fmt.Sprint("i", ids)
				case 1:
					ev.Meta.CorrelationID = "c"
				case 2:
					ev.Meta.Extra = map[string]string{"k": "v"}
				}
				if rnd.IntN(40) == 0 {
					ev.ID = "a\nb"
				}
				stored[i] = ev
				if ev.Type == "" {
					stored[i].Type = p.own
				}
				size += len(ev.Type) + len(ev.ID) + len(ev.Meta.CorrelationID) + 2*len(ev.Meta.Extra) + p.size
				goes := map[string]string{"plainA": "plainA", "plainB": "plainB", "pointerA": "pointerA"}[stored[i].Type]
				if bad < 0 && (p.nothing || stored[i].Type == "" || goes != "" && goes != p.own || strings.Contains(ev.ID, "\n") || size > limit) {
					bad = i
				}
				events[i] = ev
			}
			_, err := e.Append(context.Background(), "s-1", engine.Any, events...)
			if bad >= 0 {
				if err == nil {
					t.Fatalf("seed %d: event %d of %+v was accepted", seed, bad+1, events)
				}
				if conflict, ok := errors.AsType[*engine.TypeConflictError](err); ok {
					if conflict.Name != stored[bad].Type {
						t.Fatalf("seed %d: event %d of %+v is bad, but the error is %v", seed, bad+1, events, err)
					}
				} else if !strings.Contains(err.Error(), fmt.Sprintf("event %d ", bad+1)) && !strings.Contains(err.Error(), "event type of Go type") {
					t.Fatalf("seed %d: event %d of %+v is bad, but the error is %v", seed, bad+1, events, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("seed %d: %+v: %v", seed, events, err)
			}
			want = append(want, stored...)
		}
		i := 0
		for ev, err := range e.ReadAll(context.Background()) {
			if err != nil {
				t.Fatal(err)
			}
			w := want[i]
			if ev.Type != w.Type || ev.ID != w.ID || ev.Meta.CorrelationID != w.Meta.CorrelationID || !reflect.DeepEqual(ev.Meta.Extra, w.Meta.Extra) || !samePayload(ev.Data, w.Data) {
				t.Fatalf("seed %d: position %d is %+v, want %+v", seed, i+1, ev, w)
			}
			i++
		}
		if i != len(want) {
			t.Fatalf("seed %d: %d events are stored, want %d", seed, i, len(want))
		}
		if wrong := e.Requests(); wrong != "" {
			t.Fatal(wrong)
		}
	}
}

// samePayload compares payloads, of which functions are nil.
func samePayload(a, b any) bool {
	if reflect.TypeOf(a) != reflect.TypeOf(b) {
		return false
	}
	if a != nil && reflect.TypeOf(a).Kind() == reflect.Func {
		return true
	}
	return reflect.DeepEqual(a, b)
}

// TestRefusedAppendReturnsNothing: requests are used again, what they have answered is not.
func TestRefusedAppendReturnsNothing(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	ctx := t.Context()
	mustAppend(t, e, "s-1", one.WithID("a"), one.WithID("b"))
	for what, refused := range map[string]func() (engine.Result, error){
		"conflict": func() (engine.Result, error) { return e.Append(ctx, "s-1", engine.NoStream, one) },
		"partial": func() (engine.Result, error) {
			return e.Append(ctx, "s-1", engine.Any, one.WithID("a"), one.WithID("new"))
		},
	} {
		mustAppend(t, e, "s-1", one)
		if res, err := refused(); err == nil || res != (engine.Result{}) {
			t.Errorf("%s: %+v, %v", what, res, err)
		}
	}
	mustAppend(t, e, "s-1", one)
	if err := e.Delete(ctx, "s-1", engine.Any); err != nil {
		t.Fatal(err)
	}
	if res, err := e.Append(ctx, "s-1", engine.Any, one); err == nil || res != (engine.Result{}) {
		t.Errorf("%+v, %v", res, err)
	}
	mustClose(t, e)
}

// Was wrong: an append whose events are stored already returned where, beside the error of a backend that panicked
// when it was asked.
func TestDuplicateOfWhichNobodyKnows(t *testing.T) {
	armed := false
	b := &hooked{Memory: engine.NewMemory(), prompt: true, hook: func(c string) {
		if c == "ReadStream" && armed {
			panic("oh")
		}
	}}
	e := quietEngine(t, engine.Options{Backend: b})
	mustAppend(t, e, "s-1", one.WithID("a"))
	armed = true
	if res, err := e.Append(t.Context(), "s-1", engine.Any, one.WithID("a")); err == nil || res != (engine.Result{}) {
		t.Errorf("%+v, %v", res, err)
	}
	armed = false
	if res, err := e.Append(t.Context(), "s-1", engine.Any, one.WithID("a")); err != nil || !res.Duplicate {
		t.Errorf("%+v, %v", res, err)
	}
	mustClose(t, e)
}
