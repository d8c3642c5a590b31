package backendtest

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weirstore/weir/engine"
)

var concurrentCases = []testCase{
	{
		name: "who-sees-p-sees-all-before-p",
		why:  "positions that become visible out of order are skipped for good by whoever reads past them (Marten #1629, #4952; SQLStreamStore #121; Eventuous #222; prooph #189)",
		run:  func(s *suite) { s.storm((*storm).watchLog) },
	},
	{
		name: "streams-agree-with-the-log",
		why:  "stream and log are two ways to the same events: an index that is ahead or behind shows them in one and not in the other (KurrentDB f6203d8a0: index ahead of the writer)",
		run:  func(s *suite) { s.storm((*storm).watchStreams, (*storm).watchNewest) },
	},
}

// storm is 64 writers, each with streams of its own, under the eyes of readers.
type storm struct {
	*suite
	b    engine.Backend
	done atomic.Bool // all writers have returned

	mu     sync.Mutex
	stored map[engine.Position]string // IDs of acknowledged events; guarded by mu
}

const (
	writers = 64
	commits = 12 // of each writer
)

// storm runs the writers and the readers given, and then compares the log with what the
// writers were told.
func (s *suite) storm(readers ...func(*storm, func() bool) error) {
	st := &storm{suite: s, b: s.new(), stored: make(map[engine.Position]string)}
	for _, name := range []string{"A", "B", "C"} {
		if _, err := st.b.TypeID(name); err != nil {
			s.Fatalf("TypeID: %v", err)
		}
	}
	var writing, reading sync.WaitGroup
	start := make(chan struct{})
	for w := range writers {
		writing.Go(func() {
			<-start
			if err := st.write(w); err != nil {
				s.Errorf("writer %d: %v", w, err)
			}
		})
	}
	for _, read := range readers {
		reading.Go(func() {
			// Each reader looks once more after the last commit.
			last := false
			more := func() bool {
				runtime.Gosched()
				if last {
					return false
				}
				last = st.done.Load()
				return true
			}
			if err := read(st, more); err != nil {
				s.Errorf("reader: %v", err)
			}
		})
	}
	close(start)
	writing.Wait()
	st.done.Store(true)
	reading.Wait()
	if s.Failed() {
		return
	}
	if err := st.compare(); err != nil {
		s.Errorf("afterwards: %v", err)
	}
}

// write commits, one after the other, batches of one to three writes to two streams. An
// event's ID says in which commit it is, and which of how many events of it.
func (st *storm) write(w int) error {
	rnd := rand.New(rand.NewPCG(uint64(w), 1))
	states := []*engine.StreamState{{Name: fmt.Sprintf("left-%d", w)}, {Name: fmt.Sprintf("right-%d", w)}}
	for i := range states {
		state, err := st.b.Load(st.Context(), states[i].Name)
		if err != nil {
			return err
		}
		*states[i] = state
	}
	for c := range commits {
		var batch []*engine.Write
		total := 0
		for range 1 + rnd.IntN(3) {
			n := 1 + rnd.IntN(3)
			batch = append(batch, &engine.Write{Stream: states[rnd.IntN(2)], Events: make([]engine.Record, n)})
			total += n
		}
		after := map[*engine.StreamState]engine.Version{}
		k := 0
		for _, wr := range batch {
			wr.After = wr.Stream.Version + after[wr.Stream]
			after[wr.Stream] += engine.Version(len(wr.Events))
			for i := range wr.Events {
				k++
				name := string(rune('A' + rnd.IntN(3)))
				id, err := st.b.TypeID(name)
				if err != nil {
					return err
				}
				wr.Events[i] = engine.Record{Type: name, TypeID: id, ID: fmt.Sprintf("%d.%d.%d/%d", w, c, k, total), Data: st.payload(k)}
			}
		}
		if err := st.b.Commit(st.Context(), batch); err != nil {
			return fmt.Errorf("Commit: %w", err)
		}
		if head, last := st.b.Head(), batch[len(batch)-1]; head < last.Position+engine.Position(len(last.Events))-1 {
			return fmt.Errorf("Head is %d after Commit gave position %d to %d events", head, last.Position, len(last.Events))
		}
		st.mu.Lock()
		next := batch[0].Position
		for _, wr := range batch {
			if wr.Position != next {
				st.mu.Unlock()
				return fmt.Errorf("Commit gave positions %d and then %d, want %d: a batch is in one piece", batch[0].Position, wr.Position, next)
			}
			for i := range wr.Events {
				st.stored[next] = wr.Events[i].ID
				next++
			}
			wr.Stream.Version += engine.Version(len(wr.Events))
			spoil(wr)
		}
		st.mu.Unlock()
		runtime.Gosched() // readers are to see many states, however fast the backend is
	}
	return nil
}

// between reads the events at positions lo to hi.
func (st *storm) between(lo, hi engine.Position, size int) (events []engine.Event, err error) {
	dst := make([]engine.Event, size)
	for lo <= hi {
		n, next, err := st.b.ReadAll(st.Context(), engine.Query{From: lo, To: hi}, dst)
		switch {
		case err != nil:
			return nil, fmt.Errorf("ReadAll: %w", err)
		case n < 1 || next <= lo: // nothing is filtered, so every page has something
			return nil, fmt.Errorf("ReadAll from %d to %d returns %d events and next %d; Head was %d or more before", lo, hi, n, next, hi)
		}
		events = append(events, dst[:n]...)
		lo = next
	}
	return events, nil
}

// stream reads all events of a stream by a state that Load has returned.
func (st *storm) stream(state engine.StreamState) (events []engine.Event, err error) {
	dst := make([]engine.Event, 37)
	for q := (engine.StreamQuery{From: 1, To: state.Version}); q.From <= q.To; {
		n, next, err := st.b.ReadStream(st.Context(), state, q, dst)
		switch {
		case err != nil:
			return nil, fmt.Errorf("ReadStream: %w", err)
		case n < 1 || next <= q.From:
			return nil, fmt.Errorf("ReadStream of %q from %d returns %d events and next %d; Load returned version %d", state.Name, q.From, n, next, state.Version)
		}
		events = append(events, dst[:n]...)
		q.From = next
	}
	return events, nil
}

// watchLog reads what is new again and again: each time it must be all positions up to
// Head, with whole commits, versions in order and time not going back. What was seen once is
// looked at again later.
func (st *storm) watchLog(more func() bool) error {
	var seen []engine.Event
	versions := make(map[string]engine.Version)
	for more() {
		head := st.b.Head()
		if head < engine.Position(len(seen)) {
			return fmt.Errorf("Head is %d and was %d before", head, len(seen))
		}
		events, err := st.between(engine.Position(len(seen)+1), head, 37)
		if err != nil {
			return err
		}
		for i := range events {
			e := &events[i]
			if want := engine.Position(len(seen) + 1); e.Position != want {
				return fmt.Errorf("Head is %d and position %d is missing: the next is %d", head, want, e.Position)
			}
			if versions[e.Stream]++; e.Version != versions[e.Stream] {
				return fmt.Errorf("position %d is version %d of %q, want %d", e.Position, e.Version, e.Stream, versions[e.Stream])
			}
			if len(seen) > 0 && e.Time.Before(seen[len(seen)-1].Time) {
				return fmt.Errorf("time goes back at position %d: from %v to %v", e.Position, seen[len(seen)-1].Time, e.Time)
			}
			seen = append(seen, *e)
		}
		if len(seen) == 0 {
			continue
		}
		if len(seen) != int(head) {
			return fmt.Errorf("Head is %d and %d events are there", head, len(seen))
		}
		if id := seen[head-1].ID; !lastOfCommit(id) {
			return fmt.Errorf("Head is %d, inside a commit: that event is %s of it", head, id)
		}
		// For ever: what is there stays what it is.
		at := engine.Position(1 + rand.IntN(len(seen)))
		again, err := st.between(at, min(at+20, head), 21)
		if err != nil {
			return err
		}
		for i := range again {
			if diff := difference(&again[i], &seen[int(at)-1+i]); diff != "" {
				return fmt.Errorf("position %d is not what it was: %s", int(at)+i, diff)
			}
		}
	}
	return nil
}

func lastOfCommit(id string) bool {
	var w, c, k, total int
	n, err := fmt.Sscanf(id, "%d.%d.%d/%d", &w, &c, &k, &total)
	return n == 4 && err == nil && k == total
}

// watchStreams looks from streams to the log: what a stream shows, the log has.
func (st *storm) watchStreams(more func() bool) error {
	for more() {
		name := fmt.Sprintf([]string{"left-%d", "right-%d"}[rand.IntN(2)], rand.IntN(writers))
		state, err := st.b.Load(st.Context(), name)
		if err != nil {
			return fmt.Errorf("Load: %w", err)
		}
		if state.Version == 0 {
			continue
		}
		all, err := st.stream(state)
		head := st.b.Head()
		if err != nil {
			return err
		}
		for i := range all {
			switch e := &all[i]; {
			case e.Stream != name || e.Version != engine.Version(i+1):
				return fmt.Errorf("ReadStream of %q returns version %d of %q at place %d", name, e.Version, e.Stream, i+1)
			case e.Position > head:
				return fmt.Errorf("%q shows position %d, and Head is %d", name, e.Position, head)
			case i > 0 && e.Position <= all[i-1].Position:
				return fmt.Errorf("versions %d and %d of %q have positions %d and %d", i, i+1, name, all[i-1].Position, e.Position)
			}
		}
		if len(all) != int(state.Version) {
			return fmt.Errorf("ReadStream of %q returns %d events; Load returned version %d", name, len(all), state.Version)
		}
		last := all[len(all)-1]
		events, err := st.between(last.Position, last.Position, 1)
		if err != nil {
			return err
		}
		if diff := difference(&events[0], &last); diff != "" {
			return fmt.Errorf("%q and the log do not agree on position %d: %s", name, last.Position, diff)
		}
	}
	return nil
}

// watchNewest looks from the newest events of the log to their streams, types and IDs.
func (st *storm) watchNewest(more func() bool) error {
	for more() {
		head := st.b.Head()
		if head == 0 {
			continue
		}
		lo := max(head, 16) - 15
		events, err := st.between(lo, head, 16)
		if err != nil {
			return err
		}
		types := make([]engine.TypeID, 1)
		for i := range events {
			e := &events[i]
			state, err := st.b.Load(st.Context(), e.Stream)
			if err != nil {
				return fmt.Errorf("Load: %w", err)
			}
			if state.Version < e.Version {
				return fmt.Errorf("the log shows version %d of %q, which Load says is at %d", e.Version, e.Stream, state.Version)
			}
			dst := make([]engine.Event, 1)
			n, _, err := st.b.ReadStream(st.Context(), state, engine.StreamQuery{From: e.Version, To: e.Version}, dst)
			if err != nil || n != 1 {
				return fmt.Errorf("the log shows version %d of %q, and ReadStream returns %d events, %v", e.Version, e.Stream, n, err)
			}
			if diff := difference(&dst[0], e); diff != "" {
				return fmt.Errorf("%q and the log do not agree on position %d: %s", e.Stream, e.Position, diff)
			}
			want, err := st.b.TypeID(e.Type)
			if err != nil {
				return fmt.Errorf("TypeID: %w", err)
			}
			if n, err := st.b.Types(e.Position-1, types); n != 1 || err != nil || types[0] != want {
				return fmt.Errorf("Types(%d) returns %d %v, %v; the event's type %q is %d, Head was %d before", e.Position-1, n, types, err, e.Type, want, head)
			}
		}
	}
	return nil
}

// compare holds the log against what the writers were told.
func (st *storm) compare() error {
	head := st.b.Head()
	if int(head) != len(st.stored) {
		return fmt.Errorf("%d events were acknowledged, at different positions, and Head is %d", len(st.stored), head)
	}
	events, err := st.between(1, head, 500)
	if err != nil {
		return err
	}
	streams := make(map[string][]engine.Event)
	for i, e := range events {
		if e.Position != engine.Position(i+1) || e.ID != st.stored[e.Position] {
			return fmt.Errorf("event %d of the log is %s at position %d; %s was acknowledged there", i+1, e.ID, e.Position, st.stored[engine.Position(i+1)])
		}
		if want := engine.Version(len(streams[e.Stream]) + 1); e.Version != want {
			return fmt.Errorf("position %d is version %d of %q, want %d", e.Position, e.Version, e.Stream, want)
		}
		streams[e.Stream] = append(streams[e.Stream], e)
	}
	for name, want := range streams {
		state, err := st.b.Load(st.Context(), name)
		if err != nil || int(state.Version) != len(want) {
			return fmt.Errorf("Load(%q) returns version %d, %v; the log has %d events of it", name, state.Version, err, len(want))
		}
		got, err := st.stream(state)
		if err != nil || !slices.EqualFunc(got, want, func(a, b engine.Event) bool { return difference(&a, &b) == "" }) {
			return fmt.Errorf("ReadStream of %q, %v, does not return the %d events that the log has of it", name, err, len(want))
		}
	}
	return nil
}
