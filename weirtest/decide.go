package weirtest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
)

// Decision is a test of a decider: see [Decide].
type Decision[S, C any] struct {
	t     testing.TB
	d     *engine.Decider[S, C]
	given []engine.NewEvent
}

// Decide begins a test of a decider. No engine runs: Given are the events that its state
// is folded from, When calls its Decide once, and Then or ThenError compare.
//
// The events come to Evolve as those of the stream "test-1", with versions and positions from 1
// on, and times one second apart, the first at midnight of 2000-01-01 UTC.
func Decide[S, C any](t testing.TB, d *engine.Decider[S, C]) *Decision[S, C] {
	t.Helper()
	if d == nil || d.Evolve == nil || d.Decide == nil {
		t.Fatalf("weirtest: the decider is nil, or has no Evolve or no Decide")
	}
	return &Decision[S, C]{t: t, d: d}
}

// Given adds events to the history of the stream.
func (d *Decision[S, C]) Given(events ...any) *Decision[S, C] {
	d.t.Helper()
	next := *d
	next.given = slices.Clone(d.given)
	next.given = append(next.given, namedAll(newEvents(d.t, events))...)
	return &next
}

// When gives the command to the decider. That Decide leaves the state alone, as it must, is
// checked too, for states that [reflect.DeepEqual] can compare.
func (d *Decision[S, C]) When(cmd C) *Decided {
	d.t.Helper()
	state, same := d.fold(), d.fold()
	comparable := reflect.DeepEqual(state, same) // a state with functions in it never is
	events, err := d.d.Decide(state, cmd)
	o := &Decided{
		t:     d.t,
		about: fmt.Sprintf("when %#v\n%s", cmd, list("  given ", d.given)),
		got:   namedAll(slices.Clone(events)),
		err:   err,
	}
	if comparable && !reflect.DeepEqual(state, same) {
		d.t.Errorf("weirtest: %sDecide has changed the state, which is kept for the next command:\n  - %+v\n  + %+v", o.about, same, state)
	}
	return o
}

// fold returns the state after the given events.
func (d *Decision[S, C]) fold() (state S) {
	if d.d.Initial != nil {
		state = d.d.Initial()
	}
	for i, ev := range d.given {
		state = d.d.Evolve(state, engine.Event{
			Stream:   "test-1",
			Version:  engine.Version(i + 1),
			Position: engine.Position(i + 1),
			Type:     ev.Type,
			ID:       ev.ID,
			Time:     time.Date(2000, 1, 1, 0, 0, i, 0, time.UTC),
			Data:     ev.Data,
			Meta:     ev.Meta,
		})
	}
	return state
}

// Decided is what has become of a command.
type Decided struct {
	t     testing.TB
	about string
	got   []engine.NewEvent
	err   error
}

// Then fails the test unless just these events were decided, in this order. Without any
// it wants the command to be accepted, and nothing to be stored.
func (o *Decided) Then(events ...any) {
	o.t.Helper()
	want := namedAll(newEvents(o.t, events))
	if o.err != nil {
		o.t.Errorf("weirtest: %swant events:\n%sgot error: %v", o.about, list("  - ", want), o.err)
		return
	}
	if diff := difference(want, o.got); diff != "" {
		o.t.Errorf("weirtest: %sthen (- wanted, + got)\n%s", o.about, diff)
	}
}

// ThenError fails the test unless the command was refused with an error that is target, in
// the sense of [errors.Is]; nil wants any error.
func (o *Decided) ThenError(target error) {
	o.t.Helper()
	wanted := "any"
	if target != nil {
		wanted = target.Error()
	}
	switch {
	case o.err == nil:
		o.t.Errorf("weirtest: %swant error: %s\ngot events:\n%s", o.about, wanted, list("  + ", o.got))
	case target != nil && !errors.Is(o.err, target):
		o.t.Errorf("weirtest: %swant error: %s\ngot error: %v", o.about, wanted, o.err)
	}
}
