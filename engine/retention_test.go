package engine_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// versions reads a stream.
func versions(t *testing.T, e *engine.Engine, stream string, opts ...engine.ReadOption) (all []engine.Version) {
	t.Helper()
	for ev, err := range e.Read(context.Background(), stream, opts...) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ev.Version)
	}
	return all
}

func wantVersions(t *testing.T, what string, got []engine.Version, want ...engine.Version) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: versions %v, want %v", what, got, want)
	}
}

func numbered(n int) (all []engine.NewEvent) {
	for i := range n {
		all = append(all, event("A", i+1).WithID(fmt.Sprint("id-", i+1)))
	}
	return all
}

func TestTruncate(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	defer mustClose(t, e)
	ctx := t.Context()
	mustAppend(t, e, "s-1", numbered(5)...)
	mustAppend(t, e, "s-2", numbered(1)...)
	for _, step := range []struct {
		before engine.Version
		left   []engine.Version
	}{
		{0, []engine.Version{1, 2, 3, 4, 5}},
		{1, []engine.Version{1, 2, 3, 4, 5}},
		{3, []engine.Version{3, 4, 5}},
		{2, []engine.Version{3, 4, 5}},
		{6, nil},
		{6, nil},
	} {
		if err := e.Truncate(ctx, "s-1", step.before); err != nil {
			t.Fatal(err)
		}
		wantVersions(t, fmt.Sprint("truncated before ", step.before), versions(t, e, "s-1"), step.left...)
		slices.Reverse(step.left)
		wantVersions(t, fmt.Sprint("backward, before ", step.before), versions(t, e, "s-1", engine.Backward()), step.left...)
	}
	wantVersions(t, "the other stream", versions(t, e, "s-2"), 1)
	if err := e.Truncate(ctx, "s-1", 7); err == nil || err.Error() != `engine: truncate "s-1": version is 7, want at most 6, one above the stream's` {
		t.Errorf("beyond the end: %v", err)
	}
	if err := e.Truncate(ctx, "nobody", 2); err == nil || !strings.Contains(err.Error(), "at most 1") {
		t.Errorf("a stream nobody wrote to: %v", err)
	}
	if err := e.Truncate(ctx, "nobody", 1); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
	if _, err := e.Append(ctx, "s-1", engine.NoStream, event("A", 1)); err == nil {
		t.Error("the stream's version has gone down")
	}
	// The IDs of what is gone are forgotten.
	res, err := e.Append(ctx, "s-1", engine.Exactly(5), event("A", 1).WithID("id-1"))
	if err != nil || res.Duplicate || res.Last != 6 || res.Position != 7 {
		t.Errorf("append after: %+v, %v", res, err)
	}
	wantVersions(t, "appended", versions(t, e, "s-1"), 6)
	if res, err = e.Append(ctx, "s-1", engine.Any, event("A", 1).WithID("id-1")); err != nil || !res.Duplicate || res.Last != 6 {
		t.Errorf("append again: %+v, %v", res, err)
	}
	for name, err := range map[string]error{
		"stream name": e.Truncate(ctx, "", 2),
		"context":     e.Truncate(gone(), "s-1", 2),
	} {
		if err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestDelete(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	defer mustClose(t, e)
	ctx := t.Context()
	mustAppend(t, e, "s-1", numbered(3)...)
	mustAppend(t, e, "s-2", numbered(1)...)
	err := e.Delete(ctx, "s-1", engine.Exactly(2))
	if conflict, ok := errors.AsType[*engine.VersionConflictError](err); !ok || conflict.Actual != 3 || err.Error() != `engine: delete "s-1": version conflict: expected 2, stream is at 3` {
		t.Errorf("Delete: %v", err)
	}
	if err := e.Delete(ctx, "s-1", engine.NoStream); err == nil {
		t.Error("NoStream is met by a stream of 3")
	}
	if err := e.Delete(ctx, "s-1", engine.Expected{}); err == nil {
		t.Error("the zero value is accepted")
	}
	wantVersions(t, "before", versions(t, e, "s-1"), 1, 2, 3)
	for range 2 { // again is nothing, whatever is expected
		if err := e.Delete(ctx, "s-1", engine.Exactly(3)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(e.Delete(ctx, "s-1", engine.NoStream), e.Truncate(ctx, "s-1", 9), e.Delete(ctx, "never", engine.NoStream)); err != nil {
		t.Error(err)
	}
	wantVersions(t, "after", versions(t, e, "s-1"))
	wantVersions(t, "the other stream", versions(t, e, "s-2"), 1)
	for _, stream := range []string{"s-1", "never"} {
		for _, expected := range []engine.Expected{engine.Any, engine.NoStream, engine.Exactly(3)} {
			_, err := e.Append(ctx, stream, expected, event("A", 1).WithID("id-1"))
			if deleted, ok := errors.AsType[*engine.StreamDeletedError](err); !ok || deleted.Stream != stream {
				t.Errorf("append to %s: %v", stream, err)
			}
		}
	}
	var got []engine.Position
	for ev, err := range e.ReadAll(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ev.Position)
	}
	mustPark(t, "left in the log", got, 4)
}

// noRetention hides what Memory can do.
type noRetention struct{ engine.Backend }

func TestRetentionUnsupported(t *testing.T) {
	e := quietEngine(t, engine.Options{Backend: noRetention{engine.NewMemory()}})
	defer mustClose(t, e)
	_, compact := e.Compact(t.Context())
	for op, err := range map[string]error{
		"truncate": e.Truncate(t.Context(), "s", 1),
		"delete":   e.Delete(t.Context(), "s", engine.Any),
		"compact":  compact,
	} {
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), op) || !strings.Contains(err.Error(), `"memory"`) {
			t.Errorf("%s: %v", op, err)
		}
	}
}

func TestOpenRefusesRetention(t *testing.T) {
	rule := func(r engine.RetentionRule) engine.RetentionRule {
		r.MaxCount = 1
		return r
	}
	for want, rules := range map[string][]engine.RetentionRule{
		"one for a stream or for a category": {rule(engine.RetentionRule{})},
		`category \"b\"`:                     {rule(engine.RetentionRule{Stream: "a", Category: "b"})},
		`before the first "-"`:               {rule(engine.RetentionRule{Category: "a-1"})},
		"MaxAge, MaxCount or both":           {{Stream: "a"}},
		"Options.Retention[0].MaxAge":        {{Stream: "a", MaxAge: -1}},
		"the same as Options.Retention[0]":   {rule(engine.RetentionRule{Stream: "a"}), rule(engine.RetentionRule{Category: "a"}), rule(engine.RetentionRule{Stream: "a"})},
		"no control characters":              {rule(engine.RetentionRule{Stream: "a\n"})},
	} {
		if e, err := engine.Open(engine.Options{Retention: rules}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", rules, err, want)
			if e != nil {
				mustClose(t, e)
			}
		}
	}
	if _, err := engine.Open(engine.Options{Backend: noRetention{engine.NewMemory()}, Retention: []engine.RetentionRule{{Stream: "a", MaxCount: 1}}}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a backend that keeps everything: %v", err)
	}
}

func TestRetentionAfterShutdown(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	mustAppend(t, e, "s-1", numbered(2)...)
	mustClose(t, e)
	_, compact := e.Compact(context.Background())
	for _, err := range []error{e.Truncate(context.Background(), "s-1", 2), e.Delete(context.Background(), "s-1", engine.Any), compact} {
		if !errors.Is(err, engine.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// slowMemory holds up the calls of a Memory.
type slowMemory struct {
	*engine.Memory
	hold func(op string)
	busy atomic.Int32
	bad  atomic.Bool // two at once
}

func (s *slowMemory) Caps() engine.Caps {
	c := s.Memory.Caps()
	c.Prompt = false
	return c
}

func (s *slowMemory) alone(op string, fn func() error) error {
	if s.busy.Add(1) > 1 {
		s.bad.Store(true)
	}
	defer s.busy.Add(-1)
	if s.hold != nil {
		s.hold(op)
	}
	return fn()
}

func (s *slowMemory) Commit(ctx context.Context, w []*engine.Write) error {
	return s.alone("commit", func() error { return s.Memory.Commit(ctx, w) })
}

func (s *slowMemory) Truncate(ctx context.Context, st engine.StreamState, before engine.Version) error {
	return s.alone("truncate", func() error { return s.Memory.Truncate(ctx, st, before) })
}

func (s *slowMemory) Delete(ctx context.Context, st engine.StreamState) error {
	return s.alone("delete", func() error { return s.Memory.Delete(ctx, st) })
}

// Truncate and Delete take their turn among the appends of the stream, and those that wait
// behind a Delete fail. Who does not wait for the answer is told so, and counts as in flight.
func TestRetentionTakesItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		b := &slowMemory{Memory: engine.NewMemory(), hold: func(string) { <-hold }}
		e := quietEngine(t, engine.Options{Backend: b})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		results := make(map[string]error)
		var mu sync.Mutex
		var wg sync.WaitGroup
		start := func(name string, fn func() error) {
			wg.Go(func() {
				err := fn()
				mu.Lock()
				results[name] = err
				mu.Unlock()
			})
			synctest.Wait()
		}
		appending := func() error { _, err := e.Append(t.Context(), "s", engine.Any, event("A", 1)); return err }
		start("append 1", appending)
		start("append 2", appending)
		start("truncate", func() error { return e.Truncate(ctx, "s", 3) })
		start("append 3", appending)
		start("delete", func() error { return e.Delete(t.Context(), "s", engine.Exactly(3)) })
		start("append 4", appending)
		if n := e.Stats().InFlight; n != 6 {
			t.Errorf("%d in flight, want 6", n)
		}
		cancel()
		synctest.Wait()
		if err := results["truncate"]; !errors.Is(err, engine.ErrOutcomeUnknown) || !strings.Contains(err.Error(), `truncate "s"`) {
			t.Errorf("truncate: %v", err)
		}
		close(hold)
		wg.Wait()
		for _, name := range []string{"append 1", "append 2", "append 3", "delete"} {
			if results[name] != nil {
				t.Errorf("%s: %v", name, results[name])
			}
		}
		if _, ok := errors.AsType[*engine.StreamDeletedError](results["append 4"]); !ok {
			t.Errorf("append 4: %v", results["append 4"])
		}
		if b.bad.Load() {
			t.Error("two changes of one stream at once")
		}
		mustClose(t, e)
	})
}

// A backend that fails or panics fails the call, and the stream goes on.
func TestRetentionOfABackendThatFails(t *testing.T) {
	broken := errors.New("broken")
	for _, panics := range []bool{false, true} {
		b := &failing{Memory: engine.NewMemory(), err: broken, panics: panics}
		e := quietEngine(t, engine.Options{Backend: b})
		mustAppend(t, e, "s-1", numbered(3)...)
		_, compact := e.Compact(t.Context())
		for _, err := range []error{e.Truncate(t.Context(), "s-1", 2), e.Delete(t.Context(), "s-1", engine.Any), compact} {
			if !errors.Is(err, broken) {
				t.Errorf("%v", err)
			}
		}
		mustAppend(t, e, "s-1", event("A", 1))
		wantVersions(t, "after", versions(t, e, "s-1"), 1, 2, 3, 4)
		mustClose(t, e)
	}
}

type failing struct {
	*engine.Memory
	err    error
	panics bool
}

func (f *failing) fail() error {
	if f.panics {
		panic(f.err)
	}
	return f.err
}

func (f *failing) Truncate(context.Context, engine.StreamState, engine.Version) error {
	return f.fail()
}
func (f *failing) Delete(context.Context, engine.StreamState) error { return f.fail() }
func (f *failing) Compact(context.Context, []engine.RetentionRule) (engine.Compaction, error) {
	return engine.Compaction{}, f.fail()
}

// Handlers that have not seen a removed event never do, nobody waits for it, and an append
// made while the event being handled goes away goes on, without correlation.
func TestHandlersDoNotSeeRemovedEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		defer mustClose(t, e)
		hold := make(chan struct{})
		var got []engine.Position
		h := mustHandle(t, e, "h", func(ctx context.Context, ev engine.Event) error {
			if ev.Stream != "s-1" {
				return nil
			}
			if got = append(got, ev.Position); ev.Position == 1 {
				<-hold
				_, err := e.Append(ctx, "out-1", engine.Any, event("B", 1))
				return err
			}
			return nil
		}, engine.Mailbox(1))
		mustAppend(t, e, "s-1", event("A", 1))
		synctest.Wait()
		waiting := make(chan error, 1)
		go func() { // at the door: the mailbox is full
			_, err := e.Append(t.Context(), "s-1", engine.Any, event("A", 2))
			waiting <- err
		}()
		synctest.Wait()
		if err := e.Delete(t.Context(), "s-1", engine.Any); err != nil {
			t.Fatal(err)
		}
		close(hold)
		if err := <-waiting; err == nil {
			t.Error("appended to a deleted stream")
		}
		if err := e.Wait(t.Context(), e.Head()); err != nil {
			t.Fatal(err)
		}
		if s := h.Stats(); s.Lag != 0 || s.Fill != 0 || s.State != engine.Live || s.Failures != 0 {
			t.Errorf("%v: %v", s.Stats, s.LastError)
		}
		for ev := range e.Read(t.Context(), "out-1") {
			if ev.Meta.CorrelationID != "" || ev.Meta.CausationID != "" {
				t.Errorf("%+v", ev.Meta)
			}
		}
		mustPark(t, "handled", got, 1)
		// One that joins afterwards does not see it either.
		var late []engine.Position
		mustHandle(t, e, "late", func(_ context.Context, ev engine.Event) error {
			late = append(late, ev.Position)
			return nil
		}, engine.FromStart())
		if err := e.Wait(t.Context(), e.Head()); err != nil {
			t.Fatal(err)
		}
		mustPark(t, "handled late", late, 2)
	})
}

// A parked event that retention has removed is dropped when the list is loaded.
func TestParkedEventThatWasRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		e := quietEngine(t, engine.Options{Backend: l})
		defer mustClose(t, e)
		fails := func(context.Context, engine.Event) error { return errors.New("no") }
		h := mustHandle(t, e, "h", fails, engine.Retry(0, 0), engine.Keyed(1))
		mustAppend(t, e, "s-1", event("A", 1), event("A", 2))
		if err := e.Wait(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(h.Remove(t.Context()), e.Truncate(t.Context(), "s-1", 2)); err != nil {
			t.Fatal(err)
		}
		h = mustHandle(t, e, "h", fails, engine.Retry(0, 0), engine.Keyed(1))
		mustPark(t, "parked", positionsOf(h.Parked()), 2)
		mustPark(t, "kept", l.recorded(t, "h"), 2)
	})
}

func TestCompactAppliesRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{Retention: []engine.RetentionRule{
			{Stream: "last-3", MaxCount: 3},
			{Category: "hour", MaxAge: time.Hour},
			{Category: "both", MaxAge: 3 * time.Hour, MaxCount: 2},
			{Stream: "both-2", MaxCount: 1},
			{Stream: "nobody", MaxCount: 1},
		}})
		defer mustClose(t, e)
		for range 5 {
			for _, stream := range []string{"last-3", "hour-1", "hour-2", "both-1", "both-2", "kept"} {
				mustAppend(t, e, stream, event("A", 1), event("A", 2))
			}
			time.Sleep(50 * time.Minute)
		}
		before := versions(t, e, "last-3")
		if len(before) != 10 {
			t.Error("a rule was applied before Compact")
		}
		done, err := e.Compact(t.Context())
		if err != nil || done.Removed != 7+8+8+8+9 {
			t.Errorf("Compact: %+v, %v", done, err)
		}
		wantVersions(t, "last-3", versions(t, e, "last-3"), 8, 9, 10)
		wantVersions(t, "hour-1", versions(t, e, "hour-1"), 9, 10)
		wantVersions(t, "hour-2", versions(t, e, "hour-2"), 9, 10)
		wantVersions(t, "both-1", versions(t, e, "both-1"), 9, 10)
		wantVersions(t, "both-2", versions(t, e, "both-2"), 10)
		if n := len(versions(t, e, "kept")); n != 10 {
			t.Errorf("%d left where no rule applies", n)
		}
		if done, err = e.Compact(t.Context()); err != nil || done.Removed != 0 {
			t.Errorf("Compact again: %+v, %v", done, err)
		}
		time.Sleep(24 * time.Hour)
		if done, err = e.Compact(t.Context()); err != nil || done.Removed != 7 {
			t.Errorf("Compact a day later: %+v, %v", done, err)
		}
		wantVersions(t, "hour-1", versions(t, e, "hour-1"))
		if _, err := e.Compact(gone()); err == nil || !strings.Contains(err.Error(), "the caller has gone away") {
			t.Errorf("Compact with a context that is done: %v", err)
		}
	})
}

// What was removed is given back: payloads, IDs, and segments, also of streams that live on.
func TestCompactFreesMemory(t *testing.T) {
	m := engine.NewMemory()
	e := quietEngine(t, engine.Options{Backend: m})
	defer mustClose(t, e)
	const events = 5000
	var collected atomic.Int64
	made := 0
	add := func(stream string, n int) {
		for range n {
			made++
			payload := new([1024]byte)
			runtime.AddCleanup(payload, func(*atomic.Int64) { collected.Add(1) }, &collected)
			mustAppend(t, e, stream, event("A", payload).WithID(fmt.Sprint(made)))
		}
	}
	add("dead-1", events)
	for range events / 10 { // in segments that are partly dead
		add("half-1", 5)
		mustAppend(t, e, "kept-1", event("A", 1))
	}
	mustAppend(t, e, "kept-1", slices.Repeat([]engine.NewEvent{event("A", 1)}, 1024)...) // the last segment stays as it is
	if err := errors.Join(e.Delete(t.Context(), "dead-1", engine.Any), e.Truncate(t.Context(), "half-1", events/2+1)); err != nil {
		t.Fatal(err)
	}
	done, err := e.Compact(t.Context())
	if err != nil || done.Freed < 4*40<<10 {
		t.Errorf("Compact: %+v, %v", done, err)
	}
	if dead, half := m.KeptIDs("dead-1"), m.KeptIDs("half-1"); dead+half != 0 {
		t.Errorf("%d and %d IDs are kept", dead, half)
	}
	want := int64(events + events/2)
	for range 100 { // cleanups run some time after the cycle that found them
		runtime.GC()
		if collected.Load() == want {
			break
		}
		runtime.Gosched()
	}
	if n := collected.Load(); n != want {
		t.Errorf("%d of %d payloads were freed", n, want)
	}
	wantVersions(t, "half-1", versions(t, e, "half-1"))
	if n := len(versions(t, e, "kept-1")); n != events/10+1024 {
		t.Errorf("%d left of kept-1", n)
	}
	mustAppend(t, e, "half-1", event("A", 1))
	wantVersions(t, "half-1, appended to", versions(t, e, "half-1"), events/2+1)
	runtime.KeepAlive(m)
}

// While streams are truncated, deleted and compacted, appended to and read: whoever reads sees
// of each stream an end without gaps, and the dispatcher passes everything on or by.
func TestRetentionStorm(t *testing.T) {
	e := quietEngine(t, engine.Options{Retention: []engine.RetentionRule{{Category: "count", MaxCount: 10}, {Category: "age", MaxAge: time.Millisecond}}})
	streams := []string{"count-1", "count-2", "age-1", "cut-1", "cut-2"}
	var handled atomic.Uint64
	for i := range 3 {
		opts := []engine.HandlerOption{engine.FromStart(), engine.Mailbox(4 << (4 * i))}
		if i == 1 {
			opts = append(opts, engine.Keyed(2))
		}
		mustHandle(t, e, fmt.Sprint("h", i), func(context.Context, engine.Event) error {
			handled.Add(1)
			return nil
		}, opts...)
	}
	ctx := t.Context()
	stop := make(chan struct{})
	var wg, writers sync.WaitGroup
	loop := func(wg *sync.WaitGroup, fn func() error) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					runtime.Gosched() // so that appends get their turn among so many
				}
				if err := fn(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for _, stream := range streams {
		writers.Go(func() {
			for i := range 150 {
				if _, err := e.Append(ctx, stream, engine.Exactly(engine.Version(2*i)), event("A", 1).WithID(fmt.Sprint(i)), event("B", 2)); err != nil {
					t.Error(err)
					return
				}
				if strings.HasPrefix(stream, "cut") && i%7 == 0 {
					if err := e.Truncate(ctx, stream, engine.Version(2*i+i%3)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	loop(&wg, func() error {
		_, err := e.Compact(ctx)
		return err
	})
	for _, opts := range [][]engine.ReadOption{nil, {engine.Categories("cut", "age")}, {engine.Backward()}} {
		loop(&wg, func() error {
			last := make(map[string]engine.Event)
			for ev, err := range e.ReadAll(ctx, opts...) {
				if err != nil {
					return err
				}
				if was, ok := last[ev.Stream]; ok && (was.Version < ev.Version) != (was.Position < ev.Position) {
					return fmt.Errorf("%s: version %d at %d, then %d at %d", ev.Stream, was.Version, was.Position, ev.Version, ev.Position)
				}
				last[ev.Stream] = ev
			}
			return nil
		})
	}
	for i, stream := range streams {
		loop(&wg, func() error {
			var last engine.Version
			var opts []engine.ReadOption
			if i%2 == 0 {
				opts = append(opts, engine.Backward())
			}
			for ev, err := range e.Read(ctx, stream, opts...) {
				if err != nil {
					return err
				}
				// A page that begins after a truncation goes on behind the gap.
				if last > 0 && (i%2 == 0 && ev.Version != last-1 || i%2 == 1 && ev.Version <= last) {
					return fmt.Errorf("%s: version %d after %d", stream, ev.Version, last)
				}
				last = ev.Version
			}
			return nil
		})
	}
	writers.Wait()
	close(stop)
	wg.Wait()
	if err := e.Wait(ctx, e.Head()); err != nil {
		t.Error(err)
	}
	for _, h := range e.Stats().Handlers {
		if h.Lag != 0 || h.Fill != 0 || h.Position != e.Head() {
			t.Errorf("%v", h.Stats)
		}
	}
	if handled.Load() == 0 {
		t.Error("nothing was handled")
	}
	if _, err := e.Compact(ctx); err != nil {
		t.Error(err)
	}
	wantVersions(t, "count-1", versions(t, e, "count-1"), 291, 292, 293, 294, 295, 296, 297, 298, 299, 300)
	mustClose(t, e)
}
