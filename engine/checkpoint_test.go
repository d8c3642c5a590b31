package engine_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// lasting is a Memory that outlives its engine, as a durable backend does, and records what
// it is told of handlers.
type lasting struct {
	*engine.Memory
	mu     sync.Mutex
	saves  [][]engine.Checkpoint // batch by batch
	calls  []string
	times  []time.Time
	before func(call string) error
}

// on sets what is called ahead of each recorded call.
func (l *lasting) on(before func(call string) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before = before
}

func newLasting() *lasting { return &lasting{Memory: engine.NewMemory()} }

func (l *lasting) Caps() engine.Caps {
	c := l.Memory.Caps()
	c.Reopen = true
	return c
}

func (l *lasting) Close() error { return nil }

func (l *lasting) call(what string) error {
	l.mu.Lock()
	before := l.before
	l.mu.Unlock()
	if before != nil {
		if err := before(what); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.calls = append(l.calls, what)
	l.mu.Unlock()
	return nil
}

func (l *lasting) SaveCheckpoints(ctx context.Context, list []engine.Checkpoint) error {
	if err := l.call("save"); err != nil {
		return err
	}
	l.mu.Lock()
	l.saves, l.times = append(l.saves, slices.Clone(list)), append(l.times, time.Now())
	l.mu.Unlock()
	return l.Memory.SaveCheckpoints(ctx, list)
}

func (l *lasting) Park(ctx context.Context, handler string, p engine.ParkedRecord) error {
	if err := l.call(fmt.Sprintf("park %s %d", handler, p.Position)); err != nil {
		return err
	}
	return l.Memory.Park(ctx, handler, p)
}

func (l *lasting) Unpark(ctx context.Context, handler string, pos engine.Position) error {
	if err := l.call(fmt.Sprintf("unpark %s %d", handler, pos)); err != nil {
		return err
	}
	return l.Memory.Unpark(ctx, handler, pos)
}

func (l *lasting) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.saves)
}

// last returns the newest batch.
func (l *lasting) last() map[string]engine.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := make(map[string]engine.Position)
	for _, c := range l.saves[len(l.saves)-1] {
		m[c.Handler] = c.Position
	}
	return m
}

func (l *lasting) at(t *testing.T, handler string) engine.Position {
	t.Helper()
	pos, _, err := l.LoadCheckpoint(context.Background(), handler)
	if err != nil {
		t.Fatal(err)
	}
	return pos
}

func nothingToDo(context.Context, engine.Event) error { return nil }

// All handlers that have moved are stored in one batch, CheckpointEvery after the first of
// them has; while nothing moves nothing is.
func TestCheckpointsWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		e := quietEngine(t, engine.Options{Backend: l, CheckpointEvery: 3 * time.Second})
		defer mustClose(t, e)
		for _, name := range []string{"a", "b", "c"} {
			mustHandle(t, e, name, nothingToDo, engine.Types("A"))
		}
		mustHandle(t, e, "other", nothingToDo, engine.Types("B"))
		if _, err := e.On("A", nothingToDo); err != nil {
			t.Fatal(err)
		}
		began := l.count()
		time.Sleep(time.Hour)
		if l.count() != began {
			t.Fatal("checkpoints were stored although nothing has moved")
		}
		start := time.Now()
		for range 10 {
			mustAppend(t, e, "s-1", event("A", 1))
			time.Sleep(100 * time.Millisecond)
		}
		if l.count() != began {
			t.Fatal("checkpoints were stored before their time")
		}
		time.Sleep(time.Hour)
		if l.count() != began+1 || l.times[began].Sub(start) != 3*time.Second {
			t.Fatalf("%d saves, the first after %v; want 1 after 3s", l.count()-began, l.times[began].Sub(start))
		}
		// "other" is behind nothing: its position goes with the rest.
		if got, want := l.last(), map[string]engine.Position{"a": 10, "b": 10, "c": 10, "other": 10}; !maps.Equal(got, want) {
			t.Errorf("stored %v, want %v", got, want)
		}
		mustAppend(t, e, "s-1", event("B", 1))
		time.Sleep(time.Hour)
		if l.count() != began+2 || l.last()["other"] != 11 {
			t.Errorf("%d saves, the last is %v", l.count()-began, l.last())
		}
	})
}

// Memory needs no checkpoints while handlers run: nothing would be left of them.
func TestNoCheckpointerForMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		f := quietEngine(t, engine.Options{Backend: newLasting()})
		synctest.Wait()
		if n, m := e.Stats().Goroutines, f.Stats().Goroutines; n+1 != m {
			t.Errorf("%d goroutines in memory, %d with a backend that lasts; want one more", n, m)
		}
		mustClose(t, e)
		mustClose(t, f)
	})
}

// A checkpoint is never ahead of what is handled: not in the middle of a call, not with keyed
// workers of which a later one is faster, not by what is about to be parked.
func TestCheckpointIsNeverAhead(t *testing.T) {
	for _, keyed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := newLasting()
			e := quietEngine(t, engine.Options{Backend: l, CheckpointEvery: time.Second})
			hold := make(chan struct{})
			opts := []engine.HandlerOption{engine.Retry(0, 0)}
			if keyed {
				opts = append(opts, engine.Keyed(2))
			}
			mustHandle(t, e, "h", func(_ context.Context, ev engine.Event) error {
				if ev.Data == "hold" {
					<-hold
				}
				if ev.Data == "park" {
					return errors.New("no")
				}
				return nil
			}, opts...)
			parking := make(chan struct{})
			l.on(func(call string) error {
				if strings.HasPrefix(call, "park") {
					<-parking
				}
				return nil
			})
			mustAppend(t, e, "a-1", event("A", "go"), event("A", "hold"))
			for i := range 10 {
				mustAppend(t, e, fmt.Sprint("b-", i), event("A", "go"))
			}
			mustAppend(t, e, "c-1", event("A", "park"))
			time.Sleep(time.Minute)
			if pos := l.at(t, "h"); pos > 1 {
				t.Errorf("checkpoint %d while the event at 2 is being handled", pos)
			}
			close(hold)
			time.Sleep(time.Minute)
			if pos := l.at(t, "h"); pos > 12 {
				t.Errorf("checkpoint %d while the event at 13 is being parked", pos)
			}
			close(parking)
			time.Sleep(time.Minute)
			if pos := l.at(t, "h"); pos != 13 {
				t.Errorf("checkpoint %d, want 13", pos)
			}
			mustClose(t, e)
		})
	}
}

// A save that fails is tried again, at growing intervals, without any progress.
func TestCheckpointsAreSavedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		e := quietEngine(t, engine.Options{Backend: l})
		defer mustClose(t, e)
		mustHandle(t, e, "h", nothingToDo)
		var fails, tries atomic.Int32
		fails.Store(4)
		l.on(func(call string) error {
			tries.Add(1)
			if fails.Add(-1) >= 0 {
				return errors.New("disk is full")
			}
			return nil
		})
		mustAppend(t, e, "s-1", event("A", 1))
		time.Sleep(16 * time.Second) // tries after 1, 3, 7, 15 seconds
		mustAppend(t, e, "s-1", event("A", 1))
		if tries.Load() != 4 || l.at(t, "h") != 0 {
			t.Fatalf("%d tries, checkpoint %d", tries.Load(), l.at(t, "h"))
		}
		time.Sleep(time.Hour)
		if l.at(t, "h") != 2 || tries.Load() > 6 {
			t.Errorf("%d tries, checkpoint %d, want 2", tries.Load(), l.at(t, "h"))
		}
		if n := e.CheckpointFailures(); n != 4 {
			t.Errorf("%d failures counted", n)
		}
	})
}

// What moves while the backend stores is stored next, without any more progress.
func TestProgressDuringASaveIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		e := quietEngine(t, engine.Options{Backend: l})
		defer mustClose(t, e)
		mustHandle(t, e, "h", nothingToDo)
		hold := make(chan struct{})
		l.on(func(string) error { <-hold; return nil })
		mustAppend(t, e, "s-1", event("A", 1))
		time.Sleep(time.Minute) // the checkpointer is in the backend
		mustAppend(t, e, "s-1", event("A", 1))
		synctest.Wait()
		close(hold)
		time.Sleep(time.Minute)
		if pos := l.at(t, "h"); pos != 2 {
			t.Errorf("checkpoint %d, want 2", pos)
		}
	})
}

// What a handler stores when it pauses, stops or ends is not overtaken by what the
// checkpointer has read before, and never belongs to another of its name.
func TestCheckpointsNeverGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		e := quietEngine(t, engine.Options{Backend: l, CheckpointEvery: time.Millisecond})
		defer mustClose(t, e)
		hold := make(chan struct{}) // a save that hangs in the backend
		var holding atomic.Bool
		l.on(func(call string) error {
			if call == "save" && holding.CompareAndSwap(true, false) {
				<-hold
			}
			return nil
		})
		h := mustHandle(t, e, "h", nothingToDo)
		mustHandle(t, e, "g", nothingToDo)
		mustAppend(t, e, "s-1", event("A", 1))
		holding.Store(true)
		time.Sleep(time.Second) // the checkpointer hangs with position 1
		mustAppend(t, e, "s-1", event("A", 1), event("A", 1))
		synctest.Wait()
		removed := make(chan error, 1)
		go func() { removed <- h.Remove(context.Background()) }()
		synctest.Wait()
		hold <- struct{}{}
		if err := <-removed; err != nil {
			t.Fatal(err)
		}
		if pos := l.at(t, "h"); pos != 3 {
			t.Errorf("checkpoint %d after Remove, want 3", pos)
		}
		// Another of that name goes back on purpose; the old one's position is not seen again.
		mustHandle(t, e, "h", func(context.Context, engine.Event) error {
			<-hold
			return nil
		}, engine.FromStart(), engine.IgnoreCheckpoint())
		if pos := l.at(t, "h"); pos != 0 {
			t.Errorf("checkpoint %d although it is ignored", pos)
		}
		for range 3 {
			mustAppend(t, e, "s-1", event("A", 1))
			time.Sleep(time.Second)
		}
		if pos := l.at(t, "h"); pos != 0 {
			t.Errorf("checkpoint %d of a handler that has handled nothing", pos)
		}
		close(hold)
		time.Sleep(time.Second)
		if pos := l.at(t, "h"); pos != 6 {
			t.Errorf("checkpoint %d, want 6", pos)
		}
	})
}

// Whatever handlers, names and the checkpointer do at once: within one registration a
// checkpoint never goes back, and at the end everybody's is where it stands.
func TestCheckpointStorm(t *testing.T) {
	l := newLasting()
	e := quietEngine(t, engine.Options{Backend: l, CheckpointEvery: 50 * time.Microsecond})
	ctx := context.Background()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				mustAppend(t, e, "s-1", event("A", 1), event("B", 1))
			}
		}
	})
	var workers sync.WaitGroup
	for i := range 4 {
		workers.Go(func() {
			name := fmt.Sprint("h", i)
			var seen atomic.Uint64 // the last position handled, of all registrations
			fn := func(_ context.Context, ev engine.Event) error {
				if was := engine.Position(seen.Swap(uint64(ev.Position))); was >= ev.Position {
					return fmt.Errorf("%d is handled again after %d", ev.Position, was)
				}
				return nil
			}
			for n := range 60 {
				opts := []engine.HandlerOption{engine.FromStart(), engine.OnFailure(engine.Stop), engine.Retry(0, 0)}
				if i%2 == 1 {
					opts = append(opts, engine.Keyed(1))
				}
				h, err := e.Handle(name, fn, opts...)
				if err != nil {
					t.Error(err)
					return
				}
				if err := h.Pause(ctx); err != nil {
					t.Error(err)
				}
				if n%2 == 0 {
					if err := h.Resume(); err != nil {
						t.Error(err)
					}
				}
				if err := h.Remove(ctx); err != nil {
					t.Error(err)
				}
				if pos := l.at(t, name); pos < engine.Position(seen.Load()) {
					t.Errorf("%s: checkpoint %d, handled up to %d", name, pos, seen.Load())
				}
				if err := h.Stats().LastError; err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	close(stop)
	wg.Wait()
	mustClose(t, e)
	last := make(map[string]engine.Position)
	for _, batch := range l.saves {
		for _, c := range batch {
			if c.Position < last[c.Handler] {
				t.Errorf("checkpoint of %s went from %d to %d", c.Handler, last[c.Handler], c.Position)
			}
			last[c.Handler] = c.Position
		}
	}
}

// Shutdown stores everybody's checkpoint in one batch, after the last call, and says so if it
// cannot. Nothing is stored after it.
func TestShutdownSavesCheckpoints(t *testing.T) {
	run := func(name string, fn func(t *testing.T, l *lasting, e *engine.Engine)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLasting()
				e := quietEngine(t, engine.Options{Backend: l, CheckpointEvery: time.Second})
				for i := range 5 {
					mustHandle(t, e, fmt.Sprint("h", i), nothingToDo)
				}
				mustAppend(t, e, "s-1", event("A", 1), event("A", 1))
				synctest.Wait()
				fn(t, l, e)
			})
		})
	}
	run("in one batch", func(t *testing.T, l *lasting, e *engine.Engine) {
		n := l.count()
		mustClose(t, e)
		if l.count() != n+1 || len(l.last()) != 5 {
			t.Errorf("%d saves, the last of %v", l.count()-n, l.last())
		}
		for i := range 5 {
			if pos := l.at(t, fmt.Sprint("h", i)); pos != 2 {
				t.Errorf("h%d: %d", i, pos)
			}
		}
	})
	run("after one that hangs", func(t *testing.T, l *lasting, e *engine.Engine) {
		hold := make(chan struct{})
		var first atomic.Bool
		l.on(func(string) error {
			if first.CompareAndSwap(false, true) {
				<-hold
			}
			return nil
		})
		time.Sleep(2 * time.Second) // the checkpointer hangs with position 2
		mustAppend(t, e, "s-1", event("A", 1))
		closed := make(chan error, 1)
		go func() { closed <- e.Close() }()
		synctest.Wait()
		close(hold)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if pos := l.at(t, "h1"); pos != 3 {
			t.Errorf("checkpoint %d, want 3", pos)
		}
	})
	run("not at all", func(t *testing.T, l *lasting, e *engine.Engine) {
		broken := errors.New("disk is gone")
		l.on(func(string) error { return broken })
		if err := e.Close(); !errors.Is(err, broken) {
			t.Errorf("Close returned %v", err)
		}
	})
	run("never returning", func(t *testing.T, l *lasting, e *engine.Engine) {
		hold := make(chan struct{})
		l.on(func(string) error { <-hold; return nil })
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := e.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown returned %v", err)
		}
		close(hold)
	})
	run("of a handler that does not return", func(t *testing.T, l *lasting, e *engine.Engine) {
		hold := make(chan struct{})
		mustHandle(t, e, "stuck", func(_ context.Context, ev engine.Event) error {
			if ev.Position == 4 {
				<-hold
			}
			return nil
		})
		mustAppend(t, e, "s-1", event("A", 1), event("A", 1), event("A", 1))
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := e.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown returned %v", err)
		}
		if pos := l.at(t, "stuck"); pos != 3 {
			t.Errorf("checkpoint %d, want 3: before the event at hand", pos)
		}
		close(hold)
		synctest.Wait()
		if pos := l.at(t, "stuck"); pos != 3 {
			t.Errorf("checkpoint %d was stored after the end", pos)
		}
	})
}
