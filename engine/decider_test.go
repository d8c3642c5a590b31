package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirstore/weir/actor"
	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// sum is the state of a stream of numbers: it remembers each event, so that one that is
// missing or twice shows.
type sum struct {
	total  int
	seen   []engine.Version
	folded *atomic.Int64 // counts Evolve
}

type added struct{ N int }

var errTooMuch = errors.New("too much")

// adder takes numbers as commands, and stores them as events; negative totals it rejects.
func adder(folded *atomic.Int64) *engine.Decider[sum, int] {
	return &engine.Decider[sum, int]{
		Initial: func() sum { return sum{folded: folded} },
		Evolve: func(s sum, ev engine.Event) sum {
			s.folded.Add(1)
			s.total += ev.Data.(added).N
			s.seen = append(s.seen, ev.Version)
			if ev.Position == 0 || ev.Time.IsZero() || ev.Stream == "" || ev.Type == "" {
				panic(fmt.Sprintf("not as it is stored: %+v", ev))
			}
			return s
		},
		Decide: func(s sum, n int) ([]engine.NewEvent, error) {
			if n == 0 {
				return nil, nil
			}
			if s.total+n < 0 {
				return nil, errTooMuch
			}
			return []engine.NewEvent{engine.New(added{n})}, nil
		},
	}
}

// overBackends runs a test over memory and over files.
func overBackends(t *testing.T, opts engine.Options, fn func(t *testing.T, e *engine.Engine)) {
	for name, backend := range map[string]func(t *testing.T) engine.Backend{
		"memory": func(*testing.T) engine.Backend { return engine.NewMemory() },
		"file": func(t *testing.T) engine.Backend {
			s, err := filestore.Open(t.TempDir(), filestore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			opts.Backend = backend(t)
			e := quietEngine(t, opts)
			defer mustClose(t, e)
			if err := engine.Register[added](e, "added"); err != nil {
				t.Fatal(err)
			}
			fn(t, e)
		})
	}
}

func TestExecute(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		var folded atomic.Int64
		d, ctx := adder(&folded), t.Context()
		for i, c := range []struct {
			cmd  int
			last engine.Version
			err  error
		}{{5, 1, nil}, {-6, 0, errTooMuch}, {-5, 2, nil}, {0, 2, nil}, {1, 3, nil}} {
			res, err := engine.Execute(ctx, e, d, "a-1", c.cmd)
			if err != c.err || res.Last != c.last {
				t.Fatalf("command %d: %+v, %v; want version %d, %v", i, res, err, c.last, c.err)
			}
			if stored := c.cmd != 0 && c.err == nil; stored != (res.First == res.Last && res.Position > 0 && res.Durability > 0) && c.err == nil {
				t.Errorf("command %d: %+v", i, res)
			}
		}
		if n := folded.Load(); n != 3 {
			t.Errorf("3 events were folded %d times", n)
		}
		mustAppend(t, e, "a-1", engine.New(added{10})) // behind the decider's back
		if _, err := engine.Execute(ctx, e, d, "a-1", -11); err != nil {
			t.Errorf("an event appended meanwhile was not seen: %v", err)
		}
		if n := folded.Load(); n != 5 {
			t.Errorf("5 events were folded %d times", n)
		}
		s, at, err := engine.Load(ctx, e, d, "a-1")
		if err != nil || at != 5 || s.total != 0 || len(s.seen) != 5 {
			t.Errorf("Load: %+v, %d, %v", s, at, err)
		}
		s, at, err = engine.Load(ctx, e, d, "a-1", engine.AtVersion(4))
		if err != nil || at != 4 || s.total != 11 {
			t.Errorf("Load at version 4: %+v, %d, %v", s, at, err)
		}
		if _, _, err = engine.Load(ctx, e, d, "a-1", engine.AtVersion(6)); err == nil {
			t.Error("Load at a version that is not there yet")
		}
		if _, at, err = engine.Load(ctx, e, d, "a-1", engine.AtTime(time.Now().Add(-time.Hour))); err != nil || at != 0 {
			t.Errorf("Load of an hour ago: version %d, %v", at, err)
		}
		if s, at, err := engine.Load(ctx, e, d, "nobody"); err != nil || at != 0 || s.folded == nil {
			t.Errorf("Load of nothing: %+v, %d, %v", s, at, err)
		}
	})
}

// TestExecuteConcurrently lets many callers command few streams, while others append to
// them: every command is decided on all events before it, whether states are kept or not.
func TestExecuteConcurrently(t *testing.T) {
	for _, cached := range []int{1, 10_000} {
		overBackends(t, engine.Options{CachedStates: cached, StreamMailbox: 1}, func(t *testing.T, e *engine.Engine) {
			const callers, each, streams = 16, 40, 20
			var folded atomic.Int64
			d := adder(&folded)
			var all sync.WaitGroup
			var stored atomic.Int64
			for c := range callers {
				all.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(c), 1))
					for i := range each {
						stream := fmt.Sprintf("a-%d", rng.IntN(streams))
						if i%8 == 7 {
							mustAppend(t, e, stream, engine.New(added{1}))
							stored.Add(1)
							continue
						}
						switch _, err := engine.Execute(t.Context(), e, d, stream, rng.IntN(7)-3|1); err {
						case nil:
							stored.Add(1)
						case errTooMuch:
						default:
							t.Errorf("Execute: %v", err)
						}
					}
				})
			}
			all.Wait()
			if head := int64(e.Head()); head != stored.Load() {
				t.Errorf("%d events are stored, %d were acknowledged", head, stored.Load())
			}
			for i := range streams {
				total := 0
				for ev, err := range e.Read(t.Context(), fmt.Sprintf("a-%d", i)) {
					if err != nil {
						t.Fatal(err)
					}
					if total += ev.Data.(added).N; total < 0 {
						t.Fatalf("stream %d is at %d: decided on an old state", i, total)
					}
				}
			}
		})
	}
}

// TestExecuteAsFromTheBeginning does random things with a few streams, and compares each
// answer with that of a decider which has kept no state.
func TestExecuteAsFromTheBeginning(t *testing.T) {
	overBackends(t, engine.Options{CachedStates: 20, Retention: []engine.RetentionRule{{Category: "a", MaxCount: 12}}}, func(t *testing.T, e *engine.Engine) {
		var folded atomic.Int64
		d, ctx := adder(&folded), t.Context()
		rng := rand.New(rand.NewPCG(1, 2))
		for i := range 600 {
			stream := fmt.Sprintf("a-%d", rng.IntN(4))
			switch n := rng.IntN(30); {
			case n == 0:
				if _, err := e.Compact(ctx); err != nil {
					t.Fatal(err)
				}
			case n == 1:
				_, at, _ := engine.Load(ctx, e, d, stream)
				if err := e.Truncate(ctx, stream, at/2); err != nil {
					t.Fatal(err)
				}
			case n < 5:
				mustAppend(t, e, stream, engine.New(added{rng.IntN(5)}))
			default:
				s, _, err := engine.Load(ctx, e, d, stream)
				if err != nil {
					t.Fatal(err)
				}
				cmd := rng.IntN(9) - 5 | 1
				_, want := d.Decide(s, cmd)
				if _, err := engine.Execute(ctx, e, d, stream, cmd); err != want {
					t.Fatalf("step %d: Execute returns %v on the state that is kept, %v on one folded from the beginning", i, err, want)
				}
			}
		}
	})
}

// TestExecutePanics lets each function of a decider panic, or end its goroutine: it is an
// error of that call alone.
func TestExecutePanics(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		ctx := t.Context()
		var evil atomic.Bool
		d := &engine.Decider[*int, string]{
			Initial: func() *int { return new(int) },
			Evolve: func(n *int, ev engine.Event) *int {
				if evil.Load() {
					panic("evolve")
				}
				*n += ev.Data.(added).N
				return n
			},
			Decide: func(n *int, cmd string) ([]engine.NewEvent, error) {
				switch cmd {
				case "panic":
					*n = 100 // it must not, and it is forgotten
					panic("decide")
				case "goexit":
					runtime.Goexit()
				case "check":
					if *n != 1 {
						return nil, fmt.Errorf("the state is %d", *n)
					}
					return nil, nil
				}
				return []engine.NewEvent{engine.New(added{1})}, nil
			},
		}
		if _, err := engine.Execute(ctx, e, d, "a-1", "add"); err != nil {
			t.Fatal(err)
		}
		_, err := engine.Execute(ctx, e, d, "a-1", "panic")
		if p, ok := errors.AsType[*actor.PanicError](err); !ok || p.Value != "decide" || len(p.Stack) == 0 {
			t.Errorf("a panic in Decide: %v", err)
		}
		if _, err := engine.Execute(ctx, e, d, "a-1", "check"); err != nil {
			t.Errorf("after a panic in Decide: %v", err)
		}
		done := make(chan struct{})
		go func() { // it may be this goroutine that ends
			defer close(done)
			if _, err := engine.Execute(ctx, e, d, "a-1", "goexit"); err == nil {
				t.Error("Decide has ended its goroutine, and Execute says nothing")
			}
		}()
		<-done
		if _, err := engine.Execute(ctx, e, d, "a-1", "check"); err != nil {
			t.Errorf("after Goexit in Decide: %v", err)
		}
		evil.Store(true)
		if res, err := engine.Execute(ctx, e, d, "b-1", "add"); err != nil || res.Last != 1 {
			t.Errorf("stored, and then a panic in Evolve: %+v, %v", res, err)
		}
		_, err = engine.Execute(ctx, e, d, "b-1", "add")
		if p, ok := errors.AsType[*actor.PanicError](err); !ok || p.Value != "evolve" {
			t.Errorf("a panic in Evolve: %v", err)
		}
		evil.Store(false)
		if _, err := engine.Execute(ctx, e, d, "b-1", "check"); err != nil {
			t.Errorf("after a panic in Evolve: %v", err)
		}
	})
}

// TestDecideThatCallsTheEngine: a clear error, and no hang, whatever Decide calls.
func TestDecideThatCallsTheEngine(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		ctx := t.Context()
		calls := map[string]func(*engine.Decider[int, string]) error{
			"append, the same stream": func(*engine.Decider[int, string]) error {
				_, err := e.Append(ctx, "a-1", engine.Any, event("A", 1))
				return err
			},
			"append, another stream": func(*engine.Decider[int, string]) error {
				_, err := e.Append(ctx, "b-1", engine.Any, event("A", 1))
				return err
			},
			"execute, the same stream":  func(d *engine.Decider[int, string]) error { _, err := engine.Execute(ctx, e, d, "a-1", ""); return err },
			"execute, another stream":   func(d *engine.Decider[int, string]) error { _, err := engine.Execute(ctx, e, d, "b-1", ""); return err },
			"truncate, the same stream": func(*engine.Decider[int, string]) error { return e.Truncate(ctx, "a-1", 2) },
			"delete, another stream":    func(*engine.Decider[int, string]) error { return e.Delete(ctx, "b-1", engine.Any) },
			"wait for handlers":         func(*engine.Decider[int, string]) error { return e.Wait(ctx, 1) },
			"compact":                   func(*engine.Decider[int, string]) error { _, err := e.Compact(ctx); return err },
			"append, far down the stack": func(*engine.Decider[int, string]) error {
				return deep(200, func() error { _, err := e.Append(ctx, "b-1", engine.Any, event("A", 1)); return err })
			},
		}
		var d engine.Decider[int, string]
		d.Evolve = func(n int, _ engine.Event) int { return n + 1 }
		d.Decide = func(_ int, cmd string) ([]engine.NewEvent, error) {
			if call := calls[cmd]; call != nil {
				return nil, call(&d)
			}
			return []engine.NewEvent{event("A", 1)}, nil
		}
		if _, err := engine.Execute(ctx, e, &d, "a-1", "store"); err != nil {
			t.Fatal(err)
		}
		for name := range calls {
			if _, err := engine.Execute(ctx, e, &d, "a-1", name); !errors.Is(err, engine.ErrInDecide) {
				t.Errorf("%s: %v, want ErrInDecide", name, err)
			}
		}
		if head := e.Head(); head != 1 {
			t.Errorf("%d events are stored, want 1", head)
		}
		// Reading is allowed, and others are not taken for Decide.
		var all sync.WaitGroup
		begun, release := make(chan struct{}), make(chan struct{})
		slow := &engine.Decider[int, string]{Evolve: d.Evolve, Decide: func(int, string) ([]engine.NewEvent, error) {
			close(begun)
			<-release
			versions(t, e, "a-1")
			return nil, nil
		}}
		all.Go(func() {
			if _, err := engine.Execute(ctx, e, slow, "c-1", ""); err != nil {
				t.Errorf("Execute: %v", err)
			}
		})
		<-begun
		mustAppend(t, e, "b-1", event("A", 1))
		if _, err := engine.Execute(ctx, e, &d, "b-2", "store"); err != nil {
			t.Errorf("beside a Decide: %v", err)
		}
		close(release)
		all.Wait()
	})
}

func deep(n int, fn func() error) error {
	if n == 0 {
		return fn()
	}
	return deep(n-1, fn)
}

func TestShutdownInsideDecide(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	d := &engine.Decider[int, string]{
		Evolve: func(n int, _ engine.Event) int { return n },
		Decide: func(int, string) ([]engine.NewEvent, error) { return nil, e.Close() },
	}
	if _, err := engine.Execute(t.Context(), e, d, "a-1", ""); !errors.Is(err, engine.ErrInDecide) {
		t.Errorf("Close inside Decide: %v", err)
	}
	mustClose(t, e) // it has begun
	if _, err := engine.Execute(t.Context(), e, d, "a-1", ""); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("Execute when closed: %v", err)
	}
}

func TestExecuteWhatCannotBe(t *testing.T) {
	overBackends(t, engine.Options{MaxEvents: 3, MaxBytes: 1000}, func(t *testing.T, e *engine.Engine) {
		ctx := t.Context()
		evolve := func(n int, _ engine.Event) int { return n + 1 }
		returns := func(events ...engine.NewEvent) *engine.Decider[int, int] {
			return &engine.Decider[int, int]{Evolve: evolve, Decide: func(int, int) ([]engine.NewEvent, error) { return events, nil }}
		}
		decide := func(int, int) ([]engine.NewEvent, error) { return nil, nil }
		for _, c := range []struct {
			name   string
			d      *engine.Decider[int, int]
			stream string
			want   string
		}{
			{"no decider", nil, "a-1", "engine: execute: decider is nil, want a Decider"},
			{"no Evolve", &engine.Decider[int, int]{Decide: decide}, "a-1", "engine: execute: Decider.Evolve is nil, want a function"},
			{"no Decide", &engine.Decider[int, int]{Evolve: evolve}, "a-1", "engine: execute: Decider.Decide is nil, want a function"},
			{"no name", returns(), "", "engine: execute: stream name is \"\""},
			{"no payload", returns(engine.NewEvent{Type: "A"}), "a-1", `engine: execute "a-1": payload of event 1 is nil`},
			{"too many events", returns(event("A", 1), event("A", 1), event("A", 1), event("A", 1)), "a-1", `engine: execute "a-1": number of events is 4, want at most 3`},
			{"too large", returns(event("A", 1), engine.NewEvent{Type: "A", Data: strings.Repeat("x", 1001)}), "a-1", `engine: execute "a-1": size in bytes up to event 2 is 10`},
			{"an ID twice", returns(event("A", 1).WithID("x"), event("A", 1).WithID("x")), "a-1", `engine: execute "a-1": event ID is "x", want different IDs`},
			{"a bad type", returns(engine.NewEvent{Type: "\n", Data: 1}), "a-1", `engine: execute "a-1": type of event 1`},
		} {
			_, err := engine.Execute(ctx, e, c.d, c.stream, 1)
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%s: %v, want %s…", c.name, err, c.want)
			}
			if _, ok := errors.AsType[*engine.InvalidError](err); !ok {
				t.Errorf("%s: %T, want an InvalidError", c.name, err)
			}
		}
		if head := e.Head(); head != 0 {
			t.Errorf("%d events are stored", head)
		}
		// IDs make a command idempotent.
		d := returns(event("A", 1).WithID("x"))
		for i := range 2 {
			if res, err := engine.Execute(ctx, e, d, "a-1", 1); err != nil || res.Last != 1 || res.Duplicate != (i == 1) {
				t.Errorf("time %d: %+v, %v", i+1, res, err)
			}
		}
		if err := e.Delete(ctx, "a-1", engine.Any); err != nil {
			t.Fatal(err)
		}
		if _, err := engine.Execute(ctx, e, d, "a-1", 1); err == nil || !strings.Contains(err.Error(), "deleted") {
			t.Errorf("a deleted stream: %v", err)
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := engine.Execute(gone, e, d, "a-2", 1); !errors.Is(err, context.Canceled) {
			t.Errorf("a context that is done: %v", err)
		}
	})
}

// TestExecuteInHandler: commands that a handler gives are possible, to its own stream too, and
// their events say what has caused them.
func TestExecuteInHandler(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		var folded atomic.Int64
		d := adder(&folded)
		if err := errOf(engine.Handle(e, "halver", func(ctx context.Context, ev engine.Of[added]) error {
			if ev.Data.N < 2 {
				return nil
			}
			_, err := engine.Execute(ctx, e, d, ev.Stream, ev.Data.N/2)
			return err
		}, engine.Mailbox(1))); err != nil {
			t.Fatal(err)
		}
		if _, err := engine.Execute(t.Context(), e, d, "a-1", 16); err != nil {
			t.Fatal(err)
		}
		for pos := engine.Position(1); pos <= 5; pos++ {
			if err := e.Wait(t.Context(), pos); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		for ev, err := range e.Read(t.Context(), "a-1") {
			if n++; err != nil || ev.Correlation() != "a-1@1" || n > 1 && ev.Meta.CausationID != fmt.Sprintf("a-1@%d", n-1) {
				t.Errorf("event %d: %+v, %v", n, ev, err)
			}
		}
		if n != 5 {
			t.Errorf("%d events, want 16, 8, 4, 2, 1", n)
		}
	})
}

func errOf(_ *engine.Handler, err error) error { return err }

// crowded is a Memory that other processes write to: before each of the first commits one
// of them is faster.
type crowded struct {
	*engine.Memory
	others int // how many times more
}

func (b *crowded) Caps() engine.Caps {
	c := b.Memory.Caps()
	c.Name, c.Shared = "crowded", true
	return c
}

func (b *crowded) Commit(ctx context.Context, writes []*engine.Write) error {
	name := writes[0].Stream.Name
	if b.others > 0 {
		b.others--
		now, err := b.Load(ctx, name)
		if err != nil {
			return err
		}
		id, err := b.TypeID("added")
		if err != nil {
			return err
		}
		w := &engine.Write{Stream: &now, After: now.Version, Events: []engine.Record{{Type: "added", TypeID: id, Data: added{-1}}}}
		if err := b.Memory.Commit(ctx, []*engine.Write{w}); err != nil {
			return err
		}
	}
	now, err := b.Load(ctx, name)
	if err != nil {
		return err
	}
	if now.Version != writes[0].After {
		return &engine.VersionConflictError{Stream: name, Expected: engine.Exactly(writes[0].After), Actual: now.Version}
	}
	return b.Memory.Commit(ctx, writes)
}

// TestExecuteOnASharedBackend: who was slower decides anew, on what others have written, but
// not for ever.
func TestExecuteOnASharedBackend(t *testing.T) {
	var folded atomic.Int64
	d := adder(&folded)
	run := func(others, first, cmd int) (int, error) {
		b := &crowded{Memory: engine.NewMemory()}
		e := quietEngine(t, engine.Options{Backend: b})
		defer mustClose(t, e)
		if _, err := engine.Execute(t.Context(), e, d, "a-1", first); err != nil {
			t.Fatal(err)
		}
		b.others = others
		_, err := engine.Execute(t.Context(), e, d, "a-1", cmd)
		s, _, loadErr := engine.Load(t.Context(), e, d, "a-1")
		if loadErr != nil {
			t.Fatal(loadErr)
		}
		return s.total, err
	}
	if total, err := run(3, 10, -5); err != nil || total != 2 {
		t.Errorf("3 others: %d, %v; want 10-3-5", total, err)
	}
	if total, err := run(3, 7, -5); err != errTooMuch || total != 4 {
		t.Errorf("3 others, and then too little: %d, %v; want it rejected", total, err)
	}
	_, err := run(1000, 2000, -5)
	if _, ok := errors.AsType[*engine.VersionConflictError](err); !ok {
		t.Errorf("others without end: %v, want a conflict", err)
	}
}

// TestCachedStatesAreBounded counts how often events are folded again.
func TestCachedStatesAreBounded(t *testing.T) {
	e := quietEngine(t, engine.Options{CachedStates: 64})
	defer mustClose(t, e)
	var folded atomic.Int64
	d := adder(&folded)
	const streams = 500
	for round := range 3 {
		for i := range streams {
			if _, err := engine.Execute(t.Context(), e, d, fmt.Sprintf("a-%d", i), 1); err != nil {
				t.Fatal(err)
			}
		}
		if n := e.CachedStates(); n > 64 {
			t.Fatalf("round %d: %d states are kept", round, n)
		}
	}
	if n := folded.Load(); n != streams*(1+2+3) {
		t.Errorf("folded %d events, want each stream's all over again: %d", n, streams*6)
	}
}

// compactedReads is a Memory that calls a function between a read of a stream and its return.
type compactedReads struct {
	*engine.Memory
	after func()
}

func (b *compactedReads) ReadStream(ctx context.Context, s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
	n, next, err := b.Memory.ReadStream(ctx, s, q, dst)
	if fn := b.after; fn != nil {
		b.after = nil
		fn()
	}
	return n, next, err
}

// TestStateThatCompactHasOvertaken: events that were read before rules removed them are not in
// the state of the next command.
func TestStateThatCompactHasOvertaken(t *testing.T) {
	b := &compactedReads{Memory: engine.NewMemory()}
	e := quietEngine(t, engine.Options{Backend: b, Retention: []engine.RetentionRule{{Category: "a", MaxCount: 2}}})
	defer mustClose(t, e)
	for n := range 5 {
		mustAppend(t, e, "a-1", engine.New(added{n + 1}))
	}
	var folded atomic.Int64
	d := adder(&folded)
	b.after = func() {
		if _, err := e.Compact(context.Background()); err != nil {
			t.Error(err)
		}
	}
	for range 2 { // the first is decided on what was there when it began
		if _, err := engine.Execute(t.Context(), e, d, "a-1", 1); err != nil {
			t.Fatal(err)
		}
	}
	d.Decide = func(s sum, n int) ([]engine.NewEvent, error) {
		if fmt.Sprint(s.seen) != "[4 5 6 7]" {
			t.Errorf("decided on versions %v, want 4 to 7", s.seen)
		}
		return nil, nil
	}
	if _, err := engine.Execute(t.Context(), e, d, "a-1", 1); err != nil {
		t.Fatal(err)
	}
}
