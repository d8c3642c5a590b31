package backendtest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/backendtest"
)

// TestSuite runs all cases over a backend that has every capability and no defect.
func TestSuite(t *testing.T) {
	harness(func(h *handle) engine.Backend { return h }).Run(t)
}

// TestSuiteEncoded does so over one that stores bytes.
func TestSuiteEncoded(t *testing.T) {
	harness(func(h *handle) engine.Backend { return encodes(h, func(*engine.Payload) {}) }).Run(t)
}

// encodes returns a backend that stores bytes: it takes nothing else, and what is read is
// not what was given but equal to it, after see has changed it.
func encodes(h *handle, see func(p *engine.Payload)) *broken {
	b := &broken{handle: h}
	b.caps = func() engine.Caps {
		caps := b.handle.Caps()
		caps.Encoded = true
		return caps
	}
	b.commit = func(ctx context.Context, writes []*engine.Write) error {
		for _, w := range writes {
			for _, r := range w.Events {
				if p, ok := r.Data.(*engine.Payload); !ok || p == nil {
					return fmt.Errorf("a payload of type %T is not bytes", r.Data)
				}
			}
		}
		return b.handle.Commit(ctx, writes)
	}
	everyEvent(b, func(e *engine.Event) {
		p := e.Data.(*engine.Payload)
		fresh := &engine.Payload{Encoding: p.Encoding, Schema: p.Schema, Bytes: bytes.Clone(p.Bytes)}
		see(fresh)
		e.Data = fresh
	})
	return b
}

// loses makes a defect of the payloads of a backend that stores bytes.
func loses(name string, see func(p *engine.Payload), caught ...string) defect {
	return defect{name: name, caught: caught, plant: func(h *handle) engine.Backend { return encodes(h, see) }}
}

// TestTeeth runs each case named over a backend that has one defect. It must fail.
func TestTeeth(t *testing.T) {
	bites := make(map[string]bool)
	for _, d := range defects() {
		for _, name := range d.caught {
			bites[name] = true
			t.Run(d.name+"/"+name, func(t *testing.T) {
				h := harness(d.plant)
				if d.harness != nil {
					d.harness(&h)
				}
				verdict := h.Judge(t, name, 300*time.Millisecond)
				if verdict == "" {
					t.Fatalf("the case %q is content with a backend that is broken: %s", name, d.name)
				}
				t.Log(verdict)
			})
		}
	}
	for _, name := range backendtest.Cases() {
		if !bites[name] {
			t.Errorf("no planted defect shows that the case %q can fail", name)
		}
	}
}

// TestNoFalseAlarm shows that it is the defect that makes cases fail, not the wrapper or
// the recorder around it.
func TestNoFalseAlarm(t *testing.T) {
	h := harness(func(h *handle) engine.Backend { return &broken{handle: h} })
	for _, name := range backendtest.Cases() {
		if verdict := h.Judge(t, name, 10*time.Second); verdict != "" {
			t.Errorf("%s: %s", name, verdict)
		}
	}
}

// TestAllowed runs the cases named over backends that use the room which the contract
// leaves. They must pass.
func TestAllowed(t *testing.T) {
	for _, a := range []defect{
		breaks("a cancelled commit is refused", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return b.handle.Commit(ctx, writes)
			}
		}, "cancelled-commit", "cancelled-during-commit"),
		breaks("a cancelled commit is stored or not, and nobody knows", func(b *broken) {
			n := 0
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				if ctx.Err() == nil {
					return b.handle.Commit(ctx, writes)
				}
				if n++; n%2 == 0 {
					if err := b.handle.Commit(context.WithoutCancel(ctx), writes); err != nil {
						return err
					}
				}
				return errors.Join(engine.ErrOutcomeUnknown, context.Cause(ctx))
			}
		}, "cancelled-commit", "cancelled-during-commit"),
		breaks("small pages", func(b *broken) {
			// Looks at three places a call, whatever it finds there.
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				if q.Backward {
					q.From = min(q.From, b.handle.Head())
					q.To = max(q.To, max(q.From, 3)-2)
				} else {
					q.To = min(q.To, q.From+2)
				}
				return b.handle.ReadAll(ctx, q, dst)
			}
			b.readStream = func(s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
				if !q.Backward {
					q.To = min(q.To, q.From+2)
				}
				return b.handle.ReadStream(ctx, s, q, dst)
			}
			b.types = func(after engine.Position, dst []engine.TypeID) (int, error) {
				return b.handle.Types(after, dst[:1])
			}
		}, "new-store-is-empty", "committed-is-visible", "state-carries-over", "keeps-ids-and-metadata", "reads-do-not-share-memory",
			"read-all-every-range", "read-stream-every-range", "read-categories", "read-past-head", "types-match-the-log",
			"who-sees-p-sees-all-before-p", "streams-agree-with-the-log", "shared-storm", "engine", "engine-idempotent", "engine-storm"),
		breaks("no Ref", func(b *broken) {
			b.load = func(stream string) (engine.StreamState, error) {
				state, err := b.handle.Load(ctx, stream)
				state.Ref = nil
				return state, err
			}
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				err := b.handle.Commit(ctx, writes)
				for _, w := range writes {
					w.Stream.Ref = nil
				}
				return err
			}
		}, "load-unknown-stream", "state-carries-over", "find", "reopen", "engine", "engine-idempotent"),
	} {
		t.Run(a.name, func(t *testing.T) {
			for _, name := range a.caught {
				if verdict := harness(a.plant).Judge(t, name, 10*time.Second); verdict != "" {
					t.Errorf("%s: %s", name, verdict)
				}
			}
		})
	}
}

// defect is a way to get the contract wrong.
type defect struct {
	name    string
	caught  []string // by these cases, by each of them
	plant   func(h *handle) engine.Backend
	harness func(*backendtest.Harness) // changes what Reopen and Crash find; may be nil
}

// breaks makes a defect out of a function that replaces methods of b.
func breaks(name string, change func(b *broken), caught ...string) defect {
	return defect{name: name, caught: caught, plant: func(h *handle) engine.Backend {
		b := &broken{handle: h}
		change(b)
		return b
	}}
}

var ctx = context.Background()

// everyEvent is what a defect of all reads needs: see changes each event that is read.
func everyEvent(b *broken, see func(e *engine.Event)) {
	b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
		n, next, err := b.handle.ReadAll(ctx, q, dst)
		for i := range dst[:n] {
			see(&dst[i])
		}
		return n, next, err
	}
	b.readStream = func(s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
		n, next, err := b.handle.ReadStream(ctx, s, q, dst)
		for i := range dst[:n] {
			see(&dst[i])
		}
		return n, next, err
	}
}

func defects() []defect {
	return slices.Concat(orderDefects(), commitDefects(), readDefects(), nameDefects(), stateDefects(), closeDefects(), reopenDefects(), sharedDefects(), encodedDefects(), parkedDefects(), retentionDefects(), tagDefects(), snapshotDefects())
}

// orderDefects are wrong positions, versions, times.
func orderDefects() []defect {
	return []defect{
		breaks("a gap in the positions", func(b *broken) {
			// An event that nobody may see takes every fifth position.
			n := 0
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				if n++; n%5 == 0 {
					id, _ := b.handle.TypeID("A")
					s, _ := b.handle.Load(ctx, "hidden")
					w := &engine.Write{Stream: &s, After: s.Version, Events: []engine.Record{{Type: "A", TypeID: id, Data: ""}}}
					if err := b.handle.Commit(ctx, []*engine.Write{w}); err != nil {
						return err
					}
				}
				return b.handle.Commit(ctx, writes)
			}
		}, "positions-are-dense", "versions-have-no-gaps"),
		breaks("a late arrival", func(b *broken) {
			// The newest event is not readable until the next one is, although Head is there.
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				n, next, err := b.handle.ReadAll(ctx, q, dst)
				if n > 0 && dst[n-1].Position == b.handle.Head() {
					n--
				}
				return n, next, err
			}
		}, "who-sees-p-sees-all-before-p", "committed-is-visible"),
		breaks("positions come to be out of order", func(b *broken) {
			// One of two events is missing until the next commit, as with auto-increment numbers.
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				n, next, err := b.handle.ReadAll(ctx, q, dst)
				late := b.handle.Head() - 1
				n = len(slices.DeleteFunc(dst[:n], func(e engine.Event) bool { return e.Position == late }))
				return n, next, err
			}
		}, "who-sees-p-sees-all-before-p", "committed-is-visible"),
		breaks("a late arrival under load", func(b *broken) {
			// Readable a moment after Head has got there, and before Commit returns: whoever
			// commits alone never sees it.
			var mu sync.Mutex
			late := make(map[engine.Position]bool)
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				mu.Lock()
				err := b.handle.Commit(ctx, writes)
				for _, w := range writes {
					late[w.Position] = true
				}
				mu.Unlock()
				for range 20 { // long enough for somebody to look
					runtime.Gosched()
				}
				mu.Lock()
				defer mu.Unlock()
				for _, w := range writes {
					delete(late, w.Position)
				}
				return err
			}
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				mu.Lock()
				defer mu.Unlock()
				n, next, err := b.handle.ReadAll(ctx, q, dst)
				n = len(slices.DeleteFunc(dst[:n], func(e engine.Event) bool { return late[e.Position] }))
				return n, next, err
			}
		}, "who-sees-p-sees-all-before-p"),
		breaks("versions given twice", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				seen := make(map[string]engine.Version)
				for _, w := range writes {
					if v, ok := seen[w.Stream.Name]; ok {
						w.After = v
					}
					seen[w.Stream.Name] = w.After
				}
				return b.place.store(ctx, writes)
			}
		}, "same-stream-twice"),
		breaks("a version left out", func(b *broken) {
			everyEvent(b, func(e *engine.Event) { e.Version += e.Version / 4 })
		}, "versions-have-no-gaps"),
		breaks("writes in another order", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				sorted := slices.Clone(writes)
				slices.SortStableFunc(sorted, func(v, w *engine.Write) int { return strings.Compare(v.Stream.Name, w.Stream.Name) })
				return b.handle.Commit(ctx, sorted)
			}
		}, "several-writes"),
		breaks("time goes back", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				err := b.handle.Commit(ctx, writes)
				for _, w := range writes {
					if w.Position%7 == 0 {
						w.UnixNano -= int64(time.Hour)
					}
				}
				return err
			}
		}, "time-never-goes-back"),
		breaks("time to the second", func(b *broken) {
			everyEvent(b, func(e *engine.Event) { e.Time = e.Time.Truncate(time.Second) })
		}, "time-never-goes-back"),
		breaks("local time", func(b *broken) {
			everyEvent(b, func(e *engine.Event) { e.Time = e.Time.In(time.FixedZone("here", 3600)) })
		}, "time-never-goes-back"),
		breaks("UnixNano not set", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				err := b.handle.Commit(ctx, writes)
				for _, w := range writes[1:] {
					w.UnixNano = 0
				}
				return err
			}
		}, "several-writes"),
		breaks("Position of the last event", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				err := b.handle.Commit(ctx, writes)
				for _, w := range writes {
					w.Position += engine.Position(len(w.Events) - 1)
				}
				return err
			}
		}, "versions-have-no-gaps", "several-writes", "large-batches"),
		breaks("Head goes down", func(b *broken) {
			var n atomic.Uint64
			b.head = func() engine.Position {
				head := b.handle.Head()
				if n.Add(1)%64 == 0 {
					return head / 2
				}
				return head
			}
		}, "who-sees-p-sees-all-before-p"),
		breaks("Head before the log", func(b *broken) {
			b.head = func() engine.Position { return b.handle.Head() + 1 }
		}, "new-store-is-empty", "who-sees-p-sees-all-before-p"),
		breaks("Head late", func(b *broken) {
			var last atomic.Uint64
			b.head = func() engine.Position { return engine.Position(last.Swap(uint64(b.handle.Head()))) }
		}, "positions-are-dense", "committed-is-visible"),
	}
}

// commitDefects are batches in pieces, and memory that is not the backend's.
func commitDefects() []defect {
	oneByOne := func(b *broken) {
		b.commit = func(ctx context.Context, writes []*engine.Write) error {
			for i := range writes {
				if err := b.handle.Commit(ctx, writes[i:i+1]); err != nil {
					return err
				}
				runtime.Gosched()
			}
			return nil
		}
	}
	return []defect{
		breaks("a batch in pieces", oneByOne, "batch-in-one-step", "shared-conflict"),
		breaks("a stream that grows event by event", func(b *broken) {
			var mu sync.Mutex
			growing := engine.Version(0) // a version in the middle of the batch being committed
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				mu.Lock()
				growing = writes[0].After + engine.Version(len(writes[0].Events)+1)/2
				mu.Unlock()
				runtime.Gosched()
				mu.Lock()
				defer mu.Unlock()
				growing = 0
				return b.handle.Commit(ctx, writes)
			}
			b.load = func(stream string) (engine.StreamState, error) {
				mu.Lock()
				defer mu.Unlock()
				state, err := b.handle.Load(ctx, stream)
				state.Version = max(state.Version, growing)
				return state, err
			}
		}, "stream-in-one-step"),
		breaks("a torn batch", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				if ctx.Err() == nil {
					return b.handle.Commit(ctx, writes)
				}
				if err := b.handle.Commit(context.WithoutCancel(ctx), writes[:1]); err != nil {
					return err
				}
				return context.Cause(ctx)
			}
		}, "cancelled-commit", "cancelled-during-commit"),
		breaks("stored, and says that it is not", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				if err := b.handle.Commit(context.WithoutCancel(ctx), writes); err != nil {
					return err
				}
				return context.Cause(ctx)
			}
		}, "cancelled-commit"),
		breaks("an error that is not the cause", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				if ctx.Err() != nil {
					return errors.New("interrupted")
				}
				return b.handle.Commit(ctx, writes)
			}
		}, "cancelled-commit"),
		breaks("a lock kept after a cancelled commit", func(b *broken) {
			var stuck atomic.Bool
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				if stuck.Load() || ctx.Err() != nil {
					stuck.Store(true)
					return errors.Join(context.Cause(ctx), errors.New("busy"))
				}
				return b.handle.Commit(ctx, writes)
			}
		}, "cancelled-commit", "cancelled-during-commit"),
		breaks("a large batch cut", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				for _, w := range writes {
					if len(w.Events) > 4000 {
						w.Events = w.Events[:4000]
					}
				}
				return b.handle.Commit(ctx, writes)
			}
		}, "large-batches", "reopen-large-batches"),
		breaks("Durability not set", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				err := b.handle.Commit(ctx, writes)
				for _, w := range writes {
					w.Durability = 0
				}
				return err
			}
		}, "several-writes", "durability"),
		breaks("Durability of the write instead of the batch's", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				asked := make([]engine.Durability, len(writes))
				for i, w := range writes {
					asked[i] = w.Durability
				}
				err := b.handle.Commit(ctx, writes)
				for i, w := range writes {
					w.Durability = asked[i]
				}
				return err
			}
		}, "durability"),
		breaks("never synced", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				err := b.handle.Commit(ctx, writes)
				for _, w := range writes {
					w.Durability = engine.Written
				}
				return err
			}
		}, "durability"),
		breaks("the caller's memory kept", func(b *broken) {
			// Written out with the next commit, from the slices that were given.
			type kept struct {
				pos    engine.Position
				events []engine.Record
			}
			var mu sync.Mutex
			var batch []kept
			ids := make(map[engine.Position]string)
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				mu.Lock()
				defer mu.Unlock()
				for _, k := range batch {
					for i := range k.events {
						ids[k.pos+engine.Position(i)] = k.events[i].ID
					}
				}
				err := b.handle.Commit(ctx, writes)
				batch = nil
				for _, w := range writes {
					batch = append(batch, kept{w.Position, w.Events})
				}
				return err
			}
			everyEvent(b, func(e *engine.Event) {
				mu.Lock()
				defer mu.Unlock()
				if id, ok := ids[e.Position]; ok {
					e.ID = id
				}
			})
		}, "memory-is-the-callers", "keeps-ids-and-metadata"),
	}
}

// readDefects are reads that return too much, too little, or the wrong thing.
func readDefects() []defect {
	return []defect{
		breaks("filter by type ignored", func(b *broken) {
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				q.Filter.Types = nil
				return b.handle.ReadAll(ctx, q, dst)
			}
		}, "read-all-every-range"),
		breaks("filter by type ignored in a stream", func(b *broken) {
			b.readStream = func(s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
				q.Filter = engine.Filter{}
				return b.handle.ReadStream(ctx, s, q, dst)
			}
		}, "read-stream-every-range"),
		breaks("filter by category ignored", func(b *broken) {
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				q.Filter.Categories = nil
				return b.handle.ReadAll(ctx, q, dst)
			}
		}, "read-all-every-range", "read-categories"),
		breaks("category taken for a prefix", func(b *broken) {
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				categories := q.Filter.Categories
				q.Filter.Categories = nil
				n, next, err := b.handle.ReadAll(ctx, q, dst)
				if len(categories) > 0 {
					n = len(slices.DeleteFunc(dst[:n], func(e engine.Event) bool {
						return !slices.ContainsFunc(categories, func(c string) bool { return strings.HasPrefix(e.Stream, c) })
					}))
				}
				return n, next, err
			}
		}, "read-categories"),
		breaks("backward wrong at the end", func(b *broken) {
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				if q.Backward {
					q.To = max(q.To, 2) // position 1 is never returned
				}
				return b.handle.ReadAll(ctx, q, dst)
			}
		}, "read-all-every-range"),
		breaks("backward does not end", func(b *broken) {
			b.readStream = func(s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
				n, next, err := b.handle.ReadStream(ctx, s, q, dst)
				if q.Backward {
					next = max(next, 1)
				}
				return n, next, err
			}
		}, "read-stream-every-range", "state-carries-over"),
		breaks("forward beyond To", func(b *broken) {
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				if !q.Backward {
					q.To++
				}
				return b.handle.ReadAll(ctx, q, dst)
			}
		}, "read-all-every-range"),
		breaks("From not included", func(b *broken) {
			b.readStream = func(s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
				if !q.Backward && q.From > 1 {
					q.From++
				}
				return b.handle.ReadStream(ctx, s, q, dst)
			}
		}, "read-stream-every-range", "streams-agree-with-the-log"),
		breaks("an event lost between two pages", func(b *broken) {
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				n, next, err := b.handle.ReadAll(ctx, q, dst)
				if n == len(dst) && !q.Backward && next < q.To {
					next++
				}
				return n, next, err
			}
		}, "read-all-every-range", "engine"),
		breaks("an event in two pages", func(b *broken) {
			b.readStream = func(s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
				n, next, err := b.handle.ReadStream(ctx, s, q, dst)
				if n == len(dst) && n > 1 && !q.Backward {
					next--
				}
				return n, next, err
			}
		}, "read-stream-every-range", "engine"),
		breaks("ends at a page without a match", func(b *broken) {
			// Looks at as many events as dst has room for; finding none, it says that nothing is there.
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				if q.Filter.Types == nil || q.Backward {
					return b.handle.ReadAll(ctx, q, dst)
				}
				from := q.From
				q.To = min(q.To, q.From+engine.Position(len(dst))-1)
				n, next, err := b.handle.ReadAll(ctx, q, dst)
				if n == 0 {
					next = from
				}
				return n, next, err
			}
		}, "read-all-every-range"),
		breaks("next jumps to To although the log has not got there", func(b *broken) {
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				n, next, err := b.handle.ReadAll(ctx, q, dst)
				if n < len(dst) && !q.Backward && q.To < ^engine.Position(0) {
					next = q.To + 1
				}
				return n, next, err
			}
		}, "read-all-every-range"),
		breaks("next jumps ahead at the head", func(b *broken) {
			b.readStream = func(s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
				n, next, err := b.handle.ReadStream(ctx, s, q, dst)
				if n > 0 && n < len(dst) && !q.Backward {
					next++
				}
				return n, next, err
			}
		}, "read-past-head"),
		breaks("dst not overwritten", func(b *broken) {
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				before := slices.Clone(dst)
				n, next, err := b.handle.ReadAll(ctx, q, dst)
				for i := range dst[:n] {
					if dst[i].Meta.Extra == nil {
						dst[i].Meta.Extra = before[i].Meta.Extra
					}
				}
				return n, next, err
			}
		}, "keeps-ids-and-metadata", "positions-are-dense"),
		breaks("one buffer for all that is read", func(b *broken) {
			buffer := make([]byte, 100)
			everyEvent(b, func(e *engine.Event) {
				if data, ok := e.Data.([]byte); ok && len(data) <= len(buffer) {
					e.Data = buffer[:copy(buffer, data)]
				}
			})
		}, "reads-do-not-share-memory"),
		breaks("a stream ahead of the log", func(b *broken) {
			// The log shows an event once the next one is there; the stream shows it at once.
			b.head = func() engine.Position { return max(b.handle.Head(), 1) - 1 }
		}, "streams-agree-with-the-log"),
		breaks("Head before the stream's index", func(b *broken) {
			// Load is behind by one event of the stream until it is asked again.
			var mu sync.Mutex
			told := make(map[string]engine.Version)
			b.load = func(stream string) (engine.StreamState, error) {
				state, err := b.handle.Load(ctx, stream)
				mu.Lock()
				defer mu.Unlock()
				if state.Version > told[stream] {
					told[stream] = state.Version
					state.Version--
				}
				return state, err
			}
		}, "load-after-every-commit", "committed-is-visible"),
		breaks("Ref goes stale", func(b *broken) {
			b.readStream = func(s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
				if s.Version > 50 && s.Ref != nil && !q.Backward {
					q.To = min(q.To, 50)
				}
				return b.handle.ReadStream(ctx, s, q, dst)
			}
		}, "state-carries-over"),
	}
}

// nameDefects are values that come back changed.
func nameDefects() []defect {
	return []defect{
		breaks("an empty value is no value", func(b *broken) {
			everyEvent(b, func(e *engine.Event) {
				e.Meta.Extra = maps.Clone(e.Meta.Extra)
				maps.DeleteFunc(e.Meta.Extra, func(_, v string) bool { return v == "" })
			})
		}, "keeps-ids-and-metadata"),
		breaks("CausationID lost", func(b *broken) {
			everyEvent(b, func(e *engine.Event) { e.Meta.CausationID = "" })
		}, "keeps-ids-and-metadata", "engine", "reopen"),
		breaks("IDs cut at 255 bytes", func(b *broken) {
			everyEvent(b, func(e *engine.Event) { e.ID = e.ID[:min(len(e.ID), 255)] })
		}, "keeps-ids-and-metadata", "keeps-names"),
		breaks("names cut at 1023 bytes", func(b *broken) {
			everyEvent(b, func(e *engine.Event) { e.Stream = e.Stream[:min(len(e.Stream), 1023)] })
		}, "keeps-names"),
		breaks("names trimmed", func(b *broken) {
			everyEvent(b, func(e *engine.Event) { e.Type = strings.TrimSpace(e.Type) })
		}, "keeps-names"),
		breaks("names are paths", func(b *broken) {
			b.load = func(stream string) (engine.StreamState, error) {
				state, err := b.handle.Load(ctx, strings.ReplaceAll(stream, "//", "/"))
				state.Name = stream
				return state, err
			}
		}, "keeps-names"),
		breaks("zero bytes end a string", func(b *broken) {
			everyEvent(b, func(e *engine.Event) {
				if data, ok := e.Data.(string); ok {
					e.Data, _, _ = strings.Cut(data, "\x00")
				}
			})
		}, "keeps-payloads"),
		breaks("strings come back as bytes", func(b *broken) {
			everyEvent(b, func(e *engine.Event) {
				if data, ok := e.Data.(string); ok {
					e.Data = []byte(data)
				}
			})
		}, "keeps-payloads"),
		breaks("large payloads are refused when read", func(b *broken) {
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				n, next, err := b.handle.ReadAll(ctx, q, dst)
				for i := range dst[:n] {
					if data, ok := dst[i].Data.([]byte); ok && len(data) > 1<<20 {
						return 0, q.From, errors.New("record too large")
					}
				}
				return n, next, err
			}
		}, "keeps-payloads"),
	}
}

// stateDefects are wrong types, IDs, checkpoints.
func stateDefects() []defect {
	return []defect{
		breaks("Caps change", func(b *broken) {
			b.caps = func() engine.Caps {
				caps := b.handle.Caps()
				caps.Prompt = b.handle.Head() == 0
				return caps
			}
		}, "caps"),
		breaks("Load makes streams", func(b *broken) {
			var mu sync.Mutex
			made := make(map[string]bool)
			b.load = func(stream string) (engine.StreamState, error) {
				mu.Lock()
				made[stream] = true
				mu.Unlock()
				return b.handle.Load(ctx, stream)
			}
		}, "load-leaves-no-memory"),
		breaks("Load of an unknown stream stores something", func(b *broken) {
			b.load = func(stream string) (engine.StreamState, error) {
				state, err := b.handle.Load(ctx, stream)
				if err == nil && state.Version == 0 {
					id, _ := b.handle.TypeID("Created")
					err = b.handle.Commit(ctx, []*engine.Write{{Stream: &state, Events: []engine.Record{{Type: "Created", TypeID: id, Data: ""}}}})
				}
				return state, err
			}
		}, "load-unknown-stream", "new-store-is-empty"),
		breaks("TypeID from 0", func(b *broken) {
			b.typeID = func(name string) (engine.TypeID, error) {
				id, err := b.handle.TypeID(name)
				return id - 1, err
			}
		}, "type-ids"),
		breaks("TypeID given twice", func(b *broken) {
			// Two look-ups of a new name at once.
			var known sync.Map
			var last atomic.Uint32
			b.typeID = func(name string) (engine.TypeID, error) {
				if id, ok := known.Load(name); ok {
					return id.(engine.TypeID), nil
				}
				id := engine.TypeID(last.Add(1))
				runtime.Gosched()
				known.Store(name, id)
				return id, nil
			}
		}, "type-ids-concurrently"),
		breaks("names of types regardless of case", func(b *broken) {
			b.typeID = func(name string) (engine.TypeID, error) { return b.handle.TypeID(strings.ToLower(name)) }
		}, "type-ids"),
		breaks("Types is one off", func(b *broken) {
			b.types = func(after engine.Position, dst []engine.TypeID) (int, error) {
				if n, err := b.handle.Types(after+1, dst); n > 0 {
					return n, err
				}
				return b.handle.Types(after, dst)
			}
		}, "types-match-the-log", "streams-agree-with-the-log"),
		breaks("Types returns nothing at the head", func(b *broken) {
			b.types = func(after engine.Position, dst []engine.TypeID) (int, error) {
				n, err := b.handle.Types(after, dst)
				return max(n, 1) - 1, err
			}
		}, "types-match-the-log", "committed-is-visible"),
		breaks("Find finds nothing", func(b *broken) {
			b.find = func(_ engine.StreamState, _ []string, versions []engine.Version) error {
				clear(versions)
				return nil
			}
		}, "find", "find-is-per-stream", "engine-idempotent", "engine-reopen"),
		breaks("Find leaves what was there", func(b *broken) {
			b.find = func(s engine.StreamState, ids []string, versions []engine.Version) error {
				found := make([]engine.Version, len(versions))
				err := b.handle.Find(ctx, s, ids, found)
				for i, v := range found {
					if v > 0 {
						versions[i] = v
					}
				}
				return err
			}
		}, "find", "load-unknown-stream"),
		breaks("Find says the version after", func(b *broken) {
			b.find = func(s engine.StreamState, ids []string, versions []engine.Version) error {
				err := b.handle.Find(ctx, s, ids, versions)
				for i := range versions {
					if versions[i] > 0 {
						versions[i]++
					}
				}
				return err
			}
		}, "find", "engine-idempotent"),
		breaks("Find in the whole store", func(b *broken) {
			var mu sync.Mutex
			ids := make(map[string]engine.Version)
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				mu.Lock()
				defer mu.Unlock()
				for _, w := range writes {
					for i, e := range w.Events {
						ids[e.ID] = w.After + 1 + engine.Version(i)
					}
				}
				return b.handle.Commit(ctx, writes)
			}
			b.find = func(_ engine.StreamState, of []string, versions []engine.Version) error {
				mu.Lock()
				defer mu.Unlock()
				for i, id := range of {
					versions[i] = ids[id]
				}
				return nil
			}
		}, "find-is-per-stream"),
		breaks("checkpoints only go up", func(b *broken) {
			b.saveCheckpoint = func(handler string, pos engine.Position) error {
				if old, _, _ := b.handle.LoadCheckpoint(ctx, handler); pos <= old {
					return nil
				}
				return b.save(handler, pos)
			}
		}, "checkpoints"),
		breaks("checkpoint 0 is none", func(b *broken) {
			b.loadCheckpoint = func(handler string) (engine.Position, bool, error) {
				pos, _, err := b.handle.LoadCheckpoint(ctx, handler)
				return pos, pos > 0, err
			}
		}, "checkpoints", "reopen"),
		breaks("one checkpoint for all", func(b *broken) {
			b.saveCheckpoint = func(handler string, pos engine.Position) error {
				return b.save(handler[:1], pos)
			}
			b.loadCheckpoint = func(handler string) (engine.Position, bool, error) {
				return b.handle.LoadCheckpoint(ctx, handler[:1])
			}
		}, "checkpoints", "keeps-names", "checkpoints-concurrently"),
		breaks("checkpoints not saved", func(b *broken) {
			b.saveCheckpoint = func(string, engine.Position) error { return nil }
		}, "cancelled-reads", "checkpoints"),
		breaks("Load knows no more than one event", func(b *broken) {
			b.load = func(stream string) (engine.StreamState, error) {
				state, err := b.handle.Load(ctx, stream)
				state.Version = min(state.Version, 1)
				return state, err
			}
		}, "load-after-every-commit", "streams-agree-with-the-log"),
	}
}
