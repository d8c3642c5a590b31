package engine

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/weirstore/weir/actor"
)

// stream is the owner of one stream's appends. Only who owns the actor touches state: its
// goroutine, or a caller that has borrowed it. There is one for every stream in use, and idle ones stay, so it is
// kept small: 104 bytes.
type stream struct {
	actor actor.Actor[*request]
	eng   *Engine

	state StreamState // owner: whoever owns the actor; without a name until loaded
}

func (s *stream) name() string { return s.actor.Name() }

func (e *Engine) initStream(s *stream, _ uint32, name string) {
	s.eng = e
	e.owners.Init(&s.actor, name, s)
}

// batch is what the owner gathers for one commit.
type batch struct {
	writes []*Write
	reqs   []**request // elements of Receive's argument, set to nil when answered
	ids    bool        // some of them have event IDs
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// borrow makes the caller the owner, if nobody is, and reports whether it did; own must follow. On a backend
// that is not Prompt a commit may take long: there only who waits until the end anyway is an owner, and not one who
// may leave when its context ends.
func (s *stream) borrow(waits bool) bool {
	return (waits || s.eng.caps.Prompt) && s.actor.Borrow()
}

// own handles a request in the goroutine of the caller, who has borrowed the stream, and gives it back. The
// outcome is in the request.
func (s *stream) own(r *request) { s.handle(r, true) }

// handle handles a request, whose outcome is then in it: of a panic, too. When the backend ends the
// goroutine, nobody is told. Borrowed says that the stream is to be given back, whatever happens.
func (s *stream) handle(r *request, borrowed bool) {
	done := false
	defer func() {
		if !done {
			s.failed()
			r.result, r.err = Result{}, s.unfinished(r.op, recover())
		}
		if borrowed {
			s.actor.GiveBack()
		}
	}()
	var f folded
	switch r.op {
	case opAppend:
		s.append(r)
	case opExecute:
		r.result, f, r.err = s.execute(r)
	case opLeave:
		s.leave(r.fold)
	default:
		r.result, r.err = s.remove(r)
	}
	done = true
	if f != nil {
		s.saveDue(f)
	}
}

// failed makes the next load ask the backend, after a commit of which it is not known what it has
// stored. The dispatcher looks: events may be there.
func (s *stream) failed() {
	s.forget()
	s.eng.dispatcher.Notify()
}

// unfinished is the outcome of a request whose handling ended in a panic with value v, or, if that is
// nil, in the end of the goroutine.
func (s *stream) unfinished(op requestOp, v any) error {
	p := &actor.PanicError{Where: "stream " + quote(s.name()), Value: actor.ErrGoexit}
	if v != nil {
		p.Value, p.Stack = v, debug.Stack()
	}
	return discarded(op, p)
}

// Receive implements [actor.Receiver]: it stores as many appends with one commit as it
// can. What it has answered it sets to nil.
func (s *stream) Receive(reqs []*request) {
	if len(reqs) == 1 && reqs[0].op == opAppend { // no batch is needed
		s.handle(reqs[0], false)
		answer(&reqs[0], reqs[0].result, reqs[0].err)
		return
	}
	b := batches.Get().(*batch)
	var version Version
	for i, r := range reqs {
		if r.op != opAppend {
			s.commit(b) // what came before it
			s.receive(&reqs[i])
			continue
		}
		// What depends on writes that are not committed yet is decided once they are.
		if len(b.reqs) > 0 && (len(r.ids) > 0 && b.ids || !r.expected.met(version)) {
			s.commit(b)
		}
		if len(b.reqs) == 0 {
			if err := s.load(); err != nil {
				answer(&reqs[i], Result{}, opError("append", s.name(), err))
				continue
			}
			version = s.state.Version
		}
		if s.decided(r, version) {
			answer(&reqs[i], r.result, r.err)
			continue
		}
		b.add(&reqs[i])
		version += Version(len(r.write.Events))
	}
	s.commit(b)
	batches.Put(b)
}

// receive handles a request that is no append.
func (s *stream) receive(req **request) {
	switch r := *req; r.op {
	case opExecute:
		res, f, err := s.execute(r)
		answer(req, res, err)
		if f != nil {
			s.saveDue(f) // the caller does not wait for it
		}
	case opHold:
		s.hold(req)
	case opLeave:
		f := r.fold
		s.eng.free(r)
		*req = nil
		s.leave(f)
	default:
		res, err := s.remove(r)
		answer(req, res, err)
	}
}

func (b *batch) add(r **request) {
	b.ids = b.ids || len((*r).ids) > 0
	b.reqs = append(b.reqs, r)
	b.writes = append(b.writes, &(*r).write)
}

func (b *batch) reset() {
	clear(b.reqs)
	clear(b.writes)
	b.reqs, b.writes, b.ids = b.reqs[:0], b.writes[:0], false
}

// forget makes the next load ask the backend again.
func (s *stream) forget() { s.state = StreamState{} }

// load gets the stream's state from the backend, unless it is known.
func (s *stream) load() (err error) {
	if s.state.Name != "" {
		return nil
	}
	defer recovered(&err, "load")
	state, err := s.eng.backend.Load(s.eng.ctx, s.name())
	if err == nil {
		s.state = state
		s.state.Name = s.name() // whatever the backend made of it
	}
	return err
}

// decided decides about new events of the stream at version. If it reports true, they are not to be
// committed, and the outcome is in r.
func (s *stream) decided(r *request, version Version) bool {
	r.result, r.err = Result{}, nil
	if len(r.ids) > 0 && !s.state.Deleted {
		var dup bool
		if r.result, dup, r.err = s.duplicate(r); r.err != nil || dup {
			return true
		}
	}
	switch {
	case s.state.Deleted:
		r.err = &StreamDeletedError{s.name()}
	case !r.expected.met(version):
		r.err = &VersionConflictError{Stream: s.name(), Expected: r.expected, Actual: version}
	default:
		r.write.Stream, r.write.After, r.write.Durability = &s.state, version, r.wish
		return false
	}
	return true
}

// duplicate looks for the append's event IDs in the stream.
func (s *stream) duplicate(r *request) (res Result, dup bool, err error) {
	defer recovered(&err, "find")
	versions := make([]Version, len(r.ids))
	if err := s.eng.backend.Find(s.eng.ctx, s.state, r.ids, versions); err != nil {
		return Result{}, false, opError("append", s.name(), err)
	}
	var stored []string
	for i, v := range versions {
		if v > 0 {
			stored = append(stored, r.ids[i])
		}
	}
	switch len(stored) {
	case 0:
		return Result{}, false, nil
	case len(r.write.Events):
	default:
		return Result{}, false, &PartialDuplicateError{s.name(), stored}
	}
	last := slices.Max(versions)
	var ev [1]Event
	n, _, err := s.eng.backend.ReadStream(s.eng.ctx, s.state, StreamQuery{From: last, To: last}, ev[:])
	if err != nil {
		return Result{}, false, opError("append", s.name(), err)
	}
	if n == 0 {
		return Result{}, false, nil // all were removed just now, and their IDs are forgotten
	}
	return Result{First: slices.Min(versions), Last: last, Position: ev[0].Position, Duplicate: true}, true, nil
}

// remove truncates or deletes the stream.
func (s *stream) remove(r *request) (Result, error) {
	op := r.op.String()
	if err := s.load(); err != nil {
		return Result{}, opError(op, s.name(), err)
	}
	version := s.state.Version
	switch {
	case s.state.Deleted: // nothing is left to remove
		return Result{}, nil
	case r.op == opDelete && !r.expected.met(version):
		return Result{}, &VersionConflictError{Stream: s.name(), Expected: r.expected, Actual: version, Op: op}
	case r.op == opTruncate && r.before > version+1:
		return Result{}, invalid(op+" "+quote(s.name()), "version", r.before, fmt.Sprintf("at most %d, one above the stream's", version+1))
	}
	err := s.eng.remove(r.op, s.state, r.before)
	s.eng.folds.drop(s.name())
	s.forget() // Ref may be another one now
	if err != nil {
		err = opError(op, s.name(), err)
	}
	return Result{}, err
}

// retries is how often an append whose expectation is met is tried again after other
// writers of a shared backend were faster.
const retries = 16

// commit stores what the batch holds, and answers it.
func (s *stream) commit(b *batch) {
	defer b.reset()
	if len(b.reqs) == 0 {
		return
	}
	err := s.tryCommit(b.writes)
	if err == nil {
		for _, req := range b.reqs {
			answer(req, s.stored(&(*req).write), nil)
		}
		s.eng.dispatcher.Notify()
		return
	}
	_, conflict := errors.AsType[*VersionConflictError](err)
	for _, r := range b.reqs {
		// Nothing is stored, perhaps because of one of the others: each on its own, then.
		if conflict || len(b.reqs) > 1 && !errors.Is(err, ErrOutcomeUnknown) {
			s.handle(*r, false)
			answer(r, (*r).result, (*r).err)
		} else {
			answer(r, Result{}, opError("append", s.name(), err))
		}
	}
}

// stored takes note of a write that was committed.
func (s *stream) stored(w *Write) Result {
	n := len(w.Events)
	if s.eng.caps.Shared {
		s.eng.appended.Add(uint64(n))
	}
	s.state.Version = w.After + Version(n)
	return Result{First: w.After + 1, Last: s.state.Version, Position: w.Position + Position(n) - 1, Durability: w.Durability}
}

// append decides about one append, with the state that the backend has now, and commits it. It
// tries again while other writers of a shared backend are faster. Whoever calls it guards against a backend
// that does not return, see handle.
func (s *stream) append(r *request) {
	var err error
	for range retries {
		if s.state.Name == "" {
			if err = s.load(); err != nil {
				break
			}
		}
		if s.decided(r, s.state.Version) {
			return
		}
		if err = s.eng.backend.Commit(s.eng.ctx, r.one[:]); err == nil {
			r.result = s.stored(&r.write)
			s.eng.dispatcher.Notify()
			return
		}
		s.failed()
		if _, conflict := errors.AsType[*VersionConflictError](err); !conflict {
			break
		}
	}
	r.result, r.err = Result{}, opError("append", s.name(), err)
}

// tryCommit guards against a backend that panics, or ends the goroutine: what it has
// stored is then unknown. After any failure the backend is asked for the state of the stream
// again, and the dispatcher looks: events may be there.
func (s *stream) tryCommit(writes []*Write) (err error) {
	stored := false
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, &actor.PanicError{Where: "commit", Value: v, Stack: debug.Stack()})
		}
		if !stored {
			s.failed()
		}
	}()
	err = s.eng.backend.Commit(s.eng.ctx, writes)
	stored = err == nil
	return err
}

// recovered turns a panic of the backend into an error.
func recovered(err *error, where string) {
	if v := recover(); v != nil {
		*err = &actor.PanicError{Where: where, Value: v, Stack: debug.Stack()}
	}
}
