package engine

import (
	"hash/maphash"
	"maps"
	"slices"
	"sync"
)

// shards is a map from names that many goroutines use at once: 64 maps, each with a
// lock that is held for the look-up alone. It differs from a sync.Map in that a look-up by
// string allocates nothing.
type shards[V any] struct {
	seed  maphash.Seed
	shard [64]struct {
		sync.RWMutex
		m map[string]V
	}
}

func newShards[V any]() *shards[V] {
	s := &shards[V]{seed: maphash.MakeSeed()}
	for i := range s.shard {
		s.shard[i].m = make(map[string]V)
	}
	return s
}

// get returns the value of name.
func (s *shards[V]) get(name string) (v V, ok bool) {
	sh := &s.shard[maphash.String(s.seed, name)%uint64(len(s.shard))]
	sh.RLock()
	v, ok = sh.m[name]
	sh.RUnlock()
	return v, ok
}

// getOrPut returns the value of name, which create makes if there is none. Create runs
// under the lock: it must be pure memory work.
func (s *shards[V]) getOrPut(name string, create func(name string) V) V {
	if v, ok := s.get(name); ok {
		return v
	}
	sh := &s.shard[maphash.String(s.seed, name)%uint64(len(s.shard))]
	sh.Lock()
	defer sh.Unlock()
	v, ok := sh.m[name]
	if !ok {
		v = create(name)
		sh.m[name] = v
	}
	return v
}

// len returns how many names there are.
func (s *shards[V]) len() (n int) {
	for i := range s.shard {
		sh := &s.shard[i]
		sh.RLock()
		n += len(sh.m)
		sh.RUnlock()
	}
	return n
}

// each calls fn with every value, without a lock, until it returns an error. Values that are
// put meanwhile may be missed.
func (s *shards[V]) each(fn func(V) error) error {
	for i := range s.shard {
		sh := &s.shard[i]
		sh.RLock()
		all := slices.Collect(maps.Values(sh.m))
		sh.RUnlock()
		for _, v := range all {
			if err := fn(v); err != nil {
				return err
			}
		}
	}
	return nil
}
