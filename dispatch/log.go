package dispatch

import (
	"context"
	"time"
)

// Kind is a small dense number that stands for an event's type; the first is 1.
// The dispatcher uses it as an array index.
type Kind uint32

// Removed is the kind of an event that the log no longer has. It concerns nobody.
const Removed Kind = 0

// Log is the append-only log as a dispatcher and its handlers see it. Positions
// are dense: the first event is at 1. All methods are called from many goroutines at once.
type Log[E any] interface {
	// Head returns the position of the newest event, 0 if there is none. Every event
	// at or before it can be read, now and later. It never goes down and never blocks.
	Head() uint64

	// Kinds stores in dst the kinds of the events that follow position after, in
	// order, and returns how many it stored: at least one if after < Head. The kind of an
	// event that was removed is [Removed]. Called by the dispatcher alone, near the head; it
	// should not wait for a device.
	Kinds(after uint64, dst []Kind) (int, error)

	// Read stores in dst the events of after < position ≤ to whose kind is in kinds (all
	// if kinds is nil), in order. It returns how many it stored and the position up to which it
	// has looked: all that match up to there are in dst. It must advance: upTo > after. An
	// event may have been removed since Kinds told of it: it is then not among them.
	Read(ctx context.Context, after, to uint64, kinds *KindSet, dst []E) (n int, upTo uint64, err error)

	// Position and Time tell of an event that Read has returned where it stands and
	// when it was stored.
	Position(e *E) uint64
	Time(e *E) time.Time
}

// KindSet is an immutable set of kinds. A nil *KindSet holds every kind.
type KindSet struct {
	bits []uint64
	list []Kind
}

// NewKindSet returns the set of the given kinds.
func NewKindSet(kinds ...Kind) *KindSet {
	s := new(KindSet)
	for _, k := range kinds {
		for int(k)/64 >= len(s.bits) {
			s.bits = append(s.bits, 0)
		}
		if bit := uint64(1) << (k % 64); s.bits[k/64]&bit == 0 {
			s.bits[k/64] |= bit
			s.list = append(s.list, k)
		}
	}
	return s
}

// Has reports whether k is in the set.
func (s *KindSet) Has(k Kind) bool {
	if s == nil {
		return true
	}
	i := int(k / 64)
	return i < len(s.bits) && s.bits[i]>>(k%64)&1 != 0
}

// Kinds returns the members in the order given to NewKindSet. The slice is the set's.
func (s *KindSet) Kinds() []Kind {
	if s == nil {
		return nil
	}
	return s.list
}
