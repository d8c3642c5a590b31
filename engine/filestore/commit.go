package filestore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/weirstore/weir/engine"
)

// commit is what one call gives to the writer: a batch of records, some control records, or
// something else that only the writer may do.
type commit struct {
	pool       *sync.Pool
	writes     []*engine.Write
	durability engine.Durability // the most that one of the writes asks for
	events     int
	buf        []byte   // the records, unsealed
	ends       []uint32 // where each of them ends in buf

	conditions []engine.TagCondition // of CommitIf
	controls   []control
	call       func(w *writer) error

	// Who was first: the writer, that has taken the commit, or its caller, that has given up, or was
	// told to by the queue if that watches its context.
	state   atomic.Uint32
	watched bool
	err     error
	done    chan struct{} // cap 1: the writer never waits for the caller
}

// control is a control record.
type control struct {
	kind    kind
	stream  string
	version engine.Version
}

const (
	commitWaits uint32 = iota
	commitTaken
	commitLeft
)

// newCommit returns a commit of the store's own pool: two stores share none, since a channel
// that was made in a bubble of testing/synctest cannot be used outside of it, nor the other way round.
func (s *Store) newCommit() *commit {
	if c, ok := s.pool.Get().(*commit); ok {
		return c
	}
	return &commit{pool: &s.pool, done: make(chan struct{}, 1)}
}

// keepBuffer is the size of a buffer that a pooled commit may keep.
const keepBuffer = 64 << 10

func (c *commit) free() {
	if cap(c.buf) > keepBuffer {
		c.buf, c.ends = nil, nil
	}
	*c = commit{pool: c.pool, buf: c.buf[:0], ends: c.ends[:0], done: c.done}
	c.pool.Put(c)
}

// Commit implements [engine.Backend]. The records are encoded here, in the caller's goroutine;
// the writer gives positions, and stores them with those of all others that wait: one write
// and at most one fdatasync. A context that ends before the writer has taken the commit makes it
// return; afterwards the answer is a disk's sync away, and is waited for.
func (s *Store) Commit(ctx context.Context, writes []*engine.Write) error {
	if err := s.check(); err != nil {
		return err
	}
	c := s.newCommit()
	if err := c.encode(writes, s.limit); err != nil {
		c.free()
		return err
	}
	return s.submit(ctx, c)
}

// encode encodes the records, which may have so many bytes in all.
func (c *commit) encode(writes []*engine.Write, limit int64) error {
	c.writes = writes
	for _, w := range writes {
		switch w.Durability {
		case 0, engine.Synced:
			c.durability = engine.Synced
		case engine.Written:
			c.durability = max(c.durability, engine.Written)
		default:
			return fmt.Errorf("filestore: durability %v is none of written, synced", w.Durability)
		}
		c.events += len(w.Events)
	}
	left := c.events
	for _, w := range writes {
		for i := range w.Events {
			left--
			var err error
			c.buf, err = appendRecord(c.buf, w.Stream.Name, w.After+1+engine.Version(i), &w.Events[i], left == 0, limit)
			if err != nil {
				return fmt.Errorf("filestore: event %d for stream %q: %w", i+1, w.Stream.Name, err)
			}
			if size := int64(len(c.buf)); size > limit {
				return &TooLargeError{Size: size, Limit: limit}
			}
			c.ends = append(c.ends, uint32(len(c.buf)))
		}
	}
	if c.events == 0 {
		return fmt.Errorf("filestore: a commit without events")
	}
	return nil
}

// control stores control records, synced (fdatasync).
func (s *Store) control(ctx context.Context, controls ...control) error {
	c := s.newCommit()
	c.controls, c.durability = controls, engine.Synced
	for _, r := range controls {
		c.buf = append(c.buf, controlRecord(r.kind, r.stream, r.version)...)
		c.ends = append(c.ends, uint32(len(c.buf)))
	}
	return s.submit(ctx, c)
}

// call runs fn in the writer's goroutine, after what was committed before.
func (s *Store) call(ctx context.Context, fn func(w *writer) error) error {
	c := s.newCommit()
	c.call = fn
	return s.submit(ctx, c)
}

// submit gives a commit to the writer and waits for the answer.
func (s *Store) submit(ctx context.Context, c *commit) error {
	if ctx.Err() != nil {
		c.free()
		return context.Cause(ctx)
	}
	if !s.commits.push(ctx, c) {
		c.free()
		return engine.ErrClosed
	}
	if c.watched {
		<-c.done
	} else {
		select {
		case <-c.done:
		case <-ctx.Done():
			if c.state.CompareAndSwap(commitWaits, commitLeft) {
				return context.Cause(ctx) // the writer finds c later: it goes to the collector
			}
			<-c.done
		}
	}
	err := c.err
	if c.state.Load() != commitLeft { // else the writer finds it later, too
		c.free()
	}
	return err
}

// answer tells the caller, who may use c anew at once.
func (c *commit) answer(err error) {
	c.err = err
	c.done <- struct{}{}
}
