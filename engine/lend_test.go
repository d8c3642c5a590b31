package engine_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// TestWhoWaitsOwnsTheStream: a caller that waits for its append until it is stored, whatever happens, is
// the owner of an idle stream on any backend, and no goroutine is started. One that may leave before is not, where a
// commit can take long.
func TestWhoWaitsOwnsTheStream(t *testing.T) {
	for _, prompt := range []bool{true, false} {
		e := quietEngine(t, engine.Options{Backend: &wrapped{Memory: engine.NewMemory(), prompt: prompt}})
		defer e.Close()
		mayLeave, cancel := context.WithCancel(context.Background())
		defer cancel()
		for i, c := range []struct {
			ctx  context.Context
			want int
		}{{context.Background(), 0}, {context.WithoutCancel(mayLeave), 0}, {mayLeave, 1}} {
			if _, err := e.Append(c.ctx, "a-1", engine.Any, one); err != nil {
				t.Fatal(err)
			}
			if prompt {
				c.want = 0
			}
			if n := e.Stats().ActiveStreams; n != c.want {
				t.Errorf("prompt %v, append %d: %d streams have a goroutine, want %d", prompt, i+1, n, c.want)
			}
		}
	}
}

// hooked is a memory backend that tells of each call that a stream's owner makes, before and after it.
type hooked struct {
	*engine.Memory
	prompt bool
	hook   func(call string)
}

func (b *hooked) Caps() engine.Caps {
	c := b.Memory.Caps()
	c.Prompt = b.prompt
	return c
}

// in tells of a call that begins; the function that it returns, that it has ended.
func (b *hooked) in(call string) func() {
	b.hook(call)
	return func() { b.hook("after " + call) }
}

func (b *hooked) TypeID(name string) (engine.TypeID, error) {
	defer b.in("TypeID")()
	return b.Memory.TypeID(name)
}

func (b *hooked) Load(ctx context.Context, name string) (engine.StreamState, error) {
	defer b.in("Load")()
	return b.Memory.Load(ctx, name)
}

func (b *hooked) Find(ctx context.Context, s engine.StreamState, ids []string, versions []engine.Version) error {
	defer b.in("Find")()
	return b.Memory.Find(ctx, s, ids, versions)
}

func (b *hooked) Commit(ctx context.Context, writes []*engine.Write) error {
	defer b.in("Commit")()
	return b.Memory.Commit(ctx, writes)
}

func (b *hooked) ReadStream(ctx context.Context, s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
	defer b.in("ReadStream")()
	return b.Memory.ReadStream(ctx, s, q, dst)
}

func (b *hooked) SaveSnapshot(ctx context.Context, s engine.StreamState, snap engine.Snapshot) error {
	defer b.in("SaveSnapshot")()
	return b.Memory.SaveSnapshot(ctx, s, snap)
}

func (b *hooked) Truncate(ctx context.Context, s engine.StreamState, before engine.Version) error {
	defer b.in("Truncate")()
	return b.Memory.Truncate(ctx, s, before)
}

// hookedContext is a caller's context that is code of his own.
type hookedContext struct {
	context.Context
	hook func(call string)
}

func (c *hookedContext) Value(key any) any     { c.hook("Value"); return c.Context.Value(key) }
func (c *hookedContext) Done() <-chan struct{} { c.hook("Done"); return c.Context.Done() }
func (c *hookedContext) Err() error            { c.hook("Err"); return c.Context.Err() }

// TestWhatDoesNotReturnLosesNothing lets each call of somebody else's code that an owner or a caller makes
// end in a panic, or end the goroutine, before it has done what it does and afterwards, in all ways to change
// a stream. Nobody owns the stream then, nothing is in flight, the version is that of the backend, handlers get what is
// stored, and the engine can be closed at once.
func TestWhatDoesNotReturnLosesNothing(t *testing.T) {
	ways := map[string]func(){"panic": func() { panic("oh") }, "Goexit": runtime.Goexit}
	calls := []string{"Value", "Err", "Err 2", "Done", "Done 2", "Decide", "Evolve", "Evolve 3"}
	for _, call := range []string{"TypeID", "Load", "Find", "Commit", "ReadStream", "SaveSnapshot", "Truncate"} {
		calls = append(calls, call, "after "+call)
	}
	type op func(ctx context.Context, e *engine.Engine, d *engine.Decider[int, string]) error
	fresh := engine.New(rvB{1}).WithID("x")
	ops := map[string]op{
		"append": func(ctx context.Context, e *engine.Engine, _ *engine.Decider[int, string]) error {
			_, err := e.Append(ctx, "s-1", engine.Exactly(2), fresh)
			return err
		},
		"submit": func(ctx context.Context, e *engine.Engine, _ *engine.Decider[int, string]) error {
			p, err := e.Submit(ctx, "s-1", engine.Any, fresh)
			if err == nil {
				_, err = p.Wait(context.Background())
			}
			return err
		},
		"execute": func(ctx context.Context, e *engine.Engine, d *engine.Decider[int, string]) error {
			_, err := engine.Execute(ctx, e, d, "s-1", "add")
			return err
		},
		"truncate": func(ctx context.Context, e *engine.Engine, _ *engine.Decider[int, string]) error {
			return e.Truncate(ctx, "s-1", 2)
		},
		"commit": func(ctx context.Context, e *engine.Engine, _ *engine.Decider[int, string]) error {
			_, err := e.Commit(ctx, engine.Tx{Writes: []engine.TxWrite{
				{Stream: "s-1", Expected: engine.Any, Events: []engine.NewEvent{fresh}},
				{Stream: "s-2", Expected: engine.Any, Events: []engine.NewEvent{fresh}},
			}})
			return err
		},
	}
	happened := make(map[string]bool)
	for name, op := range ops {
		for way, fail := range ways {
			for _, call := range calls {
				for _, prompt := range []bool{true, false} {
					for _, leaves := range []bool{true, false} {
						what := fmt.Sprintf("%s, %s in %s, prompt %v, may leave %v", name, way, call, prompt, leaves)
						synctest.Test(t, func(t *testing.T) {
							var mu sync.Mutex // the owner and who has asked it call at the same time
							armed, calls := false, make(map[string]int)
							arm := func(on bool) { mu.Lock(); armed = on; mu.Unlock() }
							now := func(c string) bool {
								mu.Lock()
								defer mu.Unlock()
								if !armed {
									return false
								}
								if calls[c]++; calls[c] > 1 {
									c = fmt.Sprint(c, " ", calls[c])
								}
								armed = c != call
								return !armed
							}
							hook := func(c string) {
								if now(c) {
									happened[call] = true
									fail()
								}
							}
							b := &hooked{Memory: engine.NewMemory(), prompt: prompt, hook: hook}
							e := quietEngine(t, engine.Options{Backend: b})
							handled := 0
							mustHandle(t, e, "h", func(context.Context, engine.Event) error { handled++; return nil })
							d := &engine.Decider[int, string]{
								Snapshots: engine.SnapshotPolicy{Name: "n", Every: 1},
								Evolve:    func(n int, _ engine.Event) int { hook("Evolve"); return n + 1 },
								Decide: func(int, string) ([]engine.NewEvent, error) {
									hook("Decide")
									return []engine.NewEvent{fresh}, nil
								},
							}
							mustAppend(t, e, "s-1", engine.New(rvA{1}), engine.New(rvA{2}))
							synctest.Wait()
							ctx := context.Background()
							if leaves {
								var cancel context.CancelFunc
								ctx, cancel = context.WithCancel(ctx)
								defer cancel()
							}
							if call == "Load" || call == "after Load" { // else the state is known
								if err := e.Truncate(ctx, "s-1", 2); err != nil {
									t.Fatal(err)
								}
							}
							done := make(chan struct{})
							go func() {
								defer close(done)
								defer func() { recover() }()
								arm(true)
								_ = op(&hookedContext{ctx, hook}, e, d) // it may be told what became of it, or not
							}()
							<-done
							synctest.Wait()
							arm(false)
							if s := e.Stats(); s.InFlight != 0 {
								t.Errorf("%s: %d in flight", what, s.InFlight)
							}
							if wrong := e.Requests(); wrong != "" {
								t.Errorf("%s: %s", what, wrong)
							}
							for _, stream := range []string{"s-1", "s-2"} {
								state, err := b.Memory.Load(ctx, stream)
								if err != nil {
									t.Fatal(err)
								}
								for try := range engine.Version(2) {
									at := state.Version + try
									if res, err := e.Append(ctx, stream, exactly(at), engine.New(rvA{3})); err != nil || res.First != at+1 {
										t.Errorf("%s: %s is at version %d; then an append returns %+v, %v", what, stream, at, res, err)
									}
								}
							}
							synctest.Wait()
							if handled != int(e.Head()) {
								t.Errorf("%s: %d events are handled of %d", what, handled, e.Head())
							}
							began := time.Now()
							if err := e.Close(); err != nil {
								t.Errorf("%s: close: %v", what, err)
							}
							if took := time.Since(began); took > 0 {
								t.Errorf("%s: Close has waited for %v", what, took)
							}
						})
					}
				}
			}
		}
	}
	for _, call := range calls {
		if !happened[call] {
			t.Errorf("%s never was called", call)
		}
	}
}

// exactly expects a version, which may be that of a stream without events.
func exactly(v engine.Version) engine.Expected {
	if v == 0 {
		return engine.NoStream
	}
	return engine.Exactly(v)
}

// TestOutcomeThatIsUnknownIsAskedFor lets a backend say that the outcome is unknown, of what it has stored and of
// what it has not. Handlers get the one, and the next append is judged on the version that the backend has.
func TestOutcomeThatIsUnknownIsAskedFor(t *testing.T) {
	for _, prompt := range []bool{true, false} {
		for _, stores := range []bool{true, false} {
			t.Run(fmt.Sprintf("prompt %v, stores %v", prompt, stores), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := &wrapped{Memory: engine.NewMemory(), prompt: prompt}
					e := quietEngine(t, engine.Options{Backend: w})
					handled := 0
					mustHandle(t, e, "h", func(context.Context, engine.Event) error { handled++; return nil })
					mustAppend(t, e, "s-1", one)
					synctest.Wait()
					w.commit = func(_ context.Context, next func() error) error {
						w.commit = nil
						if stores {
							if err := next(); err != nil {
								t.Error(err)
							}
						}
						return fmt.Errorf("the wire is cut: %w", engine.ErrOutcomeUnknown)
					}
					if _, err := e.Append(t.Context(), "s-1", engine.Exactly(1), one); !errors.Is(err, engine.ErrOutcomeUnknown) {
						t.Errorf("an append of unknown outcome: %v", err)
					}
					synctest.Wait()
					is, isNot := engine.Version(1), engine.Version(2)
					if stores {
						is, isNot = 2, 1
					}
					if handled != int(is) {
						t.Errorf("%d events are handled, want %d", handled, is)
					}
					_, err := e.Append(t.Context(), "s-1", engine.Exactly(isNot), one)
					if c, ok := errors.AsType[*engine.VersionConflictError](err); !ok || c.Actual != is {
						t.Errorf("at version %d, an append that expects %d: %v", is, isNot, err)
					}
					if res, err := e.Append(t.Context(), "s-1", engine.Exactly(is), one); err != nil || res.First != is+1 {
						t.Errorf("at version %d, an append that expects it: %+v, %v", is, res, err)
					}
					mustClose(t, e)
				})
			})
		}
	}
}

// TestDrainingRefusesEveryStream: while a shutdown waits for a handler, outsiders append to no stream at all, while
// the handler may append to all of them.
func TestDrainingRefusesEveryStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		draining, goOn := make(chan struct{}), make(chan struct{})
		const streams = 200 // more than the gate counts apart
		var inside atomic.Int64
		mustHandle(t, e, "h", func(ctx context.Context, ev engine.Event) error {
			if ev.Position > 1 {
				return nil
			}
			<-draining
			for i := range streams {
				with := ctx
				if i%2 == 0 {
					with = context.Background() // lost: its goroutine tells
				}
				if _, err := e.Append(with, fmt.Sprint("s-", i), engine.NoStream, one); err == nil {
					inside.Add(1)
				}
			}
			<-goOn
			return nil
		})
		mustAppend(t, e, "first", one)
		done := make(chan error, 1)
		go func() { done <- e.Close() }()
		synctest.Wait()
		close(draining)
		synctest.Wait()
		for i := range streams {
			if _, err := e.Append(t.Context(), fmt.Sprint("s-", i), engine.Any, one); !errors.Is(err, engine.ErrClosed) {
				t.Errorf("stream %d, while draining: %v", i, err)
			}
			// An append is refused at the door, too; what needs not wait for handlers is not.
			if err := e.Truncate(t.Context(), fmt.Sprint("s-", i), 2); !errors.Is(err, engine.ErrClosed) {
				t.Errorf("stream %d, truncated while draining: %v", i, err)
			}
		}
		close(goOn)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := inside.Load(); n != streams || e.Head() != 1+streams {
			t.Errorf("the handler has appended %d events, want %d; the head is %d", n, streams, e.Head())
		}
	})
}

// TestUnknownOutcomeOfManyIsNotTriedAgain lets a commit of several appends store them and say that the outcome is
// unknown. All of them are told so, and none is stored twice.
func TestUnknownOutcomeOfManyIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wrapped{Memory: engine.NewMemory()}
		goOn, commits := make(chan struct{}), 0
		w.commit = func(_ context.Context, next func() error) error {
			commits++
			if commits == 1 {
				<-goOn
				return next()
			}
			if err := next(); err != nil {
				t.Error(err)
			}
			return engine.ErrOutcomeUnknown
		}
		e := quietEngine(t, engine.Options{Backend: w})
		const many = 5
		answers := make(chan error, 1+many)
		for range 1 + many {
			go func() {
				_, err := e.Append(t.Context(), "s-1", engine.Any, one)
				answers <- err
			}()
			synctest.Wait() // one begins, the others wait for it
		}
		close(goOn)
		unknown := 0
		for range 1 + many {
			if err := <-answers; errors.Is(err, engine.ErrOutcomeUnknown) {
				unknown++
			} else if err != nil {
				t.Error(err)
			}
		}
		if unknown != many || commits != 2 || e.Head() != 1+many {
			t.Errorf("%d appends of unknown outcome, want %d; %d commits; the head is %d", unknown, many, commits, e.Head())
		}
		mustClose(t, e)
	})
}

// shared is a memory backend that says that others write to it, too.
type shared struct{ unclosed }

func (s shared) Caps() engine.Caps {
	c := s.unclosed.Caps()
	c.Shared = true
	return c
}

// TestStatsCountWhatTheEngineAppends: not what was there, nor what others append.
func TestStatsCountWhatTheEngineAppends(t *testing.T) {
	m := engine.NewMemory()
	for i, b := range []engine.Backend{unclosed{m}, unclosed{m}, shared{unclosed{m}}, shared{unclosed{m}}} {
		e := quietEngine(t, engine.Options{Backend: b})
		if n := e.Stats().Appended; n != 0 {
			t.Errorf("engine %d has appended %d events, want none", i, n)
		}
		mustAppend(t, e, "s-1", one, one)
		if b.Caps().Shared {
			other := quietEngine(t, engine.Options{Backend: shared{unclosed{m}}})
			mustAppend(t, other, "s-3", one)
			mustClose(t, other)
		}
		mustAppend(t, e, "s-2", one) // and tells the dispatcher, which nobody has told of the other one's
		if n := e.Stats().Appended; n != 3 {
			t.Errorf("engine %d has appended %d events, want 3", i, n)
		}
		mustClose(t, e)
	}
}
