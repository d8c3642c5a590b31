package engine

import (
	"context"
	"sync/atomic"
)

// Submit is [Engine.Append] without waiting for the answer: it returns as soon as the stream has
// accepted the append, and [Pending.Wait] tells the outcome. What one goroutine submits and appends to
// one stream is stored in that order; between streams there is none. In all else it is like Append: what is
// stored, whose turn it is, what a handler's context and [WithDurability] do.
//
// An error of Submit itself means that nothing was accepted and nothing is stored: [*InvalidError],
// [*TypeConflictError], [*EncodeError], [ErrClosed], [ErrInDecide], or ctx's cause. What Append would learn from
// the stream, such as a [*VersionConflictError], is told by Wait.
//
// Submit blocks while a handler with the [Block] policy has a full mailbox, while
// Options.MaxSubmitted appends of the engine are accepted and not answered, and while the stream's own mailbox is full
// (Options.StreamMailbox); until then ctx is honoured. It cannot wait for its own caller: an answer is put into
// the Pending, whether or not anybody waits, and that makes room. So a goroutine may submit as much as it
// wants before it waits for the first, and a Pending that nobody waits for leaves nothing behind. When the
// stream is idle and the backend is in memory, Submit stores the events itself before it returns.
//
// An event counts as handled when its handler has returned. A handler that submits and returns without
// Wait may thus be done with an event before what it has submitted is stored, and a crash in between, or a conflict,
// loses that: call Wait before the handler returns. [Engine.Settle] does not know of what is not stored yet.
//
// [Engine.Shutdown] waits for what was accepted.
func (e *Engine) Submit(ctx context.Context, stream string, expected Expected, events ...NewEvent) (*Pending, error) {
	c := call{name: stream}
	if err := e.enter(ctx, &c); err != nil {
		return nil, opError("append", stream, err)
	}
	defer c.leave()
	r := e.request(&c, opAppend, len(events))
	if err := e.prepare(ctx, &c, r, expected, events); err != nil {
		e.free(r)
		return nil, err
	}
	p := &Pending{stream: e.owner(&c)}
	if p.stream.borrow(false) {
		p.stream.own(r)
		p.res, p.err = r.result, r.err
		e.free(r)
		p.signal.Store(resolved)
		return p, nil
	}
	if err := e.takeSlot(ctx); err != nil {
		e.free(r)
		return nil, opError("append", stream, err)
	}
	r.leavable, r.pending = false, p
	defer func() {
		if !c.given { // or ctx, which is the caller's code, has panicked
			<-e.submitted
		}
	}()
	if err := p.stream.give(ctx, r); err != nil {
		e.free(r)
		return nil, opError("append", stream, err)
	}
	c.given = true
	return p, nil
}

// takeSlot blocks until fewer than MaxSubmitted appends are under way. Owners give slots back, and
// they wait for nobody but the backend.
func (e *Engine) takeSlot(ctx context.Context) error {
	select {
	case e.submitted <- struct{}{}:
		return nil
	default: // not a loss: tried again below
	}
	select {
	case e.submitted <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.ctx.Done(): // a shutdown has run out of time
		return ErrClosed
	}
}

// Pending is the outcome of an append that was given to [Engine.Submit]. It is known sooner or
// later, also when the backend fails or the engine is shut down. All methods may be called from any
// goroutine, any number of times, or never.
type Pending struct {
	stream *stream
	// signal is nil, then perhaps what those wait for who came too early, and in the end
	// resolved: from then on res and err are set, and do not change.
	signal atomic.Pointer[signal]
	res    Result // owner, until resolved
	err    error
}

// signal is a channel that is closed when the outcome is known. It is made by the first who
// has to wait, so that nobody pays for it who comes late or not at all.
type signal struct{ done chan struct{} }

// resolved is the signal of every Pending whose outcome is known. It has no channel: one that
// is made here would be foreign to a testing/synctest bubble.
var resolved = new(signal)

// Wait blocks until the outcome is known, and returns what [Engine.Append] would have. If ctx is done
// first it returns ctx's cause; the append goes on all the same, and Wait may be called again. That is not
// [ErrOutcomeUnknown], which is an outcome: the backend itself could not tell, and nothing more will be learned.
//
// An outcome that is known is returned whatever ctx is. Inside Decide, where it would block, the error
// is [ErrInDecide].
func (p *Pending) Wait(ctx context.Context) (Result, error) {
	s := p.signal.Load()
	if s != resolved {
		if p.stream.eng.insideDecide() {
			return Result{}, p.failed(ErrInDecide)
		}
		if s = p.arm(); s != resolved {
			select {
			case <-s.done:
			case <-ctx.Done():
				if p.signal.Load() != resolved {
					return Result{}, p.failed(context.Cause(ctx))
				}
			}
		}
	}
	return p.res, p.err
}

func (p *Pending) failed(err error) error { return opError("wait for append", p.stream.name(), err) }

// arm returns the signal to wait for.
func (p *Pending) arm() *signal {
	if s := p.signal.Load(); s != nil {
		return s
	}
	p.signal.CompareAndSwap(nil, &signal{make(chan struct{})})
	return p.signal.Load()
}

// answered is what the owner does with the outcome of r, in this order: when the gate is left
// everything is done, so that a shutdown finds every Pending resolved.
func (p *Pending) answered(r *request, res Result, err error) {
	e := p.stream.eng
	p.res, p.err = res, err
	if s := p.signal.Swap(resolved); s != nil {
		close(s.done) // nobody sends on it
	}
	gate, spare := r.gate, r.spare
	e.free(r)
	<-e.submitted
	gate.leave(spare)
}
