package verify_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weirstore/weir/engine"
)

// echo is what the re-entrant handler appends for the event at a position.
type echo struct{ of engine.Position }

// shutdownStorm is one engine that is shut down while 64 goroutines append to it.
type shutdownStorm struct {
	eng    *engine.Engine
	seen   [2][]engine.Event // of the plain handler and, sorted in by key, of the keyed one
	keyed  map[string]*[]engine.Event
	echoes []acked // acknowledged to the handler that appends; it has one goroutine
	err    error   // what it was told otherwise
	follow []engine.Event
}

func (s *shutdownStorm) handlers(t *testing.T, rng *rand.Rand) {
	t.Helper()
	must := func(h *engine.Handler, err error) *engine.Handler {
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	slow := rng.IntN(3)
	must(s.eng.Handle("plain", func(_ context.Context, ev engine.Event) error {
		for range slow {
			runtime.Gosched()
		}
		s.seen[0] = append(s.seen[0], ev)
		return nil
	}, engine.FromStart(), engine.Mailbox(1<<rng.IntN(8))))

	s.keyed = make(map[string]*[]engine.Event)
	for _, name := range append(streamNames(stormStreams), "echo") {
		s.keyed[name] = new([]engine.Event)
	}
	must(s.eng.Handle("keyed", func(_ context.Context, ev engine.Event) error {
		list := s.keyed[ev.Stream]
		*list = append(*list, ev)
		return nil
	}, engine.FromStart(), engine.Keyed(3), engine.Overflow(engine.CatchUp)))

	must(s.eng.Handle("reentrant", func(ctx context.Context, ev engine.Event) error {
		res, err := s.eng.Append(ctx, "echo", engine.Any, engine.NewEvent{Type: "echo", Data: echo{ev.Position}})
		if err != nil {
			s.err = err
			return err
		}
		s.echoes = append(s.echoes, acked{"echo", int(ev.Position), 1, res})
		return nil
	}, engine.FromStart(), engine.Types("t0"), engine.Mailbox(1<<rng.IntN(8))))

	if rng.IntN(2) == 0 { // nobody waits for one that is paused
		h := must(s.eng.Handle("paused", func(context.Context, engine.Event) error { return nil }))
		if err := h.Pause(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if rng.IntN(2) == 0 { // or has stopped
		must(s.eng.Handle("stopping", func(context.Context, engine.Event) error { return errors.New("no") },
			engine.OnFailure(engine.Stop), engine.Retry(0, 1)))
	}
}

// check compares what was acknowledged, stored and handled.
func (s *shutdownStorm) check(log []engine.Event, acks []acked) error {
	if s.err != nil {
		return fmt.Errorf("the handler that appends was told: %w", s.err)
	}
	if err := checkLog(log); err != nil {
		return err
	}
	if err := checkAcked(log, acks); err != nil {
		return err
	}
	for i, ev := range s.seen[0] {
		if i >= len(log) || ev.Position != log[i].Position || ev.Data != log[i].Data {
			return fmt.Errorf("plain: call %d was with position %d", i, ev.Position)
		}
	}
	if len(s.seen[0]) != len(log) {
		return fmt.Errorf("plain handled %d events of %d", len(s.seen[0]), len(log))
	}
	n := 0
	for stream, list := range s.keyed {
		for i, ev := range *list {
			if ev.Stream != stream || ev.Version != engine.Version(i+1) || ev.Data != log[ev.Position-1].Data {
				return fmt.Errorf("keyed: call %d of %q was with %s@%d", i, stream, ev.Stream, ev.Version)
			}
			n++
		}
	}
	if n != len(log) {
		return fmt.Errorf("keyed handled %d events of %d", n, len(log))
	}
	echoed := make(map[engine.Position]int)
	for _, ev := range log {
		if e, ok := ev.Data.(echo); ok {
			echoed[e.of]++
			if ev.Meta.CausationID != log[e.of-1].Identity() {
				return fmt.Errorf("the echo of position %d says that %q caused it", e.of, ev.Meta.CausationID)
			}
		}
	}
	for _, ev := range log {
		if want := map[bool]int{true: 1}[ev.Type == "t0"]; echoed[ev.Position] != want {
			return fmt.Errorf("position %d, type %s, has %d echoes", ev.Position, ev.Type, echoed[ev.Position])
		}
	}
	for _, a := range s.echoes {
		if log[a.res.Position-1].Data != (echo{engine.Position(a.tag)}) {
			return fmt.Errorf("the echo of position %d was acknowledged at %d", a.tag, a.res.Position)
		}
	}
	for i, ev := range s.follow {
		if i >= len(log) || ev.Position != log[i].Position || ev.Data != log[i].Data {
			return fmt.Errorf("the follower saw position %d as its event %d", ev.Position, i)
		}
	}
	return nil
}

// TestShutdownStorm: a shutdown at a random moment of a storm loses nothing that was acknowledged, leaves nothing
// unhandled, and no goroutine.
func TestShutdownStorm(t *testing.T) {
	before := goleak.IgnoreCurrent()
	storms, appends, echoes, cutShort := 0, 0, 0, 0
	forSeeds(t, 200, func(t *testing.T, seed uint64, rng *rand.Rand) {
		ctx, end := bounded(t)
		defer end()
		log := newKeeper()
		s := &shutdownStorm{eng: open(t, engine.Options{Backend: log, StreamMailbox: 1 << rng.IntN(5), MaxIdleStreams: 1 << rng.IntN(8)})}
		s.handlers(t, rng)

		var others sync.WaitGroup
		var followed error
		others.Go(func() {
			for ev, err := range s.eng.ReadAll(ctx, engine.Follow()) {
				if err != nil {
					followed = err
					return
				}
				s.follow = append(s.follow, ev)
			}
		})
		// Some callers at once, after a random number of appends. One of them may be a handler.
		moment, callers, fromInside := 1+rng.IntN(400), 1+rng.IntN(3), rng.IntN(4) == 0
		now := make(chan struct{})
		reports, errs := make([]engine.Report, callers), make([]error, callers)
		if fromInside {
			var once sync.Once
			if _, err := s.eng.On("t1", func(ctx context.Context, ev engine.Event) error {
				if int(ev.Position) >= moment {
					once.Do(func() {
						if _, err := s.eng.Shutdown(ctx); !errors.Is(err, engine.ErrInHandler) {
							t.Errorf("shutdown from inside: %v", err)
						}
						close(now)
					})
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		for c := range callers {
			others.Go(func() {
				<-now
				reports[c], errs[c] = s.eng.Shutdown(ctx)
			})
		}
		var once atomic.Bool
		acks := storm{appenders: 64, streams: stormStreams, maxBatch: 3, types: 4, untilClosed: true}.run(t, ctx, s.eng, rng, func(n int) {
			if n >= moment && !fromInside && once.CompareAndSwap(false, true) {
				close(now)
			}
		})
		others.Wait()
		for c := range callers {
			if errs[c] != nil || !reflect.DeepEqual(reports[c], reports[0]) {
				t.Errorf("shutdown: %v; %+v, another caller's %+v", errs[c], reports[c], reports[0])
			}
		}
		for _, h := range reports[0].Handlers {
			if h.Running || h.Lag > 0 && h.State != engine.Paused && h.State != engine.Stopped {
				t.Errorf("report: %+v", h)
			}
		}
		if !errors.Is(followed, engine.ErrClosed) {
			t.Errorf("the follower was told: %v", followed)
		}
		if leaks := goleak.Find(before); leaks != nil {
			t.Error(leaks)
		}
		closed(t, s.eng)
		final := logOf(t, log)
		if head := reports[0].Head; int(head) != len(final) {
			t.Errorf("the report says that the head is %d, it is %d", head, len(final))
		}
		if err := s.check(final, acks); err != nil {
			t.Error(err)
		}
		storms++
		appends += len(acks)
		echoes += len(s.echoes)
		if len(s.follow) < len(final) {
			cutShort++
		}
	})
	t.Logf("%d storms, %d appends, %d from inside; %d followers were cut short", storms, appends, echoes, cutShort)
}

// closed checks that every call says so.
func closed(t *testing.T, eng *engine.Engine) {
	t.Helper()
	ctx := context.Background()
	nothing := func(context.Context, engine.Event) error { return nil }
	for name, call := range map[string]func() error{
		"Append": func() error {
			_, err := eng.Append(ctx, "a", engine.Any, engine.NewEvent{Type: "x", Data: 1})
			return err
		},
		"Read":    func() error { return first(eng.Read(ctx, "a")) },
		"ReadAll": func() error { return first(eng.ReadAll(ctx)) },
		"Follow":  func() error { return first(eng.ReadAll(ctx, engine.Follow())) },
		"On":      func() error { _, err := eng.On("x", nothing); return err },
		"Handle":  func() error { _, err := eng.Handle("new", nothing); return err },
		"Wait":    func() error { return eng.Wait(ctx, eng.Head()+1, "plain") },
	} {
		if err := call(); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("%s after shutdown: %v", name, err)
		}
	}
	if err := eng.Close(); err != nil {
		t.Errorf("Close after shutdown: %v", err)
	}
}

// first returns the first error that a read yields.
func first(read func(yield func(engine.Event, error) bool)) error {
	for _, err := range read {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestShutdownNamesWhoHoldsItUp: with a handler that never returns, Shutdown ends at its deadline, tells who it was and
// what it has not handled, and has delivered everything to the others.
func TestShutdownNamesWhoHoldsItUp(t *testing.T) {
	for _, obeys := range []bool{true, false} {
		t.Run(fmt.Sprintf("obeys its context=%v", obeys), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				eng := open(t, engine.Options{})
				release := make(chan struct{})
				if _, err := eng.Handle("stuck", func(ctx context.Context, ev engine.Event) error {
					if obeys {
						<-ctx.Done()
						return ctx.Err()
					}
					<-release
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				handled := 0
				if _, err := eng.On("x", func(context.Context, engine.Event) error { handled++; return nil }); err != nil {
					t.Fatal(err)
				}
				for i := range 5 {
					mustAppend(t, eng, "a", i)
				}
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				report, err := eng.Shutdown(ctx)
				if took := time.Since(began); took < time.Minute || took > time.Minute+time.Second {
					t.Errorf("shutdown took %v", took)
				}
				se, ok := errors.AsType[*engine.ShutdownError](err)
				if !ok || !errors.Is(err, context.DeadlineExceeded) || !reflect.DeepEqual(se.Report, report) && obeys {
					t.Errorf("shutdown: %v", err)
				}
				if handled != 5 {
					t.Errorf("the other handler got %d of 5 events", handled)
				}
				for _, h := range se.Report.Handlers {
					if h.Name == "stuck" && (h.Lag != 5 || h.Position != 0 || h.Running == obeys) || h.Name != "stuck" && h.Lag != 0 {
						t.Errorf("report: %+v", h)
					}
				}
				close(release) // or the bubble never ends
			})
		})
	}
}

// TestDrainingRefusesOutsiders: once Shutdown has begun nothing comes in from outside, not even what waited at the
// door; handlers may append until they are done.
func TestDrainingRefusesOutsiders(t *testing.T) {
	for _, full := range []engine.OverflowPolicy{engine.Block, engine.CatchUp} {
		t.Run(full.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				eng := open(t, engine.Options{})
				release := make(chan struct{})
				var withContext, without error
				if _, err := eng.On("x", func(ctx context.Context, ev engine.Event) error {
					<-release
					_, withContext = eng.Append(ctx, "a", engine.Any, engine.NewEvent{Type: "y", Data: 1})
					// A handler that has lost its context is still known.
					_, without = eng.Append(context.Background(), "a", engine.Any, engine.NewEvent{Type: "y", Data: 1})
					return nil
				}, engine.Mailbox(1), engine.Overflow(full)); err != nil {
					t.Fatal(err)
				}
				mustAppend(t, eng, "a", 1)
				synctest.Wait() // the handler is in its call, and its mailbox is full
				outside := func() error {
					_, err := eng.Append(t.Context(), "b", engine.Any, engine.NewEvent{Type: "y", Data: 1})
					return err
				}
				atDoor, down := make(chan error, 1), make(chan error, 1)
				if full == engine.Block {
					go func() { atDoor <- outside() }()
					synctest.Wait()
				} else {
					atDoor <- engine.ErrClosed // there is no door
				}
				go func() { down <- eng.Close() }()
				synctest.Wait()
				select {
				case err := <-atDoor:
					if !errors.Is(err, engine.ErrClosed) {
						t.Errorf("an append that waited at the door: %v", err)
					}
				default:
					t.Error("an append still waits at the door")
				}
				if err := outside(); !errors.Is(err, engine.ErrClosed) {
					t.Errorf("an append from outside: %v", err)
				}
				if _, err := eng.On("x", func(context.Context, engine.Event) error { return nil }); !errors.Is(err, engine.ErrClosed) {
					t.Errorf("a new handler: %v", err)
				}
				if n := len(readAll(t, eng)); n != 1 {
					t.Errorf("while it drains %d events can be read, want 1", n)
				}
				close(release)
				if err := <-down; err != nil || withContext != nil || without != nil {
					t.Errorf("shutdown: %v; appends of the handler: %v, %v", err, withContext, without)
				}
				if head := eng.Head(); head != 3 {
					t.Errorf("the head is %d, want 3", head)
				}
			})
		})
	}
}
