package engine

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// shards is a map from names to values that many goroutines use at once. The values are in a slab, and
// know their names, so the tables hold numbers and half of a hash: 8 bytes a place, where a Go map of
// names takes 24. To look a name up takes no lock, and hashes it once; each of 64 tables has a
// lock for who puts. Names are never taken out.
type shards[T any] struct {
	seed   maphash.Seed
	named  func(v *T) string
	init   func(v *T, number uint32, name string)
	values slab[T]
	shard  [64]struct {
		table atomic.Pointer[hashTable] // nil if empty; replaced when it grows
		mu    sync.Mutex                // held to put. Before slab.mu
	}
}

// newShards returns an empty map. Named returns the name of a value, which init makes of a zero one:
// under a lock, so it must be pure memory work.
func newShards[T any](named func(v *T) string, init func(v *T, number uint32, name string)) *shards[T] {
	return &shards[T]{seed: maphash.MakeSeed(), named: named, init: init}
}

// hash returns what find wants of a name, so that it need be computed only once.
func (s *shards[T]) hash(name string) uint64 { return maphash.String(s.seed, name) }

// get returns the value of a name, nil if there is none.
func (s *shards[T]) get(name string) *T { return s.find(s.hash(name), name) }

// getOrPut returns the value of a name, which it makes if there is none.
func (s *shards[T]) getOrPut(name string) *T {
	h := s.hash(name)
	if v := s.find(h, name); v != nil {
		return v
	}
	return s.put(h, name)
}

// find looks for a name whose hash is h.
func (s *shards[T]) find(h uint64, name string) *T {
	t := s.shard[h%uint64(len(s.shard))].table.Load()
	if t == nil {
		return nil
	}
	hash := uint32(h >> 32)
	for i, number, ok := t.next(hash, t.start(hash)); ok; i, number, ok = t.next(hash, i+1) {
		if v := s.values.all().at(number); s.named(v) == name {
			return v
		}
	}
	return nil
}

// put returns the value of a name whose hash is h, which it makes if there is none.
func (s *shards[T]) put(h uint64, name string) *T {
	sh := &s.shard[h%uint64(len(s.shard))]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if v := s.find(h, name); v != nil {
		return v // somebody was faster
	}
	number, v := s.values.add()
	s.init(v, number, name)
	old := sh.table.Load()
	t := old
	if t == nil {
		t = newHashTable(0)
	}
	t = t.withRoom()
	t.put(uint32(h>>32), number)
	if t != old {
		sh.table.Store(t)
	}
	return v
}

// len returns how many names there are.
func (s *shards[T]) len() int { return s.values.len() }

// each calls fn with every value, without a lock, until it returns an error. Values that are
// put meanwhile may be missed.
func (s *shards[T]) each(fn func(*T) error) error {
	for i := range s.shard {
		t := s.shard[i].table.Load()
		if t == nil {
			continue
		}
		for k := range t.places {
			if p := atomic.LoadUint64(&t.places[k]); p != 0 {
				if err := fn(s.values.all().at(uint32(p))); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
