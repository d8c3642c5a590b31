package filestore

import (
	"context"
	"sync"

	"github.com/weirstore/weir/actor"
)

// queue is the commits that wait for the writer, in the order in which it takes them. Each
// has a caller that waits for it, so it holds no more than there are callers.
//
// It is no channel, so that a waiting caller need wait for one thing only, its answer: a select of
// that, the end of its context and the end of the store costs four times as much, and the last two are channels
// that all callers share and lock.
type queue struct {
	mu    sync.Mutex // pure memory work
	list  []*commit
	first int  // of list that is still there
	ended bool // the store closes: nothing more is accepted

	writer *actor.Signal // wakes the writer

	// The context that the first caller came with: an engine gives the same one to every call. Its
	// end is told to all that wait, by one goroutine. Callers with another look after theirs.
	once  sync.Once
	ctx   context.Context
	over  bool        // it has ended, and those that waited were told
	unset func() bool // ends the watching
}

// push adds a commit, unless the store closes.
func (q *queue) push(ctx context.Context, c *commit) bool {
	q.once.Do(func() { q.watch(ctx) })
	shared := q.ctx.Done() == ctx.Done()
	q.mu.Lock()
	c.watched = shared && !q.over
	ended := q.ended
	if !ended {
		q.makeRoom()
		q.list = append(q.list, c)
	}
	q.mu.Unlock()
	if !ended {
		q.writer.Wake()
	}
	return !ended
}

// makeRoom moves what waits to the beginning of a list that is full, if most of it was taken: while the writer
// has more to do than it can, the queue is never empty, and would grow for ever. REQUIRES: q.mu.
func (q *queue) makeRoom() {
	if len(q.list) < cap(q.list) || q.first <= len(q.list)/2 {
		return
	}
	n := copy(q.list, q.list[q.first:])
	clear(q.list[n:])
	q.list, q.first = q.list[:n], 0
}

// pop takes the next commit, nil if none waits. The writer alone calls it.
func (q *queue) pop() (c *commit) {
	q.mu.Lock()
	if q.first < len(q.list) {
		c = q.list[q.first]
		q.list[q.first] = nil
		if q.first++; q.first == len(q.list) {
			q.list, q.first = q.list[:0], 0
		}
	}
	q.mu.Unlock()
	return c
}

// wait is pop that waits for a commit. It returns nil when the store closes and all are taken.
func (q *queue) wait() *commit {
	for {
		if c := q.pop(); c != nil {
			return c
		}
		q.writer.Arm()
		q.mu.Lock()
		ready, ended := q.first < len(q.list), q.ended
		q.mu.Unlock()
		switch {
		case ready:
			q.writer.Disarm()
		case ended:
			q.writer.Disarm()
			return nil
		default:
			q.writer.Wait()
		}
	}
}

// len returns how many wait.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.list) - q.first
}

// end accepts nothing more.
func (q *queue) end() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.writer.Wake()
	q.once.Do(func() { q.watch(context.Background()) }) // nobody sets unset any more
	q.unset()
}

func (q *queue) watch(ctx context.Context) {
	q.ctx = ctx // first: tell may run at once
	q.unset = context.AfterFunc(ctx, q.tell)
}

// tell tells all that wait under the watched context that it has ended. Those that the writer has
// taken are answered by it.
func (q *queue) tell() {
	var left []*commit
	q.mu.Lock()
	q.over = true
	for _, c := range q.list[q.first:] {
		if c.watched && c.state.CompareAndSwap(commitWaits, commitLeft) {
			left = append(left, c)
		}
	}
	q.mu.Unlock()
	for _, c := range left {
		c.answer(context.Cause(q.ctx))
	}
}
