package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// Each test here holds what a review of the whole engine has found, as its smallest
// reproduction.

type rvA struct{ N int }
type rvB struct{ N int }

// wrapped is a Memory whose calls tests may hook.
type wrapped struct {
	*engine.Memory
	prompt bool
	commit func(ctx context.Context, next func() error) error
	loadCP func()
	onLoad func(ctx context.Context) error
	onRead func()
}

func (w *wrapped) ReadAll(ctx context.Context, q engine.Query, dst []engine.Event) (int, engine.Position, error) {
	if w.onRead != nil {
		w.onRead()
	}
	return w.Memory.ReadAll(ctx, q, dst)
}

func (w *wrapped) Caps() engine.Caps {
	c := w.Memory.Caps()
	c.Prompt = w.prompt
	return c
}

func (w *wrapped) Commit(ctx context.Context, writes []*engine.Write) error {
	if w.commit == nil {
		return w.Memory.Commit(ctx, writes)
	}
	return w.commit(ctx, func() error { return w.Memory.Commit(ctx, writes) })
}

func (w *wrapped) Load(ctx context.Context, s string) (engine.StreamState, error) {
	if w.onLoad != nil {
		if err := w.onLoad(ctx); err != nil {
			return engine.StreamState{}, err
		}
	}
	return w.Memory.Load(ctx, s)
}

func (w *wrapped) LoadCheckpoint(ctx context.Context, h string) (engine.Position, bool, error) {
	pos, ok, err := w.Memory.LoadCheckpoint(ctx, h)
	if w.loadCP != nil {
		w.loadCP()
	}
	return pos, ok, err
}

// Was wrong: context of a delivery whose call has returned stays "inside" when the handler stopped there.
func TestRegressionContextOfStoppedHandlerIsNoLongerInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		var stale context.Context
		h := mustHandle(t, e, "a", func(ctx context.Context, ev engine.Event) error {
			stale = ctx
			return errors.New("no")
		}, engine.Types("rvA"), engine.Retry(0, 0), engine.OnFailure(engine.Stop))
		release := make(chan struct{})
		mustHandle(t, e, "b", func(ctx context.Context, ev engine.Event) error { <-release; return nil }, engine.Types("rvA"))
		mustAppend(t, e, "s", engine.New(rvA{1}))
		synctest.Wait()
		if h.Stats().State != engine.Stopped {
			t.Fatal(h.Stats())
		}
		if err := e.Wait(stale, 1, "a"); errors.Is(err, engine.ErrInHandler) {
			t.Errorf("Wait outside any call, with the context of one that has returned: %v", err)
		}
		done := make(chan error)
		go func() { _, err := e.Shutdown(context.Background()); done <- err }()
		synctest.Wait()
		if _, err := e.Append(stale, "s", engine.Any, engine.New(rvA{2})); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("append while draining, with the context of a call that has returned: %v, want ErrClosed", err)
		}
		close(release)
		<-done
	})
}

// Was wrong: ErrOutcomeUnknown leaves the gate although the owner still commits.
func TestRegressionShutdownWaitsForAppendOfUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wrapped{Memory: engine.NewMemory()}
		w.commit = func(ctx context.Context, next func() error) error {
			time.Sleep(time.Second)
			return next()
		}
		e := quietEngine(t, engine.Options{Backend: w})
		var handled atomic.Int64
		mustHandle(t, e, "h", func(ctx context.Context, ev engine.Event) error { handled.Add(1); return nil })
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		if _, err := e.Append(ctx, "s", engine.Any, engine.New(rvA{1})); !errors.Is(err, engine.ErrOutcomeUnknown) {
			t.Fatal(err)
		}
		report, err := e.Shutdown(context.Background())
		if err == nil && handled.Load() != int64(report.Head) {
			t.Errorf("Shutdown returned nil with %d events in the log and %d handled; report %+v", report.Head, handled.Load(), report)
		}
	})
}

// Was wrong: Goexit in Commit leaves a stale version behind.
func TestRegressionGoexitInCommit(t *testing.T) {
	for _, prompt := range []bool{true, false} {
		t.Run(fmt.Sprint("prompt ", prompt), func(t *testing.T) {
			w := &wrapped{Memory: engine.NewMemory(), prompt: prompt}
			once := false
			w.commit = func(ctx context.Context, next func() error) error {
				err := next()
				if w.Head() == 2 && !once {
					once = true
					runtime.Goexit()
				}
				return err
			}
			e := quietEngine(t, engine.Options{Backend: w})
			mustAppend(t, e, "s", engine.New(rvA{1}))
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, err := e.Append(context.Background(), "s", engine.Any, engine.New(rvA{2}))
				t.Log(err)
			}()
			<-done
			res := mustAppend(t, e, "s", engine.New(rvA{3}))
			if res.Last != 3 {
				t.Errorf("third event got version %d", res.Last)
			}
			var versions []engine.Version
			for ev, err := range e.Read(context.Background(), "s") {
				if err != nil {
					t.Fatal(err)
				}
				versions = append(versions, ev.Version)
			}
			if !slices.Equal(versions, []engine.Version{1, 2, 3}) {
				t.Errorf("versions %v", versions)
			}
			mustClose(t, e)
		})
	}
}

// Was wrong: result of a duplicate.
func TestRegressionDuplicateInAnotherOrder(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	defer e.Close()
	a, b := engine.New(rvA{1}).WithID("a"), engine.New(rvA{2}).WithID("b")
	mustAppend(t, e, "s", a)
	mustAppend(t, e, "s", b)
	res := mustAppend(t, e, "s", b, a)
	if res.First > res.Last || res.Position != 2 {
		t.Errorf("%+v: First is after Last, and waiting for Position does not wait for both", res)
	}
}

// Was wrong: name's checkpoint loaded before the old handler of the name saved its own.
func TestRegressionHandleWhileHandlerOfThatNameIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wrapped{Memory: engine.NewMemory(), prompt: true}
		e := quietEngine(t, engine.Options{Backend: w})
		var got []engine.Position
		handle := func(ctx context.Context, ev engine.Event) error { got = append(got, ev.Position); return nil }
		old := mustHandle(t, e, "h", handle)
		if err := old.Pause(context.Background()); err != nil { // it has lag: stored no checkpoint yet, or that of Pause
			t.Fatal(err)
		}
		if err := old.Resume(); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, e, "s", engine.New(rvA{1}))
		synctest.Wait()
		// the new registration has read the checkpoint (0) while the old one goes on to 1 and is removed
		w.loadCP = func() {
			w.loadCP = nil
			if err := old.Remove(context.Background()); err != nil {
				t.Error(err)
			}
		}
		if _, err := e.Handle("h", handle); err != nil && !errors.Is(err, engine.ErrExists) {
			t.Error(err)
		} else if err != nil { // refused, while the old one is there: as good
			if err := old.Remove(context.Background()); err != nil {
				t.Error(err)
			}
			mustHandle(t, e, "h", handle)
		}
		synctest.Wait()
		mustClose(t, e)
		if !slices.Equal(got, []engine.Position{1}) {
			t.Errorf("handled %v: twice although the checkpoint was stored before the second handler joined", got)
		}
	})
}

func TestRegressionHandleWhileHandlerOfThatNameIsRemovedLosesEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wrapped{Memory: engine.NewMemory(), prompt: true}
		e := quietEngine(t, engine.Options{Backend: w})
		var got []engine.Position
		fail := true
		handle := func(ctx context.Context, ev engine.Event) error {
			if fail {
				<-ctx.Done()
				return ctx.Err()
			}
			got = append(got, ev.Position)
			return nil
		}
		old := mustHandle(t, e, "h", handle)
		mustAppend(t, e, "s", engine.New(rvA{1}))
		synctest.Wait()     // old is in its call
		w.loadCP = func() { // none is stored yet
			w.loadCP = nil
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			old.Remove(ctx) // interrupted: position 0 is its checkpoint
			synctest.Wait()
			fail = false
		}
		if _, err := e.Handle("h", handle); err != nil && !errors.Is(err, engine.ErrExists) {
			t.Error(err)
		} else if err != nil { // refused, while the old one is there: as good
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			old.Remove(ctx)
			synctest.Wait()
			fail = false
			mustHandle(t, e, "h", handle)
		}
		synctest.Wait()
		mustClose(t, e)
		if !slices.Equal(got, []engine.Position{1}) {
			t.Errorf("handled %v: the event that the old handler left is lost to the name", got)
		}
	})
}

// Was wrong: Types for On.
func TestRegressionTypesTakesThePlaceOfOnsType(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	var got []string
	if _, err := e.On("rvA", func(ctx context.Context, ev engine.Event) error { got = append(got, ev.Type); return nil }, engine.Types("rvB")); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, e, "s", engine.New(rvA{1}), engine.New(rvB{1}))
	mustClose(t, e)
	if !slices.Equal(got, []string{"rvB"}) {
		t.Errorf("On(rvA, Types(rvB)) got %q; the doc of Types says that it takes the place of the type", got)
	}
}

// Was wrong: followers and a context that ends in the backend.
func TestRegressionFollowEndsSilentlyWhenContextEndsInTheBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wrapped{Memory: engine.NewMemory()}
		w.onLoad = func(ctx context.Context) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		e := quietEngine(t, engine.Options{Backend: w})
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		for _, err := range e.Read(ctx, "s", engine.Follow()) {
			if err != nil {
				t.Errorf("the end of the context is not an error of Follow: %v", err)
			}
		}
		mustClose(t, e)
	})
}

type rvTyper interface{ EventType() string }
type rvEmbedsInterface struct{ rvTyper }
type rvNamed struct{ Kind string }

func (n rvNamed) EventType() string { return n.Kind }

type rvBase struct{ Kind string }

func (n rvBase) EventType() string { return "base" + n.Kind }

type rvEmbedsPointer struct{ *rvBase }

func TestRegressionEventTypePromotedFromNil(t *testing.T) {
	for _, v := range []any{rvEmbedsInterface{rvNamed{"x"}}, &rvEmbedsInterface{rvNamed{"x"}}, rvEmbedsPointer{&rvBase{"x"}}} {
		t.Run(fmt.Sprintf("%T", v), func(t *testing.T) {
			e := quietEngine(t, engine.Options{})
			defer e.Close()
			defer func() {
				if v := recover(); v != nil {
					t.Errorf("Append panics: %v", v)
				}
			}()
			res, err := e.Append(context.Background(), "s", engine.Any, engine.New(v))
			t.Log(res, err)
		})
	}
}

// Was wrong: Stats.Appended after an acknowledged append.
func TestRegressionStatsAppendedAfterAppend(t *testing.T) {
	e := quietEngine(t, engine.Options{Backend: &wrapped{Memory: engine.NewMemory()}})
	defer e.Close()
	wrong := 0
	for i := range 20_000 {
		mustAppend(t, e, "s", engine.New(rvA{i}))
		if e.Stats().Appended != uint64(i+1) {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("Stats().Appended lacked an acknowledged event %d times in 200,000", wrong)
	}
}

type panicsInClose struct{ *engine.Memory }

func (p panicsInClose) Close() error { panic("oh") }

func TestRegressionBackendThatPanicsInClose(t *testing.T) {
	e := quietEngine(t, engine.Options{Backend: panicsInClose{engine.NewMemory()}})
	func() {
		defer func() {
			if v := recover(); v != nil {
				t.Errorf("Shutdown panics: %v", v)
			}
		}()
		e.Close()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := e.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second Shutdown waits for ever: %v", err)
	}
}

func TestRegressionHugeStreamMailbox(t *testing.T) {
	e, err := engine.Open(engine.Options{StreamMailbox: math.MaxInt >> 3, Backend: &wrapped{Memory: engine.NewMemory()}})
	if err != nil {
		return // refused: as good
	}
	func() {
		defer func() {
			if v := recover(); v != nil {
				t.Errorf("Append panics: %v", v)
			}
		}()
		e.Append(context.Background(), "s", engine.Any, engine.New(rvA{1}))
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { recover() }()
		e.Append(context.Background(), "t", engine.Any, engine.New(rvA{1}))
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
		t.Error("and the next one hangs: the system's lock was left locked")
	}
}

// Was wrong: one append that the backend cannot store fails those of other callers in its batch.
func TestRegressionAppendThatCannotBeStoredFailsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &rvRefuses{wrapped: &wrapped{Memory: engine.NewMemory()}, hold: make(chan struct{})}
		e := quietEngine(t, engine.Options{Backend: w})
		errs := make(chan error, 3)
		add := func(v any) {
			go func() {
				_, err := e.Append(context.Background(), "s", engine.Any, engine.New(v))
				if _, bad := v.(rvB); !bad {
					errs <- err
				}
			}()
			synctest.Wait()
		}
		add(rvA{1}) // held in Commit
		add(rvA{2})
		add(rvB{3}) // cannot be encoded
		add(rvA{4})
		close(w.hold)
		for range 3 {
			if err := <-errs; err != nil {
				t.Errorf("an append that has nothing wrong: %v", err)
			}
		}
		mustClose(t, e)
	})
}

type rvRefuses struct {
	*wrapped
	hold chan struct{}
}

func (r *rvRefuses) Commit(ctx context.Context, writes []*engine.Write) error {
	<-r.hold
	for _, w := range writes {
		for _, ev := range w.Events {
			if _, bad := ev.Data.(rvB); bad {
				return errors.New("cannot encode rvB")
			}
		}
	}
	return r.Memory.Commit(ctx, writes)
}

// Was wrong: Resume between quiescence and the seal.
func TestRegressionResumeWhileShuttingDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wrapped{Memory: engine.NewMemory(), prompt: true}
		e := quietEngine(t, engine.Options{Backend: w})
		var live atomic.Int64
		mustHandle(t, e, "live", func(ctx context.Context, ev engine.Event) error {
			if live.Add(1); ev.Position == 2 {
				time.Sleep(time.Minute)
			}
			return nil
		})
		var stored engine.Result
		paused := mustHandle(t, e, "paused", func(ctx context.Context, ev engine.Event) (err error) {
			if ev.Position == 1 {
				stored, err = e.Append(ctx, "s", engine.Any, engine.New(rvA{2}), engine.New(rvA{3}))
			}
			return err
		})
		if err := paused.Pause(context.Background()); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, e, "s", engine.New(rvA{1}))
		synctest.Wait()
		resume := make(chan struct{})
		var once atomic.Bool
		w.onRead = func() { // Shutdown looks at how the paused handler is doing
			if once.CompareAndSwap(false, true) {
				close(resume)
				time.Sleep(time.Second)
			}
		}
		go func() { <-resume; t.Log("resume:", paused.Resume()) }()
		report, err := e.Shutdown(context.Background())
		if err == nil && stored.Position > 0 && live.Load() != int64(stored.Position) {
			t.Errorf("append of events 2 and 3 was acknowledged, Shutdown returned nil, and the live handler has seen %d events; %+v", live.Load(), report)
		}
	})
}

// Was wrong: names of handlers without one.
func TestRegressionOnAfterAHandlerOfThatName(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	defer e.Close()
	fn := func(ctx context.Context, ev engine.Event) error { return nil }
	mustHandle(t, e, "on rvA #1", fn)
	if _, err := e.On("rvA", fn); err != nil {
		t.Error(err)
	}
}

// Was wrong: Shutdown and a goroutine with the stale context of a stopped handler (see above).
func TestRegressionAcknowledgedWithStaleContextIsDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wrapped{Memory: engine.NewMemory(), prompt: true}
		e := quietEngine(t, engine.Options{Backend: w})
		var live atomic.Int64
		mustHandle(t, e, "live", func(ctx context.Context, ev engine.Event) error {
			if live.Add(1); ev.Position == 2 {
				time.Sleep(time.Minute)
			}
			return nil
		})
		var stale context.Context
		mustHandle(t, e, "stops", func(ctx context.Context, ev engine.Event) error {
			stale = ctx
			return errors.New("no")
		}, engine.Retry(0, 0), engine.OnFailure(engine.Stop))
		mustAppend(t, e, "s", engine.New(rvA{1}))
		synctest.Wait()
		var once atomic.Bool
		now, stored := make(chan struct{}), make(chan engine.Result, 1)
		w.onRead = func() { // Shutdown looks at how the stopped handler is doing
			if once.CompareAndSwap(false, true) {
				close(now)
				time.Sleep(time.Second)
			}
		}
		go func() {
			<-now
			res, err := e.Append(stale, "s", engine.Any, engine.New(rvA{2}), engine.New(rvA{3}))
			if err != nil {
				t.Log(err)
			}
			stored <- res
		}()
		report, err := e.Shutdown(context.Background())
		if res := <-stored; err == nil && res.Position > 0 && live.Load() != 3 {
			t.Errorf("append of events 2 and 3 was acknowledged (%+v), Shutdown returned nil, and the live handler has seen %d events; %+v", res, live.Load(), report)
		}
	})
}

// Was wrong: typed nil.
func TestRegressionTypedNilPayload(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	defer e.Close()
	if _, err := e.Append(context.Background(), "s", engine.Any, engine.New((*rvA)(nil))); err == nil {
		t.Error("a nil payload is accepted if it has a type")
	}
}

// keeps is a place that outlives the engines over it, as a file would a process.
type rvKeeps struct{ *engine.Memory }

func (rvKeeps) Close() error { return nil }

// Was wrong: a named handler that never got as far as a checkpoint loses events at a crash.
func TestRegressionNamedHandlerAfterACrashBeforeItsFirstCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		place := rvKeeps{engine.NewMemory()}
		crashed := quietEngine(t, engine.Options{Backend: place})
		release := make(chan struct{})
		mustHandle(t, crashed, "mail", func(ctx context.Context, ev engine.Event) error { <-release; return nil })
		mustAppend(t, crashed, "s", engine.New(rvA{1}))
		synctest.Wait() // in its first call: now the process dies, and another one begins

		e := quietEngine(t, engine.Options{Backend: place})
		var got atomic.Int64
		mustHandle(t, e, "mail", func(ctx context.Context, ev engine.Event) error { got.Add(1); return nil })
		synctest.Wait()
		mustClose(t, e)
		if got.Load() != 1 {
			t.Errorf("an event that came after the handler of that name was registered was handled %d times: not at least once", got.Load())
		}
		close(release)
		mustClose(t, crashed)
	})
}

// Was wrong: stream names of any caller pin strings; a panic of a backend read hits the caller inside a handler only.
func TestRegressionPanicInBackendRead(t *testing.T) {
	w := &wrapped{Memory: engine.NewMemory(), prompt: true}
	w.onRead = func() { panic("disk") }
	e := quietEngine(t, engine.Options{Backend: w})
	defer e.Close()
	mustAppend(t, e, "s", engine.New(rvA{1}))
	defer func() {
		if v := recover(); v != nil {
			t.Errorf("ReadAll panics with the backend: %v; Append, Load, Find and Commit do not", v)
		}
	}()
	for range e.ReadAll(context.Background()) {
	}
}

// Was wrong: Goexit in Evolve, after the commit, leaves a stale version behind if the stream's owner is a goroutine,
// and nobody tells the dispatcher.
func TestRegressionGoexitInEvolve(t *testing.T) {
	for _, prompt := range []bool{true, false} {
		t.Run(fmt.Sprint("prompt ", prompt), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := quietEngine(t, engine.Options{Backend: &wrapped{Memory: engine.NewMemory(), prompt: prompt}})
				var handled atomic.Int64
				mustHandle(t, e, "h", func(context.Context, engine.Event) error { handled.Add(1); return nil })
				exits := true
				d := &engine.Decider[int, string]{
					Evolve: func(n int, _ engine.Event) int {
						if exits {
							exits = false
							runtime.Goexit()
						}
						return n + 1
					},
					Decide: func(int, string) ([]engine.NewEvent, error) { return []engine.NewEvent{engine.New(rvA{1})}, nil },
				}
				done := make(chan struct{})
				go func() { // it may be this goroutine that ends
					defer close(done)
					_, err := engine.Execute(t.Context(), e, d, "s", "add")
					if !errors.Is(err, engine.ErrOutcomeUnknown) {
						t.Errorf("Execute, whose event is stored: %v", err)
					}
				}()
				<-done
				synctest.Wait()
				if handled.Load() != 1 {
					t.Errorf("%d events are handled, want the one that is stored", handled.Load())
				}
				if res := mustAppend(t, e, "s", engine.New(rvA{2})); res.First != 2 {
					t.Errorf("the second event has version %d", res.First)
				}
				if res, err := engine.Execute(t.Context(), e, d, "s", "add"); err != nil || res.First != 3 {
					t.Errorf("then Execute returns %+v, %v", res, err)
				}
				mustClose(t, e)
			})
		})
	}
}
