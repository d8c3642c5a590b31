package backendtest

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirstore/weir/engine"
)

var closeCases = []testCase{
	{
		name: "close-twice",
		why:  "the engine closes its backend, and so does the caller's defer",
		run:  closeTwice,
	},
	{
		name: "closed",
		why:  "a call after Close says so, each time: it does not hang (Watermill #317: Subscribe after Close deadlocks), panic, or answer from what it still has",
		run:  closed,
	},
	{
		name: "close-while-busy",
		why:  "Close may come while other calls run; they return (containerpilot #469), and what was acknowledged was stored (Watermill #446, #669: lost on shutdown)",
		run:  closeWhileBusy,
	},
	{
		name: "no-goroutines-left",
		why:  "a store is opened and closed thousands of times in a test run (Prometheus f31ada2a04: goroutines leaked when Open fails)",
		run:  noGoroutinesLeft,
	},
}

func closeTwice(s *suite) {
	b := s.new()
	s.over(b).add("a-1", "A")
	for i := range 3 {
		if err := b.Close(); err != nil {
			s.Errorf("Close, call %d, returns %v", i+1, err)
		}
	}
	fresh := s.new()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := fresh.Close(); err != nil {
				s.Errorf("one of 8 calls of Close at once returns %v", err)
			}
		})
	}
	if !s.within(all.Wait) {
		s.Fatalf("8 calls of Close at once have not returned")
	}
}

// call is a method of Backend with arguments that are right for an open one.
type call struct {
	name string
	do   func() error
}

// calls returns every method that reports an error. Commits are to the stream given,
// which must be the caller's alone.
func (st *store) calls(stream string) []call {
	ctx, b := st.Context(), st.b
	state := st.stream(stream)
	then := *state // Commit counts state up
	typ := st.typeID("A")
	list := []call{
		{"TypeID of an old name", func() error { _, err := b.TypeID("A"); return err }},
		{"TypeID of a new name", func() error { _, err := b.TypeID("new " + stream); return err }},
		{"Load", func() error { _, err := b.Load(ctx, stream); return err }},
		{"Find", func() error { return b.Find(ctx, then, []string{"x"}, make([]engine.Version, 1)) }},
		{"Commit", func() error {
			w := &engine.Write{Stream: state, After: state.Version, Events: []engine.Record{{Type: "A", TypeID: typ, ID: fmt.Sprint(stream, ".", state.Version+1), Data: st.payload(1)}}}
			err := b.Commit(ctx, []*engine.Write{w})
			if err == nil {
				state.Version++
			}
			return err
		}},
		{"Types", func() error { _, err := b.Types(0, make([]engine.TypeID, 1)); return err }},
		{"ReadAll", func() error {
			_, _, err := b.ReadAll(ctx, engine.Query{From: 1, To: 1}, make([]engine.Event, 1))
			return err
		}},
		{"ReadStream", func() error {
			_, _, err := b.ReadStream(ctx, then, engine.StreamQuery{From: 1, To: 1}, make([]engine.Event, 1))
			return err
		}},
		{"LoadCheckpoint", func() error { _, _, err := b.LoadCheckpoint(ctx, stream); return err }},
		{"SaveCheckpoints", func() error { return save(ctx, b, stream, 1) }},
	}
	if b, ok := b.(engine.Snapshotting); ok {
		list = append(list,
			call{"SaveSnapshot", func() error { return b.SaveSnapshot(ctx, then, engine.Snapshot{Name: "x", First: 1, Version: 1}) }},
			call{"LoadSnapshot", func() error { _, _, err := b.LoadSnapshot(ctx, then, "x"); return err }})
	}
	return list
}

func closed(s *suite) {
	st := s.store()
	st.add("a-1", "A", "B")
	calls := st.calls("a-1")
	unknown := st.calls("b-1")[2:] // of a stream that nobody wrote to
	head := st.b.Head()
	if err := st.b.Close(); err != nil {
		s.Fatalf("Close: %v", err)
	}
	for range 2 { // an early return may have kept a lock (Prometheus f3cbf90e1c)
		for _, c := range append(calls, unknown...) {
			var err error
			if !s.within(func() { err = c.do() }) {
				s.Fatalf("%s after Close has not returned", c.name)
			}
			if !errors.Is(err, engine.ErrClosed) {
				s.Errorf("%s after Close returns %v, want ErrClosed", c.name, err)
			}
		}
	}
	if now := st.b.Head(); now < head {
		s.Errorf("Head was %d and is %d after Close: it never goes down", head, now)
	}
	st.b.Watch(func() {})
}

// closeWhileBusy calls everything at once, and Close in the middle of it.
func closeWhileBusy(s *suite) {
	for round := range 5 {
		st := s.store()
		acked := s.closeUnderLoad(st, round)
		if s.Failed() || !s.caps.Reopen {
			continue
		}
		b := s.again(st.b)
		for stream, version := range acked {
			if state, err := b.Load(s.Context(), stream); err != nil || state.Version < version {
				s.Errorf("%d commits to %q were acknowledged before Close; opened again it is at version %d, %v", version, stream, state.Version, err)
			}
		}
	}
}

// closeUnderLoad returns the versions that were acknowledged.
func (s *suite) closeUnderLoad(st *store, round int) map[string]engine.Version {
	s.Helper()
	st.add("a-1", "A")
	var all sync.WaitGroup
	var isClosed atomic.Bool
	ready := make(chan struct{}, 64) // one token for each goroutine
	busy := 0
	for g := range 4 {
		for _, c := range st.calls(fmt.Sprintf("busy-%d", g)) {
			if c.name == "TypeID of a new name" {
				continue // is old the second time
			}
			busy++
			all.Go(func() {
				for n := 0; ; n++ {
					after := isClosed.Load()
					err := c.do()
					switch {
					case errors.Is(err, engine.ErrClosed):
						if n <= round {
							ready <- struct{}{}
						}
						return
					case after:
						s.Errorf("%s after Close returns %v, want ErrClosed", c.name, err)
						return
					}
					if n == round {
						ready <- struct{}{}
					}
					runtime.Gosched() // the others are not ready yet
				}
			})
		}
	}
	for range busy {
		<-ready
	}
	var err error
	if !s.within(func() { err = st.b.Close() }) {
		s.Fatalf("Close has not returned while calls run")
	}
	if err != nil {
		s.Errorf("Close while calls run: %v", err)
	}
	isClosed.Store(true)
	if !s.within(all.Wait) {
		s.Fatalf("calls that ran when Close came have not returned")
	}
	acked := make(map[string]engine.Version)
	for name, state := range st.streams {
		acked[name] = state.Version
	}
	return acked
}

// noGoroutinesLeft does what starts goroutines, if anything does. That they are gone is
// checked after this case as after every other.
func noGoroutinesLeft(s *suite) {
	for i := range 20 {
		st := s.store()
		st.b.Watch(func() {})
		if i%2 == 0 {
			st.add("a-1", "A", "B")
			st.check()
		}
		if err := st.b.Close(); err != nil {
			s.Fatalf("Close: %v", err)
		}
	}
}

// within runs fn and reports whether it has returned in time.
func (s *suite) within(fn func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	timer := time.NewTimer(s.patience)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
