package weirtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/weirstore/weir/engine"
)

// Reaction is a test of handlers: see [Handle].
type Reaction struct {
	t testing.TB
	e *engine.Engine
}

// Handle begins a test of handlers, processes ([engine.Manage]) included. It opens an engine in memory, to which setup adds types
// and handlers, and closes it when the test ends. When appends events and waits, as [WaitCaughtUp]
// does; Then compares what handlers have appended because of them.
//
// A wanted payload is met whatever its type's name is: give an [engine.NewEvent] with a Type to have
// that compared.
func Handle(t testing.TB, setup func(e *engine.Engine) error) *Reaction {
	t.Helper()
	e, err := open(nil, setup)
	if err != nil {
		t.Fatalf("weirtest: %v", err)
	}
	closeAtEnd(t, e)
	return &Reaction{t, e}
}

func closeAtEnd(t testing.TB, e *engine.Engine) {
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("weirtest: %v", err)
		}
	})
}

// Given appends events, and waits until handlers have handled them. What handlers
// append then is part of the history, and not compared.
func (r *Reaction) Given(stream string, events ...any) *Reaction {
	r.t.Helper()
	r.append(stream, events)
	return r
}

// When appends the events, together, and waits until handlers have handled them and all
// that came of them.
func (r *Reaction) When(stream string, events ...any) *Reacted {
	r.t.Helper()
	before := r.e.Stats()
	res, err := r.append(stream, events)
	o := &Reacted{
		t:      r.t,
		about:  fmt.Sprintf("when %q\n%s", stream, list("  gets ", namedAll(newEvents(r.t, events)))),
		got:    make(map[string][]engine.NewEvent),
		gaveUp: gaveUp(before, r.e.Stats()),
	}
	if err != nil && len(o.gaveUp) == 0 {
		r.t.Fatalf("weirtest: %s%v", o.about, err)
	}
	for ev, err := range r.e.ReadAll(r.t.Context(), engine.After(res.Position)) {
		if err != nil {
			r.t.Fatalf("weirtest: %v", err)
		}
		if !strings.HasPrefix(ev.Type, "$") { // what a process notes for itself
			o.got[ev.Stream] = append(o.got[ev.Stream], stored(ev))
		}
	}
	return o
}

// append returns an error if handlers have not caught up.
func (r *Reaction) append(stream string, events []any) (engine.Result, error) {
	r.t.Helper()
	ctx, cancel := bounded(r.t)
	defer cancel()
	return appendAndWait(r.t, ctx, r.e, stream, events)
}

func appendAndWait(t testing.TB, ctx context.Context, e *engine.Engine, stream string, events []any) (engine.Result, error) {
	t.Helper()
	res, err := e.Append(ctx, stream, engine.Any, newEvents(t, events)...)
	if err != nil {
		t.Fatalf("weirtest: %v", err)
	}
	return res, caughtUp(ctx, e, nil)
}

// failure is a handler that has given up an event.
type failure struct {
	handler string
	err     error
}

func (f failure) String() string { return fmt.Sprintf("handler %q has given up: %v", f.handler, f.err) }

// gaveUp returns which handlers have parked or skipped something, or stopped, between two looks.
func gaveUp(before, after engine.Stats) (list []failure) {
	old := make(map[string]engine.HandlerStats)
	for _, s := range before.Handlers {
		old[s.Name] = s
	}
	for _, s := range after.Handlers {
		was := old[s.Name]
		if s.Parked > was.Parked || s.Skipped > was.Skipped || s.State == engine.Stopped && was.State != engine.Stopped {
			list = append(list, failure{s.Name, s.LastError})
		}
	}
	return list
}

// Reacted is what has come of the events of [Reaction.When].
type Reacted struct {
	t      testing.TB
	about  string
	got    map[string][]engine.NewEvent // by stream
	gaveUp []failure
}

// Then fails the test unless handlers have appended just these events, to these streams, in
// this order in each stream; without any, nothing. It fails too if a handler has given up an event: has parked
// or skipped it after its retries, or stopped.
func (o *Reacted) Then(streams ...Stream) {
	o.t.Helper()
	for _, f := range o.gaveUp {
		o.t.Errorf("weirtest: %s%v", o.about, f)
	}
	want := make(map[string][]engine.NewEvent)
	names := maps.Clone(o.got)
	for _, s := range streams {
		for _, ev := range newEvents(o.t, s.events) {
			want[s.name] = append(want[s.name], nameLike(ev, o.got[s.name]))
		}
		names[s.name] = nil
	}
	text := ""
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if diff := difference(want[name], o.got[name]); diff != "" {
			text += fmt.Sprintf("in %q\n%s", name, diff)
		}
	}
	if text != "" {
		o.t.Errorf("weirtest: %sthen (- wanted, + got)\n%s", o.about, text)
	}
}

// ThenError fails the test unless a handler has given up with an error that is target, in
// the sense of [errors.Is]; nil wants any error. It has been retried by then, as its options say.
func (o *Reacted) ThenError(target error) {
	o.t.Helper()
	text := ""
	for _, f := range o.gaveUp {
		if target == nil || errors.Is(f.err, target) {
			return
		}
		text += f.String() + "\n"
	}
	if text == "" {
		text = "no handler has given up"
	}
	o.t.Errorf("weirtest: %swant error: %v\n%s", o.about, target, text)
}

// nameLike gives a wanted payload the name that it is stored under: names of registered types
// are known to the engine alone.
func nameLike(want engine.NewEvent, got []engine.NewEvent) engine.NewEvent {
	if want.Type != "" {
		return want
	}
	for _, g := range got {
		if reflect.DeepEqual(want.Data, g.Data) {
			want.Type = g.Type
			return want
		}
		if reflect.TypeOf(want.Data) == reflect.TypeOf(g.Data) && want.Type == "" {
			want.Type = g.Type
		}
	}
	return named(want)
}
