package engine

import (
	"slices"
	"sync/atomic"
)

// memStream is a stream's index: 64 bytes, of which an event in a stream of its own needs no more. What
// only some streams have is elsewhere.
//
// The positions of versions 1, 2, … never change once n is above them, so readers take no lock:
// see [memStream.upTo]. They are added under Memory.mu.
type memStream struct {
	name string
	// cut is the first version that is not removed; deletedCut if the stream is deleted.
	// It stands beside the name, which a reader needs next: to look at it costs nothing.
	cut      atomic.Uint64
	n        atomic.Uint64             // versions whose positions are there; stored after them
	first    Position                  // of version 1
	rest     atomic.Pointer[positions] // of the others; nil for most
	category int32                     // length of the category, a prefix of name; immutable
	number   uint32                    // its place among the streams; immutable
	ids      atomic.Pointer[memIDs]    // nil unless an event has an ID, or Compact was there; then fixed
}

// init makes a stream of a zero one.
func (s *memStream) init(number uint32, name string) {
	s.name, s.number, s.category = name, number, int32(len(category(name)))
}

func (s *memStream) fullName() string { return s.name }

// withIDs returns the stream's memIDs, which are there from then on.
func (s *memStream) withIDs() *memIDs {
	if ids := s.ids.Load(); ids != nil {
		return ids
	}
	s.ids.CompareAndSwap(nil, new(memIDs)) // Compact may be faster
	return s.ids.Load()
}

// freed returns up to where Compact has let go. REQUIRES: the token.
func (s *memStream) freed() Version {
	if ids := s.ids.Load(); ids != nil {
		return ids.freed
	}
	return 0
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

// positions are those of versions 2, 3, …. The first block grows by doubling, so that a
// small stream is small; later blocks are fixed, so that a large one is never copied. What is in there
// never changes: what grows or is dropped is replaced.
type positions struct {
	few  []Position // of versions up to indexBlock+1; those above memStream.n are yet to be set
	many *blocks    // of the others; nil for most
}

// blocks are the positions of versions from indexBlock+2 on. Those that Compact has let go of are nil,
// and few is then: a version at or before dropped must not be asked for.
type blocks struct {
	list    []*[indexBlock]Position
	dropped int
}

const indexBlock = 1024

// addLocked adds so many positions, from pos on: of the versions after s.n, in which the caller then
// counts them. REQUIRES: Memory.mu.
func (s *memStream) addLocked(pos Position, count int) {
	n := int(s.n.Load())
	if n == 0 {
		s.first = pos
		n, pos, count = 1, pos+1, count-1
	}
	rest := s.rest.Load()
	for count > 0 {
		var room []Position
		if i := n - 1; i < indexBlock {
			if rest == nil || i == len(rest.few) {
				rest = rest.doubled()
				s.rest.Store(rest)
			}
			room = rest.few[i:]
		} else {
			i -= indexBlock
			if i%indexBlock == 0 {
				rest = rest.withBlock()
				s.rest.Store(rest)
			}
			room = rest.many.list[i/indexBlock][i%indexBlock:]
		}
		room = room[:min(count, len(room))]
		for k := range room {
			room[k] = pos + Position(k)
		}
		n, pos, count = n+len(room), pos+Position(len(room)), count-len(room)
	}
}

// doubled returns positions with twice the room in the first block.
func (x *positions) doubled() *positions {
	if x == nil {
		return &positions{few: make([]Position, 2)}
	}
	few := make([]Position, 2*len(x.few))
	copy(few, x.few)
	return &positions{few: few}
}

// withBlock returns positions with one more block.
func (x *positions) withBlock() *positions {
	var many blocks
	if x.many != nil {
		many = *x.many
	}
	many.list = append(many.list, new([indexBlock]Position)) // a reader's shorter slice is not touched
	return &positions{x.few, &many}
}

// index is a snapshot of a stream's positions.
type index struct {
	n     int
	first Position
	positions
}

// at returns the position of a version from 1 to x.n.
func (x *index) at(v Version) Position {
	if v == 1 {
		return x.first
	}
	i := int(v) - 2
	if i < indexBlock {
		return x.few[i]
	}
	i -= indexBlock
	return x.many.list[i/indexBlock][i%indexBlock]
}

// dropped returns up to where the index has been let go of.
func (x *positions) dropped() int {
	if x.many == nil {
		return 0
	}
	return x.many.dropped
}

// snapshot returns the positions that are there, some of which may not be committed yet.
func (s *memStream) snapshot() (x index) {
	if x.n = int(s.n.Load()); x.n == 0 {
		return x
	}
	x.first = s.first
	if rest := s.rest.Load(); rest != nil { // after n: it has them all, but for what was dropped
		x.positions = *rest
	}
	return x
}

// upTo returns a snapshot of the stream's events at or before head.
func (s *memStream) upTo(head Position) index {
	x := s.snapshot()
	for dropped := x.dropped(); x.n > dropped && x.at(Version(x.n)) > head; {
		x.n-- // in the index, and about to be committed; what was dropped is not
	}
	return x
}

// dropLocked lets go of the blocks whose versions are all at or before v, and returns of how many
// versions. REQUIRES: Memory.mu.
func (s *memStream) dropLocked(v Version) int {
	x := s.snapshot()
	was := x.dropped()
	var many blocks
	switch {
	case x.n == 0 || x.n == was:
		return 0
	case s.deleted() && v == Version(x.n):
		many.dropped = x.n // nothing is ever added
	case int(v) <= indexBlock || x.n <= indexBlock+1:
		return 0 // few is still in use, or grows
	default:
		gone := min((int(v)-indexBlock-1)/indexBlock, (x.n-indexBlock-2)/indexBlock) // not the last one
		many.dropped = indexBlock + 1 + gone*indexBlock
		if many.dropped <= was {
			return 0
		}
		many.list = slices.Clone(x.many.list) // a snapshot's is not touched
		clear(many.list[:gone])
	}
	s.rest.Store(&positions{many: &many})
	return many.dropped - was
}
