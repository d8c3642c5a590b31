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
	c := call{name: stream}
	if err := e.enter(ctx, &c); err != nil {
		return Result{}, opError("append", stream, err)
	}
	defer c.leave()
	r := e.request(&c, opAppend, len(events))
	if err := e.prepare(ctx, &c, r, expected, events); err != nil {
		e.free(r)
		return Result{}, err
	}
	return e.send(ctx, &c, r)
}

// prepare checks what Append or Submit was given, makes r of it, and waits until it is admitted.
func (e *Engine) prepare(ctx context.Context, c *call, r *request, expected Expected, events []NewEvent) error {
	if err := e.begin(ctx, c, r); err != nil {
		return err
	}
	if c.stream == nil { // else the name was checked when the stream was made
		if err := checkName("append", "stream name", c.name); err != nil {
			return err
		}
	}
	if !expected.valid() {
		return invalid("append "+quote(c.name), "expected version", expected, "Any, NoStream, StreamExists or Exactly(n)")
	}
	r.expected = expected
	if err := e.fill(r, c.name, events); err != nil {
		return err
	}
	return e.admit(ctx, c, opAppend)
}

// call is a call of the engine that changes streams, from its entry on. It lives on the stack of
// who calls.
type call struct {
	name   string // of the stream, if it concerns one
	hash   uint64 // the name's
	stream *stream
	cause  *dispatch.Delivery // what is being handled, if it comes from inside a handler
	inside bool
	done   <-chan struct{} // its context's
	gate   *gateStripe     // through which it came in
	spare  bool            // it has the gate's own request
	given  bool            // the owner leaves for it, when it is done
}

// enter lets a call in. If it does, somebody must call leave.
func (e *Engine) enter(ctx context.Context, c *call) error {
	if e.insideDecide() {
		return ErrInDecide
	}
	c.hash = e.streams.hash(c.name)
	c.stream = e.streams.find(c.hash, c.name)
	c.gate = e.gate.of(c.hash)
	c.done = ctx.Done()
	c.cause, c.inside = e.dispatcher.Inside(ctx)
	refused := gateSealed
	if !c.inside {
		refused |= gateDraining
	}
	var ok bool
	if c.spare, ok = c.gate.enter(refused); ok {
		return nil
	}
	// A handler may have lost its context on the way here; its goroutine tells.
	if c.inside || !e.dispatcher.InsideGoroutine() {
		return ErrClosed
	}
	if c.spare, ok = c.gate.enter(gateSealed); !ok {
		return ErrClosed
	}
	return nil
}

func (c *call) leave() {
	if c.given {
		return
	}
	if c.spare {
		if r := c.gate.own; r != nil && !r.idle {
			c.gate.own = nil // there was a panic: it may be the owner's
		}
	}
	c.gate.leave(c.spare)
}

// request returns an empty request, for so many events, of a call that was let in. A call that needs more than one asks
// for pooled ones.
func (e *Engine) request(c *call, op requestOp, events int) *request {
	var r *request
	if c.spare && events <= keepSpare {
		if r = c.gate.own; r == nil {
			r = newRequest()
			r.own, c.gate.own = true, r
		}
		r.idle = false
	} else {
		r = e.requests.Get().(*request)
	}
	r.op, r.gate, r.spare = op, c.gate, c.spare
	return r
}

// begin fills in what a request has of its context.
func (e *Engine) begin(ctx context.Context, c *call, r *request) error {
	r.wish = e.opts.Durability
	if wished.Load() {
		wish, bad := e.wish(ctx)
		if bad != nil {
			return invalid(r.op.String()+" "+quote(c.name), "durability", bad.Value, bad.Rule)
		}
		r.wish = wish
	}
	if c.cause != nil && r.from.empty() { // else it is known
		var err error
		if r.from, err = e.causedBy(ctx, c.cause); err != nil {
			return opError(r.op.String(), c.name, err)
		}
	}
	return nil
}

// admit waits until the call's events are admitted.
func (e *Engine) admit(ctx context.Context, c *call, op requestOp) error {
	if c.done != nil && ctx.Err() != nil {
		return opError(op.String(), c.name, context.Cause(ctx))
	}
	if uint64(e.backend.Head()) < e.dispatcher.Limit() { // most often: Admit looks who asks, then
		return nil
	}
	if err := e.dispatcher.Admit(ctx); err != nil {
		return opError(op.String(), c.name, err)
	}
	return nil
}

// owner returns the actor of the call's stream.
func (e *Engine) owner(c *call) *stream {
	if c.stream == nil {
		c.stream = e.streams.put(c.hash, c.name)
	}
	return c.stream
}

// send has a request handled: by the caller, if it can borrow the stream, or else by the
// stream's owner, for whose answer it waits. The caller may have left before: then it has given
// its place in the gate to the owner.
func (e *Engine) send(ctx context.Context, c *call, r *request) (Result, error) {
	s := e.owner(c)
	// A snapshot is saved when the caller has its answer: not before, by the caller, if that takes long.
	saves := r.op == opExecute && e.snapshots.backend != nil && r.command.saves()
	if s.borrow(c.done == nil && !saves) {
		s.own(r)
		res, err := r.result, r.err
		e.free(r)
		return res, err
	}
	op := r.op // r may be the owner's when it is needed
	r.leavable = !e.caps.Prompt && c.done != nil
	if err := s.give(ctx, r); err != nil {
		e.free(r)
		return Result{}, opError(op.String(), c.name, err)
	}
	// Accepted. From here on the owner always answers.
	switch {
	case !r.phase.CompareAndSwap(phaseOpen, phaseAwaited): // it has answered already
	case r.leavable:
		select {
		case <-r.answered:
		case <-c.done:
			if c.given = r.left.CompareAndSwap(false, true); c.given {
				// The owner still has r, which therefore goes to the collector, not to the pool.
				return Result{}, opError(op.String(), c.name, fmt.Errorf("%w: %w", ErrOutcomeUnknown, context.Cause(ctx)))
			}
			<-r.answered // the answer is known after all
		}
	default:
		<-r.answered
	}
	res, err := r.result, r.err
	e.free(r)
	return res, err
}

// give puts a request into the stream's mailbox. Without an error it is accepted, and may be
// answered already, so that it is the caller's no more unless the caller waits for the answer.
func (s *stream) give(ctx context.Context, r *request) error {
	err := s.actor.Send(ctx, r)
	if err != nil && errors.Is(err, actor.ErrStopped) {
		return ErrClosed
	}
	return err
}

// fill checks events and copies them into r, so that the caller's slice need not outlive
// the call and is not allocated.
func (e *Engine) fill(r *request, stream string, events []NewEvent) error {
	n := len(events)
	switch {
	case n == 0:
		return r.bad(stream, "number of events", n, fmt.Sprintf("1 to %d", e.opts.MaxEvents))
	case n > e.opts.MaxEvents:
		return r.bad(stream, "number of events", n, fmt.Sprintf("at most %d", e.opts.MaxEvents))
	}
	r.write.Events = slices.Grow(r.write.Events, n)[:n]
	r.size = 0
	for i := e.fillPlain(r, events, 0); i < n; i = e.fillPlain(r, events, i+1) {
		if err := e.fillOne(r, stream, i, &events[i]); err != nil {
			return err
		}
	}
	if len(r.ids) > 1 {
		if id, twice := repeated(r.ids); twice {
			return r.bad(stream, "event ID", id, "different IDs within one append")
		}
	}
	return nil
}

// fillPlain copies plain events from the i-th on, and returns the place of the first that is not: that of which the
// type is not the last one's, or the payload measured or encoded, or that has an ID or metadata, or exceeds the limit. Most
// are plain, and to look at one as fillOne does costs three times as much.
func (e *Engine) fillPlain(r *request, events []NewEvent, i int) int {
	u := &r.last
	if u.in != e.types.now.Load() || !u.unmeasured || e.caps.Encoded || !r.from.empty() {
		return i
	}
	known, own, name, id := u.goes, u.own, u.t.name, u.t.id
	recs := r.write.Events
	for ; i < len(events) && i < len(recs); i++ {
		ev, rec := &events[i], &recs[i] // in place: it is 96 bytes
		goes, data := words(&ev.Data)
		if goes != known || data == nil || ev.ID != "" || !ev.Meta.empty() {
			break
		}
		if ev.Type != "" || !own {
			if ev.Type != name || r.size+len(name) > e.opts.MaxBytes {
				break
			}
			r.size += len(name)
		}
		rec.Type, rec.TypeID, rec.Data = name, id, ev.Data
	}
	return i
}

// fillOne checks and copies an event that may be anything.
func (e *Engine) fillOne(r *request, stream string, i int, ev *NewEvent) error {
	if ev.Data == nil {
		return r.bad(stream, fmt.Sprintf("payload of event %d", i+1), nil, "a value")
	}
	t := r.last.t
	if !r.last.answers(ev, e.types.now.Load()) {
		var err error
		if t, err = e.types.ofEvent(ev, &r.last); err != nil {
			return r.ofEvent(stream, i, err)
		}
	}
	r.rich = r.rich || ev.ID != "" || !ev.Meta.empty() || !r.from.empty()
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
	if r.size += ev.size(); r.size > e.opts.MaxBytes {
		return r.tooLarge(stream, i+1, e.opts.MaxBytes)
	}
	rec := &r.write.Events[i]
	rec.Type, rec.TypeID, rec.ID, rec.Data, rec.Meta = t.name, t.id, ev.ID, ev.Data, ev.Meta
	if e.caps.Encoded {
		p, err := e.encode(stream, i, t, ev.Data)
		if err != nil {
			return err
		}
		if !measured(ev.Data) {
			r.size += len(p.Bytes)
		}
		if r.size > e.opts.MaxBytes {
			return r.tooLarge(stream, i+1, e.opts.MaxBytes)
		}
		rec.Data = p
	}
	if rec.Meta.CorrelationID == "" {
		rec.Meta.CorrelationID = r.from.CorrelationID
	}
	if rec.Meta.CausationID == "" {
		rec.Meta.CausationID = r.from.CausationID
	}
	return nil
}

func (r *request) tooLarge(stream string, n, limit int) error {
	return r.bad(stream, fmt.Sprintf("size in bytes up to event %d", n), r.size, fmt.Sprintf("at most %d", limit))
}

// empty forgets the events, of which nothing may keep the collector from what the user has let go of.
// A type's name is not the user's, and to clear it is not free.
func (r *request) empty() {
	if r.rich {
		clear(r.write.Events)
		clear(r.ids)
		r.ids, r.rich = r.ids[:0], false
	}
	for i := range r.write.Events {
		r.write.Events[i].Data = nil
	}
	r.write.Events = r.write.Events[:0]
}

// bad is the error of a request that cannot be.
func (r *request) bad(stream, what string, value any, rule string) error {
	return invalid(r.op.String()+" "+quote(stream), what, value, rule)
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

// request is an append, or another change of a stream, on its way to the stream's owner. It is pooled: whoever calls free must know that nobody else has it.
type request struct {
	op       requestOp
	before   Version  // of opTruncate
	command  command  // of opExecute
	held     *held    // of opHold
	fold     folded   // of opLeave
	from     Metadata // what new events were caused by
	expected Expected
	ids      []string // of those events that have one
	rich     bool     // some have an ID, or metadata
	size     int      // bytes of the events, as Options.MaxBytes counts them
	wish     Durability
	last     usedType    // of the event before, of this request or of one that it was before
	gate     *gateStripe // of the call that made it
	spare    bool        // which has the gate's own request
	own      bool        // this is one; immutable
	idle     bool        // and it is free
	write    Write
	one      [1]*Write     // &write, so that a commit of one request allocates nothing
	pending  *Pending      // of Submit: the answer goes there, and nowhere else
	phase    atomic.Uint32 // whether the caller waits for answered, or need not
	answered chan struct{} // cap 1: the owner never waits for the caller

	// Whether the caller may leave before the answer, and which of the two was first: the
	// caller that left, or the owner that answered.
	leavable bool
	left     atomic.Bool
	result   Result
	err      error
}

// Which of the two was first: the owner that has answered, or the caller who began to wait. If it is
// the owner no channel is needed, which costs some 50 ns.
const (
	phaseOpen    uint32 = iota // neither
	phaseAwaited               // the caller waits for r.answered
	phaseAnswered
)

func newRequest() *request {
	r := &request{answered: make(chan struct{}, 1)}
	r.one[0] = &r.write
	return r
}

const (
	// keepEvents is how many events a pooled request keeps room for: more would keep the
	// memory of one large append for ever.
	keepEvents = 256
	// keepSpare is likewise for the one request that each stripe of the gate keeps, which the collector
	// does not empty as it does a pool.
	keepSpare = 8
	// pooled asks for a request that is not such a one.
	pooled = keepSpare + 1
)

// free gives a request back to the engine's pool. A pool of all engines would hand the
// channels of one testing/synctest bubble to another, which is fatal.
func (e *Engine) free(r *request) {
	r.empty()
	r.write.Stream = nil
	if r.op != opAppend { // most are, and to clear a pointer is not free
		r.op, r.before, r.command, r.held, r.fold = opAppend, 0, nil, nil, nil
	}
	if !r.from.empty() {
		r.from = Metadata{}
	}
	if r.pending != nil || r.err != nil {
		r.pending, r.err = nil, nil
	}
	if r.phase.Load() != phaseOpen || r.left.Load() { // an atomic store costs more than a look
		r.phase.Store(phaseOpen)
		r.left.Store(false)
	}
	keep := keepEvents
	if r.own {
		keep = 2 * keepSpare // as slices.Grow makes room for more than it is asked for, at most twice
	}
	if cap(r.write.Events) > keep {
		r.write.Events, r.ids = nil, nil
	}
	if r.own {
		r.idle = true // and given back by whoever leaves the gate
	} else {
		e.requests.Put(r)
	}
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
		if q.own {
			q.gate.own = nil // nobody has emptied it
		}
		q.gate.leave(q.spare)
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
		answer(&r, Result{}, discarded(r.op, err))
	}
}

func discarded(op requestOp, err error) error {
	return fmt.Errorf("engine: %v: %w: %w", op, ErrOutcomeUnknown, err)
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
