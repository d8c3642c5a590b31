package engine

import "sync/atomic"

// hashTable finds numbers by the hashes of what they stand for: open addressing, where a number is at
// the place that its hash says, or at one of the next. A place is 8 bytes, and nothing for the garbage
// collector. Whoever looks for something compares it with what each number of its hash stands for:
// different things may have one hash.
//
// At most seven places of eight are taken. The table grows by a half, not by two, as memory counts
// more here than the time of growing.
//
// One goroutine may put while others look, which then find the number or do not. For that
// a table never changes its size: see withRoom.
type hashTable struct {
	places []uint64 // 0 is free; else the hash with its lowest bit set, and the number
	n      int      // owner: who puts
}

// minPlaces is the size of the smallest table: 64 bytes, a cache line.
const minPlaces = 8

// newHashTable returns a table with room for n numbers.
func newHashTable(n int) *hashTable {
	return &hashTable{places: make([]uint64, max(minPlaces, (n+6)/7*8))}
}

// start returns the place at which to look for a hash: hashes spread over any number of places. The lowest bit
// does not count here either: where one place ends and the next begins, it would tell them apart.
func (t *hashTable) start(hash uint32) int {
	return int(uint64(hash|1) * uint64(len(t.places)) >> 32)
}

// next returns the first place at or after i that has the hash, and the number that is there. Use:
//
//	for i, number, ok := t.next(hash, t.start(hash)); ok; i, number, ok = t.next(hash, i+1)
func (t *hashTable) next(hash uint32, i int) (at int, number uint32, ok bool) {
	for hash |= 1; ; i++ {
		if i >= len(t.places) {
			i = 0
		}
		p := atomic.LoadUint64(&t.places[i])
		if uint32(p>>32) == hash {
			return i, uint32(p), true
		}
		if p == 0 {
			return i, 0, false
		}
	}
}

// full reports whether there is no room for one more.
func (t *hashTable) full() bool { return t.n == len(t.places)/8*7 }

// withRoom returns the table if it has room for one more, and otherwise a larger copy.
func (t *hashTable) withRoom() *hashTable {
	if !t.full() {
		return t
	}
	return t.resized(t.n + t.n/2)
}

// resized returns a copy with room for n numbers, which must be enough for those that are there.
func (t *hashTable) resized(n int) *hashTable {
	fresh := newHashTable(n)
	for _, p := range t.places {
		if p != 0 {
			fresh.places[fresh.free(uint32(p>>32))] = p
		}
	}
	fresh.n = t.n
	return fresh
}

// free returns the first free place for a hash.
func (t *hashTable) free(hash uint32) int {
	i := t.start(hash)
	for t.places[i] != 0 {
		if i++; i == len(t.places) {
			i = 0
		}
	}
	return i
}

// put adds a number, beside others of its hash. REQUIRES: there is room.
func (t *hashTable) put(hash, number uint32) {
	hash |= 1
	atomic.StoreUint64(&t.places[t.free(hash)], uint64(hash)<<32|uint64(number))
	t.n++
}

// remove takes a number out, and reports whether it was there. REQUIRES: nobody else looks.
func (t *hashTable) remove(hash, number uint32) bool {
	i, found, ok := t.next(hash, t.start(hash))
	for ok && found != number {
		i, found, ok = t.next(hash, i+1)
	}
	if !ok {
		return false
	}
	t.n--
	// What comes after it, up to the next free place, moves up unless that would put it
	// before the place at which one begins to look for it.
	size := len(t.places)
	for k := i; ; {
		t.places[i] = 0
		for {
			if k++; k == size {
				k = 0
			}
			if t.places[k] == 0 {
				return true
			}
			start := t.start(uint32(t.places[k] >> 32))
			if (k-start+size)%size >= (k-i+size)%size {
				break
			}
		}
		t.places[i] = t.places[k]
		i = k
	}
}
