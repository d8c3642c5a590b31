package backendtest

import (
	"fmt"

	"github.com/weirstore/weir/engine"
)

var findCases = []testCase{
	{
		name: "find",
		why:  "an append that is repeated after a lost answer is recognised by its event IDs: one not found is stored twice, one found wrongly is not stored at all",
		run:  find,
	},
	{
		name: "find-is-per-stream",
		why:  "event IDs are unique in their stream, not beyond: the same one elsewhere is another event",
		run:  findIsPerStream,
	},
}

// checkFind looks for one ID in a stream, by the state that Load returns now.
func (st *store) checkFind(stream, id string, want engine.Version) {
	st.Helper()
	got := []engine.Version{1 << 40}
	if err := st.b.Find(st.Context(), st.load(stream), []string{id}, got); err != nil || got[0] != want {
		st.Fatalf("Find(%q) in %q returns version %d, error %v; want %d", short(id), short(stream), got[0], err, want)
	}
}

func find(s *suite) {
	st := s.store()
	for i := range 10 {
		w := st.write("a-1", "A", "B", "A", "C")
		w.Events[1].ID = fmt.Sprint("id-", 2*i)
		w.Events[3].ID = fmt.Sprint("id-", 2*i+1)
		st.commit(w)
	}
	// The answers stand where the questions stood, and overwrite what was there.
	ids := []string{"id-19", "unknown", "id-0", "ID-0", "id-1", "id-", "id-10"}
	want := []engine.Version{40, 0, 2, 0, 4, 0, 22}
	for _, state := range []engine.StreamState{st.load("a-1"), *st.streams["a-1"]} {
		got := []engine.Version{9, 9, 9, 9, 9, 9, 9, 9}
		if err := st.b.Find(s.Context(), state, ids, got[:7]); err != nil {
			s.Fatalf("Find: %v", err)
		}
		for i, v := range want {
			if got[i] != v {
				s.Errorf("Find(%q) gives %q version %d, want %d", ids, ids[i], got[i], v)
			}
		}
		if got[7] != 9 {
			s.Errorf("Find has written past the end of versions")
		}
	}
}

func findIsPerStream(s *suite) {
	st := s.store()
	first := st.write("a-1", "A", "A")
	first.Events[0].ID, first.Events[1].ID = "same", "mine"
	other := st.write("a-2", "A", "A", "A")
	other.Events[2].ID = "same"
	st.commit(first, other)
	st.checkFind("a-1", "same", 1)
	st.checkFind("a-2", "same", 3)
	st.checkFind("a-1", "mine", 2)
	st.checkFind("a-2", "mine", 0)
	st.checkFind("a", "same", 0)
	st.checkFind("a-3", "same", 0)
	st.check()
}
