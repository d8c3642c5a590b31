package engine

import (
	"context"
	"sync"
	"sync/atomic"
)

// Memory is the backend that keeps the log in memory, and the default. It is promptly
// consistent and never fails; what it holds is gone with the process.
//
// The log is a list of segments, fixed arrays that never move, behind one atomic head:
// readers take no lock. A stream's index holds positions, and a payload is the
// caller's own value, neither copied nor encoded.
//
// What is written with each commit has cache lines of its own: a processor that reads should not
// have to fetch anew what has not changed.
type Memory struct {
	streams *shards[memStream]
	types   *typeTable
	closed  atomic.Bool
	// segments is replaced, never changed, when a segment is added, or Compact lets go of
	// some: those are nil, or copies without the events that were removed. Those at or before
	// head/segmentSize are complete.
	segments atomic.Pointer[[]*segment]
	// holes says that events were removed: readers then look at each event's stream. It is set
	// before the first event goes. A reader loads segments first: what has holes says so.
	holes atomic.Bool
	clock clock

	_    [64]byte
	head atomic.Uint64
	_    [64]byte

	mu         spinMutex     // held for a commit: pure memory work
	last       latest        // guarded by mu
	compacting chan struct{} // cap 1: a token for who compacts
	// tags has the positions of the events with a tag, ascending. Guarded by mu; what is in
	// a list never changes.
	tags map[string][]Position
	// spare is the next segment, made before it is needed and outside mu, for which others wait;
	// spareMade says that somebody has made it, or is about to.
	spare     atomic.Pointer[segment]
	spareMade atomic.Bool

	checkMu     sync.Mutex // guards what follows
	checkpoints map[string]Position
	parked      map[string][]ParkedRecord
	snapshots   map[*memStream]map[string]Snapshot // by name; most streams have none
}

// spinMutex is a mutex that is held for a fraction of a microsecond. Who finds it taken looks a few times
// more before it sleeps: to be woken costs several microseconds, and a [sync.Mutex] sleeps at once
// while there are other goroutines to run.
type spinMutex struct{ sync.Mutex }

const lockSpins = 64

// Lock locks m.
func (m *spinMutex) Lock() {
	for range lockSpins {
		if m.TryLock() {
			return
		}
	}
	m.Mutex.Lock()
}

// NewMemory returns an empty memory backend.
func NewMemory() *Memory {
	m := &Memory{
		streams:     newShards((*memStream).fullName, (*memStream).init),
		types:       newTypeTable(),
		checkpoints: make(map[string]Position),
		parked:      make(map[string][]ParkedRecord),
		snapshots:   make(map[*memStream]map[string]Snapshot),
		compacting:  make(chan struct{}, 1),
		tags:        make(map[string][]Position),
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
	s := m.streams.get(name)
	if s == nil {
		return StreamState{Name: name}, nil
	}
	head := m.Head() // first: what is committed up to here is in the index
	return StreamState{Name: s.name, Version: Version(s.upTo(head).n), Deleted: s.deleted(), Ref: s}, nil
}

func (m *Memory) stream(s StreamState) *memStream {
	if ref, ok := s.Ref.(*memStream); ok {
		return ref
	}
	return m.streams.get(s.Name)
}

// Commit implements [Backend]. It fails for a deleted stream only.
func (m *Memory) Commit(_ context.Context, writes []*Write) error {
	if err := m.check(); err != nil {
		return err
	}
	now := m.clock.now() // before, as others wait
	m.mu.Lock()
	err := m.commitLocked(writes, now) // it calls nobody that might panic
	m.mu.Unlock()
	return err
}

// commitLocked stores writes at about the time now. REQUIRES: m.mu.
func (m *Memory) commitLocked(writes []*Write, now int64) error {
	for _, w := range writes {
		s, ok := w.Stream.Ref.(*memStream)
		if !ok {
			s = m.streams.getOrPut(w.Stream.Name)
			w.Stream.Ref = s
		}
		if s.deleted() {
			return &StreamDeletedError{s.name}
		}
	}
	now = m.last.later(now)
	pos := m.Head()
	for _, w := range writes {
		m.storeLocked(w, now, pos)
		pos += Position(len(w.Events))
	}
	// The moment at which all of it can be seen: after the records and the indexes.
	m.head.Store(uint64(pos))
	return nil
}

// storeLocked stores a write behind a position. REQUIRES: m.mu.
func (m *Memory) storeLocked(w *Write, now int64, pos Position) {
	w.Position, w.UnixNano, w.Durability = pos+1, now, Volatile
	s := w.Stream.Ref.(*memStream)
	f := fact{now, w.After, s.number, 0}
	rich := false
	for i := 0; i < len(w.Events); {
		seg, at := m.placeLocked(pos + 1 + Position(i))
		n, some := seg.set(at, f, w.Events[i:])
		i, f.version, rich = i+n, f.version+Version(n), rich || some
	}
	s.addLocked(pos+1, len(w.Events))
	if rich {
		m.noteLocked(s, w)
	}
	s.n.Store(s.n.Load() + uint64(len(w.Events)))
}

// noteLocked makes it possible to find events by their IDs and tags. REQUIRES: m.mu.
func (m *Memory) noteLocked(s *memStream, w *Write) {
	for i := range w.Events {
		if id := w.Events[i].ID; id != "" {
			s.withIDs().put(m.idHash(id), w.After+1+Version(i))
		}
		for _, tag := range w.Events[i].Meta.Tags() {
			m.tags[tag] = append(m.tags[tag], w.Position+Position(i))
		}
	}
}

// placeLocked returns the place of a new position. REQUIRES: m.mu.
func (m *Memory) placeLocked(pos Position) (*segment, int) {
	s, i := pos.place()
	segs := *m.segments.Load()
	if s == len(segs) {
		seg := m.spare.Swap(nil)
		if seg == nil {
			seg = newSegment()
		}
		m.spareMade.Store(false)
		grown := append(segs, seg) // a reader's shorter slice is not touched
		m.segments.Store(&grown)
		segs = grown
	}
	return segs[s], i
}

// makeSpare makes the next segment when half of the last is full. The dispatcher's goroutine does that, so that
// appends do not wait for it; least of all for the system, which gives a page of memory to who touches
// it first: here that takes longer than all else that is done with the events for which there is room in it.
func (m *Memory) makeSpare(head Position) {
	if head%segmentSize < segmentSize/2 || m.spareMade.Load() || !m.spareMade.CompareAndSwap(false, true) {
		return
	}
	seg := newSegment()
	seg.touch()
	m.spare.Store(seg)
}

// Types implements [Backend].
func (m *Memory) Types(after Position, dst []TypeID) (int, error) {
	if err := m.check(); err != nil {
		return 0, err
	}
	n := 0
	head := m.Head()
	if head-after < segmentSize/16 {
		m.makeSpare(head)
	}
	v := m.view()
	dst = dst[:min(uint64(len(dst)), uint64(head-min(after, head)))]
	for n < len(dst) {
		seg, i := v.at(after + 1 + Position(n))
		some := dst[n:min(len(dst), n+segmentSize-i)]
		n += len(some)
		if seg == nil {
			clear(some)
			continue
		}
		for k, f := range seg.facts[i : i+len(some)] {
			if some[k] = f.typ; v.holes && v.removed(&f) {
				some[k] = 0
			}
		}
	}
	return n, nil
}
