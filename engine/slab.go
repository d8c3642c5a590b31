package engine

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// slab makes values that stay for ever, in blocks, and numbers them, from 1. A number takes half of
// what a pointer takes, and the garbage collector does not look at it. One allocation serves many values, and
// nothing is lost between them.
type slab[T any] struct {
	blocks atomic.Pointer[slabBlocks[T]] // replaced when it grows; what is in there never moves

	mu   sync.Mutex
	last uint32 // the number given last. Guarded by mu
}

// slabBlocks are the values by number. Each block has the numbers from a multiple of slabNumbers on, as
// many of them as fit.
type slabBlocks[T any] [][]T

const (
	slabNumbers = 128
	// slabBytes is the size of a block: a size class of Go's allocator, less what that puts
	// before an object with pointers.
	slabBytes = 8192 - 8
)

func (b slabBlocks[T]) at(number uint32) *T { return &b[number/slabNumbers][number%slabNumbers] }

// perBlock returns how many values a block has: at least two, as number 0 is none.
func (*slab[T]) perBlock() uint32 {
	var v T
	return uint32(min(slabNumbers, max(2, slabBytes/unsafe.Sizeof(v))))
}

// all returns the values that there are. Whoever learnt a number before finds its value there.
func (s *slab[T]) all() slabBlocks[T] {
	if b := s.blocks.Load(); b != nil {
		return *b
	}
	return nil
}

// add makes a value, which nobody else knows yet.
func (s *slab[T]) add() (number uint32, v *T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++ // 2^32 values need more memory than there is
	if s.last%slabNumbers == s.perBlock()%slabNumbers {
		s.last = (s.last + slabNumbers - 1) &^ (slabNumbers - 1)
	}
	all := s.all()
	if int(s.last/slabNumbers) == len(all) {
		grown := append(all, make([]T, s.perBlock())) // a reader's shorter list is not touched
		s.blocks.Store(&grown)
		all = grown
	}
	return s.last, all.at(s.last)
}

// len returns how many values there are.
func (s *slab[T]) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.last/slabNumbers*s.perBlock() + s.last%slabNumbers) // number 0 is none
}
