package weirtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weirstore/weir/engine"
)

// RunTwice asks whether handlers are idempotent: whether an event that comes again, as it
// does after a crash between the handling and the next checkpoint, leaves everything as it was.
//
// It opens an engine in memory, calls setup, which registers types and handlers, appends the history,
// waits as [WaitCaughtUp] does, and calls check. Then it starts a second engine on what the first one has
// stored but for its checkpoints, and calls setup again: all named handlers get every event once more,
// those that handlers have appended included, in the same order. It fails the test if check returns
// something else now, if handlers have appended something again, or have given up an event.
//
// Check returns what handlers have made: a read model, rows of a table, mails that were sent. It may return what
// goes on changing; each field, element and entry is compared as it was at the time of the call. With nil
// only what is appended is compared. What handlers keep in memory and build anew belongs into setup;
// what would outlive a crash, as a database does, belongs outside of it.
//
// Handlers without a name ([engine.Engine.On]) get no event twice. A named one that begins at the end
// of the log again, with [engine.IgnoreCheckpoint] and without [engine.FromStart], fails the test: nothing is shown then.
func RunTwice(t testing.TB, setup func(e *engine.Engine) error, check func(e *engine.Engine) any, history ...Stream) {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	backend := &forgetful{Memory: engine.NewMemory(), known: make(map[string]bool)}

	once := runOnce(t, ctx, backend, setup, check, history)
	if len(once.named) == 0 {
		t.Fatalf("weirtest: setup registers no named handler: no other gets an event twice")
	}
	twice := runOnce(t, ctx, backend, setup, check, nil)

	if again := twice.events[len(once.events):]; len(again) > 0 {
		var b strings.Builder
		for _, ev := range again {
			fmt.Fprintf(&b, "  + %s  in %q, because of %s\n", show(stored(ev), false), ev.Stream, ev.Meta.CausationID)
		}
		t.Errorf("weirtest: when everything was handled a second time, handlers have appended again\n%s", b.String())
	}
	if diff := lineDifference(once.checked, twice.checked); diff != "" {
		t.Errorf("weirtest: check returns something else when everything was handled a second time (- once, + twice)\n%s", diff)
	}
	for _, name := range once.named {
		if n, m := once.handled[name], twice.handled[name]; m < n && !t.Failed() {
			t.Errorf("weirtest: handler %q has handled %d events, and only %d of them a second time: does it begin at the end of the log?", name, n, m)
		}
	}
}

// outcome is what one engine leaves behind.
type outcome struct {
	events  []engine.Event
	checked []string
	named   []string // handlers
	handled map[string]uint64
}

func runOnce(t testing.TB, ctx context.Context, backend *forgetful, setup func(*engine.Engine) error, check func(*engine.Engine) any, history []Stream) (o outcome) {
	t.Helper()
	e, err := open(backend, setup)
	if err != nil {
		t.Fatalf("weirtest: %v", err)
	}
	defer func() { // the next engine must not meet this one
		if err := e.Close(); err != nil {
			t.Errorf("weirtest: %v", err)
		}
	}()
	before := engine.Stats{}
	for _, s := range history {
		if _, err := e.Append(ctx, s.name, engine.Any, newEvents(t, s.events)...); err != nil {
			t.Fatalf("weirtest: %v", err)
		}
	}
	err = caughtUp(ctx, e, nil)
	failures := gaveUp(before, e.Stats())
	for _, f := range failures {
		t.Errorf("weirtest: %s: %v", backend.when(), f)
	}
	if err != nil && len(failures) == 0 {
		t.Fatalf("weirtest: %v", err)
	}
	for ev, err := range e.ReadAll(ctx) {
		if err != nil {
			t.Fatalf("weirtest: %v", err)
		}
		o.events = append(o.events, ev)
	}
	if check != nil {
		o.checked = flatten(check(e))
	}
	o.handled = make(map[string]uint64)
	for _, s := range e.Stats().Handlers {
		o.handled[s.Name] = s.Handled
	}
	o.named = backend.handlers()
	backend.again = true
	return o
}

// forgetful is memory that outlives an engine, and keeps of each handler the first
// checkpoint alone: where it began. An engine that begins on it finds what it would after a crash in which
// no later one was saved.
type forgetful struct {
	*engine.Memory
	again bool

	mu    sync.Mutex
	known map[string]bool // guarded by mu
}

func (f *forgetful) Caps() engine.Caps {
	caps := f.Memory.Caps()
	caps.Reopen = true
	return caps
}

func (f *forgetful) SaveCheckpoints(ctx context.Context, checkpoints []engine.Checkpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	checkpoints = slices.DeleteFunc(slices.Clone(checkpoints), func(c engine.Checkpoint) bool { return f.known[c.Handler] })
	for _, c := range checkpoints {
		f.known[c.Handler] = true
	}
	return f.Memory.SaveCheckpoints(ctx, checkpoints)
}

// Close keeps the memory for the next engine.
func (f *forgetful) Close() error { return nil }

func (f *forgetful) handlers() (names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name := range f.known {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (f *forgetful) when() string {
	if f.again {
		return "the second time"
	}
	return "the first time"
}
