package backendtest

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/weirstore/weir/engine"
)

var sharedCases = []testCase{
	{
		name:  "shared-sees-others",
		why:   "the events of other writers come without a Commit of ours: the dispatcher sleeps until Watch's function is called (KurrentDB 99f3bb862: asleep until any other event; Prometheus #13471)",
		needs: "Shared",
		run:   sharedSeesOthers,
	},
	{
		name:  "shared-conflict",
		why:   "the engine's version of a stream may be old when others write: then nothing is stored (NATS #4320: several concurrent publishes with one expected sequence accepted)",
		needs: "Shared",
		run:   sharedConflict,
	},
	{
		name:  "shared-storm",
		why:   "two writers at the same streams: every version and every position is given once",
		needs: "Shared",
		run:   sharedStorm,
	},
}

func sharedSeesOthers(s *suite) {
	st := s.store()
	other := s.second(st.b)
	grown := make(chan struct{}, 1) // one token: "look again"
	other.Watch(func() {
		select {
		case grown <- struct{}{}:
		default:
		}
	})
	seen := s.over(other)
	for i := range 20 {
		select {
		case <-grown: // for the event before
		default:
		}
		st.add(fmt.Sprintf("a-%d", i%3), "A", fmt.Sprint("type ", i%5))
		timer := time.NewTimer(s.patience)
		for called := false; !called || other.Head() < st.b.Head(); {
			select {
			case <-grown:
				called = true
			case <-timer.C:
				s.Fatalf("position %d was committed by another writer; Head is %d, and Watch's function was not called since", st.b.Head(), other.Head())
			}
		}
		timer.Stop()
		seen.log = st.log
		for name := range st.streams {
			state := *st.streams[name]
			state.Ref = nil
			seen.streams[name] = &state
		}
		seen.check()
	}
}

func sharedConflict(s *suite) {
	st := s.store()
	st.add("a-1", "A")
	other := s.over(s.second(st.b))
	if !s.eventually(func() bool { return other.b.Head() == st.b.Head() }) {
		s.Fatalf("another writer's event has not come")
	}
	for i := range 5 {
		stale := []*engine.Write{other.write("b-1", "B"), other.write("a-1", "B"), other.write("a-1", "C")}
		if i%2 == 1 { // the conflict first
			stale[0], stale[1] = stale[1], stale[0]
		}
		other.expect(stale)
		st.add("a-1", "A")
		err := other.b.Commit(s.Context(), stale)
		if conflict, ok := errors.AsType[*engine.VersionConflictError](err); !ok || conflict.Stream != "a-1" {
			s.Fatalf("Commit after version %d to a stream at %d returns %v; want a *VersionConflictError of it", i+1, i+2, err)
		}
		if !s.eventually(func() bool { return other.b.Head() >= st.b.Head() }) {
			s.Fatalf("another writer's event has not come")
		}
		st.check() // nothing of it is stored, not in b-1 either
		other.streams = make(map[string]*engine.StreamState)
	}
	other.log = st.log
	other.add("a-1", "B") // with the version of now it is
	other.check()
}

func sharedStorm(s *suite) {
	first := s.new()
	backends := []engine.Backend{first, s.second(first)}
	const each, streams = 40, 3
	var all, loaded sync.WaitGroup
	loaded.Add(len(backends) * streams)
	ids := make(chan string, len(backends)*streams*each)
	for i, b := range backends {
		for k := range streams {
			all.Go(func() {
				if err := contend(s, b, fmt.Sprintf("a-%d", k), i, each, &loaded, ids); err != nil {
					s.Errorf("%v", err)
				}
			})
		}
	}
	all.Wait()
	if s.Failed() {
		return
	}
	close(ids)
	st := &storm{suite: s, b: first, stored: make(map[engine.Position]string)}
	want := engine.Position(len(backends) * streams * each)
	if !s.eventually(func() bool { return first.Head() == want }) {
		s.Fatalf("%d events were acknowledged, and Head is %d", want, first.Head())
	}
	events, err := st.between(1, want, 100)
	if err != nil {
		s.Fatalf("%v", err)
	}
	for i := range events {
		st.stored[engine.Position(i+1)] = events[i].ID
	}
	found := make(map[string]bool)
	for _, e := range events {
		found[e.ID] = true
	}
	for id := range ids {
		if !found[id] {
			s.Errorf("%s was acknowledged and is not there", id)
		}
	}
	if err := st.compare(); err != nil { // versions and positions
		s.Errorf("%v", err)
	}
}

// contend commits n events to a stream that others write to, as an owner does: after a
// conflict it loads the stream and tries again.
func contend(s *suite, b engine.Backend, stream string, writer, n int, loaded *sync.WaitGroup, ids chan<- string) error {
	typ, typErr := b.TypeID("A")
	state, err := b.Load(s.Context(), stream)
	err = errors.Join(typErr, err)
	loaded.Done()
	loaded.Wait() // so that there is a conflict at the first event at least
	for stored, tries := 0, 0; stored < n; tries++ {
		if err != nil {
			return err
		}
		if tries > 1000*n {
			return fmt.Errorf("%d conflicts for %d events of %q", tries-stored, stored, stream)
		}
		id := fmt.Sprintf("%s.%d.%d", stream, writer, stored)
		w := &engine.Write{Stream: &state, After: state.Version, Events: []engine.Record{{Type: "A", TypeID: typ, ID: id, Data: s.payload(stored)}}}
		err = b.Commit(s.Context(), []*engine.Write{w})
		if err == nil {
			state.Version++
			stored++
			ids <- id
			runtime.Gosched()
			continue
		}
		if _, conflict := errors.AsType[*engine.VersionConflictError](err); !conflict {
			return fmt.Errorf("Commit: %w", err)
		}
		state, err = b.Load(s.Context(), stream)
	}
	return nil
}
