package verify_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/weirstore/weir/engine"
)

// machine is an engine, its reference, and the handlers of both.
type machine struct {
	ctx      context.Context
	log      keeper
	eng      *engine.Engine
	ref      reference
	handlers map[string]*modelHandler
	known    map[string]engine.Position   // checkpoints
	parked   map[string][]engine.Position // lists of handlers that have left
	kinds    map[string]int               // what a name stands for, in all its lives
	tally    map[string]int               // of all machines: what has happened at all
}

var (
	modelStreams = []string{"a-1", "a-2", "ab-1", "c"}
	modelTypes   = []string{"t0", "t1", "t2"}
)

func subset(t *rapid.T, of []string, label string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 1, len(of), rapid.ID).Draw(t, label)
}

func (m *machine) open(t *rapid.T) {
	var err error
	m.eng, err = engine.Open(engine.Options{Backend: m.log, Logger: quiet, StreamMailbox: 1})
	if err != nil {
		t.Fatal(err)
	}
}

// appendSome appends with every kind of expectation, in batches, with IDs or without.
func (m *machine) appendSome(t *rapid.T) {
	stream := rapid.SampledFrom(modelStreams).Draw(t, "stream")
	n := rapid.IntRange(1, 4).Draw(t, "events")
	withIDs := rapid.IntRange(0, 3).Draw(t, "ids") == 0
	base := rapid.IntRange(0, 6).Draw(t, "first id")
	bulk := rapid.IntRange(0, 299).Draw(t, "bulk") == 0 // more than a page of a read
	if bulk {
		n = 150
	}
	records, events := make([]record, n), make([]engine.NewEvent, n)
	for i := range n {
		if bulk && i > 0 {
			records[i], events[i] = records[0], events[0]
			if withIDs {
				records[i].id = fmt.Sprint("bulk", i)
				events[i].ID = records[i].id
			}
			continue
		}
		rec := record{typ: rapid.SampledFrom(modelTypes).Draw(t, "type")}
		rec.data = rapid.SampledFrom([]trouble{harmless, harmless, harmless, flaky, poison}).Draw(t, "trouble")
		if withIDs {
			rec.id = fmt.Sprint("id", base+i)
		}
		records[i], events[i] = rec, engine.NewEvent{Type: rec.typ, ID: rec.id, Data: rec.data}
	}
	known := engine.Version(len(m.ref.positions(func(_ engine.Position, r record) bool { return r.stream == stream })))
	expected := rapid.SampledFrom(beliefs).Draw(t, "expected").expected(known)

	got := outcome{}
	res, err := m.eng.Append(m.ctx, stream, expected, events...)
	if e, ok := errors.AsType[*engine.VersionConflictError](err); ok {
		got = outcome{kind: conflict, actual: e.Actual}
	} else if e, ok := errors.AsType[*engine.PartialDuplicateError](err); ok {
		got = outcome{kind: partial, stored: e.Stored}
	} else if err != nil {
		t.Fatal(err)
	} else {
		got = outcome{first: res.First, last: res.Last, position: res.Position, duplicate: res.Duplicate}
	}
	want := m.ref.append(stream, expected, records)
	m.tally[map[kind]string{okay: "stored", conflict: "conflict", partial: "partial duplicate"}[want.kind]]++
	slices.Sort(want.stored)
	slices.Sort(got.stored)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("append %v to %q, expecting %v: got %+v, want %+v", records, stream, expected, got, want)
	}
}

// appendWrongly appends what is refused, and stores nothing.
func (m *machine) appendWrongly(t *rapid.T) {
	good := engine.NewEvent{Type: "t0", Data: harmless}
	var err error
	switch rapid.IntRange(0, 6).Draw(t, "mistake") {
	case 0:
		_, err = m.eng.Append(m.ctx, "a-1", *new(engine.Expected), good)
	case 1:
		_, err = m.eng.Append(m.ctx, "a-1", engine.Any)
	case 2:
		_, err = m.eng.Append(m.ctx, "a-1", engine.Any, good, engine.NewEvent{Type: "t0"})
	case 3:
		_, err = m.eng.Append(m.ctx, "", engine.Any, good)
	case 4:
		_, err = m.eng.Append(m.ctx, "a\n1", engine.Any, good)
	case 5:
		_, err = m.eng.Append(m.ctx, "a-1", engine.Any, good.WithID("twice"), good.WithID("twice"))
	case 6:
		over, cancel := context.WithCancel(m.ctx)
		cancel()
		if _, err = m.eng.Append(over, "a-1", engine.Any, good); !errors.Is(err, context.Canceled) {
			t.Fatalf("an append with a context that is over: %v", err)
		}
		return
	}
	if _, ok := errors.AsType[*engine.InvalidError](err); !ok {
		t.Fatalf("a wrong append: %v", err)
	}
}

// read reads a stream or everything, with all options that go together.
func (m *machine) read(t *rapid.T) {
	var opts []engine.ReadOption
	whole := rapid.Bool().Draw(t, "whole store")
	stream := rapid.SampledFrom(modelStreams).Draw(t, "stream")
	backward := rapid.IntRange(0, 2).Draw(t, "backward") == 0
	from := uint64(0)
	if start := rapid.IntRange(0, 2).Draw(t, "start"); start > 0 {
		from = uint64(rapid.IntRange(0, len(m.ref.log)+2).Draw(t, "at"))
		after := start == 2 && !backward
		switch {
		case whole && after:
			opts = append(opts, engine.After(engine.Position(from)))
		case whole:
			opts = append(opts, engine.From(engine.Position(from)))
		case after:
			opts = append(opts, engine.AfterVersion(engine.Version(from)))
		default:
			opts = append(opts, engine.FromVersion(engine.Version(from)))
		}
		if after {
			from++
		}
	} else if backward {
		from = ^uint64(0)
	}
	if backward {
		opts = append(opts, engine.Backward())
	}
	var types, categories []string
	if rapid.Bool().Draw(t, "by type") {
		types = subset(t, append(slices.Clone(modelTypes), "never seen"), "types")
		opts = append(opts, engine.Types(types...))
	}
	if whole && rapid.Bool().Draw(t, "by category") {
		categories = subset(t, []string{"a", "ab", "c", "d"}, "categories")
		opts = append(opts, engine.Categories(categories...))
	}
	want := m.ref.positions(func(pos engine.Position, r record) bool {
		place := uint64(pos)
		if !whole {
			place = uint64(r.version)
		}
		return (whole || r.stream == stream) && (place >= from && !backward || place <= from && backward) &&
			(types == nil || slices.Contains(types, r.typ)) &&
			(categories == nil || slices.Contains(categories, engine.Event{Stream: r.stream}.Category()))
	})
	if backward {
		slices.Reverse(want)
	}
	if rapid.Bool().Draw(t, "limited") {
		n := rapid.IntRange(1, 10).Draw(t, "limit")
		opts = append(opts, engine.Limit(n))
		want = want[:min(n, len(want))]
	}
	events := m.eng.ReadAll(m.ctx, opts...)
	if !whole {
		events = m.eng.Read(m.ctx, stream, opts...)
	}
	var got []engine.Position
	for ev, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		m.mustBe(t, ev)
		got = append(got, ev.Position)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("read %v, want %v", got, want)
	}
}

// mustBe compares an event with the reference.
func (m *machine) mustBe(t *rapid.T, ev engine.Event) {
	if ev.Position < 1 || int(ev.Position) > len(m.ref.log) {
		t.Fatalf("there is no position %d", ev.Position)
	}
	if r := m.ref.log[ev.Position-1]; r != (record{ev.Stream, ev.Version, ev.Type, ev.ID, ev.Data.(trouble)}) {
		t.Fatalf("got %+v, want %+v", ev, r)
	}
}

// add registers a handler: a new one, or one that was there before.
func (m *machine) add(t *rapid.T) {
	name := rapid.SampledFrom([]string{"h0", "h1", "h2", "h3", "h4", "h5"}).Draw(t, "name")
	if m.handlers[name] != nil {
		if _, err := m.eng.Handle(name, func(context.Context, engine.Event) error { return nil }); err == nil {
			t.Fatal("two handlers of one name")
		}
		return
	}
	h := &modelHandler{name: name, tried: make(map[engine.Position]int), wantTried: make(map[engine.Position]bool)}
	if _, ok := m.kinds[name]; !ok {
		m.kinds[name] = rapid.IntRange(0, 1<<20).Draw(t, "kind")
	}
	h.configure(m.kinds[name])
	switch rapid.IntRange(0, 2).Draw(t, "start") {
	case 0:
		h.opts = append(h.opts, engine.FromStart())
	case 1:
		h.from = engine.Position(rapid.IntRange(0, len(m.ref.log)).Draw(t, "after"))
		h.opts = append(h.opts, engine.StartAfter(h.from))
	default:
		h.from = engine.Position(len(m.ref.log))
	}
	if pos, ok := m.known[name]; ok {
		h.from = pos
		h.wantParked = m.parked[name]
		m.tally["registered again"]++
		m.tally["parked before"] += len(h.wantParked)
	}
	m.register(t, h)
}

func (m *machine) register(t *rapid.T, h *modelHandler) {
	h.cursor = h.from
	var err error
	if h.h, err = m.eng.Handle(h.name, h.handle, h.opts...); err != nil {
		t.Fatal(err)
	}
	m.handlers[h.name] = h
}

// pick draws one of the handlers that there are.
func (m *machine) pick(t *rapid.T) *modelHandler {
	var names []string
	for name := range m.handlers {
		names = append(names, name)
	}
	if len(names) == 0 {
		t.Skip("no handler")
	}
	slices.Sort(names)
	return m.handlers[rapid.SampledFrom(names).Draw(t, "handler")]
}

// settle lets everything come to rest, in virtual time, and checks all handlers.
func (m *machine) settle(t *rapid.T) {
	for range 1000 {
		time.Sleep(time.Hour) // more than all retries and slow calls take
		synctest.Wait()
		overflown := false
		for _, h := range m.handlers {
			if h.full == engine.Fail && h.h.Stats().State == engine.Stopped {
				if err := h.h.Stats().LastError; !errors.Is(err, engine.ErrOverflow) {
					t.Fatalf("%s stopped: %v", h.name, err)
				}
				overflown = true
				m.tally["overflown"]++
				if err := h.h.Resume(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !overflown {
			m.checkHandlers(t)
			return
		}
	}
	t.Fatal("a handler overflows again and again, without an append")
}

func (m *machine) pause(t *rapid.T) {
	h := m.pick(t)
	if h.fails {
		m.settle(t) // or nobody knows what it does before and after it is healed
	}
	err := h.h.Pause(m.ctx)
	_, stopped := errors.AsType[*engine.StoppedError](err)
	switch {
	case h.stopped != stopped && h.full != engine.Fail:
		t.Fatalf("pause: %v", err)
	case err != nil && !stopped:
		t.Fatal(err)
	case err == nil:
		h.paused = true
		h.mu.Lock()
		calls := len(h.done)
		h.mu.Unlock()
		synctest.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.done) != calls {
			t.Fatalf("%s was called while paused", h.name)
		}
	}
}

func (m *machine) resume(t *rapid.T) {
	h := m.pick(t)
	if h.fails {
		m.settle(t)
	}
	if err := h.h.Resume(); err != nil {
		t.Fatal(err)
	}
	h.paused, h.stopped = false, false
	if h.fails && h.policy == engine.Stop {
		m.settle(t) // it stops again, unless it was healed
	}
}

// heal makes a handler succeed from now on.
func (m *machine) heal(t *rapid.T) {
	h := m.pick(t)
	if !h.fails {
		t.Skip("it never fails")
	}
	m.settle(t)
	h.healed.Store(true)
}

func (m *machine) redrive(t *rapid.T) {
	h := m.pick(t)
	if !h.fails || h.policy != engine.Park {
		t.Skip("it parks nothing")
	}
	m.settle(t)
	if rapid.Bool().Draw(t, "healed") {
		h.healed.Store(true)
	}
	n, err := h.h.Redrive(m.ctx)
	if h.paused {
		if n != 0 || !errors.Is(err, engine.ErrPaused) {
			t.Fatalf("redrive of a paused handler returned %d, %v", n, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	handled := 0
	failed := make(map[string]bool)
	order := slices.Clone(h.wantParked)
	for _, pos := range order {
		rec := m.ref.log[pos-1]
		if h.keyed && failed[rec.stream] {
			continue
		}
		if rec.data == poison && !h.healed.Load() || rec.data == flaky && !h.wantTried[pos] {
			failed[rec.stream] = true
			h.wantTried[pos] = true
			continue
		}
		handled++
		h.wantDone = append(h.wantDone, pos)
		h.wantParked = slices.DeleteFunc(h.wantParked, func(p engine.Position) bool { return p == pos })
	}
	m.tally["redriven"] += handled
	if n != handled {
		t.Fatalf("redrive handled %d of %v, want %d", n, order, handled)
	}
	m.settle(t)
}

func (m *machine) discard(t *rapid.T) {
	h := m.pick(t)
	if len(h.wantParked) == 0 {
		t.Skip("nothing is parked")
	}
	m.settle(t)
	pos := rapid.SampledFrom(h.wantParked).Draw(t, "parked")
	discard := func() bool {
		ok, err := h.h.Discard(pos)
		if err != nil {
			t.Fatalf("discard: %v", err)
		}
		return ok
	}
	if !discard() || discard() {
		t.Fatalf("discard %d", pos)
	}
	h.wantParked = slices.DeleteFunc(h.wantParked, func(p engine.Position) bool { return p == pos })
}

// remove removes a handler; one of its name may come later and go on.
func (m *machine) remove(t *rapid.T) {
	h := m.pick(t)
	if h.fails {
		m.settle(t)
	}
	if err := h.h.Remove(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.left(t, h)
	if _, ok := m.eng.Handler(h.name); ok {
		t.Fatal("a removed handler is still there")
	}
	if err := h.h.Resume(); !errors.Is(err, engine.ErrRemoved) {
		t.Fatalf("resume after remove: %v", err)
	}
	if err := m.eng.Wait(m.ctx, m.eng.Head()+1, h.name); !errors.Is(err, engine.ErrRemoved) {
		t.Fatalf("wait after remove: %v", err)
	}
}

// left checks a life that is over, and notes its checkpoint.
func (m *machine) left(t *rapid.T, h *modelHandler) {
	pos, ok, err := m.log.LoadCheckpoint(m.ctx, h.name)
	if err != nil || !ok || pos != h.h.Position() {
		t.Fatalf("the checkpoint of %s is %d, its position %d", h.name, pos, h.h.Position())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	m.known[h.name] = pos
	m.parked[h.name] = nil
	for _, p := range h.h.Parked() { // which were checked at rest
		m.parked[h.name] = append(m.parked[h.name], p.Event.Position)
	}
	delete(m.handlers, h.name)
	if h.full == engine.Latest || h.fails {
		return // checked at rest
	}
	var want []engine.Position
	for _, p := range m.mine(h) {
		if p <= pos {
			want = append(want, p)
		}
	}
	if h.keyed {
		for _, p := range want {
			if !slices.Contains(h.done, p) {
				t.Fatalf("%s has not handled %d, its checkpoint is %d", h.name, p, pos)
			}
		}
		want = m.prefix(h, m.mine(h))
	}
	if err := m.sameOrder(h, want); err != nil {
		t.Fatalf("%s, with a checkpoint at %d: %v; done %v", h.name, pos, err, h.done)
	}
}

// wait waits for all handlers, or for one.
func (m *machine) wait(t *rapid.T) {
	head := m.eng.Head()
	ctx, cancel := context.WithTimeout(m.ctx, 100*time.Hour)
	defer cancel()
	var names []string
	if rapid.Bool().Draw(t, "named") {
		names = []string{m.pick(t).name}
	}
	err := m.eng.Wait(ctx, head, names...)
	if _, stopped := errors.AsType[*engine.StoppedError](err); stopped {
		mayStop := false
		for _, h := range m.handlers {
			mayStop = mayStop || h.policy == engine.Stop || h.full == engine.Fail
		}
		if !mayStop {
			t.Fatal(err)
		}
		return
	}
	if errors.Is(err, context.DeadlineExceeded) && names != nil && m.handlers[names[0]].paused {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range m.handlers {
		if names != nil && h.name != names[0] || names == nil && h.h.Stats().State >= engine.Paused {
			continue
		}
		h.mu.Lock()
		done := len(h.done) + int(h.lagged)
		h.mu.Unlock()
		if pos := h.h.Position(); pos < head || !h.fails && done < len(m.mine(h)) {
			t.Fatalf("%s has done %d of %d, at %d, after a wait for %d", h.name, done, len(m.mine(h)), pos, head)
		}
	}
}

// shutdown ends the engine and opens the next one over the same log.
func (m *machine) shutdown(t *rapid.T) {
	report, err := m.eng.Shutdown(m.ctx)
	if err != nil || int(report.Head) != len(m.ref.log) || len(report.Handlers) != len(m.handlers) || len(report.Running) > 0 {
		t.Fatalf("shutdown: %+v, %v", report, err)
	}
	if _, err := m.eng.Append(m.ctx, "a-1", engine.Any, engine.NewEvent{Type: "t0", Data: harmless}); !errors.Is(err, engine.ErrClosed) {
		t.Fatalf("append after shutdown: %v", err)
	}
	m.tally["shut down"]++
	for _, h := range m.handlers {
		if h.h.Stats().Handled > 0 {
			m.tally["shut down with a handler"]++
		}
		h.mu.Lock()
		done, lagged := len(h.done), int(h.lagged)
		h.mu.Unlock()
		if !h.fails && !h.paused && h.full != engine.Fail && done+lagged != len(m.mine(h)) {
			t.Fatalf("%s has done %d and lagged %d of %d at the end", h.name, done, lagged, len(m.mine(h)))
		}
		if m.advance(h); h.fails && !h.paused && !h.stopped {
			if err := m.sameOrder(h, h.wantDone); err != nil || h.h.Position() != report.Head {
				t.Fatalf("%s ended at %d of %d: %v", h.name, h.h.Position(), report.Head, err)
			}
		}
		m.left(t, h)
	}
	m.open(t)
	next := engine.Position(1)
	for ev, err := range m.eng.ReadAll(m.ctx) {
		if err != nil || ev.Position != next {
			t.Fatalf("position %d holds %d: %v", next, ev.Position, err)
		}
		m.mustBe(t, ev)
		next++
	}
}

// TestEngineAgainstReference: random sequences of everything that can be done with an engine, each in a bubble of virtual
// time, against a page of slices.
func TestEngineAgainstReference(t *testing.T) {
	tally := make(map[string]int)
	_ = flag.Set("rapid.checks", strconv.Itoa(scale(150)))
	_ = flag.Set("rapid.steps", "80")
	// A bubble in which somebody spins never ends, and its clock stands still: this one is outside.
	hung := time.AfterFunc(deadline, func() {
		debug.SetTraceback("all")
		panic(errHung)
	})
	defer hung.Stop()
	rapid.Check(t, func(t *rapid.T) {
		hung.Reset(deadline)
		rapid.SyncTest(t, func(t *rapid.T) {
			m := &machine{
				ctx: context.Background(), log: newKeeper(),
				handlers: make(map[string]*modelHandler), known: make(map[string]engine.Position), parked: make(map[string][]engine.Position), kinds: make(map[string]int), tally: tally,
			}
			m.open(t)
			defer func() { _ = m.eng.Close() }()
			actions := map[string]func(*rapid.T){
				"misuse":   m.appendWrongly,
				"read":     m.read,
				"heal":     m.heal,
				"discard":  m.discard,
				"remove":   m.remove,
				"settle":   m.settle,
				"shutdown": m.shutdown,
				"": func(t *rapid.T) {
					if head := m.eng.Head(); int(head) != len(m.ref.log) {
						t.Fatalf("the head is %d, want %d", head, len(m.ref.log))
					}
				},
			}
			for name, action := range map[string]func(*rapid.T){"append": m.appendSome, "add": m.add, "pause": m.pause, "resume": m.resume, "redrive": m.redrive, "wait": m.wait} {
				for i := range map[string]int{"append": 12, "add": 4}[name] + 2 { // the more often drawn
					actions[fmt.Sprint(name, i)] = action
				}
			}
			t.Repeat(actions)
			m.settle(t)
			m.shutdown(t)
		})
	})
	t.Log(tally)
	atLeastOne(t, tally, "stored", "conflict", "partial duplicate", "registered again", "overflown", "held", "parked", "stopped",
		"lagged", "paused with events before it", "redriven", "shut down")
}
