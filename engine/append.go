package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/weirstore/weir/actor"
	"github.com/weirstore/weir/dispatch"
)

// Append stores events at the end of a stream, all or none, and returns where. The
// stream comes to be with its first event.
//
// Expected says at which version the stream is believed to be: [Any], [NoStream],
// [StreamExists] or [Exactly]; if it is not, nothing is stored and the error is a
// [*VersionConflictError]. Events with an ID that the stream has already are not stored
// again, whatever is expected: the result then says Duplicate, or the error is a
// [*PartialDuplicateError] if only some of them are there: give an ID to every event of an
// append, or to none. The IDs of events that were removed, see [Engine.Truncate], are forgotten.
//
// It blocks while a handler with the [Block] policy has a full mailbox, while the stream's
// own mailbox is full, and until the events are stored. Ctx is honoured until the append is
// accepted by the stream: until then its cause is returned, and nothing is stored. After
// that either the answer is known, or the error is [ErrOutcomeUnknown].
//
// With the context that a handler was called with, Append does not wait for handlers, is
// possible until the last moment of a shutdown, and fills in what correlates the new events with
// the one being handled.
//
// Other errors: [*InvalidError], [*TypeConflictError], [*EncodeError], [*StreamDeletedError],
// [ErrClosed]. In all of them nothing is stored. How durable the events are is said by Options.Durability,
// or for one append by [WithDurability].
func (e *Engine) Append(ctx context.Context, stream string, expected Expected, events ...NewEvent) (Result, error) {
	return e.call(ctx, stream, opAppend, func(r *request) error {
		return e.fillAppend(r, stream, expected, events)
	})
}

// fillAppend checks what Append or Submit was given, and makes r of it.
func (e *Engine) fillAppend(r *request, stream string, expected Expected, events []NewEvent) error {
	if err := checkName("append", "stream name", stream); err != nil {
		return err
	}
	if !expected.valid() {
		return invalid("append "+quote(stream), "expected version", expected, "Any, NoStream, StreamExists or Exactly(n)")
	}
	r.expected = expected
	return e.fill(r, stream, events)
}

// call lets a request in, that prepare has filled, and gives it to the stream's owner.
func (e *Engine) call(ctx context.Context, stream string, op requestOp, prepare func(*request) error) (res Result, err error) {
	cause, inside, err := e.enter(ctx)
	if err != nil {
		return Result{}, opError(op.String(), stream, err)
	}
	abandoned := false
	defer func() {
		if !abandoned { // else the owner leaves for us, when it is done
			e.gate.leave()
		}
	}()
	r := e.requests.Get().(*request)
	r.op = op
	if err := e.ready(ctx, r, stream, cause, inside, prepare); err != nil {
		e.free(r)
		return Result{}, err
	}
	res, abandoned, err = e.send(ctx, r, stream)
	return res, err
}

// ready makes a request ready to be sent. Prepare checks and fills in what is its own.
func (e *Engine) ready(ctx context.Context, r *request, stream string, cause *dispatch.Delivery, inside bool, prepare func(*request) error) error {
	wish, bad := e.wish(ctx)
	if bad != nil {
		return invalid(r.op.String()+" "+quote(stream), "durability", bad.Value, bad.Rule)
	}
	r.wish = wish
	if cause != nil && r.from.empty() { // else it is known
		var err error
		if r.from, err = e.causedBy(ctx, cause); err != nil {
			return opError(r.op.String(), stream, err)
		}
	}
	if err := prepare(r); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return opError(r.op.String(), stream, context.Cause(ctx))
	}
	if !inside {
		if err := e.dispatcher.Admit(ctx); err != nil {
			return opError(r.op.String(), stream, err)
		}
	}
	return nil
}

// enter lets a call in that changes streams, and says whether it comes from inside a
// handler. If it does let it in, somebody must call gate.leave.
func (e *Engine) enter(ctx context.Context) (cause *dispatch.Delivery, inside bool, err error) {
	if e.insideDecide() {
		return nil, false, ErrInDecide
	}
	cause, inside = e.dispatcher.Inside(ctx)
	refused := gateSealed
	if !inside {
		refused |= gateDraining
	}
	if !e.gate.enter(refused) {
		// A handler may have lost its context on the way here; its goroutine tells.
		if inside || !e.dispatcher.InsideGoroutine() || !e.gate.enter(gateSealed) {
			return nil, false, ErrClosed
		}
	}
	return cause, inside, nil
}

// send gives a request to the stream's owner, and waits for the answer. The caller may have
// abandoned it instead: then the owner leaves the gate when it is done.
func (e *Engine) send(ctx context.Context, r *request, stream string) (_ Result, abandoned bool, _ error) {
	op := r.op // r may be the owner's when it is needed
	r.leavable = !e.caps.Prompt && ctx.Done() != nil
	if err := e.stream(stream).give(ctx, r); err != nil {
		e.free(r)
		return Result{}, false, opError(op.String(), stream, err)
	}
	// Accepted. From here on the owner always answers.
	switch {
	case !r.phase.CompareAndSwap(phaseOpen, phaseAwaited): // it has answered already
	case r.leavable:
		select {
		case <-r.answered:
		case <-ctx.Done():
			if abandoned = r.left.CompareAndSwap(false, true); abandoned {
				// The owner still has r, which therefore goes to the collector, not to the pool.
				return Result{}, true, opError(op.String(), stream, fmt.Errorf("%w: %w", ErrOutcomeUnknown, context.Cause(ctx)))
			}
			<-r.answered // the answer is known after all
		}
	default:
		<-r.answered
	}
	res, err := r.result, r.err
	e.free(r)
	return res, false, err
}

// stream returns the actor of a stream.
func (e *Engine) stream(name string) *stream {
	if s, ok := e.streams.get(name); ok {
		return s
	}
	return e.streams.getOrPut(name, e.newStream)
}

// give puts a request into the stream's mailbox. Without an error it is accepted, and may be
// answered already, so that it is the caller's no more unless the caller waits for the answer.
func (s *stream) give(ctx context.Context, r *request) error {
	send := s.actor.Send
	if r.leavable || r.pending != nil && !s.eng.caps.Prompt {
		send = s.actor.Post // its caller may not be kept for as long as a commit takes
	}
	err := send(ctx, r)
	if err != nil && errors.Is(err, actor.ErrStopped) {
		return ErrClosed
	}
	return err
}

// fill checks events and copies them into r, so that the caller's slice need not outlive
// the call and is not allocated.
func (e *Engine) fill(r *request, stream string, events []NewEvent) error {
	bad := func(what string, value any, rule string) error {
		return invalid(r.op.String()+" "+quote(stream), what, value, rule)
	}
	switch {
	case len(events) == 0:
		return bad("number of events", 0, fmt.Sprintf("1 to %d", e.opts.MaxEvents))
	case len(events) > e.opts.MaxEvents:
		return bad("number of events", len(events), fmt.Sprintf("at most %d", e.opts.MaxEvents))
	}
	size := 0
	tooLarge := func(i, size int) error {
		return bad(fmt.Sprintf("size in bytes up to event %d", i+1), size, fmt.Sprintf("at most %d", e.opts.MaxBytes))
	}
	r.write.Events = slices.Grow(r.write.Events, len(events))[:len(events)]
	var t *eventType
	for i := range events {
		ev := &events[i]
		if ev.Data == nil {
			return bad(fmt.Sprintf("payload of event %d", i+1), nil, "a value")
		}
		var err error
		if t, err = e.types.ofEvent(ev, t); err != nil {
			return r.ofEvent(stream, i, err)
		}
		if ev.ID != "" {
			if err := checkName("", "ID", ev.ID); err != nil {
				return r.ofEvent(stream, i, err)
			}
			r.ids = append(r.ids, ev.ID)
		}
		if len(ev.Meta.Extra) > 0 {
			if err := ev.Meta.checkTags(); err != nil {
				return r.ofEvent(stream, i, err)
			}
		}
		if size += ev.size(); size > e.opts.MaxBytes {
			return tooLarge(i, size)
		}
		rec := &r.write.Events[i] // in place: it is 96 bytes
		rec.Type, rec.TypeID, rec.ID, rec.Data, rec.Meta = t.name, t.id, ev.ID, ev.Data, ev.Meta
		if e.caps.Encoded {
			p, err := e.encode(stream, i, t, ev.Data)
			if err != nil {
				return err
			}
			if !measured(ev.Data) {
				size += len(p.Bytes)
			}
			if size > e.opts.MaxBytes {
				return tooLarge(i, size)
			}
			rec.Data = p
		}
		if rec.Meta.CorrelationID == "" {
			rec.Meta.CorrelationID = r.from.CorrelationID
		}
		if rec.Meta.CausationID == "" {
			rec.Meta.CausationID = r.from.CausationID
		}
	}
	r.size = size
	if id, twice := repeated(r.ids); twice {
		return bad("event ID", id, "different IDs within one append")
	}
	return nil
}

// ofEvent says of an error with an event of a request which one it is.
func (r *request) ofEvent(stream string, i int, err error) error {
	if bad, ok := err.(*InvalidError); ok && bad.Op == "" {
		bad.Op, bad.What = r.op.String()+" "+quote(stream), fmt.Sprintf("%s of event %d", bad.What, i+1)
	}
	return err
}

// causedBy returns the metadata of an event appended while another is being handled. If that
// was removed meanwhile, nothing is known of it any more, and there is none.
func (e *Engine) causedBy(ctx context.Context, cause *dispatch.Delivery) (_ Metadata, err error) {
	defer recovered(&err, "read")
	pos := Position(cause.Position())
	var ev [1]Event
	n, _, err := e.backend.ReadAll(ctx, Query{From: pos, To: pos}, ev[:])
	if err != nil {
		return Metadata{}, fmt.Errorf("read the event being handled, at position %d: %w", pos, err)
	}
	if n == 0 {
		return Metadata{}, nil
	}
	return Metadata{CorrelationID: ev[0].Correlation(), CausationID: ev[0].Identity()}, nil
}

// request is an append, or another change of a stream, on its way through the stream's
// mailbox. It is pooled: whoever calls free must know that nobody else has it.
type request struct {
	op       requestOp
	before   Version  // of opTruncate
	command  command  // of opExecute
	held     *held    // of opHold
	fold     folded   // of opLeave
	from     Metadata // what new events were caused by
	expected Expected
	ids      []string // of those events that have one
	size     int      // bytes of the events, as Options.MaxBytes counts them
	wish     Durability
	write    Write
	one      [1]*Write     // &write, so that a commit of one request allocates nothing
	pending  *Pending      // of Submit: the answer goes there, and nowhere else
	phase    atomic.Uint32 // whether the caller waits for answered, or need not
	answered chan struct{} // cap 1: the owner never waits for the caller

	// Whether the caller may leave before the answer, and which of the two was first: the
	// caller that left, or the owner that answered.
	leavable bool
	left     atomic.Bool
	leave    func() // what the owner does for a caller that has left
	result   Result
	err      error
}

// Which of the two was first: the owner that has answered, or the caller who began to wait. Of a
// stream that was lent it is always the owner, so no channel is needed, which costs some 50 ns.
const (
	phaseOpen    uint32 = iota // neither
	phaseAwaited               // the caller waits for r.answered
	phaseAnswered
)

func (e *Engine) newRequest() any {
	r := &request{answered: make(chan struct{}, 1), leave: e.gate.leave}
	r.one[0] = &r.write
	return r
}

// keepEvents is how many events a pooled request keeps room for: more would keep the
// memory of one large append for ever.
const keepEvents = 256

// free gives a request back to the engine's pool. A pool of all engines would hand the
// channels of one testing/synctest bubble to another, which is fatal.
func (e *Engine) free(r *request) {
	clear(r.write.Events)
	clear(r.ids)
	if cap(r.write.Events) > keepEvents {
		r.write.Events, r.ids = nil, nil
	}
	r.write.Events, r.ids = r.write.Events[:0], r.ids[:0]
	r.write.Stream = nil
	if r.op != opAppend { // most are, and to clear a pointer is not free
		r.op, r.before, r.command, r.held, r.fold = opAppend, 0, nil, nil, nil
	}
	if !r.from.empty() {
		r.from = Metadata{}
	}
	r.pending, r.err = nil, nil
	r.left.Store(false)
	r.phase.Store(phaseOpen)
	e.requests.Put(r)
}

// answer gives the outcome to the caller, who may use *r anew at once: the owner lets go
// of it first.
func answer(r **request, res Result, err error) {
	q := *r
	*r = nil
	if q.pending != nil {
		q.pending.answered(q, res, err)
		return
	}
	if q.leavable && !q.left.CompareAndSwap(false, true) {
		q.leave()
		return
	}
	q.result, q.err = res, err
	if q.phase.Swap(phaseAnswered) == phaseAwaited {
		q.answered <- struct{}{}
	}
}

// discard answers an append that no Receive has answered (those are nil): the backend
// ended its owner's goroutine.
func (r *request) discard(err error) {
	if r != nil {
		answer(&r, Result{}, fmt.Errorf("engine: %v: %w: %w", r.op, ErrOutcomeUnknown, err))
	}
}

// repeated returns a string that is twice in the list.
func repeated(list []string) (string, bool) {
	if len(list) < 16 {
		for i, s := range list {
			if slices.Contains(list[:i], s) {
				return s, true
			}
		}
		return "", false
	}
	seen := make(map[string]struct{}, len(list))
	for _, s := range list {
		if _, ok := seen[s]; ok {
			return s, true
		}
		seen[s] = struct{}{}
	}
	return "", false
}
