package engine

import (
	"fmt"
	"unsafe"
)

// Later returns what a clock makes of readings that come in this order.
func Later(readings ...int64) (times []int64) {
	var c latest
	for _, now := range readings {
		times = append(times, c.later(now))
	}
	return times
}

// CheckpointFailures returns how many saves have failed.
func (e *Engine) CheckpointFailures() int { return int(e.checkpoints.failed.Load()) }

// CachedStates returns how many folded states are kept.
func (e *Engine) CachedStates() (n int) {
	for i := range e.folds.shard {
		sh := &e.folds.shard[i]
		sh.mu.Lock()
		n += sh.order.Len()
		sh.mu.Unlock()
	}
	return n
}

// Deciding returns how many calls of Decide have not returned.
func (e *Engine) Deciding() int { return int(e.deciding.Load()) }

// KeptHandlers returns how many handlers' checkpoints are being kept.
func (e *Engine) KeptHandlers() int {
	if e.checkpoints.take(e.ctx) != nil {
		return -1
	}
	defer e.checkpoints.give()
	return len(e.checkpoints.kept)
}

// GuardWalks returns how many fingerprints the guard has taken, and how many of these ended in a
// panic. Both are 0 if it is off.
func (e *Engine) GuardWalks() (walks, failed int) {
	if e.guard == nil {
		return 0, 0
	}
	return int(e.guard.walks.Load()), int(e.guard.failed.Load())
}

// GuardedCalls returns how many guarded calls have not returned.
func (e *Engine) GuardedCalls() int {
	e.guard.mu.Lock()
	defer e.guard.mu.Unlock()
	return len(e.guard.calls)
}

// Requests says what is wrong with the requests that the gate keeps, when nothing is in flight: "" if each stripe can
// lend one, and none keeps anything that was a caller's.
func (e *Engine) Requests() string {
	for i := range e.gate.stripes {
		g := &e.gate.stripes[i]
		r := g.own
		switch {
		case g.word.Load()&gateSpare == 0:
			return fmt.Sprintf("stripe %d has not got its request back", i)
		case r == nil:
			continue
		case !r.idle, r.op != opAppend, r.rich, len(r.ids) > 0, r.pending != nil, r.err != nil, r.command != nil, r.held != nil, r.fold != nil,
			!r.from.empty(), r.phase.Load() != phaseOpen, r.left.Load(), r.write.Stream != nil, len(r.write.Events) > 0, cap(r.write.Events) > 2*keepSpare:
			return fmt.Sprintf("the request of stripe %d is %+v", i, r)
		case len(r.answered) > 0:
			return fmt.Sprintf("the request of stripe %d has an answer", i)
		}
		for k, ev := range r.write.Events[:cap(r.write.Events)] {
			if ev.Data != nil || ev.rich() {
				return fmt.Sprintf("the request of stripe %d keeps %+v in place %d", i, ev, k)
			}
		}
		for _, id := range r.ids[:cap(r.ids)] {
			if id != "" {
				return fmt.Sprintf("the request of stripe %d keeps the ID %q", i, id)
			}
		}
	}
	return ""
}

// RaceDetector says that this is a build with the race detector.
const RaceDetector = raceDetector

// Fingerprint is what the guard knows of an event at one moment.
type Fingerprint struct{ f *fingerprint }

// FingerprintOf walks an event.
func FingerprintOf(ev Event) Fingerprint { return Fingerprint{fingerprintOf(&ev)} }

// Compare returns the first place that is another now.
func (f Fingerprint) Compare(ev Event) (path string, same bool) {
	return f.f.compare(fingerprintOf(&ev), &ev)
}

// Mutable reports whether the guard looks at an event at all.
func Mutable(ev Event) bool { return mutable(&ev) }

// The bounds of a fingerprint.
const (
	MaxFingerprintValues = maxFingerprintValues
	MaxFingerprintBytes  = maxFingerprintBytes
)

// HashTable is the table of hashes.
type HashTable struct{ t *hashTable }

// NewHashTable returns an empty one.
func NewHashTable() *HashTable { return &HashTable{newHashTable(0)} }

// Put adds a number.
func (h *HashTable) Put(hash, number uint32) {
	h.t = h.t.withRoom()
	h.t.put(hash, number)
}

// Remove takes a number out.
func (h *HashTable) Remove(hash, number uint32) { h.t.remove(hash, number) }

// Shrink makes the table as small as it can be.
func (h *HashTable) Shrink() { h.t = h.t.resized(h.t.n) }

// Find returns the numbers of a hash.
func (h *HashTable) Find(hash uint32) (numbers []uint32) {
	for i, number, ok := h.t.next(hash, h.t.start(hash)); ok; i, number, ok = h.t.next(hash, i+1) {
		numbers = append(numbers, number)
	}
	return numbers
}

// Size returns how many numbers and how many places there are.
func (h *HashTable) Size() (n, places int) { return h.t.n, len(h.t.places) }

// Slab is what the engine's streams are made in.
type Slab[T any] struct{ s slab[T] }

// Add makes a value.
func (s *Slab[T]) Add() (number uint32, v *T) { return s.s.add() }

// At returns the value of a number.
func (s *Slab[T]) At(number uint32) *T { return s.s.all().at(number) }

// Len returns how many values there are.
func (s *Slab[T]) Len() int { return s.s.len() }

// Named is what Names has of a name.
type Named struct {
	Name   string
	Number uint32
	size   [200]byte // a block of the slab has 36 of them
}

// Names is a map as the engine's streams are in.
type Names struct{ s *shards[Named] }

// NewNames returns an empty map.
func NewNames() Names {
	return Names{newShards(func(v *Named) string { return v.Name }, func(v *Named, number uint32, name string) {
		if v.Name != "" || v.size != [200]byte{} {
			panic("in use already")
		}
		v.Name, v.Number, v.size[number%200] = name, number, 1
	})}
}

// Get returns what there is of a name, or nil.
func (n Names) Get(name string) *Named { return n.s.get(name) }

// GetOrPut returns what there is of a name, which there is then.
func (n Names) GetOrPut(name string) *Named { return n.s.getOrPut(name) }

// At returns what has a number.
func (n Names) At(number uint32) *Named { return n.s.values.all().at(number) }

// Len returns how many names there are.
func (n Names) Len() int { return n.s.len() }

// Each calls fn with each.
func (n Names) Each(fn func(*Named) error) error { return n.s.each(fn) }

// StreamIndex is the memory backend's index of one stream.
type StreamIndex struct{ s memStream }

// Add adds positions, as a commit does.
func (x *StreamIndex) Add(positions ...Position) {
	for _, pos := range positions {
		x.s.addLocked(pos, 1)
		x.s.n.Add(1)
	}
}

// Cut removes what is before a version, and lets go of it, as far as can be. It returns of how much.
func (x *StreamIndex) Cut(before Version) int {
	x.s.raiseCut(uint64(before))
	return x.s.dropLocked(before - 1)
}

// Delete removes all.
func (x *StreamIndex) Delete() int {
	x.s.raiseCut(deletedCut)
	return x.s.dropLocked(Version(x.s.n.Load()))
}

// Read returns the version of the first position that is readable, and these up to head.
func (x *StreamIndex) Read(head Position) (first Version, positions []Position) {
	snap := x.s.upTo(head)
	first = max(1, Version(min(x.s.cut.Load(), uint64(snap.n)+1)))
	for v := first; v <= Version(snap.n); v++ {
		positions = append(positions, snap.at(v))
	}
	return first, positions
}

// Snapshot returns what a reader has of the index: the position of a version that was there.
func (x *StreamIndex) Snapshot() func(Version) Position {
	snap := x.s.snapshot()
	return snap.at
}

// MemStreamSize is the size of what the memory backend has for each stream.
const MemStreamSize = unsafe.Sizeof(memStream{})

// IDs is the table of one stream's event IDs.
type IDs struct{ ids memIDs }

// Put adds the ID of a version.
func (x *IDs) Put(hash uint32, v Version) { x.ids.put(hash, v) }

// Forget takes it out.
func (x *IDs) Forget(hash uint32, v Version) { x.ids.forget(hash, v) }

// Find returns the versions of a hash.
func (x *IDs) Find(hash uint32) (versions []uint32) {
	if p := x.ids.part(hash); p != nil {
		return (&HashTable{&p.hashTable}).Find(hash)
	}
	return nil
}

// Size returns how many IDs and how many parts there are, and how many places in the largest.
func (x *IDs) Size() (n, parts, places int) {
	seen := make(map[*idPart]bool)
	for _, p := range x.ids.parts {
		seen[p] = true
		places = max(places, len(p.places))
	}
	return x.ids.n, len(seen), places
}

// HasSpare reports whether the next segment is made already.
func (m *Memory) HasSpare() bool { return m.spare.Load() != nil }

// KeptIDs returns how many event IDs are kept of a stream.
func (m *Memory) KeptIDs(stream string) int {
	s := m.streams.get(stream)
	if s == nil || s.ids.Load() == nil {
		return 0
	}
	ids := s.ids.Load()
	ids.mu.Lock()
	defer ids.mu.Unlock()
	return ids.n
}

// IDHash returns what an ID is looked up by.
func (m *Memory) IDHash(id string) uint32 { return m.idHash(id) | 1 }

// ForgetWishes makes it as if nobody had called WithDurability, until what it returns is called.
func ForgetWishes() (back func()) {
	was := wished.Swap(false)
	return func() { wished.Store(was) }
}
