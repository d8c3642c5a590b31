package engine

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"time"
)

// Decider is how a stream takes commands: three pure functions over a state S, which is
// folded from the stream's events, and commands C. Make one for each kind of stream, keep it, and
// pass its address: [Execute] keeps folded states by that. Its fields must not change after its
// first use.
//
//	var account = &engine.Decider[Account, any]{
//		Evolve: func(a Account, ev engine.Event) Account { … },
//		Decide: func(a Account, cmd any) ([]engine.NewEvent, error) { … },
//	}
//	res, err := engine.Execute(ctx, eng, account, "account-7", Withdraw{50})
type Decider[S, C any] struct {
	// Initial returns the state of a stream without events. Nil stands for the zero value of S.
	Initial func() S
	// Evolve returns the state after one more event. Every event is given to it once, in the
	// order of versions, as it is stored: with its position and time. It may change the state that it
	// is given and return that one. Required.
	Evolve func(state S, ev Event) S
	// Decide returns the events that a command causes, which are stored together, or none if there is
	// nothing to do, or an error if the command is rejected. It must not change the state, and not
	// call the engine: the stream waits for it. Required.
	Decide func(state S, cmd C) ([]NewEvent, error)
	// Snapshots says when states are stored, so that a fold need not begin at the first event. The
	// zero value stores none.
	Snapshots SnapshotPolicy
}

// check says what is wrong with a decider.
func (d *Decider[S, C]) check(op string) error {
	switch {
	case d == nil:
		return invalid(op, "decider", nil, "a Decider")
	case d.Evolve == nil:
		return invalid(op, "Decider.Evolve", nil, "a function")
	case d.Decide == nil:
		return invalid(op, "Decider.Decide", nil, "a function")
	}
	return d.Snapshots.check(op, reflect.TypeFor[S]())
}

func (d *Decider[S, C]) initial() (state S) {
	if d.Initial != nil {
		state = d.Initial()
	}
	return state
}

// Execute lets a decider decide about a command, and stores the events that it returns. That
// runs in the goroutine that owns the stream, on a state that has all its events: there is no
// conflict, and nothing is to be tried again. The state stays in memory for the next command; how many
// do is limited by Options.CachedStates. One that does not is folded from the stream's events, or from
// those behind a snapshot ([SnapshotPolicy]).
//
// An error of Decide is returned as it is, and nothing is stored. A panic of Decide or Evolve is
// an [*actor.PanicError] for this call alone. If no events are decided, the result holds the version of the stream in
// Last, and nothing else.
//
// In all else it is like [Engine.Append], with [Any]. On a backend that other processes write to, too
// ([Caps].Shared), the command is decided anew, at most 16 times, if one of them was faster.
func Execute[S, C any](ctx context.Context, e *Engine, d *Decider[S, C], stream string, cmd C) (Result, error) {
	if err := d.check("execute"); err != nil {
		return Result{}, err
	}
	return e.execute(ctx, stream, &order[S, C]{d, cmd})
}

// Load returns the state that a decider folds from a stream, and the version of the last
// event in it, 0 if there is none. It reads the stream in the caller's goroutine, from a snapshot on
// if there is one and the time does not matter, and waits for nobody.
func Load[S, C any](ctx context.Context, e *Engine, d *Decider[S, C], stream string, opts ...LoadOption) (state S, at Version, err error) {
	if err := d.check("load"); err != nil {
		return state, 0, err
	}
	var c loadConfig
	for _, opt := range opts {
		if opt == nil {
			return state, 0, invalid("load "+quote(stream), "an option", nil, "a LoadOption")
		}
		opt(&c)
	}
	defer recovered(&err, "evolve")
	f := &fold[S, C]{d: d, state: d.initial()}
	defer func() { state, at = f.state, f.at }()
	end := Version(math.MaxUint64)
	if d.Snapshots.Name != "" && c.until.IsZero() { // for a time: nothing says that times of a stream never go back
		end = e.snapshots.restoreFor(ctx, stream, f, c.upTo)
	}
	for ev, err := range e.Read(ctx, stream, AfterVersion(f.at)) {
		if err != nil {
			return state, at, err
		}
		if ev.Version > end || c.upTo > 0 && ev.Version > c.upTo || !c.until.IsZero() && ev.Time.After(c.until) {
			break
		}
		if err := e.guard.evolve(d, ev, f.evolve); err != nil {
			return state, at, err
		}
	}
	if c.upTo > f.at {
		return state, at, fmt.Errorf("engine: load %q at version %d: the stream is at version %d", stream, c.upTo, f.at)
	}
	return state, at, nil
}

// A LoadOption is a setting of [Load].
type LoadOption func(*loadConfig)

type loadConfig struct {
	upTo  Version
	until time.Time
}

// AtVersion folds no event behind a version. If the stream is not there yet, it is an error.
func AtVersion(v Version) LoadOption { return func(c *loadConfig) { c.upTo = v } }

// AtTime folds no event that was stored after t.
func AtTime(t time.Time) LoadOption { return func(c *loadConfig) { c.until = t } }

// command is an Execute as the stream's owner sees it: without the types.
type command interface {
	// decider is what folds are kept by.
	decider() any
	// begin returns the fold of no events.
	begin() folded
	decide(f folded) ([]NewEvent, error)
	// saves reports whether snapshots are made of the state.
	saves() bool
}

// folded is a state and the version that it is at. Owner: the stream's goroutine.
type folded interface {
	come() *progress
	evolve(ev Event)

	// For snapshots. The first three may be called by anybody.
	decider() any
	policy() *SnapshotPolicy
	stateType() reflect.Type
	stateNow() any
	restore(state any)
}

// order is a command for a decider.
type order[S, C any] struct {
	d   *Decider[S, C]
	cmd C
}

func (o *order[S, C]) decider() any { return o.d }

func (o *order[S, C]) begin() folded { return &fold[S, C]{d: o.d, state: o.d.initial()} }

func (o *order[S, C]) decide(f folded) ([]NewEvent, error) {
	return o.d.Decide(f.(*fold[S, C]).state, o.cmd)
}

func (o *order[S, C]) saves() bool { return o.d.Snapshots.Name != "" }

type fold[S, C any] struct {
	d     *Decider[S, C]
	state S
	progress
}

func (f *fold[S, C]) evolve(ev Event) {
	f.state = f.d.Evolve(f.state, ev)
	f.took(&ev)
}

func (f *fold[S, C]) decider() any            { return f.d }
func (f *fold[S, C]) policy() *SnapshotPolicy { return &f.d.Snapshots }
func (f *fold[S, C]) stateType() reflect.Type { return reflect.TypeFor[S]() }
func (f *fold[S, C]) stateNow() any           { return f.state }
func (f *fold[S, C]) restore(state any)       { f.state = state.(S) }
