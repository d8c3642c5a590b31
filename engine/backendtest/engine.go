package backendtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/weirstore/weir/engine"
)

var engineCases = []testCase{
	{
		name: "engine",
		why:  "all of it together: append, read, handle, wait, shut down",
		run:  engineRun,
	},
	{
		name: "engine-idempotent",
		why:  "an append that is repeated with the same event IDs is stored once, and its answer is the first one's",
		run:  engineIdempotent,
	},
	{
		name: "engine-conflict",
		why:  "an append that expects another version stores nothing",
		run:  engineConflict,
	},
	{
		name: "engine-storm",
		why:  "many appends to few streams are committed together, and a handler sees each event once, in order (Marten #4964; etcd #20655)",
		run:  engineStorm,
	},
	{
		name:  "engine-reopen",
		why:   "a named handler goes on where it was, in another process too",
		needs: "Reopen",
		run:   engineReopen,
	},
	{
		name:  "engine-shared",
		why:   "two engines at one store: each one's handlers see the events of both, and an append that expects nothing meets no conflict",
		needs: "Shared",
		run:   engineShared,
	},
}

// engine opens an engine over b.
func (s *suite) engine(b engine.Backend) *engine.Engine {
	s.Helper()
	e, err := engine.Open(engine.Options{Backend: b, Logger: slog.New(slog.DiscardHandler), CloseTimeout: s.patience})
	if err != nil {
		s.Fatalf("engine.Open: %v", err)
	}
	return e
}

// seen is what a handler was called with.
type seen struct {
	mu     sync.Mutex
	events []engine.Event
}

func (s *seen) handle(_ context.Context, e engine.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
	return nil
}

func (s *seen) all() []engine.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// same compares events with what was seen elsewhere.
func (s *suite) same(what string, got, want []engine.Event) {
	s.Helper()
	if len(got) != len(want) {
		s.Errorf("%s: %d events, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if diff := difference(&got[i], &want[i]); diff != "" {
			s.Errorf("%s, event %d: %s", what, i+1, diff)
			return
		}
	}
}

// user is an engine and a time limit, with calls that must succeed.
type user struct {
	*suite
	*engine.Engine
	ctx context.Context
}

// with runs fn with an engine over b, and shuts the engine down.
func (s *suite) with(b engine.Backend, fn func(u user)) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), s.patience)
	defer cancel()
	u := user{s, s.engine(b), ctx}
	defer u.Engine.Close() // if fn fails
	fn(u)
	report, err := u.Shutdown(ctx)
	if err != nil {
		s.Fatalf("Shutdown: %v", err)
	}
	for _, h := range report.Handlers {
		if h.Lag != 0 || h.Parked != 0 {
			s.Errorf("after Shutdown handler %q has lag %d and %d parked events", h.Name, h.Lag, h.Parked)
		}
	}
	if _, err := b.Load(s.Context(), "a-1"); !errors.Is(err, engine.ErrClosed) {
		s.Errorf("after Shutdown Load returns %v: the backend is not closed", err)
	}
}

func (u user) event(typ string, i int) engine.NewEvent {
	return engine.NewEvent{Type: typ, Data: u.value(i)}
}

func (u user) append(stream string, expected engine.Expected, events ...engine.NewEvent) engine.Result {
	u.Helper()
	res, err := u.Append(u.ctx, stream, expected, events...)
	if err != nil {
		u.Fatalf("Append: %v", err)
	}
	return res
}

func (u user) readAll(opts ...engine.ReadOption) (events []engine.Event) {
	u.Helper()
	for e, err := range u.ReadAll(u.ctx, opts...) {
		if err != nil {
			u.Fatalf("ReadAll: %v", err)
		}
		events = append(events, e)
	}
	return events
}

func (u user) read(stream string, opts ...engine.ReadOption) (events []engine.Event) {
	u.Helper()
	for e, err := range u.Read(u.ctx, stream, opts...) {
		if err != nil {
			u.Fatalf("Read: %v", err)
		}
		events = append(events, e)
	}
	return events
}

// checkData checks that the i-th of the events has the i-th payload.
func (u user) checkData(events []engine.Event) {
	u.Helper()
	for i, e := range events {
		if want := u.value(i); !reflect.DeepEqual(e.Data, want) {
			u.Errorf("%#v was appended to %q, and version %d has the payload %#v", want, e.Stream, e.Version, e.Data)
			return
		}
	}
}

func (u user) wait(pos engine.Position) {
	u.Helper()
	if err := u.Wait(u.ctx, pos); err != nil {
		u.Fatalf("Wait(%d): %v", pos, err)
	}
}

func engineRun(s *suite) {
	s.with(s.new(), func(u user) {
		var all, paid, late seen
		if _, err := u.Handle("all", all.handle); err != nil {
			s.Fatalf("Handle: %v", err)
		}
		if _, err := u.On("Paid", paid.handle); err != nil {
			s.Fatalf("On: %v", err)
		}
		// Answers every order with an event of another stream.
		_, err := u.Handle("shipping", func(ctx context.Context, e engine.Event) error {
			_, err := u.Append(ctx, "shipment-"+fmt.Sprint(e.Version), engine.NoStream, u.event("Shipped", int(e.Version)))
			return err
		}, engine.Types("Ordered"), engine.Keyed(2))
		if err != nil {
			s.Fatalf("Handle: %v", err)
		}
		for i := range 200 { // more than a page
			typ := []string{"Ordered", "Paid", "Closed"}[i%3]
			u.append("order-1", engine.Exactly(engine.Version(i)), u.event(typ, i))
		}
		u.wait(u.Head())
		u.wait(u.Head()) // and what was shipped meanwhile
		events := u.readAll()
		if len(events) != 200+67 {
			s.Fatalf("ReadAll returns %d events, want %d", len(events), 200+67)
		}
		s.same("a handler of all", all.all(), events)
		u.checkData(u.read("order-1"))
		s.same("a handler of one type", paid.all(), u.readAll(engine.Types("Paid")))
		s.same("read by category", u.readAll(engine.Categories("order")), u.read("order-1"))

		back := u.readAll(engine.Backward())
		slices.Reverse(back)
		s.same("ReadAll backward", back, events)
		back = u.read("order-1", engine.Backward(), engine.FromVersion(150), engine.Limit(150))
		slices.Reverse(back)
		s.same("Read backward", back, u.read("order-1", engine.Limit(150)))
		s.same("ReadAll after 100", u.readAll(engine.After(100), engine.Limit(140)), events[100:240])

		shipped := u.read("shipment-1")
		if len(shipped) != 1 || shipped[0].Meta.CausationID != "order-1@1" || shipped[0].Meta.CorrelationID != "order-1@1" {
			s.Errorf("what a handler appended is %+v; want one event caused by order-1@1", shipped)
		}
		if _, err := u.Handle("late", late.handle, engine.FromStart()); err != nil {
			s.Fatalf("Handle: %v", err)
		}
		u.wait(u.Head())
		s.same("a handler from the start", late.all(), events)
	})
}

func engineIdempotent(s *suite) {
	s.with(s.new(), func(u user) {
		u.append("a-1", engine.NoStream, u.event("A", 0))
		once := []engine.NewEvent{u.event("A", 1).WithID("id-1"), u.event("B", 2).WithID("id-2")}
		first := u.append("a-1", engine.Exactly(1), once...)
		u.append("b-1", engine.NoStream, u.event("A", 3).WithID("id-1")) // another stream's
		u.append("a-1", engine.Exactly(3), u.event("A", 4))
		for _, expected := range []engine.Expected{engine.Exactly(1), engine.Any, engine.NoStream} {
			again := u.append("a-1", expected, once...)
			if !again.Duplicate || again.First != first.First || again.Last != first.Last || again.Position != first.Position {
				s.Errorf("the same append gives %+v and then %+v", first, again)
			}
		}
		_, err := u.Append(u.ctx, "a-1", engine.Any, once[1], u.event("A", 5).WithID("id-3"))
		if partial, ok := errors.AsType[*engine.PartialDuplicateError](err); !ok || !slices.Equal(partial.Stored, []string{"id-2"}) {
			s.Errorf("Append of one event that is stored and one that is not: %v", err)
		}
		if n := len(u.readAll()); n != 5 {
			s.Errorf("%d events are stored, want 5", n)
		}
	})
}

func engineConflict(s *suite) {
	s.with(s.new(), func(u user) {
		u.append("a-1", engine.NoStream, u.event("A", 0), u.event("A", 1))
		for _, expected := range []engine.Expected{engine.NoStream, engine.Exactly(1), engine.Exactly(3)} {
			_, err := u.Append(u.ctx, "a-1", expected, u.event("A", 2))
			if conflict, ok := errors.AsType[*engine.VersionConflictError](err); !ok || conflict.Actual != 2 || conflict.Expected != expected {
				s.Errorf("Append that expects %v of a stream at 2: %v", expected, err)
			}
		}
		if _, err := u.Append(u.ctx, "b-1", engine.StreamExists, u.event("A", 2)); err == nil {
			s.Errorf("Append to a stream that was to exist and does not: no error")
		}
		if n := len(u.readAll()); n != 2 {
			s.Errorf("%d events are stored, want 2", n)
		}
		u.append("a-1", engine.Exactly(2), u.event("A", 2))
	})
}

func engineStorm(s *suite) {
	s.with(s.new(), func(u user) {
		var all seen
		if _, err := u.Handle("all", all.handle); err != nil {
			s.Fatalf("Handle: %v", err)
		}
		var appending sync.WaitGroup
		for g := range 16 {
			appending.Go(func() {
				for i := range 15 {
					e := u.event([]string{"A", "B"}[i%2], i).WithID(fmt.Sprintf("%d.%d", g, i))
					if _, err := u.Append(u.ctx, fmt.Sprintf("a-%d", i%3), engine.Any, e); err != nil {
						s.Errorf("Append: %v", err)
						return
					}
				}
			})
		}
		appending.Wait()
		u.wait(u.Head())
		events := u.readAll()
		if len(events) != 16*15 {
			s.Errorf("%d events are stored, want %d", len(events), 16*15)
		}
		s.same("a handler of all", all.all(), events)
	})
}

func engineReopen(s *suite) {
	b := s.new()
	var before, after seen
	s.with(b, func(u user) {
		if _, err := u.Handle("mails", before.handle); err != nil {
			s.Fatalf("Handle: %v", err)
		}
		for i := range 10 {
			u.append("a-1", engine.Exactly(engine.Version(i)), u.event("A", i).WithID(fmt.Sprint("id-", i)))
		}
	})
	b = s.again(b)
	s.with(b, func(u user) {
		if _, err := u.Handle("mails", after.handle, engine.FromStart()); err != nil {
			s.Fatalf("Handle: %v", err)
		}
		if res := u.append("a-1", engine.NoStream, u.event("A", 4).WithID("id-4")); !res.Duplicate || res.Last != 5 || res.Position != 5 {
			s.Errorf("an append repeated in another process gives %+v; want a duplicate of version 5", res)
		}
		if _, err := u.Append(u.ctx, "a-1", engine.NoStream, u.event("A", 11)); err == nil {
			s.Errorf("Append that expects no stream, to one of 10 events in another process: no error")
		}
		u.append("a-1", engine.Exactly(10), u.event("A", 10))
		u.wait(u.Head())
		events := u.readAll()
		if len(events) != 11 {
			s.Fatalf("%d events are stored, want 11", len(events))
		}
		u.checkData(events)
		s.same("the handler before", before.all(), events[:10])
		s.same("the handler after", after.all(), events[10:])
	})
}

func engineShared(s *suite) {
	first := s.new()
	second := s.second(first)
	s.with(first, func(u user) {
		s.with(second, func(v user) {
			var seenHere, seenThere seen
			if _, err := u.Handle("all", seenHere.handle, engine.FromStart()); err != nil {
				s.Fatalf("Handle: %v", err)
			}
			if _, err := v.Handle("all too", seenThere.handle, engine.FromStart()); err != nil {
				s.Fatalf("Handle: %v", err)
			}
			var appending sync.WaitGroup
			for _, w := range []user{u, v} {
				appending.Go(func() {
					for i := range 30 {
						if _, err := w.Append(w.ctx, fmt.Sprintf("a-%d", i%2), engine.Any, w.event("A", i)); err != nil {
							s.Errorf("Append: %v", err)
						}
					}
				})
			}
			appending.Wait()
			if s.Failed() {
				return
			}
			for _, w := range []user{u, v} {
				if !s.eventually(func() bool { return w.Head() == 60 }) {
					s.Fatalf("60 events were appended, and Head is %d", w.Head())
				}
				w.wait(60)
			}
			// One that is idle learns of it too.
			for pos := engine.Position(61); pos <= 65; pos++ {
				<-time.After(5 * time.Millisecond) // until its dispatcher sleeps
				u.append("a-1", engine.StreamExists, u.event("A", int(pos)))
				if !s.eventually(func() bool { return v.Head() == pos }) {
					s.Fatalf("%d events were appended, and Head is %d", pos, v.Head())
				}
				u.wait(pos)
				v.wait(pos)
			}
			events := u.readAll()
			s.same("the other engine's log", v.readAll(), events)
			s.same("a handler", seenHere.all(), events)
			s.same("a handler of the other engine", seenThere.all(), events)
		})
	})
}
