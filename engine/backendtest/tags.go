package backendtest

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/weirstore/weir/engine"
)

var tagCases = []testCase{
	{
		name: "tags",
		why:  "a decision is made on the events that a look-up by tags has found: one that it leaves out is a rule that does not hold",
		run:  tags,
	},
	{
		name: "conditions",
		why:  "what was stored since a decision was made must be seen, all of it and nothing else",
		run:  conditions,
	},
	{
		name: "conditions-concurrently",
		why:  "two decisions on one state, each stored on the condition that the other was not: both must never be (write skew)",
		run:  conditionsConcurrently,
	},
	{
		name:  "tags-reopen",
		why:   "an index of tags that is older than the log hides what was stored last",
		needs: "Reopen",
		run:   tagsReopen,
	},
}

// tagging returns what a backend has to find events by tags, or skips the case.
func (st *store) tagging() engine.Tagging {
	b, ok := st.b.(engine.Tagging)
	if !ok {
		st.Skipf("the backend does not implement engine.Tagging")
	}
	return b
}

// tagged returns a write of one event with tags.
func (st *store) tagged(stream, typ string, tags ...string) *engine.Write {
	w := st.write(stream, typ)
	if len(tags) > 0 {
		w.Events[0].Meta = engine.NewEvent{}.WithTags(tags...).Meta
	}
	return w
}

func (st *store) match(types []string, tags ...string) engine.TagMatch {
	return engine.TagMatch{Types: st.filter(types, nil).Types, Tags: tags}
}

// checkMatching compares what the backend finds with what is in the log, with room for few
// events and for many.
func (st *store) checkMatching(after, to engine.Position, matches ...engine.TagMatch) {
	st.Helper()
	var want []engine.Position
	for i := range st.log {
		e := &st.log[i]
		wanted := func(m engine.TagMatch) bool { return m.Wants(st.typeID(e.Type), e.Meta.Tags()) }
		if e.Position > after && e.Position <= to && !st.gone[e.Position] && slices.ContainsFunc(matches, wanted) {
			want = append(want, e.Position)
		}
	}
	for _, room := range []int{1, 3, 1000} {
		dst := make([]engine.Event, room)
		at, found := after, 0
		for {
			n, err := st.tagging().Matching(st.Context(), matches, at, to, dst)
			if err != nil || n > len(want)-found {
				st.Fatalf("Matching(%v, %d, %d) with room for %d returns %d after %d events, %v; want %d in all", matches, at, to, room, n, found, err, len(want))
			}
			for _, e := range dst[:n] {
				if e.Position != want[found] {
					st.Fatalf("Matching(%v, %d, %d) has position %d where %d must come", matches, at, to, e.Position, want[found])
				}
				if d := difference(&e, &st.log[e.Position-1]); d != "" {
					st.Fatalf("Matching(%v) at position %d: %s", matches, e.Position, d)
				}
				at = e.Position
				found++
			}
			if n < room {
				break
			}
		}
		if found != len(want) {
			st.Fatalf("Matching(%v, %d, %d) with room for %d finds %d events, want %d", matches, after, to, room, found, len(want))
		}
	}
}

// addTagged stores events of every kind of tags.
func (st *store) addTagged(rounds int) {
	for i := range rounds {
		st.commit(st.tagged("a-1", "A", "x"), st.tagged("a-1", "B", "x", "y"), st.tagged("b-1", "A"))
		st.commit(st.tagged("b-1", "A", "y", fmt.Sprint("n-", i%5), "x"))
		st.commit(st.tagged("c-1", "B", "xy", "naïve 🦫", fmt.Sprint("n-", i)))
	}
}

func (st *store) checkTags() {
	st.Helper()
	head := st.b.Head()
	for _, span := range [][2]engine.Position{{0, head}, {0, head + 9}, {head / 2, head}, {head / 3, head/3 + 4}, {head, head}, {head - 1, head}} {
		for _, matches := range [][]engine.TagMatch{
			{st.match(nil, "x")},
			{st.match(nil, "x", "y")},
			{st.match(nil, "y", "x")},
			{st.match([]string{"B"}, "x")},
			{st.match([]string{"A", "B"}, "y")},
			{st.match(nil, "naïve 🦫")},
			{st.match(nil, "n-1"), st.match([]string{"A"}, "x"), st.match(nil, "nobody")},
			{st.match(nil, "x"), st.match(nil, "y")},
			{st.match(nil, "nobody")},
			{st.match(nil, "x", "nobody")},
		} {
			st.checkMatching(span[0], span[1], matches...)
		}
	}
}

func tags(s *suite) {
	st := s.store()
	st.tagging()
	st.checkTags()
	st.addTagged(12)
	st.checkTags()
	st.check()
	if _, ok := st.b.(engine.Retention); !ok {
		return
	}
	st.truncate("a-1", 9)
	st.delete("c-1")
	st.checkTags()
	st.compact(0)
	st.checkTags()
	st.add("a-1", "A")
	st.commit(st.tagged("a-1", "A", "x", "n-1"))
	st.checkTags()
}

// commitIf commits on conditions, and checks that it fails by the one that it must fail by.
func (st *store) commitIf(fails int, conditions []engine.TagCondition, writes ...*engine.Write) {
	st.Helper()
	want := st.expect(writes)
	err := st.tagging().CommitIf(st.Context(), writes, conditions)
	if fails == 0 {
		if err != nil {
			st.Fatalf("CommitIf(%v) returns %v, want it stored", conditions, err)
		}
		st.committed(writes, want)
		return
	}
	failed, ok := errors.AsType[*engine.ConditionError](err)
	if !ok || failed.Condition != fails {
		st.Fatalf("CommitIf(%v) returns %v, want condition %d to fail", conditions, err, fails)
	}
	if p := failed.Position; p != 0 {
		c := conditions[fails-1]
		if p <= c.After || p > engine.Position(len(st.log)) || !slices.ContainsFunc(c.Any, func(m engine.TagMatch) bool {
			return m.Wants(st.typeID(st.log[p-1].Type), st.log[p-1].Meta.Tags())
		}) {
			st.Fatalf("CommitIf(%v) fails by position %d, which it does not look for", conditions, p)
		}
	}
	if head := st.b.Head(); head != engine.Position(len(st.log)) {
		st.Fatalf("CommitIf has failed, and Head is %d; it was %d", head, len(st.log))
	}
}

func conditions(s *suite) {
	st := s.store()
	st.tagging()
	on := func(after engine.Position, matches ...engine.TagMatch) engine.TagCondition {
		return engine.TagCondition{Any: matches, After: after}
	}
	x, xy := st.match(nil, "x"), st.match([]string{"A"}, "x", "y")
	st.commitIf(0, []engine.TagCondition{on(0, x, xy)}, st.tagged("a-1", "A", "x")) // 1; it is not looked for itself
	st.commitIf(1, []engine.TagCondition{on(0, x)}, st.tagged("b-1", "A", "y"))
	st.commitIf(0, []engine.TagCondition{on(1, x), on(0, xy)}, st.tagged("b-1", "B", "x", "y"), st.tagged("c-1", "A", "y")) // 2, 3
	st.commitIf(0, []engine.TagCondition{on(0, xy), on(2, x)}, st.tagged("c-1", "A", "z"))                                  // 4
	st.commitIf(2, []engine.TagCondition{on(0, xy), on(1, x)}, st.tagged("c-1", "A", "z"))
	st.commitIf(0, nil, st.tagged("c-1", "A", "z", "y", "x")) // 5
	st.commitIf(1, []engine.TagCondition{on(4, st.match(nil, "nobody"), xy)}, st.tagged("d-1", "A"))
	st.commitIf(0, []engine.TagCondition{on(5, xy), on(5, x), on(100, x)}, st.tagged("d-1", "A"))
	st.check()
	if _, ok := st.b.(engine.Retention); !ok {
		return
	}
	// What was removed after it was looked for was stored all the same.
	st.truncate("c-1", 4)
	st.commitIf(1, []engine.TagCondition{on(4, x)}, st.tagged("d-1", "A"))
	st.commitIf(0, []engine.TagCondition{on(5, x)}, st.tagged("d-1", "A"))
	st.check()
}

func conditionsConcurrently(s *suite) {
	st := s.store()
	b := st.tagging()
	id := st.typeID("A")
	const goroutines, rounds = 8, 60
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			name := fmt.Sprint("s-", g)
			state, err := st.b.Load(s.Context(), name)
			if err != nil {
				s.Errorf("Load: %v", err)
				return
			}
			for round := 0; round < rounds; {
				// The round's first event is the only one: whoever stores it has seen none.
				tag := fmt.Sprint("round-", round)
				match := []engine.TagMatch{{Tags: []string{tag}}}
				w := &engine.Write{Stream: &state, After: state.Version}
				w.Events = []engine.Record{{Type: "A", TypeID: id, Data: st.payload(round), Meta: engine.NewEvent{}.WithTags("all", tag).Meta}}
				err := b.CommitIf(s.Context(), []*engine.Write{w}, []engine.TagCondition{{Any: match}})
				if _, failed := errors.AsType[*engine.ConditionError](err); err != nil && !failed {
					s.Errorf("CommitIf: %v", err)
					return
				}
				if err == nil {
					state.Version++
				}
				round++
			}
		})
	}
	all.Wait()
	if s.Failed() {
		return
	}
	dst := make([]engine.Event, goroutines*rounds)
	for round := range rounds {
		n, err := b.Matching(s.Context(), []engine.TagMatch{{Tags: []string{fmt.Sprint("round-", round)}}}, 0, st.b.Head(), dst)
		if err != nil || n != 1 {
			s.Fatalf("%d events of round %d are stored, %v; each on the condition that there is none", n, round, err)
		}
	}
}

func tagsReopen(s *suite) {
	st := s.store()
	st.tagging()
	for range 4 {
		st.addTagged(30)
		st.reopened()
		st.checkTags()
		st.commitIf(1, []engine.TagCondition{{Any: []engine.TagMatch{st.match(nil, "x", "y")}, After: st.b.Head() - 3}}, st.tagged("d-1", "A"))
	}
}
