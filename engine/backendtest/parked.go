package backendtest

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/weirstore/weir/engine"
)

var parkedCases = []testCase{
	{
		name: "checkpoints-in-a-batch",
		why:  "one call stores the checkpoints of all handlers that have moved: one that is left out is events handled twice",
		run:  checkpointsInABatch,
	},
	{
		name: "parked",
		why:  "a parked event is in no handler's future any more: what the list loses of it nobody ever handles",
		run:  parked,
	},
	{
		name: "parked-names",
		why:  "lists are told apart by handlers' names, which may be anything",
		run:  parkedNames,
	},
	{
		name: "parked-concurrently",
		why:  "handlers, and keyed workers of one, park side by side",
		run:  parkedConcurrently,
	},
	{
		name:  "parked-reopen",
		why:   "parked events are there to be looked at after the morning's restart",
		needs: "Reopen",
		run:   parkedReopen,
	},
	{
		name:  "parked-crash",
		why:   "an event that is behind the checkpoint and not in the list is lost",
		needs: "Durable",
		run:   parkedCrash,
	},
}

func checkpointsInABatch(s *suite) {
	st := s.store()
	st.add("a-1", "A", "A", "A")
	for pos := range engine.Position(4) {
		var list []engine.Checkpoint
		for i := range 20 {
			list = append(list, engine.Checkpoint{Handler: fmt.Sprint("handler ", i), Position: (pos + engine.Position(i)) % 4})
		}
		if err := st.b.SaveCheckpoints(s.Context(), list); err != nil {
			s.Fatalf("SaveCheckpoints of %d: %v", len(list), err)
		}
		want := append([]engine.Checkpoint(nil), list...)
		clear(list) // it is the engine's again
		for _, c := range want {
			st.checkCheckpoint(c.Handler, c.Position)
		}
	}
	if err := st.b.SaveCheckpoints(s.Context(), nil); err != nil {
		s.Fatalf("SaveCheckpoints of none: %v", err)
	}
}

// park parks, and keeps the list that must be there.
func (st *store) park(lists map[string][]engine.ParkedRecord, handler string, p engine.ParkedRecord) {
	st.Helper()
	if err := st.b.Park(st.Context(), handler, p); err != nil {
		st.Fatalf("Park(%q, %+v): %v", short(handler), p, err)
	}
	for i := range lists[handler] {
		if lists[handler][i].Position == p.Position {
			lists[handler][i] = p
			return
		}
	}
	lists[handler] = append(lists[handler], p)
}

func (st *store) unpark(lists map[string][]engine.ParkedRecord, handler string, pos engine.Position) {
	st.Helper()
	if err := st.b.Unpark(st.Context(), handler, pos); err != nil {
		st.Fatalf("Unpark(%q, %d): %v", short(handler), pos, err)
	}
	var left []engine.ParkedRecord
	for _, p := range lists[handler] {
		if p.Position != pos {
			left = append(left, p)
		}
	}
	lists[handler] = left
}

func (st *store) checkParked(lists map[string][]engine.ParkedRecord) {
	st.Helper()
	for handler, want := range lists {
		got, err := st.b.Parked(st.Context(), handler)
		if err != nil || len(got) != len(want) {
			st.Fatalf("Parked(%q) returns %d, %v; want %d", short(handler), len(got), err, len(want))
		}
		for i, w := range want {
			g := got[i]
			if !g.Time.Equal(w.Time) {
				st.Fatalf("Parked(%q)[%d].Time is %v, want %v", short(handler), i, g.Time, w.Time)
			}
			if g.Time = w.Time; g != w {
				st.Fatalf("Parked(%q)[%d] is of position %d, key %q, error %q, a stack of %d bytes, %d attempts, held %v; want %d, %q, %q, %d, %d, %v", short(handler), i,
					g.Position, short(g.Key), short(g.Error), len(g.Stack), g.Attempts, g.Held, w.Position, short(w.Key), short(w.Error), len(w.Stack), w.Attempts, w.Held)
			}
		}
		// What is returned is the caller's.
		clear(got)
		if again, err := st.b.Parked(st.Context(), handler); err != nil || len(again) != len(want) || len(want) > 0 && again[0].Position != want[0].Position {
			st.Fatalf("Parked(%q) returned memory that it uses", short(handler))
		}
	}
}

// when is a time that shows whether nanoseconds are kept.
var when = time.Date(2026, 7, 1, 12, 30, 15, 123456789, time.UTC)

func parked(s *suite) {
	st := s.store()
	st.add("a-1", "A", "A", "A", "A", "A", "A")
	lists := map[string][]engine.ParkedRecord{"mails": nil, "other": nil, "Mails": nil}
	st.checkParked(lists)
	st.park(lists, "mails", engine.ParkedRecord{Position: 4, Key: "a-1", Error: "no", Attempts: 4, Time: when})
	st.park(lists, "mails", engine.ParkedRecord{Position: 2, Error: "an earlier one, by another worker", Stack: strings.Repeat("goroutine 1\n\tnaïve.go:1\n", 2000), Attempts: 1, Time: when.Add(1)})
	st.park(lists, "mails", engine.ParkedRecord{Position: 5, Key: "ключ 🦫", Time: when.Add(time.Hour), Held: true})
	st.park(lists, "other", engine.ParkedRecord{Position: 4, Error: "another's", Attempts: 1, Time: when})
	st.checkParked(lists)
	// Tried again in vain: in its old place.
	st.park(lists, "mails", engine.ParkedRecord{Position: 4, Key: "a-1", Error: "still no", Stack: "stack", Attempts: 5, Time: when.Add(time.Minute)})
	st.park(lists, "mails", engine.ParkedRecord{Position: 5, Key: "ключ 🦫", Error: "tried", Attempts: 1, Time: when})
	st.checkParked(lists)
	st.unpark(lists, "mails", 4)
	st.unpark(lists, "mails", 4)   // is not there any more
	st.unpark(lists, "nobody", 1)  // never was
	st.unpark(lists, "mails", 100) // not even in the log
	st.checkParked(lists)
	st.park(lists, "mails", engine.ParkedRecord{Position: 4, Error: "once more", Attempts: 1, Time: when}) // at the end now
	st.checkParked(lists)
	for _, pos := range []engine.Position{2, 4, 5} {
		st.unpark(lists, "mails", pos)
		st.checkParked(lists)
	}
	st.check() // a parked event is where it was
}

func parkedNames(s *suite) {
	st := s.store()
	st.add("a-1", "A")
	lists := make(map[string][]engine.ParkedRecord)
	names := append([]string{strings.Repeat("x", engine.MaxName), strings.Repeat("x", engine.MaxName-1)}, nasty...)
	for i, name := range names {
		for pos := range engine.Position(2) {
			st.park(lists, name, engine.ParkedRecord{Position: pos + 1, Key: name, Error: name, Attempts: i, Time: when})
		}
	}
	st.checkParked(lists)
	for i, name := range names {
		if i%2 == 0 {
			st.unpark(lists, name, 1)
		}
	}
	st.checkParked(lists)
}

func parkedConcurrently(s *suite) {
	st := s.store()
	const handlers, workers, events = 4, 4, 20
	var all sync.WaitGroup
	for h := range handlers {
		for w := range workers {
			all.Go(func() {
				for i := range events {
					p := engine.ParkedRecord{Position: engine.Position(i*workers + w + 1), Key: fmt.Sprint(w), Error: "no", Attempts: h, Time: when}
					err := st.b.Park(s.Context(), fmt.Sprint("handler ", h), p)
					if err == nil && i%2 == 1 {
						err = st.b.Unpark(s.Context(), fmt.Sprint("handler ", h), p.Position)
					}
					if err != nil {
						s.Errorf("Park or Unpark: %v", err)
					}
				}
			})
		}
	}
	all.Wait()
	for h := range handlers {
		list, err := st.b.Parked(s.Context(), fmt.Sprint("handler ", h))
		if err != nil || len(list) != workers*events/2 {
			s.Fatalf("Parked returns %d, %v; want %d", len(list), err, workers*events/2)
		}
		last := make(map[string]engine.Position)
		for _, p := range list {
			if p.Attempts != h || p.Position <= last[p.Key] {
				s.Fatalf("Parked gives handler %d %+v after position %d of that key", h, p, last[p.Key])
			}
			last[p.Key] = p.Position
		}
	}
}

func parkedReopen(s *suite) {
	st := s.store()
	st.add("a-1", "A", "A", "A", "A")
	lists := make(map[string][]engine.ParkedRecord)
	for i := range 5 {
		for pos := range engine.Position(4) {
			st.park(lists, "mails", engine.ParkedRecord{Position: pos + 1, Key: fmt.Sprint(pos % 2), Error: fmt.Sprint("no ", i), Stack: "stack\n", Attempts: i + 1, Time: when, Held: i == 0 && pos == 3})
		}
		st.unpark(lists, "mails", engine.Position(1+i*3%4))
		st.park(lists, "other", engine.ParkedRecord{Position: engine.Position(1 + i%4), Error: "other", Time: when})
		st.reopened() // Close makes it last
		st.checkParked(lists)
	}
}

func parkedCrash(s *suite) {
	if s.crash == nil {
		s.Skipf("the Harness has no Crash")
	}
	st := s.store()
	lists := make(map[string][]engine.ParkedRecord)
	for i := range engine.Position(8) {
		pos := st.add("a-1", "A")
		p := engine.ParkedRecord{Position: pos, Error: fmt.Sprint("no ", i), Attempts: 1, Time: when}
		st.park(lists, "mails", p)
		p.Attempts++
		st.park(lists, "mails", p)
		if i%3 == 2 {
			st.unpark(lists, "mails", pos-1)
		}
		// Of another handler: what is parked before is stored no later.
		if err := save(s.Context(), st.b, []string{"mails", "other"}[i%2], pos); err != nil {
			s.Fatalf("SaveCheckpoints: %v", err)
		}
		st.b = s.add(s.env.crash(st.b))
		st.forget()
		st.checkParked(lists)
	}
}
