package filestore

import (
	"context"
	"slices"
	"sync"

	"github.com/weirstore/weir/engine"
)

// tags finds events by their tags: for the hash of each tag the positions of its events, as
// the positions of a stream are kept: about three bytes each. What it finds is looked at in the
// log, so two tags of one hash do no harm. Positions of events that were removed stay until the
// store is opened again.
type tags struct {
	mu sync.RWMutex // pure memory work
	m  map[uint64]*positions
}

func newTags() *tags { return &tags{m: make(map[uint64]*positions)} }

// add is called by the writer alone, or before there is one.
func (x *tags) add(hash uint64, pos engine.Position) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.m[hash]
	if p == nil {
		p = new(positions)
		x.m[hash] = p
	}
	if p.n == 0 || p.last < pos { // two tags of one event may have one hash
		p.add(pos)
	}
}

// list returns a snapshot.
func (x *tags) list(hash uint64) positions {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if p := x.m[hash]; p != nil {
		return *p
	}
	return positions{}
}

// hashTag is stored in index files: it never changes.
func hashTag(tag string) uint64 { return mix(hashName(tag) ^ 0x746167) }

// hashTags returns the hashes of an event's tags.
func hashTags(dst []uint64, meta *engine.Metadata) []uint64 {
	for _, tag := range meta.Tags() {
		dst = append(dst, hashTag(tag))
	}
	return dst
}

// candidates returns a cursor at the first position after one at which the rarest of the
// tags is.
func (x *tags) candidates(match *engine.TagMatch, after engine.Position) (best *cursor) {
	left := uint64(0)
	for _, tag := range match.Tags {
		list := x.list(hashTag(tag))
		seen := list.upTo(after)
		if n := list.n - seen; best == nil || n < left {
			c := list.from(seen)
			best, left = &c, n
		}
	}
	return best
}

// CommitIf implements [engine.Tagging]. What was committed before is written, and synced if
// that was asked for, before the conditions are decided on.
func (s *Store) CommitIf(ctx context.Context, writes []*engine.Write, conditions []engine.TagCondition) error {
	if err := s.check(); err != nil {
		return err
	}
	c := s.newCommit()
	if err := c.encode(writes, s.limit); err != nil {
		c.free()
		return err
	}
	c.conditions = conditions
	return s.submit(ctx, c)
}

// decide looks whether a condition has failed. The writer's goroutine, with nothing that is
// not published.
func (s *Store) decide(conditions []engine.TagCondition) error {
	for i, cond := range conditions {
		for k := range cond.Any {
			for c := s.tags.candidates(&cond.Any[k], cond.After); c.i < c.list.n; {
				pos := c.next()
				found, gone, err := s.matchesAt(pos, cond.Any[k:k+1], nil)
				switch {
				case err != nil:
					return err
				case gone:
					return &engine.ConditionError{Condition: i + 1}
				case found:
					return &engine.ConditionError{Condition: i + 1, Position: pos}
				}
			}
		}
	}
	return nil
}

// matchesAt reports whether the event at a position is one that a match means, and stores
// it in ev, if that is not nil. Gone says that it was removed.
func (s *Store) matchesAt(pos engine.Position, matches []engine.TagMatch, ev *engine.Event) (found, gone bool, err error) {
	if ev == nil {
		ev = new(engine.Event)
	}
	for {
		r := s.reader(&engine.Filter{})
		if pos > r.head {
			return false, false, nil
		}
		n, err := r.take(ev, pos)
		if err != nil {
			if s.retry(err) {
				continue
			}
			return false, false, s.readError(err)
		}
		if n == 0 {
			return false, true, nil
		}
		seg := r.segs[segmentAt(r.segs, pos)]
		_, typ := seg.column(seg.index(pos))
		names := ev.Meta.Tags()
		return slices.ContainsFunc(matches, func(m engine.TagMatch) bool { return m.Wants(typ, names) }), false, nil
	}
}

// Matching implements [engine.Tagging].
func (s *Store) Matching(ctx context.Context, matches []engine.TagMatch, after, to engine.Position, dst []engine.Event) (n int, err error) {
	if err := s.check(); err != nil {
		return 0, err
	}
	to = min(to, s.Head())
	cursors := make([]*cursor, len(matches))
	next := make([]engine.Position, len(matches)) // 0 if there are no more
	step := func(i int) {
		if next[i] = 0; cursors[i].i < cursors[i].list.n {
			next[i] = cursors[i].next()
		}
	}
	for i := range matches {
		cursors[i] = s.tags.candidates(&matches[i], after)
		step(i)
	}
	for n < len(dst) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		pos := engine.Position(0)
		for _, p := range next {
			if p != 0 && (pos == 0 || p < pos) {
				pos = p
			}
		}
		if pos == 0 || pos > to {
			break
		}
		found, _, err := s.matchesAt(pos, matches, &dst[n])
		if err != nil {
			return 0, err
		}
		if found {
			n++
		}
		for i := range next {
			if next[i] == pos {
				step(i)
			}
		}
	}
	return n, nil
}
