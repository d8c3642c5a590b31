package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
)

// TestRunsOfEvents stores runs that end at, before and behind the borders of segments and of blocks of the index, several
// with one commit, for one stream too, beside what removes them, and compares the backend with a list.
func TestRunsOfEvents(t *testing.T) {
	rounds := uint64(8)
	if testing.Short() || engine.RaceDetector {
		rounds = 2
	}
	for seed := range rounds {
		r := &runsModel{T: t, rng: rand.New(rand.NewPCG(seed, 7)), m: engine.NewMemory(), cut: make(map[string]engine.Version)}
		r.states = map[string]*engine.StreamState{"a-1": {Name: "a-1"}, "a-2": {Name: "a-2"}, "b-1": {Name: "b-1"}}
		r.e = quietEngine(t, engine.Options{Backend: r.m})
		for range 12 {
			r.commit()
			if r.rng.IntN(4) == 0 && seed%2 == 0 {
				r.remove()
			}
			r.compare(seed)
		}
		mustAppend(t, r.e, "end-1", one) // the engine hears of what others have stored
		mustClose(t, r.e)
	}
}

type runsModel struct {
	*testing.T
	rng    *rand.Rand
	m      *engine.Memory
	e      *engine.Engine
	states map[string]*engine.StreamState
	log    []engine.Event
	types  []engine.TypeID
	cut    map[string]engine.Version // the first version that is there
	last   int64
	kept   []engine.Position // of the events with an ID
}

func (r *runsModel) stream() *engine.StreamState {
	return r.states[[]string{"a-1", "a-1", "a-2", "b-1"}[r.rng.IntN(4)]]
}

// size returns how many events a run has: often as many as a segment or a block has room for, or nearly.
func (r *runsModel) size() int {
	switch r.rng.IntN(4) {
	case 0:
		return 1 + r.rng.IntN(3000)
	case 1: // up to the end of the segment, one less or one more
		return max(1, 1024-len(r.log)%1024+r.rng.IntN(3)-1)
	case 2:
		return []int{1, 2, 3, 1022, 1023, 1024, 1025, 1026, 2047, 2048, 2049}[r.rng.IntN(11)]
	}
	return 1 + r.rng.IntN(4)
}

func (r *runsModel) commit() {
	ctx := context.Background()
	var writes []*engine.Write
	ends := make(map[string]engine.Version)
	at := engine.Position(len(r.log))
	var starts []engine.Position
	from := len(r.log)
	for range 1 + r.rng.IntN(3) {
		s := r.stream()
		after, there := ends[s.Name]
		if !there {
			after = s.Version
		}
		w := &engine.Write{Stream: s, After: after}
		starts = append(starts, at+1)
		rich := r.rng.IntN(3)
		for range r.size() {
			at++
			rec := engine.Record{Type: fmt.Sprint("t", r.rng.IntN(3)), Data: int(at)}
			if r.rng.IntN(3) > 0 && len(w.Events) > 0 {
				rec.Type = w.Events[len(w.Events)-1].Type
			}
			if rich == 0 && r.rng.IntN(50) == 0 {
				rec.ID = fmt.Sprint("id-", at)
				r.kept = append(r.kept, at)
			}
			if rich == 0 && r.rng.IntN(50) == 0 {
				rec.Meta = engine.New(1).WithTags(fmt.Sprint("k", at%3)).Meta
			}
			id, err := r.m.TypeID(rec.Type)
			if err != nil {
				r.Fatal(err)
			}
			rec.TypeID = id
			w.Events = append(w.Events, rec)
			after++
			r.log = append(r.log, engine.Event{Stream: s.Name, Version: after, Position: at, Type: rec.Type, ID: rec.ID, Data: rec.Data, Meta: rec.Meta})
			r.types = append(r.types, id)
		}
		ends[s.Name] = after
		writes = append(writes, w)
	}
	if err := r.m.Commit(ctx, writes); err != nil {
		r.Fatal(err)
	}
	for i, w := range writes {
		if w.Position != starts[i] || w.UnixNano < r.last || w.UnixNano != writes[0].UnixNano || w.Durability != engine.Volatile {
			r.Fatalf("write %d got position %d, want %d, time %d after %d, durability %v", i, w.Position, starts[i], w.UnixNano, r.last, w.Durability)
		}
	}
	r.last = writes[0].UnixNano
	for i := range r.log[from:] {
		r.log[from+i].Time = time.Unix(0, r.last).UTC()
	}
	for name, v := range ends {
		r.states[name].Version = v
		if state, err := r.m.Load(ctx, name); err != nil || state.Version != v {
			r.Fatalf("%s is at %d, %v, want %d", name, state.Version, err, v)
		}
	}
}

func (r *runsModel) remove() {
	ctx, s := context.Background(), r.stream()
	if s.Version > 0 {
		before := 1 + engine.Version(r.rng.Uint64N(uint64(s.Version)+1))
		if r.rng.IntN(2) == 0 {
			before = max(1, min(s.Version+1, s.Version/1024*1024+engine.Version(r.rng.IntN(4))))
		}
		if err := r.m.Truncate(ctx, *s, before); err != nil {
			r.Fatal(err)
		}
		r.cut[s.Name] = max(r.cut[s.Name], before)
	}
	if r.rng.IntN(2) == 0 {
		if _, err := r.m.Compact(ctx, nil); err != nil {
			r.Fatal(err)
		}
	}
}

func (r *runsModel) gone(ev *engine.Event) bool { return ev.Version < r.cut[ev.Stream] }

func (r *runsModel) same(what string, got, want *engine.Event) {
	if got.Stream != want.Stream || got.Version != want.Version || got.Position != want.Position || got.Type != want.Type || got.ID != want.ID ||
		got.Data != want.Data || !got.Time.Equal(want.Time) || fmt.Sprint(got.Meta) != fmt.Sprint(want.Meta) {
		r.Fatalf("%s: got %+v, want %+v", what, got, want)
	}
}

func (r *runsModel) compare(seed uint64) {
	ctx := context.Background()
	head := engine.Position(len(r.log))
	if r.m.Head() != head {
		r.Fatalf("seed %d: the head is %d, want %d", seed, r.m.Head(), head)
	}
	e := r.e
	for range 3 {
		// Types, from anywhere, in pieces.
		dst := make([]engine.TypeID, 1+r.rng.IntN(3000))
		for i := range dst {
			dst[i] = 99
		}
		after := engine.Position(r.rng.Uint64N(uint64(head) + 1))
		n, err := r.m.Types(after, dst)
		if want := min(len(dst), int(head-after)); err != nil || n != want {
			r.Fatalf("seed %d: %d types after %d of %d, %v, want %d", seed, n, after, head, err, want)
		}
		for i, got := range dst[:n] {
			want := r.types[int(after)+i]
			if r.gone(&r.log[int(after)+i]) {
				want = 0
			}
			if got != want {
				r.Fatalf("seed %d: the type at %d is %d, want %d", seed, int(after)+i+1, got, want)
			}
		}
		// A read by the iterator, and by the page, from one border to another.
		from, limit := engine.Position(1+r.rng.Uint64N(uint64(head))), 1+r.rng.IntN(4000)
		if r.rng.IntN(3) == 0 {
			from = min(head, max(1, head/1024*1024+engine.Position(r.rng.IntN(3))))
		}
		i, n := int(from)-1, 0
		for ev, err := range e.ReadAll(ctx, engine.From(from), engine.Limit(limit)) {
			if err != nil {
				r.Fatal(err)
			}
			for i < len(r.log) && r.gone(&r.log[i]) {
				i++
			}
			if i == len(r.log) {
				r.Fatalf("seed %d: a read has %+v, and nothing is left; from %d, limit %d, head %d, cuts %v", seed, ev, from, limit, head, r.cut)
			}
			r.same(fmt.Sprintf("seed %d, read from %d", seed, from), &ev, &r.log[i])
			i++
			n++
		}
		if n < limit {
			for ; i < len(r.log); i++ {
				if !r.gone(&r.log[i]) {
					r.Fatalf("seed %d: a read from %d of %d ends before %d", seed, from, limit, i+1)
				}
			}
		}
		page := make([]engine.Event, 1+r.rng.IntN(200))
		n, next, err := r.m.ReadAll(ctx, engine.Query{From: from, To: head}, page)
		if err != nil {
			r.Fatal(err)
		}
		i = int(from) - 1
		for k := range page[:n] {
			for i < len(r.log) && r.gone(&r.log[i]) {
				i++
			}
			if i == len(r.log) {
				r.Fatalf("seed %d: a page has %+v, and nothing is left; from %d, limit %d, head %d, cuts %v", seed, page[k], from, limit, head, r.cut)
			}
			r.same("page", &page[k], &r.log[i])
			i++
		}
		if n == len(page) && next != page[n-1].Position+1 || n < len(page) && next != head+1 {
			r.Fatalf("seed %d: a page of %d from %d has %d, next is %d", seed, len(page), from, n, next)
		}
	}
	for name, s := range r.states {
		v := max(1, r.cut[name])
		for ev, err := range e.Read(ctx, name) {
			if err != nil || ev.Version != v {
				r.Fatalf("seed %d: %s has %d, %v, want %d", seed, name, ev.Version, err, v)
			}
			if want := &r.log[ev.Position-1]; !r.gone(want) {
				r.same(name, &ev, want)
			} else {
				r.Fatalf("seed %d: %s has %+v, which is gone", seed, name, ev)
			}
			v++
		}
		if v != s.Version+1 {
			r.Fatalf("seed %d: %s ends at %d, want %d", seed, name, v-1, s.Version)
		}
	}
	for _, pos := range r.kept {
		ev, versions := &r.log[pos-1], []engine.Version{0}
		if err := r.m.Find(ctx, *r.states[ev.Stream], []string{ev.ID}, versions); err != nil {
			r.Fatal(err)
		}
		want := ev.Version
		if r.gone(ev) {
			want = 0
		}
		if versions[0] != want {
			r.Fatalf("seed %d: %s is at %d, want %d", seed, ev.ID, versions[0], want)
		}
	}
}
