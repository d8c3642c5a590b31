package engine

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirstore/weir/actor"
	"github.com/weirstore/weir/dispatch"
)

// Engine is an event store: streams that are appended to and read, and handlers that
// are called with what was stored. Open makes one, Close or Shutdown ends it. All
// methods are safe for concurrent use, and may be called from inside handlers.
type Engine struct {
	opts    Options
	backend Backend
	caps    Caps // the backend's
	types   *typeRegistry
	codecs  *codecs
	guard   *guard // nil if it is off

	// group has every goroutine of the engine; the constructor's last lines list them.
	group       *actor.Group
	owners      *actor.System[*request]
	dispatcher  *dispatch.Dispatcher[Event]
	checkpoints *checkpoints

	streams   *shards[stream]
	folds     *folds
	snapshots *snapshots
	deciding  atomic.Int64 // calls of Decide that have not returned
	requests  sync.Pool    // of *request
	_         [64]byte     // what follows changes with each append, the above does not
	gate      gate
	// submitted has a token for each append of Submit that is not answered. A channel of empty
	// structs takes no memory for its capacity, and lets those who wait in by turns.
	submitted chan struct{}
	// ctx is for calls of the backend that no caller's context bounds; cancelled when
	// shutdown has run out of time.
	ctx    context.Context
	cancel context.CancelCauseFunc

	first    Position      // the head when the engine was opened
	appended atomic.Uint64 // events stored by this engine, if others may store some, too
	anon     atomic.Uint64 // numbers the handlers that have no name

	shutdown struct {
		sync.Mutex               // guards begun
		begun      bool          // somebody runs it
		done       chan struct{} // closed when report and err are set
		report     Report
		err        error
	}
	following following
	closing   chan struct{} // closed when all is delivered that will be: readers that follow end
}

// Open returns a running engine. It fails if the options are invalid, with all that is
// wrong with them; the backend is then still open.
func Open(opts Options) (*Engine, error) {
	opts, err := opts.withDefaults()
	codecs, codecsErr := newCodecs(opts.Codec, opts.ReadCodecs)
	if err := errors.Join(err, codecsErr); err != nil {
		return nil, err
	}
	e := &Engine{
		opts:    opts,
		backend: opts.Backend,
		caps:    opts.Backend.Caps(),
		types:   newTypeRegistry(opts.Backend),
		codecs:  codecs,
		group:   actor.NewGroup(),
		folds:   newFolds(opts.CachedStates),
		closing: make(chan struct{}),

		submitted: make(chan struct{}, opts.MaxSubmitted),
		following: following{none: make(chan struct{}, 1)},
	}
	e.gate.init()
	e.first = e.backend.Head()
	e.streams = newShards((*stream).name, e.initStream)
	e.guard = newGuard(&e.opts)
	e.snapshots = newSnapshots(e)
	e.requests.New = func() any { return newRequest() }
	e.shutdown.done = make(chan struct{})
	e.ctx, e.cancel = context.WithCancelCause(context.Background())

	// The goroutines, all in e.group: the passivator, and one owner for each stream in
	// use; the dispatcher and its watchdog; one for each handler, and its keyed workers; the
	// checkpointer, if the backend outlives the process; one that sends evicted folds to their
	// owners, while there are some.
	e.owners = actor.NewSystem(actor.Config[*request]{
		Group:   e.group,
		Kind:    "stream",
		Mailbox: opts.StreamMailbox,
		Idle:    opts.IdleAfter,
		Linger:  opts.MaxIdleStreams,
		Lend:    true, // see stream.borrow
		Prompt:  e.caps.Prompt,
		Discard: (*request).discard,
	})
	e.dispatcher = dispatch.New[Event](logView{e.backend}, dispatch.Options{
		Group:      e.group,
		Logger:     opts.Logger,
		SlowCall:   opts.SlowCall,
		StallAfter: opts.StallAfter,
	})
	e.checkpoints = newCheckpoints(e)
	e.backend.Watch(e.dispatcher.Notify)
	return e, nil
}

// Head returns the position of the newest event, 0 if there is none.
func (e *Engine) Head() Position { return e.backend.Head() }

// gate counts what is in flight, and closes in two steps: first to outsiders, then to
// handlers. Passing costs two atomic steps; a select on a done channel costs ten. It counts in several
// stripes, by stream, so that processors do not wait for one another's cache line: that would cost more than
// the steps.
type gate struct {
	stripes [gateStripes]gateStripe
	zero    chan struct{} // cap 1: a stripe's count has fallen to zero after closing began
}

const gateStripes = 16

type gateStripe struct {
	word atomic.Uint64
	own  *request      // of one call at a time: the one that took gateSpare away. Nil until there was one
	zero chan struct{} // the gate's
	_    [40]byte      // to the end of the cache line
}

const (
	gateDraining uint64 = 1 << 0 // outsiders are refused
	gateSealed   uint64 = 1 << 1 // everybody is
	gateSpare    uint64 = 1 << 2 // own is not in use
	gateOne      uint64 = 1 << 3 // one in flight
)

func (g *gate) init() {
	g.zero = make(chan struct{}, 1)
	for i := range g.stripes {
		g.stripes[i].zero = g.zero
		g.stripes[i].word.Store(gateSpare)
	}
}

// of returns the stripe for a stream whose name has that hash.
func (g *gate) of(hash uint64) *gateStripe { return &g.stripes[hash%gateStripes] }

// enter lets an append in, unless one of the bits in refused is set, and reports whether it has the
// stripe's own request from now on.
func (g *gateStripe) enter(refused uint64) (spare, ok bool) {
	for {
		word := g.word.Load()
		if word&refused != 0 {
			return false, false
		}
		// One step for both: such a step takes as long as twenty others.
		if g.word.CompareAndSwap(word, word&^gateSpare+gateOne) {
			return word&gateSpare != 0, true
		}
	}
}

// leave ends what enter began. Whoever has the stripe's own request gives it back.
func (g *gateStripe) leave(spare bool) {
	step := ^(gateOne - 1)
	if spare {
		step += gateSpare
	}
	if word := g.word.Add(step); word&(gateDraining|gateSealed) != 0 && word < gateOne {
		select {
		case g.zero <- struct{}{}:
		default: // a token is there already
		}
	}
}

// close sets a bit. Whoever enters a stripe from its turn on sees it.
func (g *gate) close(bit uint64) {
	for i := range g.stripes {
		g.stripes[i].word.Or(bit)
	}
}

// empty reports whether nothing is in flight. It means that nothing ever will be only if those who
// might still enter are refused by now: then each stripe, once it is seen empty, stays so.
func (g *gate) empty() bool { return g.inFlight() == 0 }

func (g *gate) inFlight() (n int) {
	for i := range g.stripes {
		n += int(g.stripes[i].word.Load() / gateOne)
	}
	return n
}

func (g *gate) closed() bool { return g.stripes[0].word.Load()&(gateDraining|gateSealed) != 0 }

func (g *gate) sealed() bool { return g.stripes[0].word.Load()&gateSealed != 0 }

// logView is the backend as the dispatcher sees it.
type logView struct{ backend Backend }

func (l logView) Head() uint64 { return uint64(l.backend.Head()) }

func (l logView) Kinds(after uint64, dst []dispatch.Kind) (int, error) {
	return l.backend.Types(Position(after), dst)
}

func (l logView) Read(ctx context.Context, after, to uint64, kinds *dispatch.KindSet, dst []Event) (int, uint64, error) {
	q := Query{From: Position(after + 1), To: Position(to), Filter: Filter{Types: kinds}}
	n, next, err := l.backend.ReadAll(ctx, q, dst)
	return n, uint64(next - 1), err
}

func (l logView) Position(e *Event) uint64 { return uint64(e.Position) }
func (l logView) Time(e *Event) time.Time  { return e.Time }
