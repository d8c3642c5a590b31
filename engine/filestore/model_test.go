package filestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// quiet keeps what tests provoke out of their output.
var quiet = slog.New(slog.DiscardHandler)

// model is a store under test beside the plain lists that it must agree with.
type model struct {
	testing.TB
	s       *filestore.Store
	rng     *rand.Rand
	log     []fact // all that was ever stored; the one at position p is log[p-1]
	streams map[string]*modelStream
	saved   map[string]engine.Position
}

type modelStream struct {
	state   engine.StreamState
	version engine.Version
	before  engine.Version // versions before it are removed
	deleted bool
}

// fact is an event of the model.
type fact struct {
	stream  string
	version engine.Version
	typ, id string
	data    []byte
	meta    engine.Metadata
}

func newModel(t testing.TB, s *filestore.Store, seed uint64) *model {
	return &model{TB: t, s: s, rng: rand.New(rand.NewPCG(seed, 1)), streams: make(map[string]*modelStream), saved: make(map[string]engine.Position)}
}

func (m *model) stream(name string) *modelStream {
	st := m.streams[name]
	if st == nil {
		st = &modelStream{state: engine.StreamState{Name: name}}
		m.streams[name] = st
	}
	return st
}

func (m *model) name() string { return fmt.Sprintf("%c-%d", 'a'+m.rng.IntN(3), m.rng.IntN(5)) }

// fact makes an event for a stream.
func (m *model) fact(stream string, version engine.Version) fact {
	f := fact{stream: stream, version: version, typ: []string{"A", "B", "C"}[m.rng.IntN(3)]}
	f.data = fmt.Appendf(nil, "%s@%d#%d:%s", stream, version, len(m.log), bytes.Repeat([]byte{'x'}, m.rng.IntN(400)))
	if m.rng.IntN(50) == 0 {
		f.data = append(f.data, make([]byte, m.rng.IntN(20_000))...)
	}
	if m.rng.IntN(3) == 0 {
		f.id = fmt.Sprintf("id-%d", version)
	}
	if m.rng.IntN(4) == 0 {
		f.meta = engine.Metadata{CorrelationID: "c", Extra: map[string]string{"k": fmt.Sprint(version)}}
	}
	return f
}

func (f *fact) record(s *filestore.Store, encoding string) engine.Record {
	typ, err := s.TypeID(f.typ)
	if err != nil {
		panic(err)
	}
	return engine.Record{Type: f.typ, TypeID: typ, ID: f.id, Meta: f.meta, Data: &engine.Payload{Encoding: encoding, Schema: 1, Bytes: f.data}}
}

// commit stores one batch of a few events for a few streams. What the model holds is
// changed only if the store says that it is stored.
func (m *model) commit(ctx context.Context) error {
	var writes []*engine.Write
	var facts []fact
	versions := make(map[string]engine.Version)
	for range 1 + m.rng.IntN(3) {
		name := m.name()
		st := m.stream(name)
		if st.deleted {
			continue
		}
		if _, ok := versions[name]; !ok {
			versions[name] = st.version
		}
		w := &engine.Write{Stream: &st.state, After: versions[name]}
		if m.rng.IntN(4) == 0 {
			w.Durability = engine.Written
		}
		for range 1 + m.rng.IntN(4) {
			versions[name]++
			f := m.fact(name, versions[name])
			w.Events = append(w.Events, f.record(m.s, []string{"json", "bytes", "text", "proto"}[m.rng.IntN(4)]))
			facts = append(facts, f)
		}
		writes = append(writes, w)
	}
	if len(writes) == 0 {
		return nil
	}
	if err := m.s.Commit(ctx, writes); err != nil {
		return err
	}
	m.log = append(m.log, facts...)
	for name, v := range versions {
		m.streams[name].version, m.streams[name].state.Version = v, v
	}
	return nil
}

func (m *model) truncate(ctx context.Context) error {
	st := m.stream(m.name())
	before := engine.Version(m.rng.IntN(int(st.version) + 2))
	if err := m.s.Truncate(ctx, st.state, before); err != nil {
		return err
	}
	st.before = max(st.before, before)
	return nil
}

func (m *model) delete(ctx context.Context) error {
	st := m.stream(m.name())
	if err := m.s.Delete(ctx, st.state); err != nil {
		return err
	}
	st.deleted = true
	return nil
}

// removed reports whether an event of the model is gone.
func (m *model) removed(f *fact) bool {
	st := m.streams[f.stream]
	return st.deleted || f.version < st.before
}

// reopened goes on with another store over the same place.
func (m *model) reopened(s *filestore.Store) {
	m.s = s
	for name, st := range m.streams {
		st.state = engine.StreamState{Name: name, Version: st.version}
	}
}

// check reads everything in every way and compares it with the model.
func (m *model) check() {
	m.Helper()
	ctx := context.Background()
	if head := m.s.Head(); head != engine.Position(len(m.log)) {
		m.Fatalf("Head is %d, %d events were stored", head, len(m.log))
	}
	var want []int
	for i := range m.log {
		if !m.removed(&m.log[i]) {
			want = append(want, i)
		}
	}
	dst := make([]engine.Event, 7)
	got := 0
	for pos := engine.Position(1); pos <= m.s.Head(); {
		n, next, err := m.s.ReadAll(ctx, engine.Query{From: pos, To: m.s.Head()}, dst)
		if err != nil || next <= pos {
			m.Fatalf("ReadAll from %d: %d, %d, %v", pos, n, next, err)
		}
		for _, ev := range dst[:n] {
			if got >= len(want) {
				m.Fatalf("ReadAll has %s@%d too many", ev.Stream, ev.Version)
			}
			m.same(&ev, want[got])
			got++
		}
		pos = next
	}
	if got != len(want) {
		m.Fatalf("ReadAll has %d events, want %d", got, len(want))
	}
	for pos := m.s.Head(); pos > 0; {
		n, next, err := m.s.ReadAll(ctx, engine.Query{From: pos, To: 1, Backward: true}, dst)
		if err != nil || next >= pos {
			m.Fatalf("ReadAll backward from %d: %d, %d, %v", pos, n, next, err)
		}
		for _, ev := range dst[:n] {
			got--
			m.same(&ev, want[got])
		}
		pos = next
	}
	if got != 0 {
		m.Fatalf("ReadAll backward lacks %d events", got)
	}
	m.checkTypes()
	for name, st := range m.streams {
		m.checkStream(name, st)
	}
}

func (m *model) checkTypes() {
	m.Helper()
	types := make([]engine.TypeID, 11)
	for after := engine.Position(0); after < m.s.Head(); {
		n, err := m.s.Types(after, types)
		if err != nil || n == 0 {
			m.Fatalf("Types after %d: %d, %v", after, n, err)
		}
		for _, typ := range types[:n] {
			f := &m.log[after]
			want := engine.TypeID(0)
			if !m.removed(f) {
				want, _ = m.s.TypeID(f.typ)
			}
			if after++; typ != want {
				m.Fatalf("type %d at position %d, want %d", typ, after, want)
			}
		}
	}
}

func (m *model) checkStream(name string, st *modelStream) {
	m.Helper()
	ctx := context.Background()
	state, err := m.s.Load(ctx, name)
	if err != nil || state.Version != st.version || state.Deleted != st.deleted {
		m.Fatalf("Load of %q: %+v, %v; want version %d, deleted %v", name, state, err, st.version, st.deleted)
	}
	var want []int
	ids := make(map[string]engine.Version)
	for i := range m.log {
		f := &m.log[i]
		if f.stream != name {
			continue
		}
		if f.id != "" {
			ids[f.id] = f.version
		}
		if !m.removed(f) {
			want = append(want, i)
		} else if f.id != "" {
			ids[f.id] = 0
		}
	}
	dst := make([]engine.Event, 3)
	got := 0
	for v := engine.Version(1); v <= st.version; {
		n, next, err := m.s.ReadStream(ctx, state, engine.StreamQuery{From: v, To: st.version}, dst)
		if err != nil || next <= v {
			m.Fatalf("ReadStream of %q from %d: %d, %d, %v", name, v, n, next, err)
		}
		for _, ev := range dst[:n] {
			m.same(&ev, want[got])
			got++
		}
		v = next
	}
	if got != len(want) {
		m.Fatalf("ReadStream of %q has %d events, want %d", name, got, len(want))
	}
	for v := st.version; v > 0; {
		n, next, err := m.s.ReadStream(ctx, state, engine.StreamQuery{From: v, To: 1, Backward: true}, dst)
		if err != nil || next >= v {
			m.Fatalf("ReadStream of %q backward from %d: %d, %d, %v", name, v, n, next, err)
		}
		for _, ev := range dst[:n] {
			got--
			m.same(&ev, want[got])
		}
		v = next
	}
	if got != 0 {
		m.Fatalf("ReadStream of %q backward lacks %d events", name, got)
	}
	for id, version := range ids {
		var found [1]engine.Version
		if err := m.s.Find(ctx, state, []string{id}, found[:]); err != nil || found[0] != version {
			m.Fatalf("Find of %q in %q: version %d, %v; want %d", id, name, found[0], err, version)
		}
	}
}

// same compares an event that was read with the model's i-th.
func (m *model) same(ev *engine.Event, i int) {
	m.Helper()
	f := &m.log[i]
	p := ev.Data.(*engine.Payload)
	if ev.Position != engine.Position(i+1) || ev.Stream != f.stream || ev.Version != f.version || ev.Type != f.typ || ev.ID != f.id ||
		!bytes.Equal(p.Bytes, f.data) || ev.Meta.CorrelationID != f.meta.CorrelationID || ev.Meta.Extra["k"] != f.meta.Extra["k"] {
		m.Fatalf("read %d %s@%d %s %q (%d bytes), want %d %s@%d %s %q (%d bytes)", ev.Position, ev.Stream, ev.Version, ev.Type, ev.ID, len(p.Bytes),
			i+1, f.stream, f.version, f.typ, f.id, len(f.data))
	}
}

// TestModel does at random what can be done with a store, and compares it with lists. Small
// segments make every operation meet every other.
func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			opts := filestore.Options{SegmentSize: 64 << 10, TailEvents: 300, CacheBytes: 256 << 10, Logger: quiet}
			open := func() *filestore.Store {
				s, err := filestore.Open(dir, opts)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			m := newModel(t, open(), seed)
			defer func() { m.s.Close() }()
			ctx := t.Context()
			for step := range 600 {
				var err error
				switch n := m.rng.IntN(100); {
				case n < 84:
					err = m.commit(ctx)
				case n < 90:
					err = m.truncate(ctx)
				case n == 90 && m.rng.IntN(4) == 0:
					err = m.delete(ctx)
				case n < 94:
					_, err = m.s.Compact(ctx, nil)
				case n < 97:
					if err = m.s.Close(); err == nil {
						m.reopened(open())
					}
				case n == 97:
					m.check()
				}
				if _, gone := errors.AsType[*engine.StreamDeletedError](err); err != nil && !gone {
					t.Fatalf("step %d: %v", step, err)
				}
			}
			m.check()
			if err := m.s.Close(); err != nil {
				t.Fatal(err)
			}
			v, err := filestore.Verify(dir)
			if err != nil || v.Err() != nil || !v.Clean || v.Torn != nil || v.Head != engine.Position(len(m.log)) {
				t.Fatalf("Verify: %+v, %v", v, err)
			}
			m.reopened(open())
			m.check()
		})
	}
}
