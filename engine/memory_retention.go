package engine

import (
	"context"
	"slices"
	"sort"
	"time"
	"unsafe"
)

var _ Retention = (*Memory)(nil)

// Truncate implements [Retention].
func (m *Memory) Truncate(_ context.Context, state StreamState, before Version) error {
	if err := m.check(); err != nil {
		return err
	}
	if s := m.stream(state); s != nil {
		m.cut(s, uint64(before))
	}
	return nil
}

// Delete implements [Retention].
func (m *Memory) Delete(_ context.Context, state StreamState) error {
	if err := m.check(); err != nil {
		return err
	}
	s := m.streams.getOrPut(state.Name)
	m.cut(s, deletedCut)
	m.dropSnapshots(s)
	return nil
}

// cut removes what a stream has before a version: the one store at which it is gone for
// all who read.
func (m *Memory) cut(s *memStream, before uint64) {
	m.holes.Store(true) // first, see Memory.holes
	s.raiseCut(before)
}

// Compact implements [Retention]. It lets go of payloads, IDs, the blocks of indexes and the
// segments in which nothing is left. Of the others a copy is made: 42 bytes stay of an event that was
// removed as long as one near it in the log has not been.
func (m *Memory) Compact(ctx context.Context, rules []RetentionRule) (done Compaction, err error) {
	if ctx.Err() != nil {
		return Compaction{}, context.Cause(ctx)
	}
	select {
	case m.compacting <- struct{}{}:
		defer func() { <-m.compacting }()
	case <-ctx.Done():
		return Compaction{}, context.Cause(ctx)
	}
	if err := m.check(); err != nil {
		return Compaction{}, err
	}
	began := time.Now()
	for _, rule := range rules {
		if err := m.apply(ctx, rule, began, &done.Removed); err != nil {
			return Compaction{}, err
		}
	}
	if !m.holes.Load() {
		return done, nil
	}
	// Whole segments only: others are still written to. Their records never change.
	whole := int(m.head.Load() / segmentSize)
	segs := *m.segments.Load()
	touched := make(map[int]struct{}) // segments, by index
	err = m.streams.each(func(s *memStream) error {
		done.Freed += m.free(s, segs, whole, touched)
		return context.Cause(ctx)
	})
	// Even if ctx is done: what was freed of a stream must be freed of its segments.
	done.Freed += m.replace(segs, touched)
	if err != nil {
		return Compaction{}, err
	}
	return done, nil
}

// apply raises the cuts of the streams that a rule is for.
func (m *Memory) apply(ctx context.Context, rule RetentionRule, now time.Time, removed *uint64) error {
	if rule.Stream != "" {
		if s := m.streams.get(rule.Stream); s != nil {
			*removed += m.limit(s, rule, now)
		}
		return nil
	}
	return m.streams.each(func(s *memStream) error {
		if s.name[:s.category] == rule.Category {
			*removed += m.limit(s, rule, now)
		}
		return context.Cause(ctx)
	})
}

// limit raises the cut of one stream as a rule says, and returns how many events that removes.
func (m *Memory) limit(s *memStream, rule RetentionRule, now time.Time) uint64 {
	x := s.upTo(m.Head())
	segs := *m.segments.Load()
	cut := max(s.cut.Load(), 1)
	if cut > uint64(x.n) {
		return 0
	}
	before := cut
	if n := uint64(x.n); rule.MaxCount > 0 && n > rule.MaxCount {
		before = max(before, n-rule.MaxCount+1)
	}
	if rule.MaxAge > 0 {
		// Times never go back, in a stream neither.
		limit := now.Add(-rule.MaxAge).UnixNano()
		before += uint64(sort.Search(x.n-int(before)+1, func(i int) bool {
			seg, at := x.at(Version(before) + Version(i)).place()
			return segs[seg].facts[at].time >= limit
		}))
	}
	if before == cut {
		return 0
	}
	m.cut(s, before)
	return before - cut
}

// freeAtOnce is how many event IDs are forgotten before commits to the stream get their turn.
const freeAtOnce = 1024

// free forgets the IDs of what was removed from a stream, and lets go of the index, as far as it is in the
// first whole segments, which it notes. It returns the bytes of the index. REQUIRES: the token.
func (m *Memory) free(s *memStream, segs []*segment, whole int, touched map[int]struct{}) (bytes int64) {
	cut := s.cut.Load()
	x := s.snapshot()
	last := Version(min(cut-min(cut, 1), uint64(x.n)))
	if last == 0 {
		return 0
	}
	ids := s.withIDs()
	for ids.freed < last {
		ids.mu.Lock()
		for n := 0; n < freeAtOnce && ids.freed < last; n++ {
			v := ids.freed + 1
			seg, i := x.at(v).place()
			if seg >= whole {
				last = ids.freed
				break
			}
			if id := segs[seg].id(i); id != "" {
				ids.forget(m.idHash(id), v)
			}
			touched[seg] = struct{}{}
			ids.freed = v
		}
		ids.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(s.dropLocked(ids.freed)) * int64(unsafe.Sizeof(Position(0)))
}

// replace puts copies without the records that were removed in the place of segments, and
// nothing in the place of those in which nothing is left. It returns the bytes of the latter.
// A reader goes on with what it has.
func (m *Memory) replace(segs []*segment, touched map[int]struct{}) (bytes int64) {
	fresh := make(map[int]*segment, replaceAtOnce)
	streams := m.streams.values.all()
	for i := range touched {
		if fresh[i] = segs[i].withoutFreed(streams); fresh[i] == nil {
			bytes += segmentSize * int64(unsafe.Sizeof(fact{})+unsafe.Sizeof(segs[i].data[0]))
		}
		if len(fresh) == replaceAtOnce {
			m.swap(fresh)
			clear(fresh)
		}
	}
	m.swap(fresh)
	return bytes
}

// replaceAtOnce bounds the memory that copies take while what they replace is still there:
// 11 MiB, and what IDs and metadata take.
const replaceAtOnce = 256

// withoutFreed returns a copy without the events that free has let go of, or nil if none is
// left. What was removed since then stays until the next time: free has yet to see it.
func (seg *segment) withoutFreed(streams slabBlocks[memStream]) *segment {
	var kept *segment
	for i := range seg.facts {
		f := &seg.facts[i]
		if f.stream == 0 || f.version <= streams.at(f.stream).freed() {
			continue
		}
		if kept == nil {
			kept = newSegment()
		}
		kept.facts[i], kept.data[i] = *f, seg.data[i]
		if id := seg.id(i); id != "" {
			kept.setID(i, id)
		}
		if meta := seg.meta(i); meta != nil {
			kept.setMeta(i, meta)
		}
	}
	return kept
}

// swap puts segments in their places.
func (m *Memory) swap(fresh map[int]*segment) {
	m.mu.Lock() // a commit may be about to add a segment
	defer m.mu.Unlock()
	all := slices.Clone(*m.segments.Load())
	for i, seg := range fresh {
		all[i] = seg
	}
	m.segments.Store(&all)
}
