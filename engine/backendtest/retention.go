package backendtest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weirstore/weir/engine"
)

var retentionCases = []testCase{
	{
		name: "truncate",
		why:  "what is removed is gone for all who read, at once, and what is left stays where it was (KurrentDB #1835: positions moved by a scavenge)",
		run:  truncate,
	},
	{
		name: "truncate-every-range",
		why:  "pages end and begin in the middle of what is gone: one that does not advance hangs its reader, one that jumps loses events",
		run:  truncateEveryRange,
	},
	{
		name: "delete",
		why:  "a name that can be used again has two histories",
		run:  deleteStream,
	},
	{
		name: "removed-ids",
		why:  "an event that is not there any more is no duplicate of anything",
		run:  removedIDs,
	},
	{
		name: "compact",
		why:  "giving back space changes nothing that can be read",
		run:  compact,
	},
	{
		name: "compact-by-count",
		why:  "a rule that removes one event too many has lost it",
		run:  compactByCount,
	},
	{
		name: "compact-by-age",
		why:  "a rule that removes one event too many has lost it",
		run:  compactByAge,
	},
	{
		name: "compact-concurrently",
		why:  "a compaction takes minutes, during which everything goes on (KurrentDB #2127, #3088: events lost to a scavenge beside writes)",
		run:  compactConcurrently,
	},
	{
		name:  "removed-reopen",
		why:   "what was removed does not come back, and what was not is there, at its place",
		needs: "Reopen",
		run:   removedReopen,
	},
	{
		name:  "removed-crash",
		why:   "who was told that personal data are gone must not find them after a power cut",
		needs: "Durable",
		run:   removedCrash,
	},
}

// retention returns what a backend has to forget with, or skips the case.
func (st *store) retention() engine.Retention {
	r, ok := st.b.(engine.Retention)
	if !ok {
		st.Skipf("the backend does not implement engine.Retention")
	}
	return r
}

// remove notes that the events of a stream before a version are gone.
func (st *store) remove(stream string, before engine.Version) {
	for i := range st.log {
		if st.log[i].Stream == stream && st.log[i].Version < before {
			st.gone[st.log[i].Position] = true
		}
	}
}

// truncate does what a stream's owner does: it uses the state that it has, and loads it anew.
func (st *store) truncate(stream string, before engine.Version) {
	st.Helper()
	state := *st.stream(stream)
	if err := st.retention().Truncate(st.Context(), state, before); err != nil {
		st.Fatalf("Truncate(%q, %d): %v", short(stream), before, err)
	}
	st.remove(stream, before)
	st.loadAgain(stream)
}

func (st *store) delete(stream string) {
	st.Helper()
	state := *st.stream(stream)
	if err := st.retention().Delete(st.Context(), state); err != nil {
		st.Fatalf("Delete(%q): %v", short(stream), err)
	}
	st.remove(stream, state.Version+1)
	st.deleted[stream] = true
	st.loadAgain(stream)
}

func (st *store) loadAgain(stream string) {
	st.Helper()
	was := st.streams[stream].Version
	state := st.load(stream)
	if state.Version != was || state.Deleted != st.deleted[stream] {
		st.Fatalf("Load(%q) returns version %d, deleted %v; want %d, %v", short(stream), state.Version, state.Deleted, was, st.deleted[stream])
	}
	st.streams[stream] = &state
}

// compact compacts, which is to remove so many events.
func (st *store) compact(removes uint64, rules ...engine.RetentionRule) {
	st.Helper()
	done, err := st.retention().Compact(st.Context(), rules)
	if err != nil || done.Removed != removes || done.Freed < 0 {
		st.Fatalf("Compact(%+v) returns %+v, %v; want %d removed", rules, done, err, removes)
	}
}

func truncate(s *suite) {
	st := s.store()
	for range 4 {
		st.add("a-1", "A", "B", "A")
		st.add("a-2", "B")
		st.add("b-1", "A", "A")
	}
	for _, before := range []engine.Version{0, 1, 4, 4, 2, 9, 13, 13} {
		st.truncate("a-1", before)
		st.check()
	}
	st.truncate("nobody", 1)
	st.truncate("a-2", 5) // all of it
	st.check()
	st.add("a-1", "A", "B") // goes on with version 13
	st.add("a-2", "A")
	st.add("c-1", "C")
	st.check()
	st.truncate("a-1", 14)
	st.truncate("b-1", 2)
	st.check()
}

func truncateEveryRange(s *suite) {
	st := s.shelf()
	st.truncate("account-1", 4)
	st.truncate("account-2", 2)
	st.everyRange(st.all(), st.filters())
	st.everyRange(st.one("account-1"), st.filters()[:3])
	st.everyRange(st.one("account-2"), st.filters()[:2])
	st.compact(0)
	st.everyRange(st.all(), st.filters()[:2])
	st.everyRange(st.one("account-1"), st.filters()[:2])
}

// refused checks that a stream that was deleted takes nothing, nor does what comes with it.
func (st *store) refused(stream string) {
	st.Helper()
	writes := []*engine.Write{st.write("other-1", "A"), st.write(stream, "A")}
	st.expect(writes)
	err := st.b.Commit(st.Context(), writes)
	if deleted, ok := errors.AsType[*engine.StreamDeletedError](err); !ok || deleted.Stream != stream {
		st.Fatalf("Commit to deleted %q returns %v, want a StreamDeletedError", short(stream), err)
	}
}

func deleteStream(s *suite) {
	st := s.store()
	for range 3 {
		st.add("a-1", "A", "B")
		st.add("a-2", "A")
	}
	st.delete("a-1")
	st.check()
	st.refused("a-1")
	st.delete("a-1") // again is nothing
	st.delete("nobody")
	st.refused("nobody")
	st.truncate("a-2", 2)
	st.delete("a-2")
	st.refused("a-2")
	st.add("a-3", "A")
	st.check()
	st.compact(0)
	st.check()
	for _, stream := range []string{"a-1", "a-2", "nobody"} {
		st.loadAgain(stream)
		st.refused(stream)
	}
	st.check()
}

func removedIDs(s *suite) {
	st := s.store()
	add := func(stream, id string) {
		w := st.write(stream, "A")
		w.Events[0].ID = id
		st.commit(w)
	}
	for i := range 6 {
		add("a-1", fmt.Sprint("id-", i))
		add("a-2", fmt.Sprint("id-", i))
	}
	check := func(what ...engine.Version) {
		st.Helper()
		for i, want := range what {
			st.checkFind("a-1", fmt.Sprint("id-", i), want)
			st.checkFind("a-2", fmt.Sprint("id-", i), engine.Version(i+1))
		}
	}
	st.truncate("a-1", 4)
	check(0, 0, 0, 4, 5, 6)
	add("a-1", "id-1") // is another one
	check(0, 7, 0, 4, 5, 6)
	st.compact(0)
	check(0, 7, 0, 4, 5, 6)
	st.truncate("a-1", 7)
	st.compact(0)
	check(0, 7, 0, 0, 0, 0)
	st.delete("a-1")
	check(0, 0, 0, 0, 0, 0)
	st.compact(0)
	check(0, 0, 0, 0, 0, 0)
	st.check()
}

// many fills a store so that whatever is compacted at once is dead wholly, partly and not at all.
func (s *suite) many() *store {
	st := s.store()
	for i := range 30 {
		for _, stream := range []string{"dead-1", "half-1", "live-1"} {
			w := st.write(stream)
			for k := range 100 {
				rec := st.record([]string{"A", "B"}[k%2])
				rec.ID = fmt.Sprint(i, " ", k)
				w.Events = append(w.Events, rec)
			}
			st.commit(w)
		}
	}
	return st
}

func compact(s *suite) {
	st := s.many()
	st.compact(0)
	st.check()
	st.delete("dead-1")
	st.truncate("half-1", 1500)
	st.compact(0)
	st.check()
	st.checkFind("half-1", "14 98", 0)
	st.checkFind("half-1", "14 99", 1500)
	st.checkFind("live-1", "0 0", 1)
	st.truncate("half-1", 3001)
	st.compact(0)
	st.compact(0)
	st.check()
	st.add("half-1", "A")
	st.add("live-1", "B")
	st.check()
	if _, err := st.retention().Compact(s.Context(), nil); err != nil {
		s.Fatalf("Compact: %v", err)
	}
	ctx, cause := s.cancelled()
	if _, err := st.retention().Compact(ctx, nil); !errors.Is(err, cause) {
		s.Errorf("Compact with a context that is done returns %v, want its cause", err)
	}
}

func compactByCount(s *suite) {
	st := s.store()
	for range 5 {
		st.add("a-1", "A", "A")
		st.add("a-2", "A")
		st.add("ab-1", "A")
		st.add("b-1", "A", "A")
		st.add("a", "A")
	}
	rules := []engine.RetentionRule{
		{Category: "a", MaxCount: 3},
		{Stream: "b-1", MaxCount: 10},
		{Stream: "a-2", MaxCount: 1},
		{Stream: "nobody-1", MaxCount: 1},
		{Category: "nobody", MaxCount: 1},
	}
	st.retention()
	st.remove("a-1", 8)
	st.remove("a-2", 5)
	st.remove("a", 3)
	st.compact(7+4+2, rules...)
	st.check()
	st.compact(0, rules...)
	st.add("a-2", "A")
	st.add("b-1", "A")
	st.remove("a-2", 6)
	st.remove("b-1", 2)
	st.compact(2, rules...)
	st.check()
	// What is gone already does not count.
	st.truncate("a-1", 10)
	st.compact(0, rules...)
	st.check()
}

func compactByAge(s *suite) {
	st := s.store()
	st.retention()
	for _, stream := range []string{"a-1", "a-2", "b-1", "c-1"} {
		st.add(stream, "A", "A")
	}
	old := st.log[len(st.log)-1].Time
	const gap = 500 * time.Millisecond // what Compact may take to begin, on a busy machine
	<-time.After(gap)
	for _, stream := range []string{"a-1", "b-1", "c-1"} {
		st.add(stream, "A")
	}
	st.compact(0, engine.RetentionRule{Category: "a", MaxAge: time.Hour})
	st.check()
	// The limit lies just behind the old ones, far before the new ones.
	age := time.Since(old) - gap/50
	st.remove("a-1", 3)
	st.remove("a-2", 3)
	st.remove("b-1", 3)
	st.compact(6, engine.RetentionRule{Category: "a", MaxAge: age}, engine.RetentionRule{Stream: "b-1", MaxAge: age, MaxCount: 2})
	st.check()
	st.remove("a-1", 4)
	st.compact(1, engine.RetentionRule{Category: "a", MaxAge: time.Nanosecond})
	st.check()
}

func compactConcurrently(s *suite) {
	st := s.store()
	r := st.retention()
	const streams, rounds = 4, 40
	names := make([]string, streams)
	var stop, all sync.WaitGroup
	done := make(chan struct{})
	compacted := make(chan struct{}) // closed after the first time
	once := sync.OnceFunc(func() { close(compacted) })
	for i := range streams {
		names[i] = fmt.Sprint("a-", i)
	}
	fail := func(format string, args ...any) {
		s.Errorf(format, args...)
	}
	id := st.typeID("A")
	versions := make([]engine.Version, streams)
	for i, name := range names {
		all.Go(func() { // owns the stream, as an engine's actor does
			state, err := st.b.Load(s.Context(), name)
			if err != nil {
				fail("Load: %v", err)
				return
			}
			for n := range rounds {
				if n == 5 {
					<-compacted // something to compact, and then more
				}
				w := &engine.Write{Stream: &state, After: state.Version}
				for k := range 25 {
					w.Events = append(w.Events, engine.Record{Type: "A", TypeID: id, ID: fmt.Sprint(n, " ", k), Data: st.payload(n)})
				}
				if err := st.b.Commit(s.Context(), []*engine.Write{w}); err != nil {
					fail("Commit: %v", err)
					return
				}
				state.Version += 25
				if i%2 == 0 {
					if err := r.Truncate(s.Context(), state, state.Version-3); err != nil {
						fail("Truncate: %v", err)
						return
					}
				}
				first, want := [1]engine.Version{}, state.Version
				if err := st.b.Find(s.Context(), state, []string{fmt.Sprint(n, " ", 24)}, first[:]); err != nil || first[0] != want {
					fail("Find of the newest event of %q returns %d, %v; want %d", name, first[0], err, want)
					return
				}
			}
			versions[i] = state.Version
		})
	}
	loop := func(fn func() bool) {
		stop.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if !fn() {
						return
					}
				}
			}
		})
	}
	loop(func() bool {
		defer once()
		if _, err := r.Compact(s.Context(), []engine.RetentionRule{{Category: "a", MaxCount: 60}}); err != nil {
			fail("Compact: %v", err)
			return false
		}
		return true
	})
	loop(func() bool { // the log, in order: each stream's versions go up, and what is newer than its cut has no gaps
		last := make(map[string]engine.Version)
		dst := make([]engine.Event, 64)
		for pos, head := engine.Position(1), st.b.Head(); pos <= head; {
			n, next, err := st.b.ReadAll(s.Context(), engine.Query{From: pos, To: head}, dst)
			if err != nil || next <= pos {
				fail("ReadAll from %d to %d returns %d, %d, %v", pos, head, n, next, err)
				return false
			}
			for _, e := range dst[:n] {
				if e.Position < pos || e.Position >= next || e.Version <= last[e.Stream] {
					fail("ReadAll from %d: version %d of %q at %d after version %d", pos, e.Version, e.Stream, e.Position, last[e.Stream])
					return false
				}
				last[e.Stream] = e.Version
			}
			pos = next
		}
		return true
	})
	all.Wait()
	close(done)
	stop.Wait()
	if s.Failed() {
		return
	}
	if _, err := r.Compact(s.Context(), []engine.RetentionRule{{Category: "a", MaxCount: 60}}); err != nil {
		s.Fatalf("Compact: %v", err)
	}
	for i, name := range names {
		want := 60
		if i%2 == 0 {
			want = 4
		}
		state := st.load(name)
		dst := make([]engine.Event, 100)
		n, _, err := st.b.ReadStream(s.Context(), state, engine.StreamQuery{From: 1, To: state.Version}, dst)
		if err != nil || state.Version != versions[i] || n != want || dst[0].Version != state.Version-engine.Version(want)+1 || dst[n-1].Version != state.Version {
			s.Errorf("%q is at %d, and %d events are left, %v; want %d, %d", name, state.Version, n, err, versions[i], want)
		}
	}
}

// removals does all that removes, with a check of everything after each step.
func removals(st *store, again func()) {
	steps := []func(){
		func() { st.truncate("half-1", 1200) },
		func() { st.delete("dead-1") },
		func() { st.delete("nobody") },
		func() { st.compact(0) },
		func() {
			st.remove("live-1", 2501)
			st.compact(2500, engine.RetentionRule{Category: "live", MaxCount: 500})
		},
		func() { st.add("half-1", "A") },
		func() { st.truncate("half-1", 3002) },
		func() { st.compact(0) },
	}
	for _, step := range steps {
		step()
		again()
		for _, stream := range []string{"dead-1", "nobody"} {
			if st.deleted[stream] {
				st.loadAgain(stream)
				st.refused(stream)
			}
		}
		st.checkFind("half-1", "0 0", 0)
	}
	st.add("half-1", "A")
	st.add("new-1", "N")
	again()
}

func removedReopen(s *suite) {
	st := s.many()
	st.retention()
	removals(st, st.reopened)
}

func removedCrash(s *suite) {
	if s.crash == nil {
		s.Skipf("the Harness has no Crash")
	}
	st := s.many()
	st.retention()
	removals(st, func() {
		st.Helper()
		st.b = s.add(s.env.crash(st.b))
		st.forget()
	})
}
