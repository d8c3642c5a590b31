package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/weirstore/weir/engine"
)

// A parked list that changes while no handler moves is made durable all the same, in time and
// once.
func TestParkedChangesAreMadeDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		e := quietEngine(t, engine.Options{Backend: l, CheckpointEvery: 3 * time.Second})
		defer mustClose(t, e)
		broken := true
		h := mustHandle(t, e, "h", func(context.Context, engine.Event) error {
			if broken {
				return errors.New("no")
			}
			return nil
		}, engine.Retry(0, 0))
		mustAppend(t, e, "s-1", event("A", 1), event("A", 2), event("A", 3))
		time.Sleep(time.Hour)
		for _, change := range []struct {
			name string
			do   func() error
		}{
			{"discarded", func() error { _, err := h.Discard(2); return err }},
			{"redriven in vain", func() error { _, err := h.Redrive(t.Context()); return err }},
			{"redriven", func() error { broken = false; _, err := h.Redrive(t.Context()); return err }},
		} {
			n := l.count()
			if err := change.do(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3*time.Second + 1)
			if l.count() != n+1 || l.last()["h"] != 3 {
				t.Errorf("%s: %d saves, the last of %v", change.name, l.count()-n, l.last())
			}
			time.Sleep(time.Hour)
			if l.count() != n+1 {
				t.Errorf("%s: %d saves", change.name, l.count()-n)
			}
		}
		// A save that fails is repeated for it, too.
		broken = true
		mustAppend(t, e, "s-1", event("A", 4))
		time.Sleep(time.Hour)
		var fails atomic.Int32
		fails.Store(2)
		l.on(func(call string) error {
			if call == "save" && fails.Add(-1) >= 0 {
				return errors.New("disk is full")
			}
			return nil
		})
		n := l.count()
		if ok, err := h.Discard(4); !ok || err != nil {
			t.Fatal(ok, err)
		}
		time.Sleep(time.Hour)
		if l.count() != n+1 || fails.Load() != -1 {
			t.Errorf("%d saves after two that failed", l.count()-n)
		}
	})
}

// Nothing is kept of handlers that have ended, or could not be registered, once it is stored
// where they stood: names may come and go for ever.
func TestHandlersThatHaveEndedAreForgotten(t *testing.T) {
	for name, open := range map[string]func() engine.Backend{
		"memory":  func() engine.Backend { return engine.NewMemory() },
		"durable": func() engine.Backend { return newLasting() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := quietEngine(t, engine.Options{Backend: open()})
				defer mustClose(t, e)
				mustHandle(t, e, "stays", nothingToDo)
				for i := range 20 {
					h := mustHandle(t, e, fmt.Sprint("h", i), func(context.Context, engine.Event) error { return errors.New("no") }, engine.Retry(0, 0))
					if _, err := e.Handle("stays", nothingToDo); err == nil {
						t.Fatal("two of one name")
					}
					res := mustAppend(t, e, "s-1", event("A", 1))
					if err := e.Wait(t.Context(), res.Position); err != nil {
						t.Fatal(err)
					}
					if i%2 == 0 {
						if err := h.Pause(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					if err := h.Remove(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if n := e.KeptHandlers(); n != 1 {
					t.Errorf("%d handlers are kept, want 1", n)
				}
			})
		})
	}
}

// A registration that fails leaves nothing, and not the checkpoint of another one either.
func TestRegistrationThatFailsIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		e := quietEngine(t, engine.Options{Backend: l})
		defer mustClose(t, e)
		refused := errors.New("refused")
		l.on(func(string) error { return refused })
		for i := range 10 {
			if _, err := e.Handle(fmt.Sprint("h", i), nothingToDo); !errors.Is(err, refused) {
				t.Fatalf("Handle returned %v", err)
			}
		}
		l.on(nil)
		mustAppend(t, e, "s-1", event("A", 1))
		if err := l.Park(t.Context(), "keyed", engine.ParkedRecord{Position: 1}); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if _, err := e.Handle("keyed", nothingToDo, engine.KeyedBy(2, func(engine.Event) string { panic("no key") })); err == nil {
				t.Fatal("it was registered")
			}
		}
		if n := e.KeptHandlers(); n != 0 {
			t.Errorf("%d handlers are kept, want none", n)
		}
	})
}

// Where a handler stood that has left is stored as soon as the backend can again, whoever moves
// or does not; until then another of its name goes on there.
func TestCheckpointOfAHandlerThatHasLeftIsSavedAgain(t *testing.T) {
	for i := range 4 {
		again, concerned := i%2 == 1, i/2 == 1 // who is not moves without making progress
		synctest.Test(t, func(t *testing.T) {
			l := newLasting()
			e := quietEngine(t, engine.Options{Backend: l, CheckpointEvery: time.Second})
			defer mustClose(t, e)
			handled := 0
			count := func(context.Context, engine.Event) error { handled++; return nil }
			typ, want := engine.Types("B"), 0
			if concerned {
				typ, want = engine.Types("A"), 2
			}
			h := mustHandle(t, e, "h", count, typ)
			mustAppend(t, e, "s-1", event("A", 1), event("A", 2))
			synctest.Wait()
			var full atomic.Bool
			full.Store(true)
			l.on(func(string) error {
				if full.Load() {
					return errors.New("disk is full")
				}
				return nil
			})
			if err := h.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if again {
				h = mustHandle(t, e, "h", count, typ)
				if err := h.Pause(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(10 * time.Minute)
			full.Store(false)
			time.Sleep(10 * time.Minute)
			if pos := l.at(t, "h"); pos != 2 || handled != want {
				t.Errorf("checkpoint %d, %d handled; want 2 and %d", pos, handled, want)
			}
			if want := map[bool]int{false: 0, true: 1}[again]; e.KeptHandlers() != want {
				t.Errorf("%d handlers are kept", e.KeptHandlers())
			}
		})
	}
}

// loggerFunc calls a function with each message.
type loggerFunc struct {
	slog.Handler
	fn func(msg string)
}

func (l loggerFunc) Enabled(context.Context, slog.Level) bool { return true }
func (l loggerFunc) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l loggerFunc) Handle(_ context.Context, r slog.Record) error {
	l.fn(r.Message)
	return nil
}

// A logger is user code: it may call the engine, registering handlers included.
func TestLoggerMayCallTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		var e *engine.Engine
		var n atomic.Int32
		log := slog.New(loggerFunc{slog.DiscardHandler, func(msg string) {
			if strings.Contains(msg, "checkpoints not saved") {
				l.on(nil)
				h, err := e.Handle(fmt.Sprint("of the logger ", n.Add(1)), nothingToDo)
				if err == nil {
					err = h.Remove(context.Background())
				}
				if err != nil {
					t.Error(err)
				}
			}
		}})
		e = quietEngine(t, engine.Options{Backend: l, Logger: log})
		defer mustClose(t, e)
		h := mustHandle(t, e, "h", nothingToDo)
		for want := range int32(2) { // the checkpointer's goroutine, then a handler's
			full := errors.New("disk is full")
			l.on(func(string) error { return full })
			mustAppend(t, e, "s-1", event("A", 1))
			synctest.Wait()
			if want == 1 {
				if err := h.Pause(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Hour)
			if n.Load() != want+1 {
				t.Errorf("%d failures were logged, want %d", n.Load(), want+1)
			}
		}
	})
}

// When a shutdown has given up on a backend that hangs, whoever waits for the checkpoints'
// turn gets an answer; only the call in the backend stays.
func TestCheckpointsThatHangReleaseOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		e := quietEngine(t, engine.Options{Backend: l, CheckpointEvery: time.Second})
		h := mustHandle(t, e, "h", nothingToDo)
		hold := make(chan struct{})
		l.on(func(call string) error {
			if call == "save" {
				<-hold
			}
			return nil
		})
		mustAppend(t, e, "s-1", event("A", 1))
		time.Sleep(time.Minute) // the checkpointer hangs
		registered := make(chan error, 1)
		go func() {
			_, err := e.Handle("late", nothingToDo)
			registered <- err
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.Pause(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Pause returned %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		report, err := e.Shutdown(ctx)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown returned %v", err)
		}
		if want := []string{"checkpointer"}; !slices.Equal(report.Running, want) {
			t.Errorf("running: %q", report.Running)
		}
		synctest.Wait()
		select {
		case err := <-registered:
			if !errors.Is(err, engine.ErrClosed) {
				t.Errorf("Handle returned %v", err)
			}
		default:
			t.Error("Handle hangs")
		}
		close(hold)
	})
}

// Error texts and stacks are kept up to a length: a backend may write the list once a second.
func TestParkedTextIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		e := quietEngine(t, engine.Options{Backend: l})
		defer mustClose(t, e)
		long := errors.New("x" + strings.Repeat("é", 100_000))
		var deep func(n int) error
		deep = func(n int) error {
			if n == 0 {
				panic("oh")
			}
			return deep(n - 1)
		}
		h := mustHandle(t, e, "h", func(_ context.Context, ev engine.Event) error {
			switch ev.Version {
			case 1:
				return long
			case 2:
				return deep(500)
			}
			return errors.New("short")
		}, engine.Retry(0, 0))
		mustAppend(t, e, "s-1", event("A", 1), event("A", 2), event("A", 3))
		if err := e.Wait(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		list, err := l.Parked(t.Context(), "h")
		if err != nil || len(list) != 3 {
			t.Fatal(list, err)
		}
		if p := list[0]; len(p.Error) > 4<<10 || len(p.Error) < 4<<10-8 || !strings.HasSuffix(p.Error, "é …") || !utf8.ValidString(p.Error) {
			t.Errorf("an error of %d bytes, that ends with %q", len(p.Error), p.Error[len(p.Error)-10:])
		}
		if p := list[1]; len(p.Stack) > 8<<10 || !strings.HasSuffix(p.Stack, " …") {
			t.Errorf("a stack of %d bytes", len(p.Stack))
		}
		if list[2].Error != "short" {
			t.Errorf("%q", list[2].Error)
		}
		if h.Parked()[0].Err != long { // in memory it is the error itself
			t.Errorf("%.20v", h.Parked()[0].Err)
		}
	})
}

// What Stats returns can be shown as JSON as it is.
func TestStatsAsJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		defer mustClose(t, e)
		mustHandle(t, e, "bad", func(context.Context, engine.Event) error { return fmt.Errorf("mail: %w", errors.ErrUnsupported) }, engine.Retry(0, 0))
		mustHandle(t, e, "good", nothingToDo)
		mustAppend(t, e, "s-1", event("A", 1))
		if err := e.Wait(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(e.Stats())
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Head     engine.Position
			Handlers []struct {
				Name, State string
				Position    engine.Position
				Parked      int
				LastError   *string
			}
		}
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if got.Head != 1 || len(got.Handlers) != 2 {
			t.Fatalf("%s", text)
		}
		bad, good := got.Handlers[0], got.Handlers[1]
		if bad.Name != "bad" || bad.State != "live" || bad.Position != 1 || bad.Parked != 1 || bad.LastError == nil || *bad.LastError != "mail: unsupported operation" {
			t.Errorf("%s", text)
		}
		if good.LastError != nil || good.Position != 1 || strings.Count(string(text), `"Position"`) != 2 {
			t.Errorf("%s", text)
		}
	})
}
