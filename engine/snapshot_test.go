package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// ledger is a state that remembers every event, so that one that is missing, twice, or of another
// time shows.
type ledger struct {
	Total int
	Seen  []string
}

// shown is the error of a command that asks for the state.
type shown struct{ state ledger }

func (s *shown) Error() string { return fmt.Sprint(s.state) }

// keeper takes numbers as commands; 0 shows the state. Its fold depends on its version.
func keeper(policy engine.SnapshotPolicy) *engine.Decider[ledger, int] {
	return &engine.Decider[ledger, int]{
		Snapshots: policy,
		Evolve: func(l ledger, ev engine.Event) ledger {
			l.Total += ev.Data.(added).N * (1 + int(policy.Version))
			l.Seen = append(l.Seen, fmt.Sprint(ev.Version, " ", ev.Position, " ", ev.Data.(added).N))
			return l
		},
		Decide: func(l ledger, n int) ([]engine.NewEvent, error) {
			if n == 0 {
				return nil, &shown{ledger{l.Total, slices.Clone(l.Seen)}}
			}
			return []engine.NewEvent{engine.New(added{n})}, nil
		},
	}
}

// show returns the state that the stream's owner has.
func show(ctx context.Context, e *engine.Engine, d *engine.Decider[ledger, int], stream string) (ledger, error) {
	_, err := engine.Execute(ctx, e, d, stream, 0)
	if s, ok := errors.AsType[*shown](err); ok {
		return s.state, nil
	}
	return ledger{}, err
}

// snapReads counts what is read of streams, and lets calls for snapshots fail.
type snapReads struct {
	engine.Backend
	engine.Retention
	engine.Snapshotting
	read  atomic.Int64
	after func(engine.StreamQuery) // called after each read
	wrong func(call, stream string) error
}

func (c *snapReads) ReadStream(ctx context.Context, s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
	n, next, err := c.Backend.ReadStream(ctx, s, q, dst)
	c.read.Add(int64(n))
	if c.after != nil {
		c.after(q)
	}
	return n, next, err
}

func (c *snapReads) SaveSnapshot(ctx context.Context, s engine.StreamState, snap engine.Snapshot) error {
	if c.wrong != nil {
		if err := c.wrong("save", s.Name); err != nil {
			return err
		}
	}
	return c.Snapshotting.SaveSnapshot(ctx, s, snap)
}

func (c *snapReads) LoadSnapshot(ctx context.Context, s engine.StreamState, name string) (engine.Snapshot, bool, error) {
	if c.wrong != nil {
		if err := c.wrong("load", s.Name); err != nil {
			return engine.Snapshot{}, false, err
		}
	}
	return c.Snapshotting.LoadSnapshot(ctx, s, name)
}

// countedReads opens an engine over a backend whose reads are countedReads.
func countedReads(t *testing.T, b engine.Backend, opts engine.Options) (*engine.Engine, *snapReads) {
	t.Helper()
	c := &snapReads{Backend: b, Retention: b.(engine.Retention), Snapshotting: b.(engine.Snapshotting)}
	opts.Backend = c
	e := quietEngine(t, opts)
	if err := engine.Register[added](e, "added"); err != nil {
		t.Fatal(err)
	}
	return e, c
}

// snapshotBackends are the backends of these tests: open opens the place again.
func snapshotBackends(t *testing.T, fn func(t *testing.T, open func() engine.Backend)) {
	t.Run("memory", func(t *testing.T) {
		b := engine.NewMemory()
		fn(t, func() engine.Backend { return unclosed{b} })
	})
	t.Run("file", func(t *testing.T) {
		dir := t.TempDir()
		fn(t, func() engine.Backend {
			s, err := filestore.Open(dir, filestore.Options{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			return s
		})
	})
}

// unclosed is a memory backend that outlives its engines.
type unclosed struct{ *engine.Memory }

func (unclosed) Close() error { return nil }

// TestSnapshotsChangeNothing does random things with many streams, of which few states are kept, and
// compares every state with one that was folded from the events.
func TestSnapshotsChangeNothing(t *testing.T) {
	snapshotBackends(t, func(t *testing.T, open func() engine.Backend) {
		const streams, steps = 40, 1500
		ctx, rng := t.Context(), rand.New(rand.NewPCG(7, 1))
		opts := engine.Options{CachedStates: 1, Retention: []engine.RetentionRule{{Category: "b", MaxCount: 7}}}
		e, c := countedReads(t, open(), opts)
		policy := engine.SnapshotPolicy{Name: "ledger", Every: 3, Leaving: true}
		d, plain := keeper(policy), keeper(engine.SnapshotPolicy{Version: policy.Version})
		plain.Snapshots = engine.SnapshotPolicy{}
		other := keeper(engine.SnapshotPolicy{Name: "other", Version: 5, Every: 2})
		var saved, failed, deleted uint64
		gone := make(map[string]bool)
		for i := range steps {
			stream := fmt.Sprintf("%c-%d", 'a'+rng.IntN(2), rng.IntN(streams/2))
			if gone[stream] {
				continue
			}
			switch n := rng.IntN(100); {
			case n < 2:
				policy.Version++
				d = keeper(policy)
				plain = keeper(engine.SnapshotPolicy{Version: policy.Version})
				plain.Snapshots = engine.SnapshotPolicy{}
			case n < 4:
				s := e.Stats()
				saved, failed = saved+s.SnapshotsSaved, failed+s.SnapshotsFailed
				mustClose(t, e)
				e, c = countedReads(t, open(), opts)
			case n < 5:
				if _, err := e.Compact(ctx); err != nil {
					t.Fatal(err)
				}
			case n < 9:
				_, at, _ := engine.Load(ctx, e, plain, stream)
				if err := e.Truncate(ctx, stream, engine.Version(rng.IntN(int(at)+2))); err != nil {
					t.Fatal(err)
				}
			case n < 10 && deleted < streams/4:
				if err := e.Delete(ctx, stream, engine.Any); err != nil {
					t.Fatal(err)
				}
				gone[stream] = true
				deleted++
			case n < 40:
				mustAppend(t, e, stream, engine.New(added{rng.IntN(9) + 1}))
			case n < 45:
				if _, err := show(ctx, e, other, stream); err != nil {
					t.Fatal(err)
				}
			default:
				if _, err := engine.Execute(ctx, e, d, stream, rng.IntN(9)+1); err != nil {
					t.Fatal(err)
				}
			}
			want, at, err := engine.Load(ctx, e, plain, stream)
			if err != nil {
				t.Fatal(err)
			}
			got, gotAt, err := engine.Load(ctx, e, d, stream)
			if err != nil || gotAt != at || !reflect.DeepEqual(got, want) {
				t.Fatalf("step %d: %q is at %d, %v\n%v with snapshots\n%v without", i, stream, gotAt, err, got, want)
			}
			if !gone[stream] && rng.IntN(3) == 0 {
				if owned, err := show(ctx, e, d, stream); err != nil || !reflect.DeepEqual(owned, want) {
					t.Fatalf("step %d: the owner of %q has, %v\n%v with snapshots\n%v without", i, stream, err, owned, want)
				}
			}
			if at > 0 {
				v := engine.Version(rng.IntN(int(at))) + 1
				want, at, err := engine.Load(ctx, e, plain, stream, engine.AtVersion(v))
				got, gotAt, gotErr := engine.Load(ctx, e, d, stream, engine.AtVersion(v))
				if (err == nil) != (gotErr == nil) || gotAt != at || !reflect.DeepEqual(got, want) {
					t.Fatalf("step %d: at version %d %q is at %d, %v; want %d, %v\n%v\n%v", i, v, stream, gotAt, gotErr, at, err, got, want)
				}
			}
		}
		s := e.Stats()
		if saved, failed = saved+s.SnapshotsSaved, failed+s.SnapshotsFailed; saved < steps/10 || failed > 0 {
			t.Errorf("%d snapshots were stored, %d failed", saved, failed)
		}
		if c.read.Load() == 0 {
			t.Error("nothing was read")
		}
		mustClose(t, e)
	})
}

// TestSnapshotsSaveReads: what a new engine reads of a long stream is what came after the snapshot.
func TestSnapshotsSaveReads(t *testing.T) {
	snapshotBackends(t, func(t *testing.T, open func() engine.Backend) {
		ctx := t.Context()
		e, _ := countedReads(t, open(), engine.Options{})
		every := keeper(engine.SnapshotPolicy{Name: "every", Every: 100})
		leaving := keeper(engine.SnapshotPolicy{Name: "leaving", Leaving: true})
		for i := range 1050 {
			if _, err := engine.Execute(ctx, e, every, "a-1", i+1); err != nil {
				t.Fatal(err)
			}
		}
		if s := e.Stats(); s.SnapshotsSaved != 10 || s.SnapshotsFailed != 0 {
			t.Errorf("%d snapshots were stored, %d failed", s.SnapshotsSaved, s.SnapshotsFailed)
		}
		want, err := show(ctx, e, leaving, "a-1")
		if err != nil {
			t.Fatal(err)
		}
		mustClose(t, e)
		e, c := countedReads(t, open(), engine.Options{})
		defer mustClose(t, e)
		for _, d := range []struct {
			d    *engine.Decider[ledger, int]
			most int64
		}{{every, 52}, {leaving, 2}} { // two are read to see whether it fits
			before := c.read.Load()
			got, err := show(ctx, e, d.d, "a-1")
			if n := c.read.Load() - before; err != nil || !reflect.DeepEqual(got, want) || n > d.most {
				t.Errorf("%s: %d events were read, want %d; %v", d.d.Snapshots.Name, n, d.most, err)
			}
			before = c.read.Load()
			if _, _, err := engine.Load(ctx, e, d.d, "a-1"); err != nil || c.read.Load()-before > d.most {
				t.Errorf("Load %s: %d events were read, want %d; %v", d.d.Snapshots.Name, c.read.Load()-before, d.most, err)
			}
		}
	})
}

// TestSnapshotsOfEvicted: what is evicted is saved by its own stream, soon, and while the engine is open.
func TestSnapshotsOfEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, c := countedReads(t, engine.NewMemory(), engine.Options{CachedStates: 1})
		defer mustClose(t, e)
		d := keeper(engine.SnapshotPolicy{Name: "l", Leaving: true})
		const streams, each = 200, 9
		for i := range streams * each {
			if _, err := engine.Execute(t.Context(), e, d, fmt.Sprint("a-", i/each), 1); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := e.Stats().SnapshotsSaved; n < streams-16 || n > streams {
			t.Errorf("%d snapshots were stored of %d states, of which at most 16 are kept", n, streams)
		}
		before := c.read.Load()
		if s, err := show(t.Context(), e, d, "a-0"); err != nil || s.Total != each || c.read.Load()-before != 2 {
			t.Errorf("%v, %v, after %d reads", s, err, c.read.Load()-before)
		}
		synctest.Wait()
		if n := e.Stats().Goroutines; n > 4+1 {
			t.Errorf("%d goroutines", n)
		}
	})
}

// TestCloseWaitsForSnapshotsOfEvicted closes an engine while a state that has left memory is being stored.
// Until that is done no other is, as its stream has an owner.
func TestCloseWaitsForSnapshotsOfEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, c := countedReads(t, engine.NewMemory(), engine.Options{CachedStates: 1})
		var saves atomic.Int64
		goOn := make(chan struct{})
		c.wrong = func(call, _ string) error {
			if call == "save" && saves.Add(1) == 1 {
				<-goOn
			}
			return nil
		}
		d := keeper(engine.SnapshotPolicy{Name: "l", Leaving: true})
		const streams = 100
		for i := range streams {
			if _, err := engine.Execute(t.Context(), e, d, fmt.Sprint("a-", i), 1); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan error, 1)
		go func() { done <- e.Close() }()
		synctest.Wait()
		if n := saves.Load(); n != 1 || len(done) != 0 {
			t.Errorf("%d states were given to the backend, which has not returned from the first; Close has returned: %v", n, len(done) != 0)
		}
		close(goOn)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := e.Stats().SnapshotsSaved; n != streams {
			t.Errorf("%d states are stored, want %d", n, streams)
		}
	})
}

// TestSnapshotsOfEvictedOutliveGoexit lets a backend end the goroutine that stores what has left memory.
// Those after it are stored all the same, and Close does not wait for it.
func TestSnapshotsOfEvictedOutliveGoexit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, c := countedReads(t, engine.NewMemory(), engine.Options{CachedStates: 1})
		var saves atomic.Int64
		c.wrong = func(call, _ string) error {
			if call == "save" && saves.Add(1)%5 == 1 {
				runtime.Goexit()
			}
			return nil
		}
		d := keeper(engine.SnapshotPolicy{Name: "l", Leaving: true})
		const streams = 100
		for i := range streams {
			if _, err := engine.Execute(t.Context(), e, d, fmt.Sprint("a-", i), 1); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		s := e.Stats()
		if n := s.SnapshotsSaved + s.SnapshotsFailed; n < streams-16 || s.SnapshotsFailed < (streams-16)/5 {
			t.Errorf("%d snapshots were stored and %d not, of %d states, of which at most 16 are kept", s.SnapshotsSaved, s.SnapshotsFailed, streams)
		}
		began := time.Now()
		c.wrong = nil
		mustClose(t, e)
		if took := time.Since(began); took > 0 {
			t.Errorf("Close has waited for %v", took)
		}
	})
}

// TestSnapshotsThatFail: whatever goes wrong fails no command, is countedReads, and logged once a stream.
func TestSnapshotsThatFail(t *testing.T) {
	type secret struct{ hidden int } // unexported: JSON leaves it out
	opaque := &engine.Decider[secret, int]{
		Snapshots: engine.SnapshotPolicy{Name: "opaque", Every: 1},
		Evolve:    func(s secret, ev engine.Event) secret { return secret{s.hidden + ev.Data.(added).N} },
		Decide: func(s secret, n int) ([]engine.NewEvent, error) {
			if n == 0 {
				return nil, fmt.Errorf("total %d", s.hidden)
			}
			return []engine.NewEvent{engine.New(added{n})}, nil
		},
	}
	channels := &engine.Decider[chan int, int]{
		Snapshots: engine.SnapshotPolicy{Name: "channels", Every: 1},
		Evolve:    func(c chan int, _ engine.Event) chan int { return make(chan int) },
		Decide:    func(chan int, int) ([]engine.NewEvent, error) { return []engine.NewEvent{engine.New(added{4242})}, nil },
	}
	snapshotBackends(t, func(t *testing.T, open func() engine.Backend) {
		var log bytes.Buffer
		ctx := t.Context()
		e, c := countedReads(t, open(), engine.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		defer mustClose(t, e)
		kept := keeper(engine.SnapshotPolicy{Name: "kept", Every: 1})
		c.wrong = func(call, stream string) error {
			switch {
			case stream == "panic-1":
				panic("no " + call)
			case strings.HasPrefix(stream, "bad"):
				return errors.New("no " + call)
			}
			return nil
		}
		for range 3 {
			for _, stream := range []string{"bad-1", "bad-2", "panic-1"} {
				if _, err := engine.Execute(ctx, e, kept, stream, 1); err != nil {
					t.Error(err)
				}
			}
			if _, err := engine.Execute(ctx, e, opaque, "o-1", 1); err != nil {
				t.Error(err)
			}
			if _, err := engine.Execute(ctx, e, channels, "c-1", 1); err != nil {
				t.Error(err)
			}
		}
		if _, err := engine.Execute(ctx, e, opaque, "o-1", 0); err == nil || err.Error() != "total 3" {
			t.Errorf("%v, want total 3", err)
		}
		if s, at, err := engine.Load(ctx, e, kept, "panic-1"); err != nil || at != 3 || s.Total != 3 {
			t.Errorf("Load: %v, %d, %v", s, at, err)
		}
		if s := e.Stats(); s.SnapshotsFailed < 15 || s.SnapshotsSaved != 0 {
			t.Errorf("%d failed, %d were stored", s.SnapshotsFailed, s.SnapshotsSaved)
		}
		text := log.String()
		for _, want := range []string{"stream=bad-1 snapshots=kept", "stream=bad-2", "stream=panic-1", "stream=o-1 snapshots=opaque", "stream=c-1 snapshots=channels"} {
			if n := strings.Count(text, want); n != 1 {
				t.Errorf("%q is logged %d times:\n%s", want, n, text)
			}
		}
		if strings.Contains(text, "4242") {
			t.Errorf("a payload is logged:\n%s", text)
		}
	})
}

// TestSnapshotsOfBrokenStates: a state that a panic has left half changed is never stored.
func TestSnapshotsOfBrokenStates(t *testing.T) {
	e, _ := countedReads(t, engine.NewMemory(), engine.Options{CachedStates: 1})
	defer mustClose(t, e)
	d := &engine.Decider[*ledger, string]{
		Initial:   func() *ledger { return new(ledger) },
		Snapshots: engine.SnapshotPolicy{Name: "l", Leaving: true, Every: 2},
		Evolve:    func(l *ledger, ev engine.Event) *ledger { l.Total += ev.Data.(added).N; return l },
		Decide: func(l *ledger, cmd string) ([]engine.NewEvent, error) {
			switch cmd {
			case "break":
				l.Total = 1000
				panic("broken")
			case "show":
				return nil, fmt.Errorf("total %d", l.Total)
			}
			return []engine.NewEvent{engine.New(added{1})}, nil
		},
	}
	want := 0
	for i := range 50 {
		for _, cmd := range []string{"add", "break", "add"}[:1+i%3] {
			if _, err := engine.Execute(t.Context(), e, d, "a-1", cmd); (err != nil) != (cmd == "break") {
				t.Fatal(err)
			}
			if cmd == "add" {
				want++
			}
		}
		if _, err := engine.Execute(t.Context(), e, d, "a-1", "show"); err.Error() != fmt.Sprint("total ", want) {
			t.Fatalf("%v, want %d", err, want)
		}
		if l, _, err := engine.Load(t.Context(), e, d, "a-1"); err != nil || l.Total != want {
			t.Fatalf("Load: %v, %v, want %d", l, err, want)
		}
	}
}

// TestSnapshotsOfStatesThatBreakLater: a state that is evicted while Decide has it, and panics, is not stored.
func TestSnapshotsOfStatesThatBreakLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := countedReads(t, engine.NewMemory(), engine.Options{CachedStates: 1})
		defer mustClose(t, e)
		ctx, deciding, release := t.Context(), make(chan struct{}), make(chan struct{})
		d := &engine.Decider[*ledger, bool]{
			Initial:   func() *ledger { return new(ledger) },
			Snapshots: engine.SnapshotPolicy{Name: "l", Leaving: true},
			Evolve:    func(l *ledger, ev engine.Event) *ledger { l.Total += ev.Data.(added).N; return l },
			Decide: func(l *ledger, breaks bool) ([]engine.NewEvent, error) {
				if breaks {
					close(deciding)
					<-release
					l.Total = 1000
					panic("broken")
				}
				return []engine.NewEvent{engine.New(added{1})}, nil
			},
		}
		if _, err := engine.Execute(ctx, e, d, "a-1", false); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := engine.Execute(ctx, e, d, "a-1", true); err == nil {
				t.Error("a panic is no error")
			}
		})
		<-deciding
		for i := range 200 {
			if _, err := engine.Execute(ctx, e, d, fmt.Sprint("b-", i), false); err != nil {
				t.Error(err)
			}
		}
		close(release)
		all.Wait()
		synctest.Wait()
		if l, _, err := engine.Load(ctx, e, d, "a-1"); err != nil || l.Total != 1 {
			t.Errorf("%+v, %v", l, err)
		}
	})
}

// TestSnapshotsAndTruncationDuringLoad: a state is that of one moment, whatever comes between the look at
// the snapshot and the reading of what follows it.
func TestSnapshotsAndTruncationDuringLoad(t *testing.T) {
	e, c := countedReads(t, engine.NewMemory(), engine.Options{})
	defer mustClose(t, e)
	d := keeper(engine.SnapshotPolicy{Name: "l", Every: 5})
	for i := range 5 {
		if _, err := engine.Execute(t.Context(), e, d, "a-1", i+1); err != nil {
			t.Fatal(err)
		}
	}
	c.after = func(q engine.StreamQuery) {
		if c.after = nil; q.From != 5 { // the last event is looked at first
			t.Errorf("read from %d", q.From)
		}
		c.after = func(engine.StreamQuery) { // the first one was looked at
			c.after = nil
			if err := e.Truncate(t.Context(), "a-1", 4); err != nil {
				t.Error(err)
			}
			mustAppend(t, e, "a-1", engine.New(added{6}))
		}
	}
	if l, at, err := engine.Load(t.Context(), e, d, "a-1"); err != nil || at != 5 || l.Total != 15 || c.after != nil {
		t.Errorf("%+v at %d, %v", l, at, err)
	}
	if l, at, err := engine.Load(t.Context(), e, d, "a-1"); err != nil || at != 6 || l.Total != 15 || len(l.Seen) != 3 {
		t.Errorf("%+v at %d, %v", l, at, err)
	}
}

// TestSnapshotsDoNotDelayTheCaller: a snapshot is saved after the caller has its answer, on a backend where that may
// take long. If the caller waited for it, the bubble would be deadlocked.
func TestSnapshotsDoNotDelayTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, b := countedReads(t, &wrapped{Memory: engine.NewMemory()}, engine.Options{})
		release := make(chan struct{})
		b.wrong = func(call, _ string) error {
			if call == "save" {
				<-release
			}
			return nil
		}
		d := keeper(engine.SnapshotPolicy{Name: "ledger", Every: 1})
		for _, stream := range []string{"a-1", "b-1"} {
			if _, err := engine.Execute(context.Background(), e, d, stream, 1); err != nil {
				t.Error(err)
			}
		}
		close(release)
		mustClose(t, e)
		if n := e.Stats().SnapshotsSaved; n != 2 {
			t.Errorf("%d snapshots saved, want 2", n)
		}
	})
}

// forged is a backend that returns a snapshot which is almost right.
type forged struct {
	*snapReads
	forge func(*engine.Snapshot)
}

func (f *forged) LoadSnapshot(ctx context.Context, s engine.StreamState, name string) (engine.Snapshot, bool, error) {
	snap, there, err := f.Snapshotting.LoadSnapshot(ctx, s, name)
	if there && f.forge != nil {
		snap.Data = []byte(`{"Total":1000000}`)
		f.forge(&snap)
	}
	return snap, there, err
}

// TestSnapshotsThatDoNotFit: one that was made of other events, or by another fold, is not used.
func TestSnapshotsThatDoNotFit(t *testing.T) {
	m := engine.NewMemory()
	f := &forged{snapReads: &snapReads{Backend: m, Retention: m, Snapshotting: m}}
	e := quietEngine(t, engine.Options{Backend: f})
	defer mustClose(t, e)
	d := keeper(engine.SnapshotPolicy{Name: "l", Every: 2})
	for i := range 5 {
		if _, err := engine.Execute(t.Context(), e, d, "a-1", i+1); err != nil {
			t.Fatal(err)
		}
	}
	total := func() int {
		l, _, err := engine.Load(t.Context(), e, d, "a-1")
		if err != nil {
			t.Fatal(err)
		}
		return l.Total
	}
	f.forge = func(*engine.Snapshot) {}
	if n := total(); n != 1000005 {
		t.Fatalf("total %d: the test does not forge what is used", n)
	}
	for name, forge := range map[string]func(*engine.Snapshot){
		"fold":           func(s *engine.Snapshot) { s.Fold++ },
		"first":          func(s *engine.Snapshot) { s.First++ },
		"no first":       func(s *engine.Snapshot) { s.First = 0 },
		"version, less":  func(s *engine.Snapshot) { s.Version-- },
		"version, more":  func(s *engine.Snapshot) { s.Version++ },
		"version, ahead": func(s *engine.Snapshot) { s.Version = 100 },
		"no version":     func(s *engine.Snapshot) { s.Version = 0 },
		"position":       func(s *engine.Snapshot) { s.Position++ },
		"time":           func(s *engine.Snapshot) { s.Time = s.Time.Add(1) },
		"ID":             func(s *engine.Snapshot) { s.ID = "x" },
		"encoding":       func(s *engine.Snapshot) { s.Encoding = "unknown" },
		"data":           func(s *engine.Snapshot) { s.Data = s.Data[1:] },
	} {
		f.forge = forge
		if n := total(); n != 15 {
			t.Errorf("%s: total %d, want 15", name, n)
		}
	}
}

// TestSnapshotPolicies that cannot be are refused, with the field and its limit.
func TestSnapshotPolicies(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	defer mustClose(t, e)
	for _, c := range []struct {
		policy engine.SnapshotPolicy
		text   string
	}{
		{engine.SnapshotPolicy{Every: 1}, "Decider.Snapshots.Name"},
		{engine.SnapshotPolicy{Name: "a\n", Every: 1}, "Decider.Snapshots.Name"},
		{engine.SnapshotPolicy{Name: strings.Repeat("x", 1025), Every: 1}, "at most 1024 bytes"},
		{engine.SnapshotPolicy{Name: "a"}, "Decider.Snapshots.Every is 0, want at least 1"},
		{engine.SnapshotPolicy{Name: "a", Every: -1}, "Decider.Snapshots.Every is -1, want 0 or more"},
		{engine.SnapshotPolicy{Version: 1}, "Decider.Snapshots.Name"},
	} {
		_, err := engine.Execute(t.Context(), e, keeper(c.policy), "a-1", 1)
		_, _, loadErr := engine.Load(t.Context(), e, keeper(c.policy), "a-1")
		for _, err := range []error{err, loadErr} {
			if bad, ok := errors.AsType[*engine.InvalidError](err); !ok || !strings.Contains(bad.Error(), c.text) {
				t.Errorf("%+v: %v, want %s", c.policy, err, c.text)
			}
		}
	}
	open := &engine.Decider[any, int]{
		Snapshots: engine.SnapshotPolicy{Name: "a", Every: 1},
		Evolve:    func(s any, _ engine.Event) any { return s },
		Decide:    func(any, int) ([]engine.NewEvent, error) { return nil, nil },
	}
	if _, err := engine.Execute(t.Context(), e, open, "a-1", 1); err == nil || !strings.Contains(err.Error(), "not an interface") {
		t.Errorf("a state that is an interface: %v", err)
	}
}

// plainBackend keeps no snapshots.
type plainBackend struct{ engine.Backend }

// TestSnapshotsWithoutABackend: a policy has no effect where nobody keeps snapshots.
func TestSnapshotsWithoutABackend(t *testing.T) {
	e := quietEngine(t, engine.Options{Backend: plainBackend{engine.NewMemory()}, CachedStates: 1})
	defer mustClose(t, e)
	d := keeper(engine.SnapshotPolicy{Name: "a", Every: 1, Leaving: true})
	for i := range 100 {
		if _, err := engine.Execute(t.Context(), e, d, fmt.Sprint("a-", i%30), 1); err != nil {
			t.Fatal(err)
		}
	}
	if l, at, err := engine.Load(t.Context(), e, d, "a-1"); err != nil || at != 4 || l.Total != 4 {
		t.Errorf("%v, %d, %v", l, at, err)
	}
	if s := e.Stats(); s.SnapshotsSaved+s.SnapshotsFailed != 0 {
		t.Errorf("%+v", s)
	}
}

// TestSnapshotsConcurrently evicts, saves, loads, truncates and closes all at once: under -race no
// fold has two owners, and no state differs.
func TestSnapshotsConcurrently(t *testing.T) {
	snapshotBackends(t, func(t *testing.T, open func() engine.Backend) {
		for round := range 3 {
			e, _ := countedReads(t, open(), engine.Options{CachedStates: 1, StreamMailbox: 1, IdleAfter: time.Millisecond})
			d := keeper(engine.SnapshotPolicy{Name: "l", Every: 4, Leaving: true})
			plain := keeper(engine.SnapshotPolicy{})
			var all sync.WaitGroup
			for c := range 8 {
				all.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(c), uint64(round)))
					for range 60 {
						stream := fmt.Sprint("a-", rng.IntN(40))
						switch n := rng.IntN(20); {
						case n == 0:
							_, at, _ := engine.Load(t.Context(), e, plain, stream)
							if err := e.Truncate(t.Context(), stream, at/2); err != nil {
								t.Error(err)
							}
						case n < 5:
							if _, _, err := engine.Load(t.Context(), e, d, stream); err != nil {
								t.Error(err)
							}
						default:
							if _, err := engine.Execute(t.Context(), e, d, stream, 1); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
			all.Wait()
			for i := range 40 {
				stream := fmt.Sprint("a-", i)
				want, _, err := engine.Load(t.Context(), e, plain, stream)
				got, ownErr := show(t.Context(), e, d, stream)
				if err != nil || ownErr != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%s: %v, %v\n%v\n%v", stream, err, ownErr, got, want)
				}
			}
			mustClose(t, e)
		}
	})
}

// BenchmarkReactivate brings the state of a stream of 10,000 events back into memory.
func BenchmarkReactivate(b *testing.B) {
	dir := b.TempDir()
	open := func() *engine.Engine {
		s, err := filestore.Open(dir, filestore.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		e, err := engine.Open(engine.Options{Backend: s})
		if err == nil {
			err = engine.Register[added](e, "added")
		}
		if err != nil {
			b.Fatal(err)
		}
		return e
	}
	decider := func(policy engine.SnapshotPolicy) *engine.Decider[int, int] {
		return &engine.Decider[int, int]{
			Snapshots: policy,
			Evolve:    func(n int, ev engine.Event) int { return n + ev.Data.(added).N },
			Decide:    func(int, int) ([]engine.NewEvent, error) { return nil, nil },
		}
	}
	policies := []engine.SnapshotPolicy{{}, {Name: "total", Every: 100}}
	e := open()
	events := make([]engine.NewEvent, 1000)
	for i := range events {
		events[i] = engine.New(added{i})
	}
	for range 10 {
		if _, err := e.Append(b.Context(), "a-1", engine.Any, events...); err != nil {
			b.Fatal(err)
		}
	}
	for _, p := range policies {
		if _, err := engine.Execute(b.Context(), e, decider(p), "a-1", 0); err != nil {
			b.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
	e = open()
	defer e.Close()
	for _, p := range policies {
		b.Run(fmt.Sprint("snapshots=", p.Every > 0), func(b *testing.B) {
			for b.Loop() {
				if _, err := engine.Execute(b.Context(), e, decider(p), "a-1", 0); err != nil { // a new decider has no state
					b.Fatal(err)
				}
			}
		})
	}
}
