// The acceptance test: what Weir promises, a sentence a scenario, over every core backend.
package weir_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirstore/weir/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// backends are the core's own; a scenario runs over each of them.
var backends = map[string]func(t testing.TB) engine.Backend{
	"memory": func(testing.TB) engine.Backend { return engine.NewMemory() },
	"file":   func(t testing.TB) engine.Backend { return durable["file"](t, t.TempDir()) },
}

type (
	CustomerCreated struct{ FirstName, LastName string }
	CustomerDeleted struct{ Reason string }
	NameCorrected   struct{ LastName string }
)

var (
	john = engine.New(CustomerCreated{"John", "Smith"})
	gone = engine.New(CustomerDeleted{"moved away"})
)

func Example() {
	eng, err := engine.Open(engine.Options{})
	if err != nil {
		panic(err)
	}
	defer eng.Close()

	_, err = eng.On("CustomerCreated", func(ctx context.Context, ev engine.Event) error {
		fmt.Printf("welcome, %s\n", ev.Data.(CustomerCreated).FirstName)
		return nil
	})
	if err != nil {
		panic(err)
	}

	ctx := context.Background()
	res, err := eng.Append(ctx, "customer-1", engine.NoStream,
		engine.New(CustomerCreated{"John", "Smith"}),
		engine.New(CustomerDeleted{"moved away"}))
	if err != nil {
		panic(err)
	}
	if err := eng.Wait(ctx, res.Position); err != nil {
		panic(err)
	}
	for ev, err := range eng.Read(ctx, "customer-1") {
		if err != nil {
			panic(err)
		}
		fmt.Println(ev.Version, ev.Type, ev.Data)
	}
	// Output:
	// welcome, John
	// 1 CustomerCreated {John Smith}
	// 2 CustomerDeleted {moved away}
}

// store is an engine and what a scenario needs around it.
type store struct {
	*engine.Engine
	t *testing.T
}

func (s store) append(stream string, expected engine.Expected, events ...engine.NewEvent) engine.Result {
	s.t.Helper()
	res, err := s.Append(s.t.Context(), stream, expected, events...)
	if err != nil {
		s.t.Fatal(err)
	}
	return res
}

// place returns where a result says that events are. How durable they are differs from
// backend to backend.
func place(r engine.Result) engine.Result {
	r.Durability = 0
	return r
}

func (s store) wait() {
	s.t.Helper()
	if err := s.Wait(s.t.Context(), s.Head()); err != nil {
		s.t.Fatal(err)
	}
}

func (s store) on(eventType string, fn func(context.Context, engine.Event) error, opts ...engine.HandlerOption) *engine.Handler {
	s.t.Helper()
	h, err := s.On(eventType, fn, opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

func (s store) handle(name string, fn func(context.Context, engine.Event) error, opts ...engine.HandlerOption) *engine.Handler {
	s.t.Helper()
	h, err := s.Handle(name, fn, opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

// collect reads to the end.
func (s store) collect(events iter.Seq2[engine.Event, error]) (all []engine.Event) {
	s.t.Helper()
	for ev, err := range events {
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, ev)
	}
	return all
}

func (s store) read(stream string, opts ...engine.ReadOption) []engine.Event {
	s.t.Helper()
	return s.collect(s.Read(s.t.Context(), stream, opts...))
}

func (s store) readAll(opts ...engine.ReadOption) []engine.Event {
	s.t.Helper()
	return s.collect(s.ReadAll(s.t.Context(), opts...))
}

// seen is what a handler has seen.
type seen struct {
	mu     sync.Mutex
	events []engine.Event
}

func (s *seen) handle(_ context.Context, ev engine.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, ev)
	return nil
}

func (s *seen) positions() []engine.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return positions(s.events)
}

func positions(events []engine.Event) []engine.Position {
	list := []engine.Position{}
	for _, ev := range events {
		list = append(list, ev.Position)
	}
	return list
}

func types(events []engine.Event) (list []string) {
	for _, ev := range events {
		list = append(list, ev.Type)
	}
	return list
}

func expect[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func expectList[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// upTo returns 1, 2, …, n.
func upTo(n int) (list []engine.Position) {
	for i := range n {
		list = append(list, engine.Position(i+1))
	}
	return list
}

// TestWeir is the list of promises.
func TestWeir(t *testing.T) {
	for backend, open := range backends {
		t.Run(backend, func(t *testing.T) {
			for _, scenario := range scenarios {
				t.Run(scenario.sentence, func(t *testing.T) {
					t.Parallel()
					s := openStore(t, open(t))
					scenario.run(t, s)
					s.close()
				})
			}
		})
	}
}

func openStore(t *testing.T, b engine.Backend) store {
	t.Helper()
	eng, err := engine.Open(engine.Options{Backend: b, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return store{eng, t}
}

func (s store) close() {
	s.t.Helper()
	if err := s.Close(); err != nil {
		s.t.Errorf("Close: %v", err)
	}
}

var scenarios = []struct {
	sentence string
	run      func(t *testing.T, s store)
}{
	// The two tests that Weir grew from.
	{"an added event is in its stream and not in another", func(t *testing.T, s store) {
		s.append("customer-1", engine.Any, john)
		events := s.read("customer-1")
		if len(events) != 1 || events[0].Type != "CustomerCreated" || events[0].Data != (CustomerCreated{"John", "Smith"}) {
			t.Errorf("customer-1 holds %v", events)
		}
		expect(t, "number of events of customer-2", len(s.read("customer-2")), 0)
	}},
	{"a handler of the type hears an event, one of another type does not", func(t *testing.T, s store) {
		var created, deleted seen
		s.on("CustomerCreated", created.handle)
		s.on("CustomerDeleted", deleted.handle)
		s.append("customer-1", engine.Any, john)
		s.wait()
		expectList(t, "positions heard by the handler of the type", created.positions(), upTo(1))
		expectList(t, "positions heard by the other", deleted.positions(), nil)
	}},

	// Appending.
	{"an event carries its stream, version, position, type, time and payload", func(t *testing.T, s store) {
		before := time.Now().Add(-time.Second)
		s.append("customer-1", engine.Any, john)
		s.append("customer-2", engine.Any, john, gone)
		ev := s.read("customer-2")[1]
		expect(t, "stream", ev.Stream, "customer-2")
		expect(t, "category", ev.Category(), "customer")
		expect(t, "version", ev.Version, 2)
		expect(t, "position", ev.Position, 3)
		expect(t, "type", ev.Type, "CustomerDeleted")
		expect(t, "payload", ev.Data, any(CustomerDeleted{"moved away"}))
		expect(t, "identity", ev.Identity(), "customer-2@2")
		if ev.Time.Before(before) || ev.Time.After(time.Now().Add(time.Second)) || ev.Time.Location() != time.UTC {
			t.Errorf("time is %v", ev.Time)
		}
	}},
	{"an append tells first and last version and the position", func(t *testing.T, s store) {
		expect(t, "result", place(s.append("customer-1", engine.Any, john)), engine.Result{First: 1, Last: 1, Position: 1})
		expect(t, "result", place(s.append("customer-1", engine.Any, gone, john, gone)), engine.Result{First: 2, Last: 4, Position: 4})
		expect(t, "head", s.Head(), 4)
	}},
	{"an append at another version than expected stores nothing and tells both", func(t *testing.T, s store) {
		for _, c := range []struct {
			version  engine.Version // of the stream
			expected engine.Expected
			ok       bool
		}{
			{0, engine.Any, true}, {0, engine.NoStream, true}, {0, engine.StreamExists, false}, {0, engine.Exactly(0), true}, {0, engine.Exactly(1), false},
			{2, engine.Any, true}, {2, engine.NoStream, false}, {2, engine.StreamExists, true}, {2, engine.Exactly(2), true},
			{2, engine.Exactly(1), false}, {2, engine.Exactly(3), false}, {2, engine.Exactly(0), false}, {2, engine.Exactly(1 << 63), false},
		} {
			stream := fmt.Sprintf("s-%d-%v", c.version, c.expected)
			for range c.version {
				s.append(stream, engine.Any, john)
			}
			head := s.Head()
			_, err := s.Append(t.Context(), stream, c.expected, gone)
			if c.ok {
				if err != nil {
					t.Errorf("%s: %v", stream, err)
				}
				continue
			}
			conflict, ok := errors.AsType[*engine.VersionConflictError](err)
			if !ok || *conflict != (engine.VersionConflictError{Stream: stream, Expected: c.expected, Actual: c.version}) {
				t.Errorf("%s: %v", stream, err)
			}
			expect(t, "head", s.Head(), head)
		}
	}},
	{"events of one append are stored together or not at all", func(t *testing.T, s store) {
		s.append("customer-1", engine.Any, john)
		if _, err := s.Append(t.Context(), "customer-1", engine.Any, gone, engine.NewEvent{Type: "X"}); err == nil {
			t.Error("an append with a nil payload was accepted")
		}
		expectList(t, "types", types(s.read("customer-1")), []string{"CustomerCreated"})
	}},
	{"an event ID is stored once in its stream, whatever version is expected", func(t *testing.T, s store) {
		first := s.append("customer-1", engine.Any, john.WithID("a"), gone.WithID("b"))
		for _, expected := range []engine.Expected{engine.Any, engine.NoStream, engine.StreamExists, engine.Exactly(0), engine.Exactly(99)} {
			again := s.append("customer-1", expected, john.WithID("a"), gone.WithID("b"))
			first.Duplicate = true
			expect(t, "second result", again, place(first))
		}
		_, err := s.Append(t.Context(), "customer-1", engine.Any, john.WithID("c"), gone.WithID("b"))
		if partial, ok := errors.AsType[*engine.PartialDuplicateError](err); !ok || !slices.Equal(partial.Stored, []string{"b"}) {
			t.Errorf("partly stored: %v", err)
		}
		s.append("customer-2", engine.Any, john.WithID("a")) // another stream
		expect(t, "head", s.Head(), 3)
	}},
	{"a thousand concurrent writers lose nothing and repeat nothing", func(t *testing.T, s store) {
		var wg sync.WaitGroup
		for w := range 1000 {
			wg.Go(func() {
				if _, err := s.Append(context.Background(), fmt.Sprintf("s-%d", w%7), engine.Any, engine.New(NameCorrected{fmt.Sprint(w)})); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		all := s.readAll()
		expectList(t, "positions", positions(all), upTo(1000))
		versions, names := map[string]engine.Version{}, map[string]bool{}
		for _, ev := range all {
			versions[ev.Stream]++
			expect(t, "version", ev.Version, versions[ev.Stream])
			names[ev.Data.(NameCorrected).LastName] = true
		}
		expect(t, "number of different events", len(names), 1000)
	}},
	{"of many writers that expect the same version one wins", func(t *testing.T, s store) {
		var wg sync.WaitGroup
		won := make(chan int, 64)
		for w := range 64 {
			wg.Go(func() {
				_, err := s.Append(context.Background(), "account-1", engine.NoStream, john)
				if err == nil {
					won <- w
				} else if _, ok := errors.AsType[*engine.VersionConflictError](err); !ok {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		expect(t, "number of winners", len(won), 1)
	}},

	// Reading.
	{"a stream is read from, after, backward, limited and by type", func(t *testing.T, s store) {
		s.append("s-1", engine.Any, john, gone, john, gone, john)
		s.append("s-2", engine.Any, gone)
		for _, c := range []struct {
			name string
			got  []engine.Event
			want []engine.Version
		}{
			{"all", s.read("s-1"), []engine.Version{1, 2, 3, 4, 5}},
			{"from 4", s.read("s-1", engine.FromVersion(4)), []engine.Version{4, 5}},
			{"after 4", s.read("s-1", engine.AfterVersion(4)), []engine.Version{5}},
			{"after the last", s.read("s-1", engine.AfterVersion(5)), nil},
			{"limit 2", s.read("s-1", engine.Limit(2)), []engine.Version{1, 2}},
			{"backward", s.read("s-1", engine.Backward()), []engine.Version{5, 4, 3, 2, 1}},
			{"backward from 3 limit 2", s.read("s-1", engine.Backward(), engine.FromVersion(3), engine.Limit(2)), []engine.Version{3, 2}},
			{"one type", s.read("s-1", engine.Types("CustomerDeleted")), []engine.Version{2, 4}},
			{"one type backward limit 1", s.read("s-1", engine.Types("CustomerDeleted"), engine.Backward(), engine.Limit(1)), []engine.Version{4}},
			{"unknown type", s.read("s-1", engine.Types("Unknown")), nil},
		} {
			var got []engine.Version
			for _, ev := range c.got {
				expect(t, "stream", ev.Stream, "s-1")
				got = append(got, ev.Version)
			}
			expectList(t, c.name, got, c.want)
		}
	}},
	{"the whole store is read by position, type and category", func(t *testing.T, s store) {
		s.append("customer-1", engine.Any, john)
		s.append("order-1", engine.Any, gone, john)
		s.append("customer-2", engine.Any, gone)
		s.append("plain", engine.Any, gone)
		for _, c := range []struct {
			name string
			got  []engine.Event
			want []engine.Position
		}{
			{"all", s.readAll(), upTo(5)},
			{"after 3", s.readAll(engine.After(3)), []engine.Position{4, 5}},
			{"from 3", s.readAll(engine.From(3)), []engine.Position{3, 4, 5}},
			{"backward from 2", s.readAll(engine.Backward(), engine.From(2)), []engine.Position{2, 1}},
			{"category", s.readAll(engine.Categories("customer")), []engine.Position{1, 4}},
			{"two categories", s.readAll(engine.Categories("customer", "plain")), []engine.Position{1, 4, 5}},
			{"category and type", s.readAll(engine.Categories("customer", "plain"), engine.Types("CustomerDeleted")), []engine.Position{4, 5}},
			{"types backward", s.readAll(engine.Types("CustomerCreated"), engine.Backward()), []engine.Position{3, 1}},
		} {
			expectList(t, c.name, positions(c.got), c.want)
		}
	}},
	{"a reader may append while it reads, and sees what was there when it began", func(t *testing.T, s store) {
		for range 300 {
			s.append("s-1", engine.Any, john)
		}
		n := 0
		for _, err := range s.Read(t.Context(), "s-1") {
			if err != nil {
				t.Fatal(err)
			}
			n++
			s.append("s-1", engine.Any, gone)
		}
		expect(t, "events read", n, 300)
		expect(t, "events stored", s.Head(), 600)
	}},
	{"a reader that follows gets what is there and then what comes, until its context ends", func(t *testing.T, s store) {
		s.append("s-1", engine.Any, john)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got []engine.Event
		for ev, err := range s.ReadAll(ctx, engine.Types("CustomerCreated"), engine.Follow()) {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, ev); len(got) == 10 {
				cancel()
				continue
			}
			s.append("s-2", engine.Any, gone)
			s.append("s-3", engine.Any, john)
		}
		expectList(t, "positions", positions(got), []engine.Position{1, 3, 5, 7, 9, 11, 13, 15, 17, 19})
	}},
	{"a stream can be followed before its first event", func(t *testing.T, s store) {
		got := make(chan engine.Version)
		var wg sync.WaitGroup
		wg.Go(func() {
			for ev, err := range s.Read(context.Background(), "s-1", engine.Follow(), engine.Limit(3)) {
				if err != nil {
					t.Error(err)
				}
				got <- ev.Version
			}
		})
		for v := engine.Version(1); v <= 3; v++ {
			s.append("other", engine.Any, john)
			s.append("s-1", engine.Any, john)
			expect(t, "version", <-got, v)
		}
		wg.Wait()
	}},

	// Handling.
	{"a handler registered now gets what comes, one from the start gets everything", func(t *testing.T, s store) {
		s.append("s-1", engine.Any, john, gone)
		var now, all, after seen
		s.handle("now", now.handle)
		s.handle("all", all.handle, engine.FromStart())
		s.handle("after 1", after.handle, engine.StartAfter(1))
		s.append("s-1", engine.Any, john)
		s.wait()
		expectList(t, "now", now.positions(), []engine.Position{3})
		expectList(t, "all", all.positions(), upTo(3))
		expectList(t, "after 1", after.positions(), []engine.Position{2, 3})
	}},
	{"a typed handler gets typed payloads", func(t *testing.T, s store) {
		var names []string
		_, err := engine.Handle(s.Engine, "names", func(_ context.Context, ev engine.Of[CustomerCreated]) error {
			names = append(names, ev.Data.FirstName+" of "+ev.Stream)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		s.append("customer-1", engine.Any, gone, john)
		s.wait()
		expectList(t, "names", names, []string{"John of customer-1"})
	}},
	{"who waits for a position reads his own writes", func(t *testing.T, s store) {
		var model seen
		s.handle("model", model.handle)
		for i := range 200 {
			res := s.append("s-1", engine.Any, john)
			if err := s.Wait(t.Context(), res.Position, "model"); err != nil {
				t.Fatal(err)
			}
			expect(t, "events in the model", len(model.positions()), i+1)
		}
	}},
	{"a named handler goes on at its checkpoint", func(t *testing.T, s store) {
		var first, second seen
		h := s.handle("model", first.handle)
		s.append("s-1", engine.Any, john, gone)
		s.wait()
		if err := h.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.append("s-1", engine.Any, john)
		s.handle("model", second.handle, engine.FromStart())
		s.wait()
		expectList(t, "first", first.positions(), upTo(2))
		expectList(t, "second", second.positions(), []engine.Position{3})
	}},
	{"a handler may append to its own stream and type with a mailbox of one", func(t *testing.T, s store) {
		var handled seen
		s.on("NameCorrected", func(ctx context.Context, ev engine.Event) error {
			handled.handle(ctx, ev)
			if depth := len(ev.Data.(NameCorrected).LastName); depth < 6 {
				longer := engine.New(NameCorrected{ev.Data.(NameCorrected).LastName + "x"})
				_, err := s.Append(ctx, ev.Stream, engine.Any, longer, longer)
				return err
			}
			return nil
		}, engine.Mailbox(1))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if _, err := s.Append(context.Background(), "s-1", engine.Any, engine.New(NameCorrected{"x"})); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if _, err := s.Shutdown(t.Context()); err != nil { // drains what handlers append
			t.Fatal(err)
		}
		expectList(t, "handled", handled.positions(), upTo(4*63))
	}},
	{"an append inside a handler carries on correlation and causation", func(t *testing.T, s store) {
		s.on("CustomerCreated", func(ctx context.Context, ev engine.Event) error {
			_, err := s.Append(ctx, "audit-1", engine.Any, engine.New(NameCorrected{"x"}))
			return err
		})
		s.on("NameCorrected", func(ctx context.Context, ev engine.Event) error {
			_, err := s.Append(ctx, "audit-2", engine.Any, gone)
			return err
		})
		s.append("customer-1", engine.Any, john.WithID("request-7"))
		s.wait()
		s.wait() // what the second handler appended
		last := s.read("audit-2")[0]
		expect(t, "correlation", last.Meta.CorrelationID, "request-7")
		expect(t, "causation", last.Meta.CausationID, "audit-1@1")
	}},
	{"a failing, panicking or exiting handler disturbs no other and goes on", func(t *testing.T, s store) {
		fails := map[string]func(*testing.T) error{
			"error":  func(*testing.T) error { return errors.New("no") },
			"panic":  func(*testing.T) error { panic("no") },
			"goexit": func(t *testing.T) error { t.SkipNow(); return nil },
		}
		var good seen
		tries := map[string]*seen{}
		s.on("CustomerCreated", good.handle)
		for name, fail := range fails {
			tried := new(seen)
			tries[name] = tried
			s.handle(name, func(ctx context.Context, ev engine.Event) error {
				tried.handle(ctx, ev)
				if ev.Version == 2 {
					return fail(new(testing.T))
				}
				return nil
			}, engine.OnFailure(engine.Skip), engine.Retry(1, time.Millisecond))
		}
		s.append("s-1", engine.Any, john, john, john)
		s.wait()
		expectList(t, "the good one", good.positions(), upTo(3))
		for name, tried := range tries {
			expectList(t, name, tried.positions(), []engine.Position{1, 2, 2, 3})
		}
	}},
	{"a parked event waits for its redrive", func(t *testing.T, s store) {
		ready := false
		var handled seen
		h := s.handle("h", func(ctx context.Context, ev engine.Event) error {
			if ev.Version == 2 && !ready {
				return errors.New("not yet")
			}
			return handled.handle(ctx, ev)
		}, engine.Retry(0, time.Millisecond))
		s.append("s-1", engine.Any, john, gone, john)
		s.wait()
		expectList(t, "before", handled.positions(), []engine.Position{1, 3})
		expect(t, "number of parked events", len(h.Parked()), 1)
		ready = true
		n, err := h.Redrive(t.Context())
		if n != 1 || err != nil {
			t.Errorf("Redrive: %d, %v", n, err)
		}
		expectList(t, "after", handled.positions(), []engine.Position{1, 3, 2})
		expect(t, "number of parked events", len(h.Parked()), 0)
	}},
	{"keyed workers keep the order of each stream", func(t *testing.T, s store) {
		var mu sync.Mutex
		last := map[string]engine.Version{}
		s.handle("h", func(_ context.Context, ev engine.Event) error {
			mu.Lock()
			defer mu.Unlock()
			expect(t, "version", ev.Version, last[ev.Stream]+1)
			last[ev.Stream] = ev.Version
			return nil
		}, engine.Keyed(4))
		for i := range 500 {
			s.append(fmt.Sprintf("s-%d", i%11), engine.Any, john)
		}
		s.wait()
		expect(t, "streams", len(last), 11)
	}},
	{"a slow handler that blocks makes outsiders wait, one that catches up does not", func(t *testing.T, s store) {
		release := make(chan struct{})
		slow := func(context.Context, engine.Event) error { <-release; return nil }
		blocking := s.handle("blocking", slow, engine.Mailbox(4), engine.Types("CustomerCreated"))
		s.handle("patient", slow, engine.Mailbox(4), engine.Overflow(engine.CatchUp), engine.Types("CustomerDeleted"))
		for range 100 {
			s.append("s-1", engine.Any, gone) // concerns the patient one only
		}
		for range 4 {
			s.append("s-1", engine.Any, john)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		for err := error(nil); err == nil; {
			_, err = s.Append(ctx, "s-1", engine.Any, john)
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		expect(t, "mailbox", blocking.Stats().Fill <= 5, true)
		close(release)
		s.append("s-1", engine.Any, john)
		s.wait()
	}},

	// The end.
	{"an acknowledged event reaches every handler before Shutdown returns", func(t *testing.T, s store) {
		var handled seen
		s.handle("h", handled.handle)
		var wg sync.WaitGroup
		var acked sync.Map
		for range 16 {
			wg.Go(func() {
				for {
					res, err := s.Append(context.Background(), "s-1", engine.Any, john)
					if errors.Is(err, engine.ErrClosed) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					acked.Store(res.Position, true)
				}
			})
		}
		for s.Head() < 500 {
			s.append("s-2", engine.Any, john)
		}
		report, err := s.Shutdown(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		expectList(t, "handled", handled.positions(), upTo(int(report.Head)))
		acked.Range(func(pos, _ any) bool {
			if pos.(engine.Position) > report.Head {
				t.Errorf("acknowledged at %v, the log ends at %v", pos, report.Head)
			}
			return true
		})
	}},
	{"after the end everything says that it is closed, and closing again is fine", func(t *testing.T, s store) {
		s.append("s-1", engine.Any, john)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := s.Append(t.Context(), "s-1", engine.Any, john)
		if !errors.Is(err, engine.ErrClosed) {
			t.Errorf("Append: %v", err)
		}
		if _, err := s.On("X", func(context.Context, engine.Event) error { return nil }); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("On: %v", err)
		}
		for _, err := range s.Read(t.Context(), "s-1") {
			if !errors.Is(err, engine.ErrClosed) {
				t.Errorf("Read: %v", err)
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	}},
}
