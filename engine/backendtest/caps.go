package backendtest

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/weirstore/weir/engine"
)

var capsCases = []testCase{
	{
		name: "caps",
		why:  "the engine asks for Caps once or at every append, as it likes; a capability that cannot be tested is not one",
		run:  caps,
	},
	{
		name: "new-store-is-empty",
		why:  "position 0 and version 0 mean that nothing is there: an event must never have them",
		run:  newStoreIsEmpty,
	},
	{
		name: "load-unknown-stream",
		why:  "a stream that nobody wrote to is empty, not an error; asking for it must not make it",
		run:  loadUnknownStream,
	},
	{
		name: "load-leaves-no-memory",
		why:  "stream names may come from outside: who asks for a million of them must not fill the memory (Watermill 1b6ae5cc, e989d6dd: a map that grew with every topic)",
		run:  loadLeavesNoMemory,
	},
}

func caps(s *suite) {
	b := s.new()
	caps := b.Caps()
	if caps.Name == "" {
		s.Errorf("Caps.Name is empty: messages need it")
	}
	if caps.Durable && !caps.Reopen {
		s.Errorf("Caps say Durable and not Reopen: what is there after the process has died must be found by the next one")
	}
	if caps.Reopen && s.reopen == nil {
		s.Errorf("Caps.Reopen is true, and the Harness has no Reopen")
	}
	if caps.Shared && s.join == nil {
		s.Errorf("Caps.Shared is true, and the Harness has no Join")
	}
	if caps.Encoded && !s.standard {
		s.Errorf("Caps.Encoded is true, and the Harness has a Payload: who stores bytes stores any")
	}
	s.over(b).add("a-1", "A")
	if now := b.Caps(); now != caps {
		s.Errorf("Caps were %+v and are now %+v", caps, now)
	}
	if err := b.Close(); err != nil {
		s.Fatalf("Close: %v", err)
	}
	if now := b.Caps(); now != caps {
		s.Errorf("Caps were %+v and are %+v after Close", caps, now)
	}
}

func newStoreIsEmpty(s *suite) {
	st := s.store()
	st.checkEmpty()
	if n, err := st.b.Types(0, make([]engine.TypeID, 4)); n != 0 || err != nil {
		s.Errorf("Types(0) of an empty store returns %d, %v; want 0, nil", n, err)
	}
	if pos, ok, err := st.b.LoadCheckpoint(s.Context(), "nobody"); pos != 0 || ok || err != nil {
		s.Errorf("LoadCheckpoint of a handler that has none returns %d, %v, %v; want 0, false, nil", pos, ok, err)
	}
}

// checkEmpty reads an empty store in both directions, by what is and what is not there.
func (st *store) checkEmpty() {
	st.Helper()
	if head := st.b.Head(); head != 0 {
		st.Errorf("Head of an empty store is %d", head)
	}
	for _, q := range []span{{from: 1, to: 10}, {from: 10, to: 1, backward: true}, {from: 5, to: 5}, {from: 1, to: 0}} {
		st.checkRead(st.all(), q, 3)
		st.checkRead(st.one("nobody-1"), q, 3)
	}
}

func loadUnknownStream(s *suite) {
	st := s.store()
	for range 2 {
		if state := st.load("nobody-1"); state.Version != 0 {
			s.Errorf("Load of a stream that nobody wrote to returns version %d", state.Version)
		}
	}
	versions := []engine.Version{7, 7}
	if err := st.b.Find(s.Context(), st.load("nobody-1"), []string{"x", "y"}, versions); err != nil || versions[0] != 0 || versions[1] != 0 {
		s.Errorf("Find in a stream that nobody wrote to returns versions %v, error %v; want 0, 0, nil", versions, err)
	}
	st.checkEmpty()
	// The state that Load returned then is good for the first write.
	st.add("nobody-1", "A")
	st.add("somebody-1", "A")
	st.check()
	if state := st.load("nobody-2"); state.Version != 0 {
		s.Errorf("Load of a stream that nobody wrote to returns version %d", state.Version)
	}
	st.check()
}

func loadLeavesNoMemory(s *suite) {
	b := s.new()
	const names, size = 4000, 1000
	tail := strings.Repeat("x", size)
	var grown uint64
	for round := range 3 { // what others in this process allocate meanwhile is not counted thrice
		before := heap()
		for i := range names {
			if _, err := b.Load(s.Context(), fmt.Sprintf("unknown-%d-%d-%s", round, i, tail)); err != nil {
				s.Fatalf("Load: %v", err)
			}
		}
		if grown = max(heap(), before) - before; grown < names*size/2 {
			return
		}
	}
	s.Errorf("the heap is %d bytes larger after Load of %d streams that nobody wrote to, names of %d bytes", grown, names, size)
	runtime.KeepAlive(b)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
