package backendtest

import (
	"fmt"
	"sync"

	"github.com/weirstore/weir/engine"
)

var typeCases = []testCase{
	{
		name: "type-ids",
		why:  "handlers are found by an array look-up with the number: it is small, dense, and never changes",
		run:  typeIDs,
	},
	{
		name: "type-ids-concurrently",
		why:  "a name that two goroutines use for the first time at once has one number, or handlers of the other one are never called",
		run:  typeIDsConcurrently,
	},
	{
		name: "types-match-the-log",
		why:  "the dispatcher sees an event by its type alone: a wrong one is an event that no handler gets",
		run:  typesMatchTheLog,
	},
}

func typeIDs(s *suite) {
	st := s.store()
	names := []string{"First", "Second", "first", "Third", "x"}
	for range 2 {
		for i, name := range names {
			if id := st.typeID(name); id != engine.TypeID(i+1) {
				s.Fatalf("TypeID(%q), the number of the type named after %d others, is %d; want %d", name, i, id, i+1)
			}
		}
		st.add("a-1", "x", "Third") // no new ones
	}
	st.check()
}

func typeIDsConcurrently(s *suite) {
	st := s.store()
	const callers, names = 16, 40
	ids := make([][names]engine.TypeID, callers)
	var all sync.WaitGroup
	start := make(chan struct{})
	for c := range callers {
		all.Go(func() {
			<-start
			for k := range names {
				i := (k + c*7) % names
				id, err := st.b.TypeID(fmt.Sprint("type ", i))
				if err != nil {
					s.Errorf("TypeID: %v", err)
				}
				ids[c][i] = id
			}
		})
	}
	close(start)
	all.Wait()
	seen := make(map[engine.TypeID]int)
	for i := range names {
		for c := range callers {
			if ids[c][i] != ids[0][i] {
				s.Fatalf("one name has the numbers %d and %d", ids[0][i], ids[c][i])
			}
		}
		seen[ids[0][i]]++
	}
	for id := engine.TypeID(1); id <= names; id++ {
		if seen[id] != 1 {
			s.Fatalf("%d names have the number %d; want each number from 1 to %d once", seen[id], id, names)
		}
	}
	for i := range names {
		st.add("a-1", fmt.Sprint("type ", i))
	}
	st.check()
}

func typesMatchTheLog(s *suite) {
	st := s.shelf()
	n := len(st.log)
	for after := 0; after <= n+2; after++ {
		for size := 1; size <= n+2; size++ {
			dst := make([]engine.TypeID, size)
			got, err := st.b.Types(engine.Position(after), dst)
			room := min(size, max(n-after, 0))
			if err != nil || got > room || got < min(room, 1) {
				s.Fatalf("Types(%d) with room for %d returns %d, %v; Head is %d", after, size, got, err, n)
			}
			for i, id := range dst[:got] {
				if want := st.typeID(st.log[after+i].Type); id != want {
					s.Fatalf("Types(%d) says %d of position %d, whose type %q is %d", after, id, after+i+1, st.log[after+i].Type, want)
				}
			}
		}
	}
}
