package backendtest

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirstore/weir/engine"
)

var commitCases = []testCase{
	{
		name: "versions-have-no-gaps",
		why:  "expected versions and optimistic concurrency count on it (exarchos #943: the same sequence given twice; KurrentDB #3187, #3201: events with wrong numbers)",
		run:  versionsHaveNoGaps,
	},
	{
		name: "positions-are-dense",
		why:  "the dispatcher counts positions, and a checkpoint that waits for one which never comes stands still for ever (KurrentDB #3726, commanded #238)",
		run:  positionsAreDense,
	},
	{
		name: "committed-is-visible",
		why:  "whoever has an answer from Append may read at once; the dispatcher is woken by the commit and by nothing else (OTel contrib #46234: woken before there was anything to see)",
		run:  committedIsVisible,
	},
	{
		name: "load-after-every-commit",
		why:  "an owner that was passive starts from Load: a version that lags behind gives versions twice (NATS #4320, #7361; rails_event_store #477: the expected version checked against a stale counter)",
		run:  loadAfterEveryCommit,
	},
	{
		name: "state-carries-over",
		why:  "the owner loads its stream once and then keeps the state for thousands of commits; Ref may not go stale",
		run:  stateCarriesOver,
	},
	{
		name: "time-never-goes-back",
		why:  "Event.Time promises it, whatever the wall clock does: retention, and whoever reads by time, cut the log where time says so",
		run:  timeNeverGoesBack,
	},
}

var batchCases = []testCase{
	{
		name:  "durability",
		why:   "who asks for a durability relies on it, and the batch in which an append goes is not for it to choose",
		needs: "Durable",
		run:   durability,
	},
	{
		name: "several-writes",
		why:  "the writes of one Commit get their positions in order, whichever streams they are to: the caller is told where each one stands",
		run:  severalWrites,
	},
	{
		name: "same-stream-twice",
		why:  "the owner of a stream commits all appends that wait at once: the second one's versions follow the first one's (exarchos #943: the same sequence given twice in a batch append)",
		run:  sameStreamTwice,
	},
	{
		name: "large-batches",
		why:  "a batch that does not fit a page, a segment or a packet is still one (KurrentDB d5807d202, #3896: multi-event appends torn at a segment boundary)",
		run:  largeBatches,
	},
	{
		name: "batch-in-one-step",
		why:  "Commit is the point at which events come to be: Head never rests inside of it, or a handler sees half an append",
		run:  batchInOneStep,
	},
	{
		name: "stream-in-one-step",
		why:  "a stream shows what Head has reached, and not a part of a batch: an owner that starts from the middle of an append gives its versions twice",
		run:  streamInOneStep,
	},
	{
		name: "memory-is-the-callers",
		why:  "the engine uses Write and Events for the next append as soon as Commit returns (Pebble 5ab34209a: batch recycled while the log still read it)",
		run:  memoryIsTheCallers,
	},
}

func versionsHaveNoGaps(s *suite) {
	st := s.store()
	for i := range 5 {
		for _, stream := range []string{"a-1", "a-2", "b-1"} {
			st.add(stream, []string{"A", "B", "C", "D"}[:1+i%4]...)
		}
	}
	st.check()
	if v := st.load("a-1").Version; v != 11 { // 1+2+3+4+1
		s.Errorf("11 events in a-1, and Load returns version %d", v)
	}
}

func positionsAreDense(s *suite) {
	st := s.store()
	for i := range 40 {
		st.add(fmt.Sprintf("a-%d", i%7), "A") // checks the position: 1 is the first
	}
	st.check()
}

func committedIsVisible(s *suite) {
	st := s.store()
	for i := range 20 {
		stream := fmt.Sprintf("a-%d", i%3)
		w := st.write(stream, "A", "B")
		w.Events[1].ID = fmt.Sprintf("id-%d", i)
		st.commit(w) // checks Head
		// The reads in another order each time: one may mend what the next would find.
		looks := []func(){
			func() { st.checkRead(st.all(), span{from: uint64(len(st.log) - 1), to: uint64(len(st.log))}, 5) },
			func() {
				if v := st.load(stream).Version; v != st.streams[stream].Version {
					s.Fatalf("Load returns version %d after Commit of version %d", v, st.streams[stream].Version)
				}
			},
			func() {
				v := uint64(st.streams[stream].Version)
				st.checkRead(st.oneBy(*st.streams[stream]), span{from: v, to: v}, 1)
			},
			func() {
				ids := make([]engine.TypeID, 5)
				n, err := st.b.Types(engine.Position(len(st.log)-1), ids)
				if err != nil || n != 1 || ids[0] != st.typeID("B") {
					s.Fatalf("Types after Commit returns %d %v, %v", n, ids[:max(n, 0)], err)
				}
			},
			func() { st.checkFind(stream, fmt.Sprintf("id-%d", i), st.streams[stream].Version) },
		}
		for k := range looks {
			looks[(i+k)%len(looks)]()
		}
	}
}

func loadAfterEveryCommit(s *suite) {
	st := s.store()
	for i := range 30 {
		stream := []string{"a-1", "a-2"}[i%2]
		st.add(stream, "A")
		delete(st.streams, stream) // passivated: the next write loads it again
		if v := st.load(stream).Version; v != engine.Version(i/2+1) {
			s.Fatalf("Load returns version %d after Commit of version %d", v, i/2+1)
		}
	}
	st.check()
}

func stateCarriesOver(s *suite) {
	st := s.store()
	for i := range 60 {
		w := st.write("a-1", "A")
		w.Events[0].ID = fmt.Sprint("id-", i)
		st.commit(w)
	}
	kept := *st.streams["a-1"]
	src := st.oneBy(kept)
	st.checkRead(src, span{from: 1, to: 60}, 17)
	st.checkRead(src, span{from: 60, to: 1, backward: true}, 17)
	versions := make([]engine.Version, 2)
	if err := st.b.Find(s.Context(), kept, []string{"id-0", "id-59"}, versions); err != nil || versions[0] != 1 || versions[1] != 60 {
		s.Errorf("Find by the state that Commit was given returns versions %v, error %v; want 1, 60", versions, err)
	}
	// Ref is a shortcut: without it everything is the same.
	kept.Ref = nil
	st.checkRead(st.oneBy(kept), span{from: 1, to: 60}, 17)
}

func timeNeverGoesBack(s *suite) {
	st := s.store()
	before := time.Now()
	for i := range 50 {
		st.add(fmt.Sprintf("a-%d", i%5), "A") // commit checks the order
	}
	st.check()
	// A clock of another machine may differ, but not by a day.
	if at := st.log[0].Time; at.Before(before.Add(-24*time.Hour)) || at.After(before.Add(24*time.Hour)) {
		s.Errorf("an event stored at %v has the time %v", before, at)
	}
}

func severalWrites(s *suite) {
	st := s.store()
	st.add("b-1", "A", "A")
	// Not in the order of names, of states, or of first writes.
	st.commit(st.write("c-1", "A", "B"), st.write("a-1", "C"), st.write("b-1", "B", "A", "C"), st.write("d-1", "A"))
	st.commit(st.write("d-1", "B"), st.write("c-1", "A"))
	st.check()
}

func sameStreamTwice(s *suite) {
	st := s.store()
	st.commit(st.write("a-1", "A"), st.write("a-1", "B"))
	st.commit(st.write("a-1", "A", "B"), st.write("b-1", "A"), st.write("a-1", "C"), st.write("b-1", "B", "B"), st.write("a-1", "D"))
	st.check()
	var many []*engine.Write
	for range 64 {
		many = append(many, st.write("a-1", "A"))
	}
	st.commit(many...)
	st.check()
}

// durability asks for each durability and for several in one batch: the greatest is what
// all get. Asking for none asks for the most, which is no less than any other.
func durability(s *suite) {
	st := s.store()
	for _, asked := range [][]engine.Durability{
		{engine.Written}, {engine.Synced}, {0},
		{engine.Written, engine.Synced}, {engine.Synced, engine.Written}, {engine.Written, engine.Written, 0},
	} {
		least := slices.Max(asked)
		if slices.Contains(asked, 0) {
			least = engine.Written
		}
		var writes []*engine.Write
		for i, d := range asked {
			w := st.write(fmt.Sprintf("a-%d", i), "A")
			w.Durability = d
			writes = append(writes, w)
		}
		want := st.expect(writes)
		if err := st.b.Commit(s.Context(), writes); err != nil {
			s.Fatalf("Commit of writes that ask for durability %v: %v", asked, err)
		}
		for i, w := range writes {
			if w.Durability < least {
				s.Errorf("Commit of writes that ask for durability %v has set that of write %d to %v", asked, i+1, w.Durability)
			}
		}
		st.committed(writes, want)
	}
	st.check()
}

func largeBatches(s *suite) {
	st := s.store()
	for i, n := range []int{1, 1000, 127, 1023, 1024, 1025, 4096, 3, 5000} {
		w := st.write(fmt.Sprintf("a-%d", i%2))
		for k := range n {
			w.Events = append(w.Events, st.record([]string{"A", "B", "C"}[k%3]))
		}
		st.commit(w)
	}
	st.check()
}

// batchInOneStep watches Head while batches of one size are committed: it may only ever
// be a multiple of that size.
func batchInOneStep(s *suite) {
	st := s.store()
	const writes, events = 4, 3
	var watcher sync.WaitGroup
	var heads atomic.Int64 // that the watcher has seen
	done := make(chan struct{})
	watcher.Go(func() {
		for last := engine.Position(0); ; {
			head := st.b.Head()
			if head != last {
				heads.Add(1)
				last = head
			}
			if head%(writes*events) != 0 {
				s.Errorf("Head is %d while batches of %d events are committed: it rests inside a batch", head, writes*events)
				return
			}
			select {
			case <-done:
				return
			default:
				runtime.Gosched()
			}
		}
	})
	for n := 0; n < 100 || n < 3000 && heads.Load() < 100 && !s.Failed(); n++ {
		runtime.Gosched() // the watcher may have no other processor
		var batch []*engine.Write
		for i := range writes {
			batch = append(batch, st.write(fmt.Sprintf("a-%d", i%3), "A", "B", "C"))
		}
		st.commit(batch...)
	}
	close(done)
	watcher.Wait()
	st.check()
}

// streamInOneStep watches the version of a stream while batches are committed of which
// it is the first and smaller part.
func streamInOneStep(s *suite) {
	st := s.store()
	const mine, others = 10, 1000
	commit := func() {
		st.commit(st.write("a-1", slices.Repeat([]string{"A"}, mine)...), st.write("b-1", slices.Repeat([]string{"B"}, others)...))
	}
	commit()
	var watcher sync.WaitGroup
	done := make(chan struct{})
	watcher.Go(func() {
		for {
			before := int(st.b.Head())
			state, err := st.b.Load(s.Context(), "a-1")
			after := int(st.b.Head())
			if v := int(state.Version); err != nil || v%mine != 0 || v/mine < before/(mine+others) || v/mine > after/(mine+others) {
				s.Errorf("each batch of %d events has %d of the stream first; Head is %d, then Load returns version %d, %v, then Head is %d", mine+others, mine, before, v, err, after)
				return
			}
			select {
			case <-done:
				return
			default:
				runtime.Gosched()
			}
		}
	})
	for range 12 {
		commit()
	}
	close(done)
	watcher.Wait()
	st.check()
}

// memoryIsTheCallers uses one Write and one slice for all commits, while others read
// what was committed: under -race a backend that has kept them is found at once.
func memoryIsTheCallers(s *suite) {
	st := s.store()
	var reader sync.WaitGroup
	done := make(chan struct{})
	reader.Go(func() {
		dst := make([]engine.Event, 16)
		for {
			if _, _, err := st.b.ReadAll(s.Context(), engine.Query{From: max(st.b.Head(), 5) - 4, To: st.b.Head()}, dst); err != nil {
				s.Errorf("ReadAll: %v", err)
				return
			}
			select {
			case <-done:
				return
			default:
				runtime.Gosched()
			}
		}
	})
	w := &engine.Write{Events: make([]engine.Record, 0, 4)}
	batch := []*engine.Write{w}
	for i := range 100 {
		*w = engine.Write{Stream: st.stream(fmt.Sprintf("a-%d", i%3)), Events: w.Events[:0]}
		for k := range 1 + i%4 {
			rec := st.record([]string{"A", "B"}[k%2])
			rec.ID = fmt.Sprintf("id-%d-%d", i, k)
			rec.Meta.Extra = map[string]string{"n": fmt.Sprint(i)}
			w.Events = append(w.Events, rec)
		}
		st.commit(batch...) // spoils w
	}
	close(done)
	reader.Wait()
	st.check()
}
