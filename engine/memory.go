package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Memory is the backend that keeps the log in memory, and the default. It is promptly
// consistent and never fails; what it holds is gone with the process.
//
// The log is a list of segments, fixed arrays of records that never move, behind one
// atomic head: readers take no lock. A stream's index holds positions, and a payload is the
// caller's own value, neither copied nor encoded.
type Memory struct {
	streams *shards[*memStream]
	types   *typeTable
	head    atomic.Uint64
	closed  atomic.Bool
	// segments is replaced, never changed, when a segment is added. Those at or before
	// head/segmentSize are complete.
	segments atomic.Pointer[[]*segment]

	mu    sync.Mutex // held for a commit: pure memory work
	clock clock

	checkMu     sync.Mutex // guards what follows
	checkpoints map[string]Position
	parked      map[string][]ParkedRecord
}

// segmentSize is the number of records in a segment: 56 KiB, so that a small store
// stays small and a large one adds a segment once in a thousand events.
const segmentSize = 1024

type segment [segmentSize]record

// record is a stored event: 56 bytes beyond its payload. Its position is its place.
type record struct {
	stream  *memStream
	data    any
	extra   *extra // nil for most
	time    int64  // Unix ns
	version Version
	typ     TypeID
}

// extra is what few events have.
type extra struct {
	id   string
	meta Metadata
}

// memStream is a stream's index.
type memStream struct {
	name string
	ids  map[string]Version // guarded by mu

	mu       sync.Mutex // pure memory work
	category int32      // length of the category, a prefix of name; immutable
	index    index      // guarded by mu
}

// index holds the positions of versions 1, 2, …: what is in there never changes, so a copy
// of the struct, made under the stream's lock, is a snapshot. The first block grows by doubling,
// so that a small stream is small; later blocks are fixed, so that a large one is never copied.
type index struct {
	first []Position
	more  *[]*[indexBlock]Position // nil for most
	n     int
}

const indexBlock = 1024

// add appends a position. REQUIRES: memStream.mu.
func (x *index) add(pos Position) {
	if x.n < indexBlock {
		x.first = append(x.first, pos)
	} else {
		i := x.n - indexBlock
		if i%indexBlock == 0 {
			var blocks []*[indexBlock]Position
			if x.more != nil {
				blocks = *x.more
			}
			blocks = append(blocks, new([indexBlock]Position)) // a snapshot's shorter slice is not touched
			x.more = &blocks
		}
		(*x.more)[i/indexBlock][i%indexBlock] = pos
	}
	x.n++
}

// at returns the position of a version from 1 to x.n.
func (x *index) at(v Version) Position {
	if v <= indexBlock {
		return x.first[v-1]
	}
	i := int(v) - 1 - indexBlock
	return (*x.more)[i/indexBlock][i%indexBlock]
}

// upTo returns a snapshot of the stream's events at or before head.
func (s *memStream) upTo(head Position) index {
	s.mu.Lock()
	x := s.index
	s.mu.Unlock()
	for x.n > 0 && x.at(Version(x.n)) > head {
		x.n-- // in the index, and about to be committed
	}
	return x
}

// NewMemory returns an empty memory backend.
func NewMemory() *Memory {
	m := &Memory{
		streams:     newShards[*memStream](),
		types:       newTypeTable(),
		checkpoints: make(map[string]Position),
		parked:      make(map[string][]ParkedRecord),
	}
	m.segments.Store(new([]*segment))
	return m
}

// Caps implements [Backend].
func (m *Memory) Caps() Caps { return Caps{Name: "memory", Prompt: true} }

// TypeID implements [Backend].
func (m *Memory) TypeID(name string) (TypeID, error) {
	if err := m.check(); err != nil {
		return 0, err
	}
	return m.types.id(name)
}

// Head implements [Backend].
func (m *Memory) Head() Position { return Position(m.head.Load()) }

// Watch implements [Backend]: nobody else writes to it.
func (m *Memory) Watch(func()) {}

// Close implements [Backend].
func (m *Memory) Close() error {
	m.closed.Store(true)
	return nil
}

func (m *Memory) check() error {
	if m.closed.Load() {
		return ErrClosed
	}
	return nil
}

// Load implements [Backend].
func (m *Memory) Load(_ context.Context, name string) (StreamState, error) {
	if err := m.check(); err != nil {
		return StreamState{}, err
	}
	s, ok := m.streams.get(name)
	if !ok {
		return StreamState{Name: name}, nil
	}
	head := m.Head() // first: what is committed up to here is in the index
	return StreamState{Name: s.name, Version: Version(s.upTo(head).n), Ref: s}, nil
}

func (m *Memory) stream(s StreamState) *memStream {
	if ref, ok := s.Ref.(*memStream); ok {
		return ref
	}
	ref, _ := m.streams.get(s.Name)
	return ref
}

// Find implements [Backend].
func (m *Memory) Find(_ context.Context, state StreamState, ids []string, versions []Version) error {
	if err := m.check(); err != nil {
		return err
	}
	clear(versions)
	s := m.stream(state)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, id := range ids {
		versions[i] = s.ids[id]
	}
	return nil
}

// Commit implements [Backend]. It cannot fail.
func (m *Memory) Commit(_ context.Context, writes []*Write) error {
	if err := m.check(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.now()
	pos := m.Head()
	for _, w := range writes {
		s, ok := w.Stream.Ref.(*memStream)
		if !ok {
			s = m.streams.getOrPut(w.Stream.Name, newMemStream)
			w.Stream.Ref = s
		}
		w.Position, w.Time, w.Durability = pos+1, time.Unix(0, now).UTC(), Volatile
		s.mu.Lock()
		for i := range w.Events {
			pos++
			version := w.After + 1 + Version(i)
			m.place(pos).set(s, version, now, &w.Events[i])
			s.index.add(pos)
			if id := w.Events[i].ID; id != "" {
				if s.ids == nil {
					s.ids = make(map[string]Version)
				}
				s.ids[id] = version
			}
		}
		s.mu.Unlock()
	}
	// The moment at which all of it can be seen: after the records and the indexes.
	m.head.Store(uint64(pos))
	return nil
}

func newMemStream(name string) *memStream {
	return &memStream{name: name, category: int32(len(category(name)))}
}

// place returns the record of a new position. REQUIRES: m.mu.
func (m *Memory) place(pos Position) *record {
	i := int((pos - 1) / segmentSize)
	segs := *m.segments.Load()
	if i == len(segs) {
		grown := append(segs, new(segment)) // a reader's shorter slice is not touched
		m.segments.Store(&grown)
		segs = grown
	}
	return &segs[i][(pos-1)%segmentSize]
}

func (r *record) set(s *memStream, v Version, now int64, ev *Record) {
	r.stream, r.version, r.time, r.typ, r.data = s, v, now, ev.TypeID, ev.Data
	if ev.ID != "" || !ev.Meta.empty() {
		r.extra = &extra{ev.ID, ev.Meta}
	}
}

// record returns the record at pos, which is at or before a head that was read.
func (m *Memory) record(pos Position) *record {
	return &(*m.segments.Load())[(pos-1)/segmentSize][(pos-1)%segmentSize]
}

// event builds the event at pos in place.
func (m *Memory) event(e *Event, pos Position, r *record, names []string) {
	e.Stream = r.stream.name
	e.Version = r.version
	e.Position = pos
	e.Type = names[r.typ]
	e.Time = time.Unix(0, r.time).UTC()
	e.Data = r.data
	if r.extra != nil {
		e.ID, e.Meta = r.extra.id, r.extra.meta
	} else {
		e.ID, e.Meta = "", Metadata{}
	}
}

// Types implements [Backend].
func (m *Memory) Types(after Position, dst []TypeID) (int, error) {
	if err := m.check(); err != nil {
		return 0, err
	}
	n := 0
	for head := m.Head(); after < head && n < len(dst); n++ {
		after++
		dst[n] = m.record(after).typ
	}
	return n, nil
}

// matches reports whether the filter wants a record.
func (f *Filter) matches(r *record) bool {
	return f.Types.Has(r.typ) && (len(f.Categories) == 0 || slices.Contains(f.Categories, r.stream.name[:r.stream.category]))
}

// ReadAll implements [Backend].
func (m *Memory) ReadAll(_ context.Context, q Query, dst []Event) (n int, next Position, err error) {
	if err := m.check(); err != nil {
		return 0, q.From, err
	}
	head := m.Head() // first: the segments and type names of all up to it are there
	segs, names := *m.segments.Load(), m.types.names()
	all := q.Filter.Types == nil && len(q.Filter.Categories) == 0
	pos := q.From
	if q.Backward {
		for pos = min(pos, head); pos >= max(q.To, 1) && n < len(dst); pos-- {
			if r := &segs[(pos-1)/segmentSize][(pos-1)%segmentSize]; all || q.Filter.matches(r) {
				m.event(&dst[n], pos, r, names)
				n++
			}
		}
		return n, pos, nil
	}
	pos = max(pos, 1)
	for to := min(q.To, head); pos <= to && n < len(dst); {
		seg := segs[(pos-1)/segmentSize]
		for i := (pos - 1) % segmentSize; i < segmentSize && pos <= to && n < len(dst); i++ {
			if r := &seg[i]; all || q.Filter.matches(r) {
				m.event(&dst[n], pos, r, names)
				n++
			}
			pos++
		}
	}
	return n, pos, nil
}

// ReadStream implements [Backend].
func (m *Memory) ReadStream(_ context.Context, state StreamState, q StreamQuery, dst []Event) (n int, next Version, err error) {
	if err := m.check(); err != nil {
		return 0, q.From, err
	}
	s := m.stream(state)
	if s == nil {
		return 0, q.From, nil
	}
	x := s.upTo(m.Head())
	names := m.types.names()
	v := q.From
	step := Version(1)
	if q.Backward {
		v, step = min(v, Version(x.n)), ^Version(0)
	} else {
		v = max(v, 1)
	}
	for ; n < len(dst) && v >= 1 && v <= Version(x.n); v += step {
		if q.Backward && v < q.To || !q.Backward && v > q.To {
			break
		}
		pos := x.at(v)
		if r := m.record(pos); q.Filter.matches(r) {
			m.event(&dst[n], pos, r, names)
			n++
		}
	}
	return n, v, nil
}

// LoadCheckpoint implements [Backend].
func (m *Memory) LoadCheckpoint(_ context.Context, handler string) (Position, bool, error) {
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	pos, ok := m.checkpoints[handler]
	return pos, ok, m.check()
}

// SaveCheckpoints implements [Backend].
func (m *Memory) SaveCheckpoints(_ context.Context, checkpoints []Checkpoint) error {
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	if err := m.check(); err != nil {
		return err
	}
	for _, c := range checkpoints {
		m.checkpoints[c.Handler] = c.Position
	}
	return nil
}

// Park implements [Backend].
func (m *Memory) Park(_ context.Context, handler string, parked ParkedRecord) error {
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	if err := m.check(); err != nil {
		return err
	}
	list := m.parked[handler]
	if i := parkedAt(list, parked.Position); i >= 0 {
		list[i] = parked
	} else {
		m.parked[handler] = append(list, parked)
	}
	return nil
}

// Unpark implements [Backend].
func (m *Memory) Unpark(_ context.Context, handler string, pos Position) error {
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	if err := m.check(); err != nil {
		return err
	}
	list := m.parked[handler]
	if i := parkedAt(list, pos); i >= 0 {
		m.parked[handler] = slices.Delete(list, i, i+1)
	}
	return nil
}

// Parked implements [Backend].
func (m *Memory) Parked(_ context.Context, handler string) ([]ParkedRecord, error) {
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	return slices.Clone(m.parked[handler]), m.check()
}

func parkedAt(list []ParkedRecord, pos Position) int {
	return slices.IndexFunc(list, func(p ParkedRecord) bool { return p.Position == pos })
}

// clock gives wall-clock times that never go back. Within a second it counts on with
// the monotonic clock alone, at half the price (BenchmarkClock).
type clock struct {
	base time.Time
	last int64
}

func (c *clock) now() int64 {
	since := time.Since(c.base)
	if since > time.Second || c.base.IsZero() {
		c.base, since = time.Now(), 0
	}
	c.last = max(c.last, c.base.UnixNano()+int64(since))
	return c.last
}

// typeTable gives numbers to type names. Look-ups take no lock.
type typeTable struct {
	mu  sync.Mutex
	now atomic.Pointer[typeNames] // replaced, never changed
}

type typeNames struct {
	ids   map[string]TypeID
	names []string // by TypeID; names[0] is unused
}

// maxTypes bounds the table: type names are code, not data.
const maxTypes = 1 << 16

func newTypeTable() *typeTable {
	t := new(typeTable)
	t.now.Store(&typeNames{ids: map[string]TypeID{}, names: []string{""}})
	return t
}

func (t *typeTable) names() []string { return t.now.Load().names }

func (t *typeTable) id(name string) (TypeID, error) {
	if id, ok := t.now.Load().ids[name]; ok {
		return id, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.now.Load()
	if id, ok := old.ids[name]; ok {
		return id, nil
	}
	if len(old.names) > maxTypes {
		return 0, fmt.Errorf("it would be one more than the %d that a store can have", maxTypes)
	}
	id := TypeID(len(old.names))
	ids := make(map[string]TypeID, len(old.ids)+1)
	for n, i := range old.ids {
		ids[n] = i
	}
	ids[name] = id
	t.now.Store(&typeNames{ids: ids, names: append(old.names, name)})
	return id, nil
}
