package engine

import (
	"context"
	"hash/maphash"
	"sync"
)

// memIDs is what a stream needs to find events by their IDs, and to forget them: of each ID a hash
// and the version, 8 bytes a place. The text is with the event, and is compared with.
//
// The table is in parts, of IDs whose hashes end with the same bits, so that none is ever large: a commit
// that has to grow one takes microseconds, whatever the stream's size. A part that gets large becomes two.
type memIDs struct {
	mu    sync.Mutex // pure memory work
	parts []*idPart  // by the last bits of a hash, a power of two; a part may be there more than once. Guarded by mu
	n     int        // how many IDs. Guarded by mu
	freed Version    // up to here Compact has let go of what was removed. owner: Compact
}

// idPart has the versions of IDs. If a stream has more than 2^32 events, these are its last 32 bits.
type idPart struct {
	hashTable
	bits int // of hashes, at their end, by which it is known
}

// idsAPart is how many IDs a part has at most, unless their hashes are the same: 1,024 places, 8 KiB.
const idsAPart = 896

// idHash returns the hash of an ID.
func (m *Memory) idHash(id string) uint32 {
	return uint32(maphash.String(m.streams.seed, id) >> 32)
}

// part returns the part of a hash, nil if there is none. The lowest bit of a hash is not used: see hashTable.
func (x *memIDs) part(hash uint32) *idPart {
	if x.parts == nil {
		return nil
	}
	return x.parts[hash>>1&uint32(len(x.parts)-1)]
}

// put adds the ID of a version, which may be there already for one that was removed.
func (x *memIDs) put(hash uint32, v Version) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.parts == nil {
		x.parts = []*idPart{{hashTable: *newHashTable(0)}}
	}
	p := x.part(hash)
	switch {
	case !p.full():
	case p.n == idsAPart:
		x.split(p, hash)
		p = x.part(hash)
	case p.n < idsAPart:
		p.hashTable = *p.resized(min(p.n+p.n/2, idsAPart))
	}
	p.hashTable = *p.withRoom() // which there is, unless too many hashes are the same
	p.put(hash, uint32(v))
	x.n++
}

// split makes two of a part that has a hash. REQUIRES: mu.
func (x *memIDs) split(p *idPart, hash uint32) {
	if len(x.parts) == 1<<p.bits {
		x.parts = append(x.parts, x.parts...)
	}
	var counts [2]int
	half := func(place uint64) int { return int(place>>33>>p.bits) & 1 }
	for _, place := range p.places {
		if place != 0 {
			counts[half(place)]++
		}
	}
	var halves [2]*idPart
	for i, n := range counts {
		halves[i] = &idPart{*newHashTable(n + n/2), p.bits + 1}
	}
	for _, place := range p.places {
		if place != 0 {
			halves[half(place)].put(uint32(place>>32), uint32(place))
		}
	}
	first := int(hash >> 1 & (1<<p.bits - 1))
	for i := first; i < len(x.parts); i += 1 << p.bits {
		x.parts[i] = halves[i>>p.bits&1]
	}
}

// forget removes the ID of a version, and gives back what is not needed then. REQUIRES: mu.
func (x *memIDs) forget(hash uint32, v Version) {
	p := x.part(hash)
	if p == nil || !p.remove(hash, uint32(v)) {
		return
	}
	if x.n--; x.n == 0 {
		x.parts = nil
	} else if len(p.places) > minPlaces && p.n < len(p.places)/4 {
		p.hashTable = *p.resized(p.n + p.n/2)
	}
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
	known := s.ids.Load()
	if known == nil {
		return nil
	}
	// In this order, as in ReadStream; and what is forgotten was cut before, so that of IDs that
	// are forgotten together either all are found or none.
	x := s.upTo(m.Head())
	view := m.view()
	known.mu.Lock()
	defer known.mu.Unlock()
	cut := max(Version(s.cut.Load()), 1)
	for i, id := range ids {
		hash := m.idHash(id)
		p := known.part(hash)
		if p == nil {
			break
		}
		for k, low, ok := p.next(hash, p.start(hash)); ok; k, low, ok = p.next(hash, k+1) {
			for v := Version(low); v <= Version(x.n); v += 1 << 32 {
				if v < cut {
					continue
				}
				if seg, at := view.at(x.at(v)); seg.id(at) == id {
					versions[i] = max(versions[i], v)
				}
			}
		}
	}
	return nil
}
