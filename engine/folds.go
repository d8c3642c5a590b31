package engine

import (
	"container/list"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// folds keeps the folded states of streams that were given commands, as many as
// Options.CachedStates says: those that were used least recently go first. What it returns belongs to the
// stream's owner: nobody else touches it.
type folds struct {
	seed  maphash.Seed
	limit int // of each shard
	// dropped counts the calls of dropAll: what was read from the backend before one is not kept after it.
	dropped atomic.Uint64
	shard   [16]foldShard
}

type foldShard struct {
	mu    sync.Mutex // pure memory work
	byKey map[foldKey]*list.Element
	order list.List // of foldEntry; the last one was used least recently
}

type foldKey struct {
	stream  string
	decider any // the address of a Decider
}

type foldEntry struct {
	key  foldKey
	fold folded
}

func newFolds(limit int) *folds {
	f := &folds{seed: maphash.MakeSeed()}
	f.limit = (limit + len(f.shard) - 1) / len(f.shard)
	for i := range f.shard {
		f.shard[i].byKey = make(map[foldKey]*list.Element)
	}
	return f
}

func (f *folds) of(stream string) *foldShard {
	return &f.shard[maphash.String(f.seed, stream)%uint64(len(f.shard))]
}

// get returns the fold of a stream by a decider, nil if it is not kept.
func (f *folds) get(stream string, decider any) folded {
	sh := f.of(stream)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	el := sh.byKey[foldKey{stream, decider}]
	if el == nil {
		return nil
	}
	sh.order.MoveToFront(el)
	return el.Value.(*foldEntry).fold
}

// has reports whether the fold of a stream by a decider is kept.
func (f *folds) has(stream string, decider any) bool {
	sh := f.of(stream)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.byKey[foldKey{stream, decider}] != nil
}

// put keeps a fold, unless dropAll was called since dropped was read, and returns those that had to go for it. They belong to the owners of their
// streams, of which one may be using its own.
func (f *folds) put(stream string, fold folded, dropped uint64) (evicted []leaver) {
	key := foldKey{stream, fold.decider()}
	sh := f.of(stream)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if f.dropped.Load() != dropped {
		return nil
	}
	if el := sh.byKey[key]; el != nil {
		el.Value.(*foldEntry).fold = fold
		sh.order.MoveToFront(el)
		return nil
	}
	sh.byKey[key] = sh.order.PushFront(&foldEntry{key, fold})
	for sh.order.Len() > f.limit {
		gone := sh.order.Remove(sh.order.Back()).(*foldEntry)
		delete(sh.byKey, gone.key)
		evicted = append(evicted, leaver{gone.key.stream, gone.fold})
	}
	return evicted
}

// takeAll forgets everything, and returns what is wanted of it.
func (f *folds) takeAll(wanted func(folded) bool) (taken []leaver) {
	for i := range f.shard {
		sh := &f.shard[i]
		sh.mu.Lock()
		for key, el := range sh.byKey {
			if fold := el.Value.(*foldEntry).fold; wanted(fold) {
				taken = append(taken, leaver{key.stream, fold})
			}
		}
		clear(sh.byKey)
		sh.order.Init()
		sh.mu.Unlock()
	}
	return taken
}

// drop forgets the folds of a stream: of all deciders, since the events are others now.
func (f *folds) drop(stream string) {
	f.dropIf(f.of(stream), func(k foldKey) bool { return k.stream == stream })
}

// dropAll forgets everything.
func (f *folds) dropAll() {
	f.dropped.Add(1) // first: what is put from here on, and is older, is refused or dropped
	for i := range f.shard {
		f.dropIf(&f.shard[i], func(foldKey) bool { return true })
	}
}

func (f *folds) dropIf(sh *foldShard, gone func(foldKey) bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for key, el := range sh.byKey {
		if gone(key) {
			sh.order.Remove(el)
			delete(sh.byKey, key)
		}
	}
}
