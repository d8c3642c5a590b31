package backendtest

import (
	"fmt"

	"github.com/weirstore/weir/engine"
)

var reopenCases = []testCase{
	{
		name:  "reopen",
		why:   "everything is there again: events, versions, IDs, types, checkpoints",
		needs: "Reopen",
		run:   reopen,
	},
	{
		name:  "reopen-again-and-again",
		why:   "what is appended after opening must survive the next opening too (amelie #17, acoustid #157: it vanished behind an old tail), and Close lets go of every lock (raft-wal v0.4.0: the second open hung for ever)",
		needs: "Reopen",
		run:   reopenAgain,
	},
	{
		name:  "reopen-empty",
		why:   "a store that was opened and never written to is a store",
		needs: "Reopen",
		run:   reopenEmpty,
	},
	{
		name:  "reopen-large-batches",
		why:   "a batch over a page's or a segment's edge is whole after opening too (KurrentDB d5807d202)",
		needs: "Reopen",
		run:   reopenLargeBatches,
	},
	{
		name:  "crash",
		why:   "what was acknowledged survives the process (etcd #14370, NATS #7564: acknowledged before it was durable)",
		needs: "Durable",
		run:   crash,
	},
}

// reopened goes on with a new backend over the same place; the log must be the same.
func (st *store) reopened() {
	st.Helper()
	st.b = st.again(st.b)
	st.forget()
}

// forget drops the states, which belong to a backend that is gone, and checks that the
// streams are what they were.
func (st *store) forget() {
	st.Helper()
	for name, kept := range st.streams {
		state := st.load(name)
		if state.Version != kept.Version {
			st.Fatalf("Load(%q) returns version %d, it was at %d before", short(name), state.Version, kept.Version)
		}
		st.streams[name] = &state
	}
	st.check()
}

func reopen(s *suite) {
	st := s.store()
	for i := range 10 {
		w := st.write(fmt.Sprintf("a-%d", i%3), "A", "B")
		w.Events[0].ID = fmt.Sprint("id-", i)
		w.Events[1].Meta = engine.Metadata{CorrelationID: "c", CausationID: "d", Extra: map[string]string{"e": fmt.Sprint(i)}}
		st.commit(w, st.write("b-1", "C"))
	}
	if err := save(s.Context(), st.b, "mails", 5); err != nil {
		s.Fatalf("SaveCheckpoints: %v", err)
	}
	if err := save(s.Context(), st.b, "mails", 3); err != nil {
		s.Fatalf("SaveCheckpoints: %v", err)
	}
	if err := save(s.Context(), st.b, "zero", 0); err != nil {
		s.Fatalf("SaveCheckpoints: %v", err)
	}
	st.reopened()
	st.checkCheckpoint("mails", 3)
	st.checkCheckpoint("zero", 0)
	st.checkFind("a-0", "id-9", 7)
	st.checkFind("a-0", "id-1", 0)
	for _, f := range []engine.Filter{st.filter([]string{"B"}, nil), st.filter(nil, []string{"a"}), st.filter([]string{"New"}, nil)} {
		st.checkRead(st.all(), span{from: 1, to: uint64(len(st.log)), filter: f}, 4)
	}
	st.add("a-1", "A", "New") // its commit checks that position, version and time go on
	st.add("c-1", "C")
	st.check()
}

func reopenAgain(s *suite) {
	st := s.store()
	for i := range 20 {
		stream := fmt.Sprintf("a-%d", i%3)
		w := st.write(stream, "A", fmt.Sprint("type ", i))
		w.Events[0].ID = fmt.Sprint("id-", i)
		st.commit(w)
		if i%4 != 0 { // twice without anything in between, sometimes
			st.reopened()
		}
		st.reopened()
		st.checkFind(stream, fmt.Sprint("id-", i), st.load(stream).Version-1)
	}
}

func reopenEmpty(s *suite) {
	st := s.store()
	for range 3 {
		st.reopened()
		st.checkEmpty()
	}
	st.add("a-1", "A")
	st.reopened()
}

func reopenLargeBatches(s *suite) {
	st := s.store()
	for i, n := range []int{1, 1000, 4096, 3, 2500} {
		w := st.write(fmt.Sprintf("a-%d", i%2))
		for range n {
			w.Events = append(w.Events, st.record("A"))
		}
		st.commit(w)
		st.reopened()
	}
}

// crash commits, and dies at once. What Commit has said to be stored is there.
func crash(s *suite) {
	if s.crash == nil {
		s.Skipf("the Harness has no Crash")
	}
	st := s.store()
	for i := range 10 {
		for k := range 1 + i%3 {
			w := st.write(fmt.Sprintf("a-%d", k), "A", "B")
			w.Events[0].ID = fmt.Sprintf("id-%d-%d", i, k)
			st.commit(w)
		}
		if err := save(s.Context(), st.b, "mails", engine.Position(i)); err != nil {
			s.Fatalf("SaveCheckpoints: %v", err)
		}
		st.b = s.add(s.env.crash(st.b))
		st.forget()
		st.checkFind("a-0", fmt.Sprintf("id-%d-0", i), st.load("a-0").Version-1)
		// A checkpoint that is lost is events handled twice, which is allowed; one that is
		// ahead is not.
		if pos, _, err := st.b.LoadCheckpoint(s.Context(), "mails"); pos > engine.Position(i) || err != nil {
			s.Errorf("LoadCheckpoint returns %d, %v after a crash; %d was saved", pos, err, i)
		}
	}
}
