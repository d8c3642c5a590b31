package verify_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/weirstore/weir/engine"
)

// store is what the clients of a history use: an engine, or one that lies.
type store interface {
	Append(ctx context.Context, stream string, expected engine.Expected, events ...engine.NewEvent) (engine.Result, error)
	Read(ctx context.Context, stream string, opts ...engine.ReadOption) iter.Seq2[engine.Event, error]
	Shutdown(ctx context.Context) (engine.Report, error)
}

var _ store = (*engine.Engine)(nil)

// workload says what the clients of one history do.
type workload struct {
	clients, streams, ops int  // ops in all
	ids                   bool // some appends have event IDs
	cancels               bool // some contexts end while the append is under way
	shutdown              bool // the engine is shut down half-way
}

// history is what the clients saw.
type history struct {
	ops []porcupine.Operation
	log []engine.Event // at the end, of all streams, by position
}

// plan is the work of one client, made before the clock runs.
type plan struct {
	calls   []call
	beliefs []belief // of its appends
	cancel  []bool
}

// recordHistory lets clients loose on the store that wrap makes of an engine over backend, and
// then reads what is in the log, which again opens once more.
func recordHistory(t testing.TB, rng *rand.Rand, w workload, backend engine.Backend, again func() engine.Backend, wrap func(*engine.Engine) store) history {
	t.Helper()
	ctx, end := bounded(t)
	defer end()
	opts := engine.Options{
		Backend:       backend,
		StreamMailbox: 1 + rng.IntN(4),
		// Streams give up their goroutine at once, or keep it.
		MaxIdleStreams: []int{1, 1000}[rng.IntN(2)],
		IdleAfter:      []time.Duration{time.Microsecond, time.Second}[rng.IntN(2)],
	}
	st := wrap(open(t, opts))

	plans := make([]plan, w.clients)
	for i := range plans {
		plans[i] = makePlan(rng, w, i)
	}
	began := time.Now()
	ops := make([][]porcupine.Operation, w.clients)
	var wg sync.WaitGroup
	for i, p := range plans {
		wg.Go(func() {
			known := make(map[string]engine.Version) // what this client believes
			for k, c := range p.calls {
				if !c.read {
					c.expected = p.beliefs[k].expected(known[c.stream])
				}
				op := porcupine.Operation{ClientId: i, Input: c, Call: int64(time.Since(began))}
				out := perform(ctx, st, c, p.cancel[k])
				op.Output, op.Return = out, int64(time.Since(began))
				if out.kind == unknown {
					op.Return = int64(deadline) * 2 // it may still happen
				}
				ops[i] = append(ops[i], op)
				if v := out.version(c); v > 0 {
					known[c.stream] = v
				}
			}
		})
	}
	if w.shutdown {
		wg.Go(func() {
			for range rng.IntN(w.ops) { // some time
				_, _ = st.Append(ctx, "pacemaker", engine.Any, engine.NewEvent{Type: "fact", Data: fact{}})
			}
			if _, err := st.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		})
	}
	wg.Wait()
	if _, err := st.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	var h history
	for _, o := range ops {
		h.ops = append(h.ops, o...)
	}
	h.log = logOf(t, again())
	h.resolve()
	h.readStreams(w.streams, w.clients, int64(time.Since(began)))
	return h
}

// readStreams adds to the history, as a client's reads from now on, what each stream holds by the
// log. It returns when that was done.
func (h *history) readStreams(streams, client int, now int64) int64 {
	for s := range streams {
		c := call{stream: streamName(s), read: true}
		out := outcome{}
		for _, ev := range h.log {
			if ev.Stream == c.stream {
				out.events = append(out.events, seen{ev.Data.(fact), ev.Version})
			}
		}
		h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: c, Call: now + 1, Output: out, Return: now + 2})
		now += 2
	}
	return now
}

// resolve tells of every append with an unknown outcome what became of it, which the log
// knows: it happened at some moment after its call, or never. Left open, each would double the search.
func (h *history) resolve() {
	byTag := make(map[int]engine.Event)
	for _, ev := range h.log {
		byTag[ev.Data.(fact).tag] = ev
	}
	for i := range h.ops {
		in, out := h.ops[i].Input.(call), h.ops[i].Output.(outcome)
		if out.kind != unknown {
			continue
		}
		out = outcome{kind: refused, resolved: true}
		first, begins := byTag[in.events[0].tag]
		last, ends := byTag[in.events[len(in.events)-1].tag]
		if begins || ends {
			out = outcome{first: first.Version, last: last.Version, position: last.Position, resolved: true}
		}
		h.ops[i].Output = out
	}
}

func streamName(s int) string { return fmt.Sprintf("stream-%d", s) }

// belief is what an append expects: that may depend on what its client has seen by then.
type belief int

const (
	anyVersion belief = iota
	noStream
	streamExists
	knownVersion
	staleVersion  // below the known one
	futureVersion // above it
)

// beliefs has the interesting ones more than once.
var beliefs = []belief{anyVersion, anyVersion, noStream, streamExists, knownVersion, knownVersion, knownVersion, staleVersion, futureVersion}

// expected returns what to expect of a stream of which the client knows this version.
func (b belief) expected(known engine.Version) engine.Expected {
	switch b {
	case noStream:
		return engine.NoStream
	case streamExists:
		return engine.StreamExists
	case knownVersion:
		return engine.Exactly(known)
	case staleVersion:
		return engine.Exactly(known - min(known, 1))
	case futureVersion:
		return engine.Exactly(known + 2)
	}
	return engine.Any
}

func makePlan(rng *rand.Rand, w workload, client int) (p plan) {
	p.beliefs = make([]belief, w.ops/w.clients)
	for i := range p.beliefs {
		c := call{stream: streamName(rng.IntN(w.streams))}
		if rng.IntN(4) == 0 {
			c.read = true
			if rng.IntN(3) == 0 {
				c.after, c.backward, c.limit = engine.Version(rng.IntN(12)), rng.IntN(2) == 0, rng.IntN(6)
			}
		} else {
			p.beliefs[i] = beliefs[rng.IntN(len(beliefs))]
			n := 1
			if rng.IntN(3) == 0 {
				n += rng.IntN(4)
			}
			// IDs come from a small space, so that the same batch, and batches that
			// overlap, are appended again and again.
			withIDs, base := w.ids && rng.IntN(3) == 0, rng.IntN(6)*2
			for k := range n {
				f := fact{tag: (client+1)*1_000_000 + i*100 + k}
				if withIDs && (n == 1 || rng.IntN(10) > 0) {
					f.id = fmt.Sprintf("id%d", base+k)
				}
				c.events = append(c.events, f)
			}
		}
		p.calls = append(p.calls, c)
		p.cancel = append(p.cancel, w.cancels && rng.IntN(12) == 0)
	}
	return p
}

// perform does one call and tells what came of it.
func perform(ctx context.Context, st store, c call, cancels bool) (out outcome) {
	if cancels {
		ending, cancel := context.WithCancel(ctx)
		defer cancel()
		go cancel()
		ctx = ending
	}
	if c.read {
		var opts []engine.ReadOption
		if c.backward {
			opts = append(opts, engine.Backward())
			if c.after > 0 {
				opts = append(opts, engine.FromVersion(c.after))
			}
		} else if c.after > 0 {
			opts = append(opts, engine.AfterVersion(c.after))
		}
		if c.limit > 0 {
			opts = append(opts, engine.Limit(c.limit))
		}
		for ev, err := range st.Read(ctx, c.stream, opts...) {
			if err != nil {
				return outcome{kind: refusal(err)}
			}
			out.events = append(out.events, seen{ev.Data.(fact), ev.Version})
		}
		return out
	}
	events := make([]engine.NewEvent, len(c.events))
	for i, f := range c.events {
		events[i] = engine.NewEvent{Type: "fact", ID: f.id, Data: f}
	}
	res, err := st.Append(ctx, c.stream, c.expected, events...)
	if err == nil {
		return outcome{first: res.First, last: res.Last, position: res.Position, duplicate: res.Duplicate}
	}
	if e, ok := errors.AsType[*engine.VersionConflictError](err); ok {
		return outcome{kind: conflict, actual: e.Actual}
	}
	if e, ok := errors.AsType[*engine.PartialDuplicateError](err); ok {
		return outcome{kind: partial, stored: e.Stored}
	}
	return outcome{kind: refusal(err)}
}

// refusal is the kind of an error that does not tell about a stream's state.
func refusal(err error) kind {
	switch {
	case errors.Is(err, engine.ErrOutcomeUnknown):
		return unknown
	case errors.Is(err, engine.ErrClosed), errors.Is(err, context.Canceled), errors.Is(err, errDisk):
		return refused
	}
	panic(fmt.Sprintf("an error that nobody promised: %v", err))
}

// version is what a client learns of the stream's version.
func (o *outcome) version(c call) engine.Version {
	switch {
	case o.kind == conflict:
		return o.actual
	case o.kind != okay:
		return 0
	case !c.read:
		return o.last
	case len(o.events) > 0 && c.limit == 0:
		return max(o.events[0].version, o.events[len(o.events)-1].version)
	}
	return 0
}

// audit checks what the model of one stream does not know: positions, and that what was
// refused is nowhere.
func (h *history) audit() error {
	byTag := make(map[int]engine.Event)
	versions := make(map[string]engine.Version)
	for i, ev := range h.log {
		f := ev.Data.(fact)
		if ev.Position != engine.Position(i+1) || ev.Version != versions[ev.Stream]+1 {
			return fmt.Errorf("event %v is %s@%d at position %d, and the %d. of the log", f, ev.Stream, ev.Version, ev.Position, i+1)
		}
		if i > 0 && ev.Time.Before(h.log[i-1].Time) {
			return fmt.Errorf("time goes back at position %d: %v after %v", ev.Position, ev.Time, h.log[i-1].Time)
		}
		versions[ev.Stream] = ev.Version
		if f.tag != 0 {
			if other, ok := byTag[f.tag]; ok {
				return fmt.Errorf("event %v is stored twice, at %d and %d", f, other.Position, ev.Position)
			}
			byTag[f.tag] = ev
		}
	}
	for _, op := range h.ops {
		in, out := op.Input.(call), op.Output.(outcome)
		if in.read {
			continue
		}
		stored := out.kind == okay && !out.duplicate
		for k, f := range in.events {
			ev, ok := byTag[f.tag]
			if ok != stored {
				return fmt.Errorf("%s: event %v in the log: %v", describe(in, out), f, ok)
			}
			if at := out.position - engine.Position(len(in.events)-1-k); stored && ev.Position != at {
				return fmt.Errorf("%s: event %v is at position %d, not %d", describe(in, out), f, ev.Position, at)
			}
		}
		if out.duplicate && (out.position == 0 || h.log[out.position-1].Version != out.last || h.log[out.position-1].Stream != in.stream) {
			return fmt.Errorf("%s: position %d is not that of the last event", describe(in, out), out.position)
		}
	}
	return nil
}

// check searches for an order that explains the history.
func (h *history) check() porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(streamModel(), h.ops, 30*time.Second)
}

// draw writes the history as an HTML page and says where.
func (h *history) draw(t *testing.T) {
	dir := t.ArtifactDir()
	if f := flag.Lookup("test.artifacts"); f == nil || f.Value.String() != "true" {
		// ArtifactDir is removed with the test unless -artifacts was given.
		if kept, err := os.MkdirTemp("", "weir-history-"); err == nil {
			dir = kept
		}
	}
	slices.SortFunc(h.ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	_, info := porcupine.CheckOperationsVerbose(streamModel(), h.ops, 30*time.Second)
	path := filepath.Join(dir, "history.html")
	if err := porcupine.VisualizePath(streamModel(), info, path); err != nil {
		t.Log(err)
	}
	t.Logf("the history: %s", path)
	for _, part := range streamModel().Partition(h.ops) {
		if op, ok := firstOdd(part); ok {
			t.Logf("nothing explains, with what had begun by then, client %d's call %d…%dns: %s", op.ClientId, op.Call, op.Return, describe(op.Input.(call), op.Output.(outcome)))
		}
	}
}

// firstOdd returns the call at whose return it was clear that a history is not linearizable:
// what had not returned by then may have happened or not.
func firstOdd(ops []porcupine.Operation) (porcupine.Operation, bool) {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	for _, now := range ops {
		var begun []porcupine.Operation
		for _, op := range ops {
			if op.Return > now.Return {
				op.Output, op.Return = outcome{kind: unknown}, int64(deadline)*2
			}
			if op.Call <= now.Return && (op.Return <= now.Return || !op.Input.(call).read) {
				begun = append(begun, op)
			}
		}
		if porcupine.CheckOperationsTimeout(streamModel(), begun, time.Second) == porcupine.Illegal {
			return now, true
		}
	}
	return porcupine.Operation{}, false
}
