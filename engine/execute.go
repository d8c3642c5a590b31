package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/weirstore/weir/internal/stack"
)

// execute gives a command to the stream's owner.
func (e *Engine) execute(ctx context.Context, stream string, cmd command) (Result, error) {
	c := call{name: stream}
	if err := e.enter(ctx, &c); err != nil {
		return Result{}, opError("execute", stream, err)
	}
	defer c.leave()
	if c.stream == nil { // as in prepare
		if err := checkName("execute", "stream name", stream); err != nil {
			return Result{}, err
		}
	}
	r := e.request(&c, opExecute, 1)
	err := e.begin(ctx, &c, r)
	if err == nil {
		r.command, r.expected = cmd, Any
		err = e.admit(ctx, &c, opExecute)
	}
	if err != nil {
		e.free(r)
		return Result{}, err
	}
	return e.send(ctx, &c, r)
}

// execute lets a command be decided, and stores what comes of it. F is the fold to be saved when
// the caller has its answer, if it is time. Owner.
func (s *stream) execute(r *request) (res Result, f folded, err error) {
	for try := 0; ; try++ {
		var again bool
		res, f, again, err = s.executeOnce(r)
		if !again || try == retries {
			return res, f, err
		}
		s.wait(try)
	}
}

// executeOnce decides on the state that the backend has now. Again says that another
// writer of a shared backend was faster. F is what it has decided on.
func (s *stream) executeOnce(r *request) (res Result, f folded, again bool, err error) {
	e := s.eng
	if e.caps.Shared {
		s.forget() // others may have written
	}
	if err := s.load(); err != nil {
		return Result{}, nil, false, opError("execute", s.name(), err)
	}
	if s.state.Deleted {
		return Result{}, nil, false, &StreamDeletedError{s.name()}
	}
	f, err = s.fold(r.command)
	if err != nil {
		return Result{}, nil, false, opError("execute", s.name(), err)
	}
	events, err := s.decide(r.command, f)
	if err != nil {
		return Result{}, f, false, err // the user's own
	}
	if len(events) == 0 {
		return Result{Last: s.state.Version}, f, false, nil
	}
	r.empty() // of what was decided before, if others were faster
	if err := e.fill(r, s.name(), events); err != nil {
		return Result{}, f, false, err
	}
	if s.decided(r, s.state.Version) {
		return r.result, f, false, r.err
	}
	if err := s.tryCommit(r.one[:]); err != nil {
		_, conflict := errors.AsType[*VersionConflictError](err)
		return Result{}, nil, conflict, opError("execute", s.name(), err)
	}
	res = s.stored(&r.write) // before Evolve, which may end the goroutine
	e.dispatcher.Notify()
	s.evolve(r.command, f, &r.write)
	return res, f, false, nil
}

// wait lets other writers of a shared backend go first: about a millisecond, and twice as
// much each time, at random so that two do not meet for ever.
func (s *stream) wait(try int) {
	most := time.Millisecond << min(try, 6)
	timer := time.NewTimer(time.Duration(rand.Int64N(int64(most))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.eng.ctx.Done():
	}
}

// fold returns the state of the stream at its present version.
func (s *stream) fold(cmd command) (f folded, err error) {
	e := s.eng
	whole := false
	defer func() {
		if !whole {
			s.spoil(f)
		}
	}()
	defer recovered(&err, "evolve")
	dropped := e.folds.dropped.Load()
	f = e.folds.get(s.name(), cmd.decider())
	if f == nil || f.come().at > s.state.Version {
		f = cmd.begin()
		e.snapshots.restore(e.ctx, s.state, f, s.state.Version)
	} else if f.come().at == s.state.Version {
		whole = true
		return f, nil
	}
	buf := chunks.Get().(*[chunk]Event)
	defer func() {
		clear(buf[:])
		chunks.Put(buf)
	}()
	for next := f.come().at + 1; next <= s.state.Version; {
		n, after, err := e.backend.ReadStream(e.ctx, s.state, StreamQuery{From: next, To: s.state.Version}, buf[:])
		if err != nil {
			return nil, err
		}
		for i := range buf[:n] {
			if e.caps.Encoded {
				if err := e.decode(&buf[i], nil); err != nil {
					return nil, err
				}
			}
			if err := e.guard.evolve(cmd.decider(), buf[i], f.evolve); err != nil {
				return nil, err
			}
		}
		if after == next {
			break
		}
		next = after
	}
	for _, l := range e.folds.put(s.name(), f, dropped) {
		if e.snapshots.wants(l.fold) {
			e.snapshots.evicted(l)
		}
	}
	whole = true
	return f, nil
}

// spoil drops what is kept of the stream: user code that did not return may have left a state
// that is half of something. Owner.
func (s *stream) spoil(f folded) {
	if f != nil {
		f.come().spoiled = true
	}
	s.eng.folds.drop(s.name())
}

// evolve takes the events that were just stored into a fold. They are stored whatever
// happens here: a fold that fails is dropped, and made anew for the next command.
func (s *stream) evolve(cmd command, f folded, w *Write) {
	e := s.eng
	whole := false
	defer func() {
		if !whole {
			s.spoil(f)
		}
	}()
	var err error
	defer recovered(&err, "evolve")
	at := time.Unix(0, w.UnixNano).UTC()
	for i := range w.Events {
		rec := &w.Events[i]
		ev := Event{
			Stream: s.name(), Version: w.After + Version(i) + 1, Position: w.Position + Position(i),
			Type: rec.Type, ID: rec.ID, Time: at, Data: rec.Data, Meta: rec.Meta,
		}
		if e.caps.Encoded { // as it will be read, and not as it was given
			if err := e.decode(&ev, nil); err != nil {
				return
			}
		}
		if e.guard.evolve(cmd.decider(), ev, f.evolve) != nil {
			return // it is logged
		}
	}
	whole = true
}

// decide calls the user's Decide.
func (s *stream) decide(cmd command, f folded) (events []NewEvent, err error) {
	s.eng.deciding.Add(1)
	defer s.eng.deciding.Add(-1)
	returned := false
	defer func() {
		if !returned {
			s.spoil(f)
		}
	}()
	defer recovered(&err, "decide")
	events, err = callDecide(cmd, f)
	returned = true
	return events, err
}

// callDecide marks the stack: who finds decidePC there is called by Decide.
//
//go:noinline
func callDecide(cmd command, f folded) ([]NewEvent, error) {
	events, err := cmd.decide(f)
	return events, err
}

// decidePC is where Decide returns to in callDecide.
var decidePC = func() uintptr {
	var p probe
	callDecide(&p, nil)
	return p.pc
}()

// probe is a command that finds out who calls it.
type probe struct{ pc uintptr }

func (p *probe) decider() any  { return nil }
func (p *probe) begin() folded { return nil }
func (p *probe) saves() bool   { return false }
func (p *probe) decide(folded) ([]NewEvent, error) {
	p.pc = stack.Return()
	return nil, nil
}

// insideDecide reports whether a Decide has called, in this goroutine. The stack is looked
// through only while some stream of this engine decides; it does not tell whose Decide it is, and one
// that calls another engine is no purer.
func (e *Engine) insideDecide() bool {
	return e.deciding.Load() > 0 && stack.Has(decidePC)
}
