package engine

import (
	"context"
	"slices"
	"sort"
)

// CommitIf implements [Tagging].
func (m *Memory) CommitIf(_ context.Context, writes []*Write, conditions []TagCondition) error {
	if err := m.check(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.view()
	for i, c := range conditions {
		for k := range c.Any {
			for _, pos := range m.candidatesLocked(&c.Any[k], c.After) {
				seg, at := v.at(pos)
				switch {
				case seg == nil || v.removed(&seg.facts[at]):
					return &ConditionError{Condition: i + 1}
				case seg.wanted(at, &c.Any[k]):
					return &ConditionError{i + 1, pos}
				}
			}
		}
	}
	return m.commitLocked(writes, m.clock.now())
}

// candidatesLocked returns the positions after one at which the rarest of the tags is: what
// is to be looked at. The list never changes. REQUIRES: m.mu.
func (m *Memory) candidatesLocked(match *TagMatch, after Position) []Position {
	var best []Position
	for i, tag := range match.Tags {
		list := m.tags[tag]
		list = list[sort.Search(len(list), func(k int) bool { return list[k] > after }):]
		if i == 0 || len(list) < len(best) {
			best = list
		}
	}
	return best
}

// wanted reports whether an event has the type and the tags of a match.
func (seg *segment) wanted(i int, match *TagMatch) bool {
	meta := seg.meta(i)
	return meta != nil && match.Wants(seg.facts[i].typ, meta.Tags())
}

// Matching implements [Tagging].
func (m *Memory) Matching(_ context.Context, matches []TagMatch, after, to Position, dst []Event) (n int, err error) {
	if err := m.check(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	lists := make([][]Position, len(matches))
	for i := range matches {
		lists[i] = m.candidatesLocked(&matches[i], after)
	}
	m.mu.Unlock()
	to = min(to, m.Head()) // after the lists: what they have up to it is readable
	v := m.view()
	var when instant
	for pos := range ascending(lists) {
		if pos > to || n == len(dst) {
			break
		}
		seg, i := v.at(pos)
		if seg == nil || v.removed(&seg.facts[i]) || !slices.ContainsFunc(matches, func(c TagMatch) bool { return seg.wanted(i, &c) }) {
			continue
		}
		v.event(&dst[n], pos, &when)
		n++
	}
	return n, nil
}

// ascending goes through lists of ascending positions, as one without repetitions.
func ascending(lists [][]Position) func(yield func(Position) bool) {
	return func(yield func(Position) bool) {
		for {
			next := Position(0)
			for _, l := range lists {
				if len(l) > 0 && (next == 0 || l[0] < next) {
					next = l[0]
				}
			}
			if next == 0 || !yield(next) {
				return
			}
			for i, l := range lists {
				if len(l) > 0 && l[0] == next {
					lists[i] = l[1:]
				}
			}
		}
	}
}
