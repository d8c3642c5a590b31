package engine

import (
	"hash/maphash"
	"slices"
	"sync"
)

// shards is a map from names that many goroutines use at once: 64 tables, each with a lock
// that is held for the look-up alone. The values know their names, so a table holds a pointer and
// half of a hash, 12 bytes a place, where a Go map of names takes 24; and the
// name is hashed once. Names are never taken out.
type shards[T any] struct {
	seed  maphash.Seed
	named func(*T) string
	shard [64]struct {
		sync.RWMutex
		table nameTable[T]
	}
}

func newShards[T any](named func(*T) string) *shards[T] {
	return &shards[T]{seed: maphash.MakeSeed(), named: named}
}

// hash returns what find wants of a name, so that it need be computed only once.
func (s *shards[T]) hash(name string) uint64 { return maphash.String(s.seed, name) }

// get returns the value of name.
func (s *shards[T]) get(name string) (v *T, ok bool) {
	v = s.find(s.hash(name), name)
	return v, v != nil
}

// find returns the value of a name whose hash is h, nil if there is none.
func (s *shards[T]) find(h uint64, name string) (v *T) {
	sh := &s.shard[h%uint64(len(s.shard))]
	sh.RLock()
	v = sh.table.get(uint32(h>>32), name, s.named)
	sh.RUnlock()
	return v
}

// getOrPut returns the value of name, which create makes if there is none. Create runs
// under the lock: it must be pure memory work.
func (s *shards[T]) getOrPut(name string, create func(name string) *T) *T {
	if v, ok := s.get(name); ok {
		return v
	}
	h := maphash.String(s.seed, name)
	sh := &s.shard[h%uint64(len(s.shard))]
	sh.Lock()
	defer sh.Unlock()
	v := sh.table.get(uint32(h>>32), name, s.named)
	if v == nil {
		v = create(name)
		sh.table.put(uint32(h>>32), v)
	}
	return v
}

// len returns how many names there are.
func (s *shards[T]) len() (n int) {
	for i := range s.shard {
		sh := &s.shard[i]
		sh.RLock()
		n += sh.table.n
		sh.RUnlock()
	}
	return n
}

// each calls fn with every value, without a lock, until it returns an error. Values that are
// put meanwhile may be missed.
func (s *shards[T]) each(fn func(*T) error) error {
	for i := range s.shard {
		sh := &s.shard[i]
		sh.RLock()
		all := slices.Clone(sh.table.values)
		sh.RUnlock()
		for _, v := range all {
			if v == nil {
				continue
			}
			if err := fn(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// nameTable is a hash table with open addressing: a value is at the place that its hash says, or at
// one of the next. At most seven places of eight are taken. It grows by a half, not by two, as memory
// counts more here than the time of growing.
type nameTable[T any] struct {
	hashes []uint32 // those of values
	values []*T     // nil is free
	n      int
}

// place returns where to begin: hashes spread over any number of places.
func (t *nameTable[T]) place(hash uint32) int {
	return int(uint64(hash) * uint64(len(t.values)) >> 32)
}

func (t *nameTable[T]) get(hash uint32, name string, named func(*T) string) *T {
	if t.n == 0 {
		return nil
	}
	for i := t.place(hash); ; {
		v := t.values[i]
		if v == nil || t.hashes[i] == hash && named(v) == name {
			return v
		}
		if i++; i == len(t.values) {
			i = 0
		}
	}
}

// put adds a value that is not there.
func (t *nameTable[T]) put(hash uint32, v *T) {
	if t.n >= len(t.values)/8*7 {
		old := *t
		size := max(8, (len(old.values)+len(old.values)/2+7)&^7) // a multiple of 8, and more
		*t = nameTable[T]{hashes: make([]uint32, size), values: make([]*T, size)}
		for i, v := range old.values {
			if v != nil {
				t.put(old.hashes[i], v)
			}
		}
	}
	i := t.place(hash)
	for t.values[i] != nil {
		if i++; i == len(t.values) {
			i = 0
		}
	}
	t.hashes[i], t.values[i] = hash, v
	t.n++
}
