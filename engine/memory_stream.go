package engine

import (
	"slices"
	"sync"
	"sync/atomic"
)

// memStream is a stream's index.
type memStream struct {
	name string
	// cut is the first version that is not removed; deletedCut if the stream is deleted.
	// It stands beside the name, which a reader needs next: to look at it costs nothing.
	cut atomic.Uint64
	ids map[string]Version // guarded by mu

	mu       sync.Mutex // pure memory work
	category int32      // length of the category, a prefix of name; immutable
	number   uint32     // its place among the streams; immutable
	index    index      // guarded by mu
	freed    Version    // up to here Compact has let go of what was removed. owner: Compact
}

// deletedCut is above every version.
const deletedCut = ^uint64(0)

func (s *memStream) deleted() bool { return s.cut.Load() == deletedCut }

// raiseCut moves the cut up, never down.
func (s *memStream) raiseCut(cut uint64) {
	for {
		now := s.cut.Load()
		if cut <= now || s.cut.CompareAndSwap(now, cut) {
			return
		}
	}
}

// index holds the positions of versions 1, 2, …: what is in there never changes, so a copy
// of the struct, made under the stream's lock, is a snapshot. The first block grows by doubling,
// so that a small stream is small; later blocks are fixed, so that a large one is never copied.
//
// What Compact has let go of is nil in copies that replace first and more: a version at or
// before dropped must not be asked for.
type index struct {
	first   []Position
	more    *[]*[indexBlock]Position // nil for most
	n       int
	dropped int
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

// drop lets go of the blocks whose versions are all at or before v. REQUIRES: memStream.mu.
func (x *index) drop(v Version) {
	if v < indexBlock || x.n <= indexBlock {
		return // first is still in use, or grows
	}
	x.first = nil
	gone := min((int(v)-indexBlock)/indexBlock, (x.n-indexBlock-1)/indexBlock) // not the last one
	x.dropped = indexBlock + gone*indexBlock
	blocks := slices.Clone(*x.more) // a snapshot's is not touched
	clear(blocks[:gone])
	x.more = &blocks
}

// upTo returns a snapshot of the stream's events at or before head.
func (s *memStream) upTo(head Position) index {
	s.mu.Lock()
	x := s.index
	s.mu.Unlock()
	for x.n > x.dropped && x.at(Version(x.n)) > head {
		x.n-- // in the index, and about to be committed; what was dropped is not
	}
	return x
}

func (s *memStream) init(number uint32, name string) {
	s.name, s.number, s.category = name, number, int32(len(category(name)))
}

func (s *memStream) fullName() string { return s.name }
