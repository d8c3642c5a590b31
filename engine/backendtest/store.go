package backendtest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"reflect"
	"time"

	"github.com/weirstore/weir/dispatch"
	"github.com/weirstore/weir/engine"
)

// store is a backend under test beside the list of what must be in it. It does what an
// engine does: it keeps a StreamState per stream, and reuses what it gave to Commit.
type store struct {
	*suite
	b       engine.Backend
	streams map[string]*engine.StreamState
	log     []engine.Event           // the event at position p is log[p-1]
	gone    map[engine.Position]bool // of these, what was removed
	deleted map[string]bool          // streams
	made    int                      // numbers payloads
}

func (s *suite) store() *store { return s.over(s.new()) }

func (s *suite) over(b engine.Backend) *store {
	return &store{
		suite:   s,
		b:       b,
		streams: make(map[string]*engine.StreamState),
		gone:    make(map[engine.Position]bool),
		deleted: make(map[string]bool),
	}
}

// typeID returns the number of a type name.
func (st *store) typeID(name string) engine.TypeID {
	st.Helper()
	id, err := st.b.TypeID(name)
	if err != nil {
		st.Fatalf("TypeID(%q): %v", short(name), err)
	}
	return id
}

// load asks the backend for a stream.
func (st *store) load(name string) engine.StreamState {
	st.Helper()
	state, err := st.b.Load(st.Context(), name)
	if err != nil {
		st.Fatalf("Load(%q): %v", short(name), err)
	}
	if state.Name != name {
		st.Fatalf("Load(%q) returns the state of %q", short(name), short(state.Name))
	}
	return state
}

// stream returns the state that the store keeps, as the stream's owner does.
func (st *store) stream(name string) *engine.StreamState {
	st.Helper()
	if st.streams[name] == nil {
		state := st.load(name)
		st.streams[name] = &state
	}
	return st.streams[name]
}

// record returns an event of a type with a payload of its own.
func (st *store) record(typ string) engine.Record {
	st.Helper()
	st.made++
	return engine.Record{Type: typ, TypeID: st.typeID(typ), Data: st.payload(st.made)}
}

// write returns a write of one event for each type.
func (st *store) write(stream string, types ...string) *engine.Write {
	st.Helper()
	w := &engine.Write{Stream: st.stream(stream)}
	for _, typ := range types {
		w.Events = append(w.Events, st.record(typ))
	}
	return w
}

// add commits one write and returns the position of its first event.
func (st *store) add(stream string, types ...string) engine.Position {
	st.Helper()
	pos := engine.Position(len(st.log) + 1) // commit checks that
	st.commit(st.write(stream, types...))
	return pos
}

// expect sets After of each write to what the writes before it make of its stream, and
// returns the events that they are to be, without positions and times.
func (st *store) expect(writes []*engine.Write) (want [][]engine.Event) {
	pending := make(map[string]engine.Version)
	for _, w := range writes {
		w.After = w.Stream.Version + pending[w.Stream.Name]
		pending[w.Stream.Name] += engine.Version(len(w.Events))
		events := make([]engine.Event, len(w.Events))
		for i, r := range w.Events {
			r.Meta.Extra = maps.Clone(r.Meta.Extra)
			version := w.After + 1 + engine.Version(i)
			if p, ok := r.Data.(*engine.Payload); ok { // so that it is seen if the backend changes it
				r.Data = &engine.Payload{Encoding: p.Encoding, Schema: p.Schema, Bytes: bytes.Clone(p.Bytes)}
			}
			events[i] = engine.Event{Stream: w.Stream.Name, Version: version, Type: r.Type, ID: r.ID, Data: r.Data, Meta: r.Meta}
		}
		want = append(want, events)
	}
	return want
}

// took adds what a write has made to the list of what must be there.
func (st *store) took(w *engine.Write, events []engine.Event) {
	for i := range events {
		events[i].Position, events[i].Time = w.Position+engine.Position(i), time.Unix(0, w.UnixNano).UTC()
	}
	st.log = append(st.log, events...)
}

// commit stores the writes, and checks what Commit promises to have done when it
// returns. Afterwards it overwrites what Commit may not have kept.
func (st *store) commit(writes ...*engine.Write) {
	st.Helper()
	want := st.expect(writes)
	if err := st.b.Commit(st.Context(), writes); err != nil {
		st.Fatalf("Commit: %v", err)
	}
	st.committed(writes, want)
}

// committed checks what Commit has done with the writes, which are to be the events
// wanted.
func (st *store) committed(writes []*engine.Write, want [][]engine.Event) {
	st.Helper()
	for i, w := range writes {
		if first := want[i][0]; w.After != first.Version-1 || len(w.Events) != len(want[i]) {
			st.Fatalf("Commit has changed After from %d to %d, or Events from %d to %d of them", first.Version-1, w.After, len(want[i]), len(w.Events))
		}
		if next := engine.Position(len(st.log) + 1); w.Position != next {
			st.Fatalf("Commit gave write %d of %d position %d, want %d: positions are dense, in the order of the writes", i+1, len(writes), w.Position, next)
		}
		if d := w.Durability; d < engine.Volatile || d > engine.Synced || (d == engine.Volatile) == st.caps.Durable {
			st.Fatalf("Commit has set Write.Durability to %v; Caps.Durable is %v", d, st.caps.Durable)
		}
		at := time.Unix(0, w.UnixNano).UTC()
		if at.Year() < 2000 {
			st.Fatalf("Commit has set Write.UnixNano to %d", w.UnixNano)
		}
		if n := len(st.log); n > 0 && at.Before(st.log[n-1].Time) {
			st.Fatalf("time went back: position %d is of %v, position %d of %v", n, st.log[n-1].Time, w.Position, at)
		}
		st.took(w, want[i])
		w.Stream.Version += engine.Version(len(w.Events))
	}
	if head := st.b.Head(); head != engine.Position(len(st.log)) {
		st.Fatalf("Head is %d after Commit gave position %d", head, len(st.log))
	}
	for _, w := range writes {
		spoil(w)
	}
}

// spoil does what the engine may do with a write once Commit has returned: use it for
// something else.
func spoil(w *engine.Write) {
	for i := range w.Events {
		w.Events[i] = engine.Record{Type: "spoilt", TypeID: 1 << 20, ID: "spoilt", Data: "spoilt"}
	}
	w.After, w.Position, w.UnixNano, w.Durability = 1<<40, 1<<40, 0, 0
}

// filter returns a filter by type names and categories.
func (st *store) filter(types, categories []string) engine.Filter {
	st.Helper()
	f := engine.Filter{TypeNames: types, Categories: categories}
	if len(types) > 0 {
		ids := make([]engine.TypeID, len(types))
		for i, name := range types {
			ids[i] = st.typeID(name)
		}
		f.Types = dispatch.NewKindSet(ids...)
	}
	return f
}

// check reads everything back in every way and compares it with what was stored.
func (st *store) check() {
	st.Helper()
	if head := st.b.Head(); head != engine.Position(len(st.log)) {
		st.Fatalf("Head is %d, and %d events are stored", head, len(st.log))
	}
	all := st.all()
	small := max(7, len(st.log)/100)
	for _, size := range []int{1000, small} {
		st.checkRead(all, span{from: 1, to: uint64(len(st.log))}, size)
		st.checkRead(all, span{from: uint64(len(st.log)), to: 1, backward: true}, size)
	}
	st.checkTypes()
	for name, kept := range st.streams {
		state := st.load(name)
		one := st.one(name)
		if state.Deleted != st.deleted[name] {
			st.Fatalf("Load(%q) returns deleted %v, want %v", short(name), state.Deleted, st.deleted[name])
		}
		if state.Version != kept.Version || int(state.Version) != len(one.log) {
			st.Fatalf("Load(%q) returns version %d, and %d events are stored", short(name), state.Version, len(one.log))
		}
		st.checkRead(one, span{from: 1, to: uint64(state.Version)}, 1000)
		st.checkRead(one, span{from: uint64(state.Version), to: 1, backward: true}, small)
	}
}

// checkTypes compares Types with the log.
func (st *store) checkTypes() {
	st.Helper()
	var dst [100]engine.TypeID
	for after := 0; after < len(st.log); {
		for i := range dst {
			dst[i] = 12345 // of another call
		}
		n, err := st.b.Types(engine.Position(after), dst[:])
		if err != nil || n < 1 || n > min(len(dst), len(st.log)-after) {
			st.Fatalf("Types(%d) with room for %d returns %d, %v; Head is %d", after, len(dst), n, err, len(st.log))
		}
		for _, id := range dst[:n] {
			want := st.typeID(st.log[after].Type)
			if st.gone[engine.Position(after+1)] {
				want = 0
			}
			if id != want {
				st.Fatalf("Types says %d of position %d, whose type %q is %d", id, after+1, short(st.log[after].Type), want)
			}
			after++
		}
	}
}

// difference says how an event that was read is not what was stored; "" if it is.
func difference(got, want *engine.Event) string {
	diff := func(what string, got, want any) string {
		if p, ok := got.(*engine.Payload); ok && p != nil {
			got = fmt.Sprintf("payload %s, schema %d, %q", p.Encoding, p.Schema, p.Bytes)
		}
		if p, ok := want.(*engine.Payload); ok {
			want = fmt.Sprintf("payload %s, schema %d, %q", p.Encoding, p.Schema, p.Bytes)
		}
		return fmt.Sprintf("%s is %v, want %v", what, short(fmt.Sprintf("%#v", got)), short(fmt.Sprintf("%#v", want)))
	}
	switch {
	case got.Position != want.Position:
		return diff("Position", got.Position, want.Position)
	case got.Stream != want.Stream:
		return diff("Stream", got.Stream, want.Stream)
	case got.Version != want.Version:
		return diff("Version", got.Version, want.Version)
	case got.Type != want.Type:
		return diff("Type", got.Type, want.Type)
	case got.ID != want.ID:
		return diff("ID", got.ID, want.ID)
	case !got.Time.Equal(want.Time):
		return diff("Time", got.Time, want.Time)
	case got.Time.Location() != time.UTC:
		return diff("the zone of Time", got.Time.Location(), time.UTC)
	case !sameData(got.Data, want.Data):
		return diff("Data", got.Data, want.Data)
	case got.Meta.CorrelationID != want.Meta.CorrelationID:
		return diff("Meta.CorrelationID", got.Meta.CorrelationID, want.Meta.CorrelationID)
	case got.Meta.CausationID != want.Meta.CausationID:
		return diff("Meta.CausationID", got.Meta.CausationID, want.Meta.CausationID)
	case !maps.Equal(got.Meta.Extra, want.Meta.Extra):
		return diff("Meta.Extra", got.Meta.Extra, want.Meta.Extra)
	}
	return ""
}

// sameData compares payloads. That bytes are none, or nil, is the same.
func sameData(got, want any) bool {
	p, ok := want.(*engine.Payload)
	if !ok {
		return reflect.DeepEqual(got, want)
	}
	q, ok := got.(*engine.Payload)
	return ok && q != nil && q.Encoding == p.Encoding && q.Schema == p.Schema && bytes.Equal(q.Bytes, p.Bytes)
}

// short cuts what would make a message unreadable.
func short(s string) string {
	if len(s) <= 100 {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:80], len(s))
}

// cancelled returns a context that is done, and its cause.
func (s *suite) cancelled() (context.Context, error) {
	ctx, cancel := context.WithCancelCause(s.Context())
	cause := fmt.Errorf("the caller has gone away")
	cancel(cause)
	return ctx, cause
}
