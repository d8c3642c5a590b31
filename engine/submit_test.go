package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/weirstore/weir/engine"
)

// ordinal is an event that knows its producer and its place among that one's, in a stream.
type ordinal struct{ Producer, N int }

func (ordinal) EventType() string { return "ordinal" }

func mustSubmit(t *testing.T, e *engine.Engine, stream string, expected engine.Expected, events ...engine.NewEvent) *engine.Pending {
	t.Helper()
	p, err := e.Submit(context.Background(), stream, expected, events...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// outcome is what is known of a Pending now; it does not wait.
func outcome(p *engine.Pending) (engine.Result, error) { return p.Wait(gone()) }

// issued is an append whose outcome must come.
type issued struct {
	pending *engine.Pending
	stream  string
	events  []ordinal
}

// mixed lets producers submit, append and execute at random, to streams that they share and to
// one of their own, and checks that each stream has what each has issued, in that order, and where the results say.
func mixed(t *testing.T, e *engine.Engine, producers, each int, seed uint64) {
	if err := engine.Register[ordinal](e, "ordinal"); err != nil {
		t.Error(err)
		return
	}
	d := &engine.Decider[int, ordinal]{
		Evolve: func(n int, _ engine.Event) int { return n + 1 },
		Decide: func(_ int, ev ordinal) ([]engine.NewEvent, error) { return []engine.NewEvent{engine.New(ev)}, nil },
	}
	ctx := t.Context()
	all := make([][]issued, producers)
	var wg sync.WaitGroup
	for producer := range producers {
		rng := rand.New(rand.NewPCG(seed, uint64(producer)))
		wg.Go(func() {
			count := make(map[string]int)
			own := fmt.Sprintf("own-%d", producer)
			for range each {
				is := issued{stream: fmt.Sprintf("s-%d", rng.IntN(3))}
				expected := engine.Any
				if rng.IntN(3) == 0 { // then the order shows at once: nobody has waited for the version
					is.stream = own
					expected = engine.Exactly(engine.Version(count[own]))
				}
				kind := rng.IntN(6)
				var events []engine.NewEvent
				for range 1 + rng.IntN(3) {
					count[is.stream]++
					is.events = append(is.events, ordinal{producer, count[is.stream]})
					ev := engine.New(is.events[len(is.events)-1])
					if rng.IntN(4) == 0 && kind < 4 {
						ev = ev.WithID(fmt.Sprintf("%d/%d", producer, count[is.stream]))
					}
					events = append(events, ev)
					if kind == 5 {
						break
					}
				}
				var err error
				switch kind {
				case 4:
					_, err = e.Append(ctx, is.stream, expected, events...)
				case 5:
					_, err = engine.Execute(ctx, e, d, is.stream, is.events[0])
				default:
					is.pending, err = e.Submit(ctx, is.stream, expected, events...)
				}
				if err != nil {
					t.Errorf("producer %d: %v", producer, err)
					return
				}
				if all[producer] = append(all[producer], is); is.pending != nil && rng.IntN(8) == 0 {
					if _, err := is.pending.Wait(ctx); err != nil {
						t.Errorf("producer %d: %v", producer, err)
					}
				}
			}
		})
	}
	wg.Wait()
	for _, list := range all {
		for _, is := range list {
			if is.pending == nil {
				continue
			}
			if _, err := is.pending.Wait(ctx); err != nil {
				t.Errorf("%+v: %v", is, err)
				return
			}
		}
	}
	streams := make(map[string][]engine.Event)
	want := 0
	for _, list := range all {
		next := make(map[string]int)
		for _, is := range list {
			want += len(is.events)
			var res engine.Result
			if is.pending != nil {
				res, _ = outcome(is.pending)
			}
			stored, ok := streams[is.stream]
			if !ok {
				for ev, err := range e.Read(ctx, is.stream) {
					if err != nil {
						t.Error(err)
						return
					}
					stored = append(stored, ev)
				}
				streams[is.stream] = stored
			}
			for i, want := range is.events {
				at := next[is.stream]
				for at < len(stored) && stored[at].Data.(ordinal).Producer != want.Producer {
					at++
				}
				if at == len(stored) || stored[at].Data != any(want) {
					t.Errorf("%s: %+v is not there, or not in its place", is.stream, want)
					return
				}
				next[is.stream] = at + 1
				if is.pending == nil {
					continue
				}
				if v := res.First + engine.Version(i); v != stored[at].Version {
					t.Errorf("%s: the result says version %d, it has %d", is.stream, v, stored[at].Version)
				}
				if i == len(is.events)-1 && (res.Last != stored[at].Version || res.Position != stored[at].Position || res.Durability == 0) {
					t.Errorf("%s: result %+v of %+v", is.stream, res, stored[at])
				}
			}
		}
	}
	if head := int(e.Head()); head != want {
		t.Errorf("%d events are stored, %d were issued", head, want)
	}
}

// TestSubmitKeepsOrder: whatever a producer mixes, each stream has it in that order.
func TestSubmitKeepsOrder(t *testing.T) {
	overBackends(t, engine.Options{StreamMailbox: 3, MaxSubmitted: 5}, func(t *testing.T, e *engine.Engine) { mixed(t, e, 4, 100, 1) })
	for seed := range uint64(20) {
		for _, prompt := range []bool{true, false} { // with lending, and without
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 2))
				e := quietEngine(t, engine.Options{
					Backend:       &wrapped{Memory: engine.NewMemory(), prompt: prompt},
					StreamMailbox: 1 + rng.IntN(4), MaxSubmitted: 1 + rng.IntN(8), MaxIdleStreams: 1 + rng.IntN(4),
				})
				mustHandle(t, e, "h", nothing, engine.Mailbox(1+rng.IntN(8)))
				mixed(t, e, 1+rng.IntN(5), 60, seed)
				mustClose(t, e)
			})
		}
	}
}

// TestSubmitIsBounded: the append that is one too many waits outside, as long as its context
// says, and stores nothing; once there is room all go on.
func TestSubmitIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		opts   engine.Options
		stream func(i int) string
	}{
		"by the engine": {engine.Options{MaxSubmitted: 3}, func(i int) string { return fmt.Sprint("s-", i) }},
		"by the stream": {engine.Options{StreamMailbox: 2}, func(int) string { return "s" }}, // one is being stored, two wait
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := slowBackend{engine.NewMemory(), make(chan struct{})}
				c.opts.Backend = b
				e := quietEngine(t, c.opts)
				var pending []*engine.Pending
				for i := range 3 {
					pending = append(pending, mustSubmit(t, e, c.stream(i), engine.Any, engine.New(grown{i})))
					synctest.Wait()
				}
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, errTooMuch)
				defer cancel()
				began := time.Now()
				if p, err := e.Submit(ctx, c.stream(3), engine.Any, engine.New(grown{-1})); !errors.Is(err, errTooMuch) || p != nil || time.Since(began) != time.Hour {
					t.Errorf("one too many, after %v: %v, %v", time.Since(began), p, err)
				}
				var late sync.WaitGroup
				more := make([]*engine.Pending, 4)
				for i := range more {
					late.Go(func() { more[i] = mustSubmit(t, e, c.stream(i), engine.Any, engine.New(grown{3})) })
				}
				synctest.Wait()
				for i, p := range pending {
					if _, err := outcome(p); !errors.Is(err, errGone) || errors.Is(err, engine.ErrOutcomeUnknown) {
						t.Errorf("append %d, which is not stored: %v", i, err)
					}
				}
				if e.Head() != 0 {
					t.Errorf("%d events are stored", e.Head())
				}
				close(b.release)
				late.Wait()
				for _, p := range append(pending, more...) {
					if _, err := p.Wait(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if e.Head() != 7 {
					t.Errorf("%d events are stored, want 7", e.Head())
				}
				mustClose(t, e)
			})
		})
	}
}

// TestSubmitHonoursItsContext: until it is accepted, at the door too.
func TestSubmitHonoursItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{MaxSubmitted: 1})
		release := make(chan struct{})
		mustHandle(t, e, "h", func(context.Context, engine.Event) error { <-release; return nil }, engine.Mailbox(2))
		if p, err := e.Submit(gone(), "s-1", engine.Any, engine.New(grown{})); !errors.Is(err, errGone) || p != nil {
			t.Errorf("with a context that has ended: %v, %v", p, err)
		}
		mustAppend(t, e, "s-1", engine.New(grown{}), engine.New(grown{}))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		if p, err := e.Submit(ctx, "s-1", engine.Any, engine.New(grown{})); !errors.Is(err, context.DeadlineExceeded) || p != nil || time.Since(began) != time.Hour {
			t.Errorf("at the door, after %v: %v, %v", time.Since(began), p, err)
		}
		if e.Head() != 2 {
			t.Errorf("%d events are stored, want 2", e.Head())
		}
		close(release)
		mustSubmit(t, e, "s-1", engine.Exactly(2), engine.New(grown{}))
		mustClose(t, e)
	})
}

// TestSubmitThatGivesUp: who has left a full stream takes up no room in the engine.
func TestSubmitThatGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := slowBackend{engine.NewMemory(), make(chan struct{})}
		e := quietEngine(t, engine.Options{Backend: b, StreamMailbox: 1, MaxSubmitted: 1})
		var appends sync.WaitGroup
		for range 2 { // one is being stored, one waits: these are not counted
			appends.Go(func() { mustAppend(t, e, "full", engine.New(grown{})) })
			synctest.Wait() // or the owner might take both together
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if p, err := e.Submit(ctx, "full", engine.Any, engine.New(grown{})); !errors.Is(err, context.DeadlineExceeded) || p != nil {
			t.Errorf("with a full stream: %v, %v", p, err)
		}
		mustSubmit(t, e, "other", engine.Any, engine.New(grown{}))
		close(b.release)
		appends.Wait()
		mustClose(t, e)
		if e.Head() != 3 {
			t.Errorf("%d events are stored, want 3", e.Head())
		}
	})
}

// TestSubmitAbandoned: nobody has to wait, and nothing keeps what nobody has.
func TestSubmitAbandoned(t *testing.T) {
	overBackends(t, engine.Options{MaxSubmitted: 10}, func(t *testing.T, e *engine.Engine) {
		var last weak.Pointer[engine.Pending]
		for i := range 500 {
			last = weak.Make(mustSubmit(t, e, fmt.Sprintf("a-%d", i%7), engine.Any, engine.New(added{i})))
		}
		mustClose(t, e)
		if e.Head() != 500 {
			t.Errorf("%d events are stored, want 500", e.Head())
		}
		for range 10 {
			runtime.GC()
		}
		if last.Value() != nil {
			t.Error("a Pending that nobody has is still there")
		}
		runtime.KeepAlive(e)
	})
}

// TestSubmitWait: before and after the outcome is known, by many, again and again.
func TestSubmitWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := slowBackend{engine.NewMemory(), make(chan struct{})}
		e := quietEngine(t, engine.Options{Backend: b})
		p := mustSubmit(t, e, "s-1", engine.NoStream, engine.New(grown{}))
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errTooMuch)
		defer cancel()
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if _, err := p.Wait(ctx); !errors.Is(err, errTooMuch) || errors.Is(err, engine.ErrOutcomeUnknown) {
					t.Errorf("with a context that ends: %v", err)
				}
			})
			all.Go(func() {
				for range 2 {
					if res, err := p.Wait(t.Context()); err != nil || res.Position != 1 {
						t.Errorf("with one that does not: %+v, %v", res, err)
					}
				}
			})
		}
		time.Sleep(time.Hour)
		close(b.release)
		all.Wait()
		if res, err := outcome(p); err != nil || res.First != 1 || res.Last != 1 || res.Position != 1 {
			t.Errorf("afterwards: %+v, %v", res, err)
		}
		mustClose(t, e)
	})
}

// TestSubmitAndShutdown: whatever the moment, what was accepted has an outcome when Shutdown returns,
// and the log has what was acknowledged, and nothing else. Handlers submit to the last.
func TestSubmitAndShutdown(t *testing.T) {
	for moment := range 30 {
		synctest.Test(t, func(t *testing.T) {
			e := quietEngine(t, engine.Options{
				Backend:      &wrapped{Memory: engine.NewMemory(), prompt: moment%2 == 0},
				MaxSubmitted: 1 + moment%20, StreamMailbox: 1 + moment%5,
			})
			var mu sync.Mutex
			var accepted []*engine.Pending
			submit := func(ctx context.Context, stream string, depth int) error {
				p, err := e.Submit(ctx, stream, engine.Any, engine.New(grown{depth}))
				if err == nil {
					mu.Lock()
					accepted = append(accepted, p)
					mu.Unlock()
				}
				return err
			}
			var handled atomic.Int64
			mustHandle(t, e, "chain", func(ctx context.Context, ev engine.Event) error {
				handled.Add(1)
				if ev.Data.(grown).Depth > 0 {
					return nil
				}
				err := submit(ctx, "chained-1", 1) // and does not wait
				if err != nil {
					t.Errorf("a submit of a handler during the shutdown: %v", err)
				}
				return err
			}, engine.Mailbox(3))
			var producers sync.WaitGroup
			for p := range 8 {
				producers.Go(func() {
					for {
						if err := submit(context.Background(), fmt.Sprintf("s-%d", p%5), 0); err != nil {
							if !errors.Is(err, engine.ErrClosed) {
								t.Error(err)
							}
							return
						}
					}
				})
			}
			for e.Head() < engine.Position(moment*15) {
				runtime.Gosched()
			}
			report, err := e.Shutdown(context.Background())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			known := len(accepted)
			mu.Unlock()
			producers.Wait()
			if known > len(accepted) || int(report.Head) != len(accepted) || handled.Load() != int64(report.Head) {
				t.Errorf("%d events stored, %d accepted, %d handled", report.Head, len(accepted), handled.Load())
			}
			seen := make(map[engine.Position]bool)
			for _, p := range accepted {
				res, err := outcome(p)
				if err != nil || seen[res.Position] || res.Position == 0 {
					t.Errorf("after the shutdown: %+v, %v", res, err)
				}
				seen[res.Position] = true
			}
		})
	}
}

// TestSubmitAndAStuckBackend: a shutdown that runs out of time leaves nobody waiting.
func TestSubmitAndAStuckBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{MaxSubmitted: 2, Backend: slowBackend{engine.NewMemory(), make(chan struct{})}})
		pending := []*engine.Pending{
			mustSubmit(t, e, "s-1", engine.Any, engine.New(grown{})),
			mustSubmit(t, e, "s-1", engine.Any, engine.New(grown{})),
		}
		var all sync.WaitGroup
		all.Go(func() {
			p, err := e.Submit(context.Background(), "s-2", engine.Any, engine.New(grown{}))
			if err == nil {
				_, err = p.Wait(context.Background())
			}
			if err == nil {
				t.Error("what was not stored was acknowledged")
			}
		})
		for _, p := range pending {
			all.Go(func() {
				if _, err := p.Wait(context.Background()); err == nil {
					t.Error("what was not stored was acknowledged")
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		all.Wait()
	})
}

// TestSubmitAndABackendThatHangs: one that ignores its context too keeps what was accepted, but nobody who is
// still outside.
func TestSubmitAndABackendThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		w := &wrapped{Memory: engine.NewMemory(), commit: func(_ context.Context, next func() error) error {
			<-release
			return next()
		}}
		e := quietEngine(t, engine.Options{MaxSubmitted: 1, Backend: w})
		p := mustSubmit(t, e, "s-1", engine.Any, engine.New(grown{}))
		outside := make(chan error, 1)
		go func() {
			_, err := e.Submit(context.Background(), "s-2", engine.Any, engine.New(grown{}))
			outside <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if report, err := e.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || len(report.Running) != 1 {
			t.Errorf("Shutdown: %v, running %v", err, report.Running)
		}
		if err := <-outside; !errors.Is(err, engine.ErrClosed) {
			t.Errorf("Submit, outside: %v", err)
		}
		close(release)
		if res, err := p.Wait(t.Context()); (err == nil) != (w.Head() == 1) { // Memory refuses, once it is closed
			t.Errorf("in the end: %+v, %v, and %d events are stored", res, err, w.Head())
		}
	})
}

// TestSubmitAndABackendThatFails: the outcome comes whatever the backend does, and room is made.
func TestSubmitAndABackendThatFails(t *testing.T) {
	for name, fail := range map[string]func() error{
		"an error": func() error { return errTooMuch },
		"a panic":  func() error { panic("oh") },
		"an exit":  func() error { runtime.Goexit(); return nil },
	} {
		for _, prompt := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, prompt %v", name, prompt), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					calls := 0
					w := &wrapped{Memory: engine.NewMemory(), prompt: prompt}
					w.commit = func(_ context.Context, next func() error) error {
						if calls++; calls%2 == 1 {
							if err := fail(); err != nil {
								return err
							}
						}
						return next()
					}
					e := quietEngine(t, engine.Options{Backend: w, MaxSubmitted: 1})
					for i := range 10 {
						var p *engine.Pending
						done := make(chan struct{})
						go func() { // it may be ended by the backend
							defer close(done)
							p = mustSubmit(t, e, "s-1", engine.Any, engine.New(grown{i}))
						}()
						<-done
						if p == nil && prompt && name == "an exit" {
							continue // it never returned, and nobody has a Pending
						}
						_, err := p.Wait(t.Context())
						switch {
						case (err != nil) != (i%2 == 0):
							t.Errorf("append %d: %v", i, err)
						case err != nil && errors.Is(err, errTooMuch) == errors.Is(err, engine.ErrOutcomeUnknown):
							t.Errorf("append %d: %v", i, err)
						}
					}
					if e.Head() != 5 {
						t.Errorf("%d events are stored, want 5", e.Head())
					}
					mustClose(t, e)
				})
			})
		}
	}
}

// TestSubmitInHandler: correlation, Settle, and no wait for itself whatever is full.
func TestSubmitInHandler(t *testing.T) {
	overBackends(t, engine.Options{MaxSubmitted: 1, StreamMailbox: 1}, func(t *testing.T, e *engine.Engine) {
		var handled atomic.Int64
		mustHandle(t, e, "h", func(ctx context.Context, ev engine.Event) error {
			handled.Add(1)
			n := ev.Data.(added).N
			if n == 0 {
				return nil
			}
			for range 2 {
				p, err := e.Submit(ctx, ev.Stream, engine.Any, engine.New(added{n - 1}))
				if err != nil {
					return err
				}
				if res, err := p.Wait(ctx); err != nil || res.Position <= ev.Position {
					t.Errorf("%+v, %v", res, err)
				}
			}
			return nil
		}, engine.Mailbox(1), engine.Retry(0, time.Second))
		p := mustSubmit(t, e, "a-1", engine.NoStream, engine.New(added{5}).WithID("first"))
		res, err := p.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Settle(t.Context(), res); err != nil {
			t.Fatal(err)
		}
		if n := handled.Load(); n != 63 {
			t.Errorf("settled with %d events handled, want 63", n)
		}
		for ev, err := range e.Read(t.Context(), "a-1", engine.FromVersion(2)) {
			if err != nil || ev.Correlation() != "first" || ev.Meta.CausationID == "" {
				t.Errorf("%+v, %v", ev, err)
			}
		}
	})
}

// TestSubmitOutcomes: what Append returns, by Submit or by Wait.
func TestSubmitOutcomes(t *testing.T) {
	overBackends(t, engine.Options{MaxSubmitted: 1}, func(t *testing.T, e *engine.Engine) {
		ctx := t.Context()
		for name, submit := range map[string]func() (*engine.Pending, error){
			"no name":     func() (*engine.Pending, error) { return e.Submit(ctx, "", engine.Any, engine.New(added{1})) },
			"no events":   func() (*engine.Pending, error) { return e.Submit(ctx, "a-1", engine.Any) },
			"no expected": func() (*engine.Pending, error) { return e.Submit(ctx, "a-1", engine.Expected{}, engine.New(added{1})) },
			"a wish": func() (*engine.Pending, error) {
				return e.Submit(engine.WithDurability(ctx, 9), "a-1", engine.Any, engine.New(added{1}))
			},
		} {
			p, err := submit()
			if bad, ok := errors.AsType[*engine.InvalidError](err); !ok || p != nil {
				t.Errorf("%s: %v, %v, %v", name, p, err, bad)
			}
		}
		id := func(n int) engine.NewEvent { return engine.New(added{n}).WithID(fmt.Sprint(n)) }
		want := func(p *engine.Pending, fits func(engine.Result, error) bool) {
			t.Helper()
			if res, err := p.Wait(ctx); !fits(res, err) {
				t.Errorf("%+v, %v", res, err)
			}
		}
		stored := func(first, last engine.Version, duplicate bool) func(engine.Result, error) bool {
			return func(res engine.Result, err error) bool {
				return err == nil && res.First == first && res.Last == last && res.Duplicate == duplicate && res.Durability == 0 == duplicate
			}
		}
		want(mustSubmit(t, e, "a-1", engine.NoStream, id(1), id(2)), stored(1, 2, false))
		want(mustSubmit(t, e, "a-1", engine.NoStream, id(1), id(2)), stored(1, 2, true))
		want(mustSubmit(t, e, "a-1", engine.Any, id(2), id(3)), func(_ engine.Result, err error) bool {
			_, partial := errors.AsType[*engine.PartialDuplicateError](err)
			return partial
		})
		want(mustSubmit(t, e, "a-1", engine.Exactly(1), id(4)), func(_ engine.Result, err error) bool {
			conflict, ok := errors.AsType[*engine.VersionConflictError](err)
			return ok && conflict.Actual == 2
		})
		if err := e.Delete(ctx, "a-1", engine.Any); err != nil {
			t.Fatal(err)
		}
		want(mustSubmit(t, e, "a-1", engine.Any, id(5)), func(_ engine.Result, err error) bool {
			_, deleted := errors.AsType[*engine.StreamDeletedError](err)
			return deleted
		})
		old := mustSubmit(t, e, "b-1", engine.Any, id(6))
		want(old, stored(1, 1, false))
		head := e.Head()
		var inside *engine.Pending
		d := &engine.Decider[int, string]{
			Evolve: func(n int, _ engine.Event) int { return n },
			Decide: func(int, string) ([]engine.NewEvent, error) {
				if _, err := old.Wait(ctx); err != nil {
					t.Errorf("Wait inside Decide, for what is known: %v", err)
				}
				var err error
				inside, err = e.Submit(ctx, "c-1", engine.Any, id(7))
				return nil, err
			},
		}
		if _, err := engine.Execute(ctx, e, d, "b-1", ""); !errors.Is(err, engine.ErrInDecide) || inside != nil {
			t.Errorf("Submit inside Decide: %v", err)
		}
		if e.Head() != head {
			t.Errorf("%d events are stored, want %d", e.Head(), head)
		}
		mustClose(t, e)
		if p, err := e.Submit(ctx, "b-1", engine.Any, id(8)); !errors.Is(err, engine.ErrClosed) || p != nil {
			t.Errorf("closed: %v, %v", p, err)
		}
	})
}

// TestSubmitWaitInsideDecide: who decides must not wait for its own stream.
func TestSubmitWaitInsideDecide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		begun, goOn := make(chan struct{}), make(chan struct{})
		var behind *engine.Pending // in the mailbox of the stream that decides
		d := &engine.Decider[int, string]{
			Evolve: func(n int, _ engine.Event) int { return n },
			Decide: func(int, string) ([]engine.NewEvent, error) {
				close(begun)
				<-goOn
				_, err := behind.Wait(context.Background())
				return nil, err
			},
		}
		go func() {
			<-begun
			behind = mustSubmit(t, e, "a-1", engine.Any, engine.New(grown{}))
			close(goOn)
		}()
		if _, err := engine.Execute(t.Context(), e, d, "a-1", ""); !errors.Is(err, engine.ErrInDecide) {
			t.Errorf("Wait inside Decide: %v", err)
		}
		if _, err := behind.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		mustClose(t, e)
	})
}

// Was wrong: a context that panicked while the stream's mailbox was full left the call in flight for ever, and its place
// among those that are submitted.
func TestSubmitWithAContextThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		b := &hooked{Memory: engine.NewMemory(), hook: func(c string) {
			if c == "Commit" {
				<-release
			}
		}}
		e := quietEngine(t, engine.Options{Backend: b, StreamMailbox: 1, MaxSubmitted: 4})
		ctx := context.Background()
		var pending []*engine.Pending
		for range 2 { // one is at the backend, one in the mailbox
			p, err := e.Submit(ctx, "s-1", engine.Any, one)
			if err != nil {
				t.Fatal(err)
			}
			pending = append(pending, p)
			synctest.Wait()
		}
		for range 10 { // more than may be submitted
			asked := 0
			func() {
				defer func() {
					if recover() == nil {
						t.Error("no panic")
					}
				}()
				e.Submit(&hookedContext{ctx, func(c string) {
					if c == "Done" {
						if asked++; asked > 1 {
							panic("no end")
						}
					}
				}}, "s-1", engine.Any, one)
			}()
		}
		close(release)
		for _, p := range pending {
			if _, err := p.Wait(ctx); err != nil {
				t.Error(err)
			}
		}
		if s := e.Stats(); s.InFlight != 0 || e.Head() != 2 {
			t.Errorf("%d in flight, the log ends at %d", s.InFlight, e.Head())
		}
		if wrong := e.Requests(); wrong != "" {
			t.Error(wrong)
		}
		mustClose(t, e)
	})
}
