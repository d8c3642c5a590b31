package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/weirstore/weir/actor"
)

// MaxStreams is how many streams one [Tx] may write to and check: each is held until it is done.
const MaxStreams = 1000

// Tx is what [Engine.Commit] stores: writes to any number of streams, on conditions.
type Tx struct {
	// Writes are stored in this order, at positions that follow one another. There is one
	// for each stream.
	Writes []TxWrite
	// Checks are what other streams, or those that are written to, must be like just before.
	Checks []TxCheck
	// Conditions are on events by their tags, in whatever streams.
	Conditions []Condition
}

// TxWrite is new events for one stream: what [Engine.Append] is given.
type TxWrite struct {
	Stream   string
	Expected Expected
	Events   []NewEvent
}

// TxCheck says at which version a stream must be.
type TxCheck struct {
	Stream   string
	Expected Expected
}

// TxResult tells where a [Tx] stored its events.
type TxResult struct {
	Position Position // of the last event
	Writes   []Result // of each write, in their order
}

// TxError means that a [Tx] was refused: it has all reasons, not only the first. Nothing was stored.
type TxError struct {
	// Reasons are a [*VersionConflictError] for each expectation that was not met, a
	// [*StreamDeletedError] for each write to a deleted stream, and a [*PartialDuplicateError] for each
	// write whose event IDs are stored already, wholly or in part, if that is not so of every write, and a
	// [*ConditionError] for each condition that has failed.
	Reasons []error
}

func (e *TxError) Error() string {
	texts := make([]string, len(e.Reasons))
	for i, r := range e.Reasons {
		texts[i] = strings.TrimPrefix(r.Error(), "engine: ")
	}
	return "engine: commit: refused: " + strings.Join(texts, "; ")
}

// Unwrap makes errors.Is and errors.AsType find the reasons.
func (e *TxError) Unwrap() []error { return e.Reasons }

// Commit stores the events of all writes, or none: no reader, handler or crash ever sees a
// part. The expectations of writes and checks are decided on at one moment, in which none of these
// streams changes. If one is not met the error is a [*TxError] with all that were not. Events with IDs
// that are stored already are not stored again, if that is so of every write.
//
// Its streams are held, one after the other in the order of their names, until it is
// stored: their appends wait meanwhile, and no two calls can wait for each other. In all else it is like
// [Engine.Append]; the limits of one append are those of all writes together, and [MaxStreams].
//
// On a backend that other processes write to, too ([Caps].Shared), checks of streams which are
// not written to cannot be kept, and are refused with an error that wraps [errors.ErrUnsupported].
func (e *Engine) Commit(ctx context.Context, tx Tx) (TxResult, error) {
	if err := e.checkTx(tx); err != nil {
		return TxResult{}, err
	}
	if len(tx.Writes) == 1 && len(tx.Checks) == 0 && len(tx.Conditions) == 0 && !e.caps.Shared {
		return e.commitOne(ctx, tx.Writes[0])
	}
	conditions, err := e.conditions(tx.Conditions)
	if err != nil {
		return TxResult{}, err
	}
	var c call
	if err := e.enter(ctx, &c); err != nil {
		return TxResult{}, opError("commit", "", err)
	}
	defer c.leave()
	t := &txn{eng: e, tx: tx, byName: make(map[string]*held), conditions: conditions}
	defer t.release()
	size, from := 0, Metadata{}
	for _, w := range tx.Writes {
		h := t.stream(w.Stream)
		c.name = w.Stream // for messages
		h.req = e.request(&c, opHold, pooled)
		h.req.from, h.req.expected = from, w.Expected
		err := e.begin(ctx, &c, h.req)
		if err == nil {
			err = e.fill(h.req, w.Stream, w.Events)
		}
		if err == nil {
			err = e.admit(ctx, &c, opHold)
		}
		if err != nil {
			return TxResult{}, err
		}
		from = h.req.from // all have the same cause
		if size += h.req.size; size > e.opts.MaxBytes {
			return TxResult{}, invalid("commit", "size in bytes of all writes", size, fmt.Sprintf("at most %d", e.opts.MaxBytes))
		}
	}
	for _, c := range tx.Checks {
		t.stream(c.Stream)
	}
	if err := t.hold(ctx); err != nil {
		return TxResult{}, err
	}
	return t.commit()
}

// commitOne is an append: its owner needs not be held, which costs two switches of goroutines.
func (e *Engine) commitOne(ctx context.Context, w TxWrite) (TxResult, error) {
	res, err := e.Append(ctx, w.Stream, w.Expected, w.Events...)
	switch err.(type) {
	case nil:
		return TxResult{Position: res.Position, Writes: []Result{res}}, nil
	case *VersionConflictError, *StreamDeletedError, *PartialDuplicateError:
		err = &TxError{[]error{err}}
	}
	return TxResult{}, err
}

// checkTx checks what can be checked without looking at streams.
func (e *Engine) checkTx(tx Tx) error {
	bad := func(what string, value any, rule string) error { return invalid("commit", what, value, rule) }
	streams, events := make(map[string]bool), 0
	for i, w := range tx.Writes {
		what := fmt.Sprintf("of write %d", i+1)
		if err := checkName("commit", "stream name "+what, w.Stream); err != nil {
			return err
		}
		switch {
		case streams[w.Stream]:
			return bad("stream "+what, w.Stream, "one write for each stream")
		case !w.Expected.valid():
			return bad("expected version "+what, w.Expected, "Any, NoStream, StreamExists or Exactly(n)")
		case len(w.Events) == 0:
			return bad("number of events "+what, 0, "at least 1")
		}
		streams[w.Stream] = true
		events += len(w.Events)
	}
	for i, c := range tx.Checks {
		what := fmt.Sprintf("of check %d", i+1)
		if err := checkName("commit", "stream name "+what, c.Stream); err != nil {
			return err
		}
		if !c.Expected.valid() {
			return bad("expected version "+what, c.Expected, "Any, NoStream, StreamExists or Exactly(n)")
		}
		if e.caps.Shared && !streams[c.Stream] {
			return fmt.Errorf("engine: commit: check of %q, which is not written to, with backend %q: %w", c.Stream, e.caps.Name, errors.ErrUnsupported)
		}
		streams[c.Stream] = true
	}
	switch {
	case len(tx.Writes) == 0:
		return bad("number of writes", 0, "at least 1")
	case len(streams) > MaxStreams:
		return bad("number of streams", len(streams), fmt.Sprintf("at most %d", MaxStreams))
	case events > e.opts.MaxEvents:
		return bad("number of events", events, fmt.Sprintf("at most %d", e.opts.MaxEvents))
	}
	return nil
}

// txn is a Commit under way. It runs in the caller's goroutine, which is the owner of the
// streams that it holds.
type txn struct {
	eng    *Engine
	tx     Tx
	byName map[string]*held

	conditions []TagCondition
}

// held is a stream that is to be held, or is.
type held struct {
	name    string
	req     *request // of its write; of a check alone there is none until it is sent
	sent    bool
	stream  *stream
	err     error         // of loading its state; set before ready
	ready   chan struct{} // cap 1: its owner waits, and what it owns is the txn's
	release chan struct{} // closed when the owner may go on
}

func (t *txn) stream(name string) *held {
	h := t.byName[name]
	if h == nil {
		h = &held{name: name, ready: make(chan struct{}, 1), release: make(chan struct{})}
		t.byName[name] = h
	}
	return h
}

// hold is the owner's part: it loads the stream's state and waits until the txn is done
// with it. The request is not touched any more.
func (s *stream) hold(req **request) {
	h := (*req).held
	if s.eng.caps.Shared {
		s.forget() // others may have written
	}
	h.err = s.load() // if the backend ends the goroutine, the request is discarded
	*req = nil
	h.ready <- struct{}{}
	<-h.release
}

// hold takes the streams in the order of their names. Whoever waits here holds only smaller
// ones, so the holder of the greatest of all waits for nobody but the backend: there is no circle.
func (t *txn) hold(ctx context.Context) error {
	e := t.eng
	all := make([]*held, 0, len(t.byName))
	for _, h := range t.byName {
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b *held) int { return strings.Compare(a.name, b.name) })
	for _, h := range all {
		if h.req == nil {
			h.req = e.requests.Get().(*request)
			h.req.op = opHold
		}
		h.req.held, h.req.leavable = h, false
		h.req.phase.Store(phaseAwaited) // below
		h.stream = e.streams.getOrPut(h.name)
		if err := h.stream.actor.Send(ctx, h.req); err != nil {
			if errors.Is(err, actor.ErrStopped) {
				err = ErrClosed
			}
			return opError("commit", h.name, err)
		}
		h.sent = true
		select {
		case <-h.ready:
		case <-h.req.answered: // it was discarded: nothing is stored
			if ended, ok := errors.AsType[*actor.PanicError](h.req.err); ok {
				return opError("commit", h.name, ended)
			}
			return opError("commit", h.name, ErrClosed)
		case <-ctx.Done():
			return opError("commit", h.name, context.Cause(ctx))
		}
		if h.err != nil {
			return opError("commit", h.name, h.err)
		}
	}
	return nil
}

// release gives the streams back. Whatever was sent and is not held yet passes without waiting.
func (t *txn) release() {
	for _, h := range t.byName {
		if h.req == nil {
			continue
		}
		if !h.sent {
			t.eng.free(h.req)
		}
		// A request that was sent goes to the collector: its owner may not have come to it yet.
		close(h.release)
	}
}

// commit decides and stores. All streams are held.
func (t *txn) commit() (TxResult, error) {
	for try := 0; ; try++ {
		writes, done, err := t.decide()
		if done != nil || err != nil {
			return TxResult{Writes: done, Position: last(done)}, err
		}
		err = t.store(writes)
		if err == nil {
			return t.stored(), nil
		}
		if _, failed := errors.AsType[*ConditionError](err); failed {
			reasons, err := t.failed(err)
			if err != nil {
				return TxResult{}, opError("commit", "", err)
			}
			return TxResult{}, &TxError{reasons}
		}
		if _, conflict := errors.AsType[*VersionConflictError](err); !conflict || !t.eng.caps.Shared || try == retries {
			return TxResult{}, opError("commit", "", err)
		}
		t.first().wait(try)
		for _, h := range t.byName {
			if err := h.stream.load(); err != nil {
				return TxResult{}, opError("commit", h.name, err)
			}
		}
	}
}

func (t *txn) first() *stream { return t.byName[t.tx.Writes[0].Stream].stream }

func last(results []Result) (pos Position) {
	for _, r := range results {
		pos = max(pos, r.Position)
	}
	return pos
}

// decide looks whether all expectations are met. If all events are stored already it
// returns where.
func (t *txn) decide() (writes []*Write, duplicates []Result, err error) {
	var reasons, twice []error
	var found []Result
	for _, w := range t.tx.Writes {
		h := t.byName[w.Stream]
		if !h.stream.decided(h.req, h.stream.state.Version) {
			writes = append(writes, &h.req.write)
			continue
		}
		res, err := h.req.result, h.req.err
		_, conflict := errors.AsType[*VersionConflictError](err)
		_, deleted := errors.AsType[*StreamDeletedError](err)
		_, partial := errors.AsType[*PartialDuplicateError](err)
		switch {
		case err == nil:
			found = append(found, res)
			twice = append(twice, &PartialDuplicateError{w.Stream, h.req.ids})
		case conflict || deleted || partial:
			reasons = append(reasons, err)
		default:
			return nil, nil, err // the backend's
		}
	}
	if len(found) == len(t.tx.Writes) {
		return nil, found, nil
	}
	for _, c := range t.tx.Checks {
		h := t.byName[c.Stream]
		if v := h.stream.state.Version; !c.Expected.met(v) {
			reasons = append(reasons, &VersionConflictError{Stream: c.Stream, Expected: c.Expected, Actual: v, Op: "check"})
		}
	}
	if reasons = append(reasons, twice...); len(reasons) > 0 {
		also, err := t.failed(nil)
		if err != nil {
			return nil, nil, opError("commit", "", err)
		}
		reasons = append(reasons, also...)
		return nil, nil, &TxError{reasons}
	}
	return writes, nil, nil
}

// store is tryCommit for many streams.
func (t *txn) store(writes []*Write) (err error) {
	stored := false
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, &actor.PanicError{Where: "commit", Value: v, Stack: debug.Stack()})
		}
		if !stored {
			for _, h := range t.byName {
				h.stream.forget()
			}
			t.eng.dispatcher.Notify()
		}
	}()
	if len(t.conditions) > 0 {
		err = t.eng.backend.(Tagging).CommitIf(t.eng.ctx, writes, t.conditions)
	} else {
		err = t.eng.backend.Commit(t.eng.ctx, writes)
	}
	stored = err == nil
	return err
}

// conditions checks the conditions of a Tx and makes them what backends are given.
func (e *Engine) conditions(list []Condition) (conditions []TagCondition, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	if _, err := e.tagging(); err != nil {
		return nil, opError("commit", "", err)
	}
	if len(list) > MaxCriteria {
		return nil, invalid("commit", "number of conditions", len(list), fmt.Sprintf("at most %d", MaxCriteria))
	}
	for i, c := range list {
		matches, err := e.matches(fmt.Sprintf("commit: condition %d", i+1), c.Any)
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, TagCondition{matches, c.After})
	}
	return conditions, nil
}

// failed returns the conditions that fail now, beside what else is wrong. It is for the
// error alone: CommitIf is what decides.
func (t *txn) failed(first error) (reasons []error, err error) {
	told, _ := errors.AsType[*ConditionError](first)
	for i, c := range t.conditions {
		events, err := t.find(c)
		switch {
		case err != nil:
			return nil, err
		case len(events) > 0:
			reasons = append(reasons, &ConditionError{i + 1, events[0].Position})
		case told != nil && told.Condition == i+1:
			reasons = append(reasons, told) // by an event that is gone
		}
	}
	return reasons, nil
}

// find returns an event that makes a condition fail.
func (t *txn) find(c TagCondition) (events []Event, err error) {
	defer recovered(&err, "matching")
	var buf [1]Event
	n, err := t.eng.backend.(Tagging).Matching(t.eng.ctx, c.Any, c.After, t.eng.Head(), buf[:])
	return buf[:n], err
}

// stored takes note of what was stored.
func (t *txn) stored() TxResult {
	res := TxResult{Writes: make([]Result, len(t.tx.Writes))}
	for i, w := range t.tx.Writes {
		h := t.byName[w.Stream]
		res.Writes[i] = h.stream.stored(&h.req.write)
	}
	res.Position = last(res.Writes)
	t.eng.dispatcher.Notify()
	return res
}
