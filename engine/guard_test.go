package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/actor"
	"github.com/weirstore/weir/engine"
)

// cart is a payload with much that can be changed.
type cart struct {
	Name   string
	Items  []item
	Totals map[string]int
	Owner  **item
	secret int
}

type item struct{ Price int }

func (c *cart) touch() { c.secret++ }

func newCart() *cart {
	owner := &item{1}
	return &cart{Name: "a", Items: []item{{1}, {2}}, Totals: map[string]int{"paid by john": 1}, Owner: &owner}
}

// guardedEngine opens an engine whose guard is on, and returns what it logs.
func guardedEngine(t *testing.T, opts engine.Options) (*engine.Engine, *logged) {
	log := new(logged)
	opts.GuardPayloads, opts.Logger = engine.GuardOn, slog.New(loggerFunc{slog.DiscardHandler, log.add})
	e := quietEngine(t, opts)
	t.Cleanup(func() {
		mustClose(t, e)
		if n := e.GuardedCalls(); n != 0 {
			t.Errorf("%d calls are still noted", n)
		}
		if _, failed := e.GuardWalks(); failed != 0 {
			t.Errorf("%d walks have ended in a panic", failed)
		}
	})
	if err := engine.Register[*cart](e, "cart"); err != nil {
		t.Fatal(err)
	}
	return e, log
}

// logged counts messages.
type logged struct {
	mu   sync.Mutex
	msgs []string // guarded by mu
}

func (l *logged) add(msg string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.msgs = append(l.msgs, msg)
}

func (l *logged) count(msg string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.msgs {
		if m == msg {
			n++
		}
	}
	return n
}

const payloadChanged = "weir: payload changed"

func mutation(t *testing.T, err error) *engine.MutationError {
	t.Helper()
	bad, ok := errors.AsType[*engine.MutationError](err)
	if !ok {
		t.Fatalf("the error is %v, want a MutationError", err)
	}
	return bad
}

// TestGuardNamesTheHandler plants handlers that change what they share, over both kinds of backends.
func TestGuardNamesTheHandler(t *testing.T) {
	for path, change := range map[string]func(ev engine.Event){
		"Data.Name":           func(ev engine.Event) { ev.Data.(*cart).Name = "b" },
		"Data.Items[1].Price": func(ev engine.Event) { ev.Data.(*cart).Items[1].Price++ },
		"Data.Totals[…]":      func(ev engine.Event) { ev.Data.(*cart).Totals["paid by john"]++ },
		"Data.Totals":         func(ev engine.Event) { ev.Data.(*cart).Totals["mary"] = 1 },
		"Data.Owner.Price":    func(ev engine.Event) { (*ev.Data.(*cart).Owner).Price++ },
		"Data.secret":         func(ev engine.Event) { ev.Data.(*cart).touch() },
		"Meta.Extra[…]":       func(ev engine.Event) { ev.Meta.Extra["tenant"] = "b" },
	} {
		for name, backend := range map[string]engine.Backend{"memory": engine.NewMemory(), "encoded": newEncoded()} {
			t.Run(path+"/"+name, func(t *testing.T) {
				e, log := guardedEngine(t, engine.Options{Backend: backend})
				before := mustHandle(t, e, "before", func(context.Context, engine.Event) error { return nil })
				mustAppend(t, e, "cart-1", engine.New(newCart()), engine.New(newCart()).WithExtra("tenant", "a"))
				if err := e.Wait(t.Context(), 2); err != nil {
					t.Fatal(err)
				}
				own := errors.New("its own")
				h := mustHandle(t, e, "culprit", func(_ context.Context, ev engine.Event) error {
					if ev.Version == 1 {
						return nil
					}
					change(ev)
					return own
				}, engine.FromStart(), engine.Retry(0, 0))
				if err := e.Wait(t.Context(), 2); err != nil {
					t.Fatal(err)
				}
				parked := h.Parked()
				if len(parked) != 1 {
					t.Fatalf("%d events are parked, want the changed one", len(parked))
				}
				bad := mutation(t, parked[0].Err)
				want := engine.MutationError{By: []string{`handler "culprit"`}, Stream: "cart-1", Version: 2, Position: 2, Type: "cart", Path: path, Err: own}
				if !reflect.DeepEqual(*bad, want) {
					t.Errorf("the error is %+v, want %+v", *bad, want)
				}
				if !errors.Is(bad, own) || strings.Contains(bad.Error(), "john") || strings.Contains(bad.Error(), "mary") {
					t.Errorf("the text is %q", bad)
				}
				if s := before.Stats(); s.Failures != 0 {
					t.Errorf("another handler has failed: %v", s.LastError)
				}
				if n := log.count(payloadChanged); n != 1 {
					t.Errorf("logged %d times", n)
				}
			})
		}
	}
}

func TestMutationErrorText(t *testing.T) {
	bad := &engine.MutationError{By: []string{`handler "a"`}, Stream: "cart-1", Version: 2, Position: 7, Type: "cart", Path: "Data.Items[1].Price"}
	want := `engine: handler "a" has changed the payload of "cart-1", version 2, position 7, of event type "cart", at Data.Items[1].Price; ` +
		`payloads are shared, and this one stays changed for all who read it`
	if got := bad.Error(); got != want {
		t.Errorf("the text is\n%s, want\n%s", got, want)
	}
	bad.By, bad.Meanwhile, bad.Err = []string{`handler "a"`, `handler "b"`}, []string{`handler "c"`}, errors.New("no")
	want = `engine: one of handler "a", handler "b" has changed the payload of "cart-1", version 2, position 7, of event type "cart", at Data.Items[1].Price ` +
		`(or, if it has kept that event or has one that shares memory with it, handler "c"); ` +
		`payloads are shared, and this one stays changed for all who read it; the call returned: no`
	if got := bad.Error(); got != want {
		t.Errorf("the text is\n%s, want\n%s", got, want)
	}
}

// TestGuardAndTheFailurePolicy: a change fails each call that makes it, and is logged once for an event. A panic
// and a Goexit stay what they are.
func TestGuardAndTheFailurePolicy(t *testing.T) {
	e, log := guardedEngine(t, engine.Options{})
	h := mustHandle(t, e, "again", func(_ context.Context, ev engine.Event) error {
		ev.Data.(*cart).touch()
		return nil
	}, engine.Retry(2, 1), engine.OnFailure(engine.Stop))
	res := mustAppend(t, e, "cart-1", engine.New(newCart()))
	err := e.Wait(t.Context(), res.Position, "again")
	if _, stopped := errors.AsType[*engine.StoppedError](err); !stopped {
		t.Fatalf("wait: %v", err)
	}
	mutation(t, err)
	if s := h.Stats(); s.Failures != 3 || log.count(payloadChanged) != 1 {
		t.Errorf("%d failures, logged %d times; want 3 and 1", s.Failures, log.count(payloadChanged))
	}
	for name, leave := range map[string]func(){"panic": func() { panic("oh") }, "Goexit": runtime.Goexit} {
		h := mustHandle(t, e, name, func(_ context.Context, ev engine.Event) error {
			ev.Data.(*cart).touch()
			leave()
			return nil
		}, engine.Retry(0, 0))
		before := log.count(payloadChanged)
		res := mustAppend(t, e, "cart-1", engine.New(newCart()))
		if err := e.Wait(t.Context(), res.Position, name); err != nil {
			t.Fatal(err)
		}
		parked := h.Parked()
		if _, ok := errors.AsType[*actor.PanicError](parked[0].Err); !ok || log.count(payloadChanged) != before+1 {
			t.Errorf("%s: parked with %v, logged %d times", name, parked[0].Err, log.count(payloadChanged)-before)
		}
		if err := h.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGuardDoesNotBlameTheWrongOne: of handlers that are called with one event at the same time nobody
// knows who it was, and of one that has kept an event neither.
func TestGuardDoesNotBlameTheWrongOne(t *testing.T) {
	e, _ := guardedEngine(t, engine.Options{})
	inside, done := make(chan struct{}), make(chan struct{})
	innocent := mustHandle(t, e, "innocent", func(context.Context, engine.Event) error {
		close(inside)
		<-done
		return nil
	}, engine.Retry(0, 0))
	culprit := mustHandle(t, e, "culprit", func(_ context.Context, ev engine.Event) error {
		<-inside
		ev.Data.(*cart).touch()
		return nil
	}, engine.Retry(0, 0))
	mustAppend(t, e, "cart-1", engine.New(newCart()))
	if err := e.Wait(t.Context(), 1, "culprit"); err != nil {
		t.Fatal(err)
	}
	close(done)
	if err := e.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*engine.Handler{innocent, culprit} {
		bad := mutation(t, h.Stats().LastError)
		if want := []string{`handler "culprit"`, `handler "innocent"`}; !slices.Equal(bad.By, want) || bad.Meanwhile != nil {
			t.Errorf("%s: by %q, meanwhile %q, want one of %q", h.Name(), bad.By, bad.Meanwhile, want)
		}
	}
}

// TestGuardAndKeptEvents: the limits. What is changed between two calls is not found; what is changed
// in a call with another event is found by who is called with it, and the text says that it may have been others.
func TestGuardAndKeptEvents(t *testing.T) {
	e, log := guardedEngine(t, engine.Options{})
	inside, done := make(chan struct{}), make(chan struct{})
	slow := mustHandle(t, e, "slow", func(_ context.Context, ev engine.Event) error {
		if ev.Version == 1 {
			close(inside)
			<-done
		}
		return nil
	}, engine.Retry(0, 0))
	var kept *cart // owner: keeper
	keeper := mustHandle(t, e, "keeper", func(_ context.Context, ev engine.Event) error {
		if ev.Version == 2 {
			<-inside
			kept.touch()
		}
		kept = ev.Data.(*cart)
		return nil
	}, engine.Retry(0, 0))
	mustAppend(t, e, "cart-1", engine.New(newCart()), engine.New(newCart()))
	if err := e.Wait(t.Context(), 2, "keeper"); err != nil {
		t.Fatal(err)
	}
	close(done)
	if err := e.Wait(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	bad := mutation(t, slow.Stats().LastError)
	if all := append(slices.Clone(bad.By), bad.Meanwhile...); !slices.Contains(all, `handler "keeper"`) {
		t.Errorf("by %q, meanwhile %q, want the keeper among them", bad.By, bad.Meanwhile)
	}
	kept.touch() // between calls
	mustAppend(t, e, "cart-1", engine.New(newCart()))
	if err := e.Wait(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if n := keeper.Stats().Failures; n != 0 || log.count(payloadChanged) != 1 {
		t.Errorf("the keeper has failed %d times, logged %d times", n, log.count(payloadChanged))
	}
}

// TestGuardWithKeyedWorkers: every change is found, nothing else is, and nobody else is named alone.
func TestGuardWithKeyedWorkers(t *testing.T) {
	const streams, each = 8, 20
	e, log := guardedEngine(t, engine.Options{})
	var handled atomic.Int64
	keyed := func(name string, change bool) *engine.Handler {
		return mustHandle(t, e, name, func(_ context.Context, ev engine.Event) error {
			handled.Add(1)
			if c := ev.Data.(*cart); change && ev.Version%5 == 0 {
				c.touch()
			}
			return nil
		}, engine.Keyed(4), engine.Retry(0, 0), engine.OnFailure(engine.Skip), engine.FromStart())
	}
	for s := range streams {
		for range each {
			mustAppend(t, e, "cart-"+string(rune('a'+s)), engine.New(newCart()))
		}
	}
	culprit := keyed("culprit", true)
	if err := e.Wait(t.Context(), streams*each); err != nil {
		t.Fatal(err)
	}
	if s := culprit.Stats(); s.Failures != streams*each/5 || log.count(payloadChanged) != streams*each/5 {
		t.Errorf("%d failures, logged %d times, want %d", s.Failures, log.count(payloadChanged), streams*each/5)
	}
	if bad := mutation(t, culprit.Stats().LastError); !slices.Equal(bad.By, []string{`handler "culprit"`}) || bad.Meanwhile != nil {
		t.Errorf("by %q, meanwhile %q", bad.By, bad.Meanwhile)
	}
	for _, h := range []*engine.Handler{keyed("one", false), keyed("two", false)} {
		if err := e.Wait(t.Context(), streams*each, h.Name()); err != nil || h.Stats().Failures != 0 {
			t.Errorf("%s: %v, %v", h.Name(), err, h.Stats().LastError)
		}
	}
	if n := handled.Load(); n != 3*streams*each {
		t.Errorf("%d calls", n)
	}
}

// TestGuardAndEvolve: a decider that changes payloads is found when it folds a stream, and said in the
// log when it takes in what was just stored, which stays stored.
func TestGuardAndEvolve(t *testing.T) {
	e, log := guardedEngine(t, engine.Options{})
	d := &engine.Decider[int, int]{
		Evolve: func(n int, ev engine.Event) int {
			ev.Data.(*cart).touch()
			return n + 1
		},
		Decide: func(int, int) ([]engine.NewEvent, error) { return []engine.NewEvent{engine.New(newCart())}, nil },
	}
	ctx := t.Context()
	if res, err := engine.Execute(ctx, e, d, "cart-1", 0); err != nil || res.Last != 1 {
		t.Fatalf("the first command: %+v, %v", res, err)
	}
	if n := log.count(payloadChanged); n != 1 || e.CachedStates() != 0 {
		t.Errorf("logged %d times, %d states are kept", n, e.CachedStates())
	}
	_, err := engine.Execute(ctx, e, d, "cart-1", 0)
	bad := mutation(t, err)
	if want := []string{"Evolve of *engine.Decider[int,int]"}; !slices.Equal(bad.By, want) || bad.Path != "Data.secret" || bad.Version != 1 {
		t.Errorf("the error is %+v", bad)
	}
	if _, _, err := engine.Load(ctx, e, d, "cart-1"); mutation(t, err).Version != 1 {
		t.Errorf("load: %v", err)
	}
	if head := e.Head(); head != 1 {
		t.Errorf("head is at %d", head)
	}
}

// TestGuardIsOff: nothing is walked, and nobody is told. It is on by default under the race detector only.
func TestGuardIsOff(t *testing.T) {
	for _, c := range []struct {
		mode engine.PayloadGuard
		on   bool
	}{{engine.GuardOff, false}, {engine.GuardOn, true}, {engine.GuardAuto, engine.RaceDetector}} {
		e := quietEngine(t, engine.Options{GuardPayloads: c.mode})
		h := mustHandle(t, e, "h", func(_ context.Context, ev engine.Event) error {
			if c, ok := ev.Data.(*cart); ok {
				c.touch()
			}
			return nil
		}, engine.Retry(0, 0))
		mustAppend(t, e, "cart-1", engine.New(newCart()), engine.New(payload{1, 2}), event("text", "text"))
		if err := e.Wait(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		walks, _ := e.GuardWalks()
		if failures := h.Stats().Failures; c.on != (failures == 1) || c.on != (walks == 2) {
			t.Errorf("mode %v: %d walks, %d failures", c.mode, walks, failures)
		}
		mustClose(t, e)
	}
	if _, err := engine.Open(engine.Options{GuardPayloads: engine.GuardOff + 1}); err == nil || !strings.Contains(err.Error(), "Options.GuardPayloads is 3, want GuardAuto, GuardOn or GuardOff") {
		t.Errorf("open: %v", err)
	}
}
