package engine

import (
	"context"
	"sync"
	"sync/atomic"
)

// snapshots stores the states of folds, and finds them again.
//
// What leaves memory is evicted by the owner of another stream, which must neither touch the
// fold nor wait for who may. So it is put into a queue, from which a goroutine, in Engine.group while
// there is something in it, sends it to the stream's own owner.
type snapshots struct {
	eng     *Engine
	backend Snapshotting // nil if it keeps none

	saved, failed atomic.Uint64

	mu      sync.Mutex            // pure memory work
	told    map[foldName]struct{} // what was logged
	leaving []leaver              // on the way to their owners
	stopped []leaver              // those that came too late: their owners have ended
	running bool                  // the goroutine
	idle    chan struct{}         // closed when it ends; nil if it never ran
}

// leaver is a fold that was evicted.
type leaver struct {
	stream string
	fold   folded
}

// foldName is a stream and the name of a policy.
type foldName struct{ stream, policy string }

const (
	// maxLeaving is how many folds may be on the way to their owners. Those beyond it are let go
	// of without a snapshot: they hold memory that the limit of cached states was to free.
	maxLeaving = 1024
	// maxTold is how many streams are remembered of which something was logged.
	maxTold = 1024
)

func newSnapshots(e *Engine) *snapshots {
	s := &snapshots{eng: e, told: make(map[foldName]struct{})}
	s.backend, _ = e.backend.(Snapshotting)
	return s
}

// failedWith counts, and logs once for each stream and policy, what no caller is there to be told.
func (s *snapshots) failedWith(text, stream, policy string, err error) {
	s.failed.Add(1)
	key := foldName{stream, policy}
	s.mu.Lock()
	_, told := s.told[key]
	if told = told || len(s.told) >= maxTold; !told {
		s.told[key] = struct{}{}
	}
	s.mu.Unlock()
	if !told {
		s.eng.opts.Logger.Warn(text, "stream", stream, "snapshots", policy, "err", err)
	}
}

// wants reports whether a fold is to be saved when it leaves memory. Anybody may ask.
func (s *snapshots) wants(f folded) bool { return s.backend != nil && f.policy().Leaving }

// evicted takes what has left memory. It waits for nobody.
func (s *snapshots) evicted(l leaver) {
	s.mu.Lock()
	full := len(s.leaving) >= maxLeaving
	start := !full && !s.running
	if !full {
		s.leaving = append(s.leaving, l)
	}
	if start {
		s.running, s.idle = true, make(chan struct{})
	}
	s.mu.Unlock()
	if full {
		s.failed.Add(1)
	}
	if start && !s.eng.group.Go("snapshots", "", s.run) {
		s.next() // the engine has ended
	}
}

// next returns the next fold, or notes that there is none, and the goroutine ends.
func (s *snapshots) next() (l leaver, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.leaving) == 0 || s.eng.ctx.Err() != nil {
		s.leaving, s.running = nil, false
		close(s.idle)
		return leaver{}, false
	}
	l, s.leaving[0] = s.leaving[0], leaver{}
	s.leaving = s.leaving[1:]
	return l, true
}

// run sends what is leaving to its owners.
func (s *snapshots) run() {
	returned := false
	defer func() {
		if returned {
			return
		}
		// runtime.Goexit in a codec or in the backend: this goroutine is lost, those that are leaving are not.
		s.failed.Add(1)
		if !s.eng.group.Go("snapshots", "", s.run) {
			s.next() // the engine has ended
		}
	}()
	for l, there := s.next(); there; l, there = s.next() {
		e := s.eng
		r := e.requests.Get().(*request)
		r.op, r.fold, r.leavable = opLeave, l.fold, false
		st := e.streams.getOrPut(l.stream)
		if st.borrow(false) {
			st.own(r) // whose outcome nobody waits for
			e.free(r)
		} else if err := st.actor.Send(e.ctx, r); err != nil {
			e.free(r)
			s.mu.Lock()
			s.stopped = append(s.stopped, l)
			s.mu.Unlock()
		}
	}
	returned = true
}

// leave saves a fold that was evicted. Owner.
func (s *stream) leave(f folded) {
	if s.eng.folds.has(s.name(), f.decider()) {
		return // there is another one by now, which is not behind this one for long
	}
	s.saveLast(s.eng.ctx, f)
}

// saveDue saves a fold after a command, if it is time. The command is done, so its caller has no part in what
// panics here: that can only be the logger. Owner.
func (s *stream) saveDue(f folded) {
	defer func() { _ = recover() }()
	if e := s.eng; e.snapshots.backend != nil && f.come().due(f.policy()) && s.load() == nil && !s.state.Deleted {
		e.snapshots.save(e.ctx, s.state, f)
	}
}

// saveLast saves a fold that leaves memory. Owner.
func (s *stream) saveLast(ctx context.Context, f folded) {
	if f.come().unsaved() && s.load() == nil && !s.state.Deleted {
		s.eng.snapshots.save(ctx, s.state, f)
	}
}

// finish saves all that is to be saved before it leaves memory. No stream has an owner any
// more, and none will: whoever calls it owns them all.
func (s *snapshots) finish(ctx context.Context) {
	if s.backend == nil {
		return
	}
	s.mu.Lock()
	idle := s.idle
	s.mu.Unlock()
	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
			return // a call of the backend does not return
		}
	}
	s.mu.Lock()
	last := s.stopped
	s.stopped = nil
	s.mu.Unlock()
	last = append(last, s.eng.folds.takeAll(s.wants)...)
	for _, l := range last {
		if ctx.Err() != nil {
			return
		}
		s.eng.streams.getOrPut(l.stream).saveLast(ctx, l.fold)
	}
}
