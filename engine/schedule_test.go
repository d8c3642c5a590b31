package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// The tests in this file run in testing/synctest bubbles: time is virtual, and a deadlock
// is reported as one ("all goroutines in bubble are blocked") instead of a time-out.

type grown struct{ Depth int }

func quietEngine(t *testing.T, opts engine.Options) *engine.Engine {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	e, err := engine.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func mustAppend(t *testing.T, e *engine.Engine, stream string, events ...engine.NewEvent) engine.Result {
	t.Helper()
	res, err := e.Append(context.Background(), stream, engine.Any, events...)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func mustHandle(t *testing.T, e *engine.Engine, name string, fn func(context.Context, engine.Event) error, opts ...engine.HandlerOption) *engine.Handler {
	t.Helper()
	h, err := e.Handle(name, fn, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func mustClose(t *testing.T, e *engine.Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// Rule 4: a handler that appends two events an event, to its own stream and type, with a
// mailbox of one, while outsiders wait at the door.
func TestReentrantAppendCannotDeadlock(t *testing.T) {
	for name, lose := range map[string]bool{"with its context": false, "having lost its context": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := quietEngine(t, engine.Options{StreamMailbox: 1})
				var handled atomic.Int64
				mustHandle(t, e, "h", func(ctx context.Context, ev engine.Event) error {
					handled.Add(1)
					if lose {
						ctx = context.Background()
					}
					if d := ev.Data.(grown).Depth; d < 8 {
						next := engine.New(grown{d + 1})
						if _, err := e.Append(ctx, ev.Stream, engine.Any, next, next); err != nil {
							return err
						}
					}
					return nil
				}, engine.Mailbox(1), engine.Retry(0, time.Second))
				var outsiders sync.WaitGroup
				for range 8 {
					outsiders.Go(func() { mustAppend(t, e, "s-1", engine.New(grown{1})) })
				}
				outsiders.Wait()
				mustClose(t, e)
				if got, want := handled.Load(), int64(8*(1<<8-1)); got != want {
					t.Errorf("handled %d events, want %d", got, want)
				}
			})
		})
	}
}

// Rule 4, over two handlers that feed each other.
func TestHandlersThatFeedEachOtherCannotDeadlock(t *testing.T) {
	type ping struct{ N int }
	type pong struct{ N int }
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		_, err := engine.Handle(e, "ping", func(ctx context.Context, ev engine.Of[ping]) error {
			_, err := e.Append(ctx, "b-1", engine.Any, engine.New(pong(ev.Data)), engine.New(pong(ev.Data)))
			return err
		}, engine.Mailbox(1))
		if err != nil {
			t.Fatal(err)
		}
		var pongs atomic.Int64
		_, err = engine.Handle(e, "pong", func(ctx context.Context, ev engine.Of[pong]) error {
			pongs.Add(1)
			if ev.Data.N == 0 {
				return nil
			}
			_, err := e.Append(ctx, "a-1", engine.Any, engine.New(ping{ev.Data.N - 1}))
			return err
		}, engine.Mailbox(1))
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, e, "a-1", engine.New(ping{6}))
		mustClose(t, e)
		if got, want := pongs.Load(), int64(2+4+8+16+32+64+128); got != want {
			t.Errorf("%d pongs, want %d", got, want)
		}
	})
}

// Rule 7: a handler that shuts the engine down must not wait for itself.
func TestShutdownFromInsideAHandler(t *testing.T) {
	for name, stop := range map[string]func(context.Context, *engine.Engine) error{
		"Shutdown with its context": func(ctx context.Context, e *engine.Engine) error { _, err := e.Shutdown(ctx); return err },
		"Shutdown without": func(_ context.Context, e *engine.Engine) error {
			_, err := e.Shutdown(context.Background())
			return err
		},
		"Close": func(_ context.Context, e *engine.Engine) error { return e.Close() },
	} {
		for _, opts := range [][]engine.HandlerOption{nil, {engine.Keyed(3)}} {
			t.Run(fmt.Sprintf("%s, %d options", name, len(opts)), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := quietEngine(t, engine.Options{})
					var handled atomic.Int64
					mustHandle(t, e, "h", func(ctx context.Context, ev engine.Event) error {
						if handled.Add(1) == 1 {
							if err := stop(ctx, e); !errors.Is(err, engine.ErrInHandler) {
								t.Errorf("got %v, want ErrInHandler", err)
							}
							// Handlers may still append.
							if _, err := e.Append(ctx, "s-2", engine.Any, engine.New(grown{})); err != nil {
								t.Error(err)
							}
						}
						return nil
					}, opts...)
					mustAppend(t, e, "s-1", engine.New(grown{}))
					if _, err := e.Shutdown(t.Context()); err != nil {
						t.Error(err)
					}
					if handled.Load() != 2 {
						t.Errorf("handled %d events, want 2", handled.Load())
					}
				})
			})
		}
	}
}

// Rules 5 and 7: whenever the shutdown comes, each append is either acknowledged and
// handled, or refused and not stored.
func TestShutdownAtEveryMoment(t *testing.T) {
	for moment := range 40 {
		synctest.Test(t, func(t *testing.T) {
			e := quietEngine(t, engine.Options{})
			var handled, acked, chained atomic.Int64
			mustHandle(t, e, "plain", func(context.Context, engine.Event) error { handled.Add(1); return nil }, engine.Mailbox(3))
			mustHandle(t, e, "keyed", func(context.Context, engine.Event) error { handled.Add(1); return nil }, engine.Keyed(3), engine.Mailbox(3))
			mustHandle(t, e, "chain", func(ctx context.Context, ev engine.Event) error {
				if ev.Data.(grown).Depth == 0 {
					if _, err := e.Append(ctx, "chained-1", engine.Any, engine.New(grown{1})); err != nil {
						t.Errorf("an append of a handler during the shutdown: %v", err)
					}
					chained.Add(1)
				}
				return nil
			}, engine.Overflow(engine.CatchUp))
			var appenders sync.WaitGroup
			for a := range 64 {
				appenders.Go(func() {
					for {
						_, err := e.Append(context.Background(), fmt.Sprintf("s-%d", a%5), engine.Any, engine.New(grown{}))
						if errors.Is(err, engine.ErrClosed) {
							return
						}
						if err != nil {
							t.Error(err)
							return
						}
						acked.Add(1)
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
			appenders.Wait()
			if got, want := int64(report.Head), acked.Load()+chained.Load(); got != want || chained.Load() != acked.Load() {
				t.Errorf("%d events stored, %d acknowledged and %d chained", got, acked.Load(), chained.Load())
			}
			if got, want := handled.Load(), 2*int64(report.Head); got != want {
				t.Errorf("two handlers handled %d events, want %d", got, want)
			}
		})
	}
}

// Rule 7: at the deadline the contexts of handlers are cancelled, and the report names who
// is behind. A handler that ends then has not given its event up.
func TestShutdownDeadlineCancelsHandlersLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		cancelled := time.Time{}
		mustHandle(t, e, "slow", func(ctx context.Context, ev engine.Event) error {
			<-ctx.Done()
			cancelled = time.Now()
			return ctx.Err()
		})
		mustHandle(t, e, "fast", func(context.Context, engine.Event) error { return nil })
		mustAppend(t, e, "s-1", engine.New(grown{}), engine.New(grown{}))
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		report, err := e.Shutdown(ctx)
		failed, ok := errors.AsType[*engine.ShutdownError](err)
		if !ok || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `handler "slow" is at position 0, lag 2`) {
			t.Fatalf("Shutdown: %v", err)
		}
		if cancelled.Sub(began) != time.Minute {
			t.Errorf("cancelled after %v", cancelled.Sub(began))
		}
		if took := time.Since(began); took > time.Minute+100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		slow := report.Handlers[1]
		if slow.Name != "slow" || slow.Position != 0 || slow.Lag != 2 || slow.Parked != 0 || slow.Running {
			t.Errorf("report: %+v", slow)
		}
		if fast := report.Handlers[0]; fast.Lag != 0 || fast.Position != 2 {
			t.Errorf("report: %+v", fast)
		}
		if len(report.Running) > 0 || failed.Report.Head != 2 {
			t.Errorf("report: %+v", report)
		}
		if again, err2 := e.Shutdown(t.Context()); err2 != err || again.Head != report.Head {
			t.Errorf("second Shutdown: %v", err2)
		}
	})
}

// Rule 7: a call that never returns keeps its goroutine and nothing else.
func TestShutdownNamesACallThatDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		release := make(chan struct{})
		mustHandle(t, e, "deaf", func(context.Context, engine.Event) error { <-release; return nil })
		mustAppend(t, e, "s-1", engine.New(grown{}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		report, err := e.Shutdown(ctx)
		if err == nil || !report.Handlers[0].Running || !slices.Equal(report.Running, []string{`handler "deaf"`}) {
			t.Errorf("Shutdown: %+v, %v", report, err)
		}
		close(release)
		synctest.Wait() // and now its goroutine ends, or the bubble would say so
	})
}

// A second caller gets the same result; one whose context ends first does not wait.
func TestShutdownIsOneForAllCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		mustHandle(t, e, "slow", func(context.Context, engine.Event) error { time.Sleep(time.Minute); return nil })
		mustAppend(t, e, "s-1", engine.New(grown{}))
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				if report, err := e.Shutdown(context.Background()); err != nil || report.Took != time.Minute {
					t.Errorf("%v, %v", report, err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("impatient caller: %v", err)
		}
		callers.Wait()
	})
}

// Rule 1: passivation races with appends, and there is one owner all the time.
func TestPassivationRacesWithAppends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{IdleAfter: time.Millisecond, StreamMailbox: 2})
		const writers, each = 8, 200
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					mustAppend(t, e, "s-1", engine.New(grown{i}))
					time.Sleep(time.Duration(w*i%7) * 250 * time.Microsecond)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		if s := e.Stats(); s.ActiveStreams != 0 || s.Streams != 1 {
			t.Errorf("after a pause: %d of %d streams active", s.ActiveStreams, s.Streams)
		}
		n := engine.Version(0)
		for ev, err := range e.Read(t.Context(), "s-1") {
			if n++; err != nil || ev.Version != n {
				t.Fatalf("event %d: %v, %v", n, ev, err)
			}
		}
		if n != writers*each {
			t.Errorf("%d events, want %d", n, writers*each)
		}
		mustClose(t, e)
	})
}

// A reader that follows, appends inside its loop, and sees all that it appended.
func TestFollowerThatAppends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		mustAppend(t, e, "s-1", engine.New(grown{0}))
		n := 0
		for ev, err := range e.Read(t.Context(), "s-1", engine.Follow()) {
			if err != nil {
				t.Fatal(err)
			}
			if ev.Data.(grown).Depth != n {
				t.Fatalf("event %v, want depth %d", ev, n)
			}
			if n++; n == 300 {
				break
			}
			mustAppend(t, e, "s-1", engine.New(grown{n}))
		}
		mustClose(t, e)
	})
}

// Rule 5: a reader that follows gets everything, and then learns that the engine is closed.
func TestFollowerLearnsOfTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		var last error
		var wg sync.WaitGroup
		wg.Go(func() {
			for _, err := range e.ReadAll(context.Background(), engine.Follow()) {
				last = err
			}
		})
		mustAppend(t, e, "s-1", engine.New(grown{}))
		synctest.Wait()
		mustClose(t, e)
		wg.Wait()
		if !errors.Is(last, engine.ErrClosed) {
			t.Errorf("the follower ended with %v", last)
		}
	})
}

// A reader that follows and waits has everything by the time that the engine is closed.
func TestWaitingFollowerGetsTheLastEvents(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			e := quietEngine(t, engine.Options{})
			n := 0
			var wg sync.WaitGroup
			wg.Go(func() {
				for _, err := range e.Read(context.Background(), "s-1", engine.Follow()) {
					if err == nil {
						n++
					}
				}
			})
			synctest.Wait() // it waits
			mustAppend(t, e, "s-1", engine.New(grown{}), engine.New(grown{}))
			mustClose(t, e)
			wg.Wait()
			if n != 2 {
				t.Fatalf("the follower got %d of 2 events", n)
			}
		})
	}
}

// Append honours its context at the door, and not once accepted.
func TestAppendHonoursItsContextAtTheDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		release := make(chan struct{})
		mustHandle(t, e, "h", func(context.Context, engine.Event) error { <-release; return nil }, engine.Mailbox(2))
		mustAppend(t, e, "s-1", engine.New(grown{}), engine.New(grown{}))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		_, err := e.Append(ctx, "s-1", engine.Any, engine.New(grown{}))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Hour {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if s := e.Stats(); s.Head != 2 || s.Waited != 1 {
			t.Errorf("stats: %+v", s)
		}
		close(release)
		mustClose(t, e)
	})
}

// slowBackend is a backend that waits for a device: its commits end when told, or with ctx.
type slowBackend struct {
	*engine.Memory
	release chan struct{}
}

func (b slowBackend) Caps() engine.Caps { return engine.Caps{Name: "slow"} }

func (b slowBackend) Commit(ctx context.Context, writes []*engine.Write) error {
	select {
	case <-b.release:
		return b.Memory.Commit(ctx, writes)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Rule 5: when the context ends after the append was accepted, the outcome is unknown and
// the error says so.
func TestOutcomeUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := slowBackend{engine.NewMemory(), make(chan struct{})}
		e := quietEngine(t, engine.Options{Backend: b})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := e.Append(ctx, "s-1", engine.Any, engine.New(grown{}).WithID("a"))
		if !errors.Is(err, engine.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Append: %v", err)
		}
		close(b.release)
		res, err := e.Append(t.Context(), "s-1", engine.Any, engine.New(grown{}).WithID("a"))
		if err != nil || !res.Duplicate || res.Position != 1 {
			t.Errorf("again: %+v, %v", res, err) // it was stored after all
		}
		mustClose(t, e)
	})
}

// A commit that never ends does not keep Shutdown beyond its deadline.
func TestShutdownDoesNotWaitForAStuckCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{Backend: slowBackend{engine.NewMemory(), make(chan struct{})}})
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := e.Append(context.Background(), "s-1", engine.Any, engine.New(grown{})); err == nil {
				t.Error("an append that was not stored was acknowledged")
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		wg.Wait()
	})
}

// failingBackend panics, exits or fails in one call out of two.
type failingBackend struct {
	*engine.Memory
	calls *atomic.Int64
	fail  func() error
}

func (b failingBackend) Commit(ctx context.Context, writes []*engine.Write) error {
	if b.calls.Add(1)%2 == 1 {
		if err := b.fail(); err != nil {
			return err
		}
	}
	return b.Memory.Commit(ctx, writes)
}

// A backend that fails or panics fails the appends of that commit, with what is known
// about them, and no others.
func TestABackendThatFails(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		fail func() error
		want error
	}{
		"with an error": {func() error { return broken }, broken},
		"with a panic":  {func() error { panic(broken) }, engine.ErrOutcomeUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := quietEngine(t, engine.Options{Backend: failingBackend{engine.NewMemory(), new(atomic.Int64), c.fail}})
				for i := range 10 {
					_, err := e.Append(t.Context(), "s-1", engine.Exactly(engine.Version(i/2)), engine.New(grown{}))
					if i%2 == 0 && (!errors.Is(err, c.want) || !errors.Is(err, broken)) || i%2 == 1 && err != nil {
						t.Errorf("append %d: %v", i, err)
					}
				}
				mustClose(t, e)
			})
		})
	}
}

// States are derived: a handler is what its positions and the clock say.
func TestStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{StallAfter: 10 * time.Second})
		step := make(chan error)
		h := mustHandle(t, e, "h", func(context.Context, engine.Event) error { return <-step },
			engine.Retry(1, time.Minute), engine.OnFailure(engine.Stop), engine.Mailbox(4), engine.Overflow(engine.CatchUp))
		state := func(want engine.State, lag uint64) {
			t.Helper()
			synctest.Wait()
			if s := h.Stats(); s.State != want || s.Lag != lag {
				t.Errorf("got %v, want %v with lag %d", s, want, lag)
			}
		}
		state(engine.Live, 0)
		mustAppend(t, e, "s-1", engine.New(grown{}), engine.New(grown{}), engine.New(grown{}))
		state(engine.Live, 3) // not yet old
		time.Sleep(2 * time.Second)
		state(engine.Behind, 3)
		time.Sleep(10 * time.Second)
		state(engine.Stalled, 3)
		step <- nil
		state(engine.Behind, 2)
		step <- errors.New("no")
		state(engine.Retrying, 2)
		if err := h.Pause(t.Context()); err != nil {
			t.Error(err)
		}
		state(engine.Paused, 2)
		if err := h.Resume(); err != nil {
			t.Error(err)
		}
		step <- errors.New("no")
		step <- errors.New("no")
		state(engine.Stopped, 2)
		if _, ok := errors.AsType[*engine.StoppedError](e.Wait(t.Context(), 3, "h")); !ok {
			t.Error("Wait does not say that the handler has stopped")
		}
		if err := h.Resume(); err != nil {
			t.Error(err)
		}
		step <- nil
		step <- nil
		state(engine.Live, 0)
		mustClose(t, e)
	})
}
