package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirstore/weir/actor"
)

// Options of a [Dispatcher]. The zero value of each field but Group is its default.
type Options struct {
	// Group starts all goroutines. Required; it must outlive the dispatcher.
	Group *actor.Group
	// Logger gets what no caller is there to be told: skipped events, stops, slow
	// calls. Default slog.Default().
	Logger *slog.Logger
	// SlowCall is how long one call of a handler may run before the watchdog logs and
	// counts it: once a call, between SlowCall and 1.5×SlowCall. Default 5s.
	SlowCall time.Duration
	// StallAfter is how long a handler with events before it may make no progress
	// before its state is called stalled. Default 10s.
	StallAfter time.Duration
}

// roundSize is how many events the dispatcher looks at before it tells handlers: it
// bounds how long the first of them waits, and 1 KiB of kinds stay in the L1 cache.
const roundSize = 256

// yields is how often the dispatcher lets other goroutines run before it parks: while
// producers are busy it then finds several appends in one round, and they need not wake it.
// Measured with BenchmarkAppend: 1.2 times the rate with one handler, 1.6 times with eight.
const yields = 4

// While a producer goes on and on, each look at what is new takes the cache lines from it in which it
// writes, and that costs both more than the events do. So after lullAfter rounds in a row with fewer than
// lullEvents each the dispatcher lets some time pass between rounds: lullTime, unless somebody
// keeps the processor, and at most lullYields times letting others run. Who waits for a handler before
// it goes on never makes such a row.
const (
	lullAfter  = 4
	lullEvents = 32
	lullTime   = 10 * time.Microsecond
	lullYields = 64
)

// Dispatcher is one goroutine that reads what is new in a log and offers it to the
// handlers that it concerns.
type Dispatcher[E any] struct {
	log   Log[E]
	opts  Options
	sig   *actor.Signal // parks the dispatcher's goroutine
	door  *door
	seats *seats
	watch *watchdog

	base   context.Context // of all handlers
	cancel context.CancelCauseFunc

	// done is the position up to which all handlers were told. Written by the
	// dispatcher's goroutine, after the offers.
	done atomic.Uint64

	// owner: the dispatcher's goroutine
	byKind   [][]*Handler[E] // handlers of a kind, by Kind
	every    []*Handler[E]   // handlers of all kinds
	attached []*Handler[E]
	watchers []*Watcher
	kinds    [roundSize]Kind
	tallies  []tally // by Kind; n is zero between rounds
	touched  []Kind  // kinds with n > 0 in this round

	poked      atomic.Bool   // ops are waiting, or the limit is to be computed again
	waiting    atomic.Int64  // goroutines in Handler.Wait
	quiescing  atomic.Bool   // someone is in Quiesce
	settled    chan struct{} // cap 1: something may have become quiet while quiescing
	readErrors atomic.Uint64

	mu       sync.Mutex // pure memory work
	ops      []op       // for the dispatcher's goroutine, run between rounds
	handlers map[string]*Handler[E]
	closed   bool // no new handlers
	ending   bool // the dispatcher's goroutine is to return
	ended    chan struct{}
}

// tally is what one round found of one kind.
type tally struct{ first, last, n uint64 }

// add adds all positions from first to last.
func (t *tally) add(first, last uint64) {
	if t.n == 0 {
		t.first = first
	}
	t.last = last
	t.n += last - first + 1
}

// op is a change of the dispatcher's own state, made by its goroutine.
type op struct {
	do   func()
	done chan struct{}
}

// New returns a dispatcher that begins at the log's head: what was there before
// reaches a handler only through its start position.
func New[E any](log Log[E], opts Options) *Dispatcher[E] {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	setDefault(&opts.SlowCall, 5*time.Second)
	setDefault(&opts.StallAfter, 10*time.Second)
	d := &Dispatcher[E]{
		log:      log,
		opts:     opts,
		sig:      actor.NewSignal(),
		door:     newDoor(),
		seats:    &seats{byID: make(map[uint64]*seat)},
		watch:    newWatchdog(opts),
		settled:  make(chan struct{}, 1), // one token: "look again"
		handlers: make(map[string]*Handler[E]),
		ended:    make(chan struct{}),
	}
	d.base, d.cancel = context.WithCancelCause(context.Background())
	d.done.Store(log.Head())
	opts.Group.Go("dispatcher", "", d.run)
	opts.Group.Go("watchdog", "", d.watch.run)
	return d
}

// Notify tells that the log has grown. It never blocks and costs one atomic load
// while the dispatcher is awake.
func (d *Dispatcher[E]) Notify() { d.sig.Wake() }

// poke makes the dispatcher run its ops and compute the door's limit again.
func (d *Dispatcher[E]) poke() {
	d.poked.Store(true)
	d.sig.Wake()
}

// Position returns the position up to which all handlers were told what is there.
func (d *Dispatcher[E]) Position() uint64 { return d.done.Load() }

// Waited returns how many calls of Admit had to wait.
func (d *Dispatcher[E]) Waited() uint64 { return d.door.waited.Load() }

// Inside returns the delivery that ctx comes from, if that is a call of one of this
// dispatcher's handlers which has not returned yet.
func (d *Dispatcher[E]) Inside(ctx context.Context) (*Delivery, bool) {
	del, ok := ctx.Value(deliveryKey{}).(*Delivery)
	if !ok || del.seat.owner != d.seats || !del.Live() {
		return nil, false
	}
	return del, true
}

// InsideGoroutine reports whether the calling goroutine is one of a handler's own,
// whatever context it holds. It takes about a microsecond.
func (d *Dispatcher[E]) InsideGoroutine() bool { return d.seats.here() != nil }

// run is the dispatcher's goroutine. It waits for nobody but the log.
func (d *Dispatcher[E]) run() {
	defer close(d.ended)
	backoff := time.Millisecond
	streak := 0 // rounds with events since the last without, or with many
	idle := 0   // rounds without an event since the last that had one
	for {
		if d.poked.Load() {
			d.poked.Store(false)
			if d.runOps() {
				return
			}
		}
		n, err := d.round(^uint64(0))
		d.afterRound()
		if err != nil {
			d.readErrors.Add(1)
			d.opts.Logger.Error("weir: dispatcher cannot read the log", "position", d.done.Load(), "err", err)
			d.pause(backoff)
			backoff = min(2*backoff, time.Second)
			continue
		}
		backoff = time.Millisecond
		if n > 0 {
			idle = 0
			if streak++; n >= lullEvents {
				streak = 0
			} else if streak >= lullAfter {
				d.lull()
			}
			continue
		}
		streak = 0
		if idle++; idle <= yields {
			runtime.Gosched()
			continue
		}
		d.sig.Arm()
		if d.poked.Load() || d.log.Head() > d.done.Load() {
			d.sig.Disarm()
			continue
		}
		d.sig.Wait()
		idle = 0
	}
}

func (d *Dispatcher[E]) lull() {
	began := time.Now()
	for n := 0; n < lullYields && time.Since(began) < lullTime; n++ {
		runtime.Gosched()
	}
}

// pause waits before the log is read again, or for a wake-up.
func (d *Dispatcher[E]) pause(t time.Duration) {
	timer := time.NewTimer(t)
	defer timer.Stop()
	d.sig.Arm()
	if d.poked.Load() {
		d.sig.Disarm()
		return
	}
	select {
	case <-timer.C:
		d.sig.Disarm()
	case <-d.sig.C():
	}
}

// round reads up to roundSize kinds, not beyond limit, and offers what they stand for.
// The work per event does not depend on the number of handlers.
func (d *Dispatcher[E]) round(limit uint64) (n int, err error) {
	after := d.done.Load()
	room := min(limit-after, roundSize)
	if d.log.Head() <= after || room == 0 {
		return 0, nil
	}
	if n, err = d.readKinds(after, d.kinds[:room]); n == 0 {
		return 0, err
	}
	var all tally // what concerns the handlers of all kinds
	kinds := d.kinds[:n]
	for i := 0; i < len(kinds); {
		k, from := kinds[i], i // those that follow of the same kind are counted at once
		for i++; i < len(kinds) && kinds[i] == k; i++ {
		}
		if k == Removed {
			continue
		}
		for int(k) >= len(d.tallies) {
			d.tallies = append(d.tallies, tally{})
		}
		t := &d.tallies[k]
		if t.n == 0 {
			d.touched = append(d.touched, k)
		}
		first, last := after+1+uint64(from), after+uint64(i)
		t.add(first, last)
		all.add(first, last)
	}
	for _, k := range d.touched {
		if int(k) >= len(d.byKind) {
			continue
		}
		for _, h := range d.byKind[k] {
			h.collect(d.tallies[k])
		}
	}
	for _, k := range d.touched {
		if int(k) < len(d.byKind) {
			for _, h := range d.byKind[k] {
				d.offer(h)
			}
		}
		d.tallies[k].n = 0
	}
	if all.n > 0 {
		for _, h := range d.every {
			h.collect(all)
			d.offer(h)
		}
	}
	d.done.Store(after + uint64(n))
	d.wakeWatchers()
	d.touched = d.touched[:0]
	return n, nil
}

// readKinds guards against a log that panics: it is somebody else's code.
func (d *Dispatcher[E]) readKinds(after uint64, dst []Kind) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, &actor.PanicError{Where: "read kinds", Value: v, Stack: debug.Stack()}
		}
	}()
	n, err = d.log.Kinds(after, dst)
	if n == 0 && err == nil {
		err = fmt.Errorf("dispatch: log has nothing after %d although its head is %d", after, d.log.Head())
	}
	return n, err
}

// offer gives h what the round has collected for it, once.
func (d *Dispatcher[E]) offer(h *Handler[E]) {
	t := h.round
	if t.n == 0 {
		return
	}
	h.round = tally{}
	h.mail.offer(t.first, t.last, t.n)
	if h.cfg.Overflow == Fail && h.mail.fill() > h.mail.window {
		h.halt(fmt.Errorf("%w: %d events offered and not handled, mailbox size %d", ErrOverflow, h.mail.fill(), h.mail.window))
	}
}

// afterRound computes the door's limit and wakes who waits for what the round has
// made true.
func (d *Dispatcher[E]) afterRound() {
	limit := ^uint64(0)
	done := d.done.Load()
	for _, h := range d.attached {
		if h.cfg.Overflow != Block || h.want.Load() != wantRun {
			continue
		}
		if !h.live {
			if h.mail.history() > 0 {
				continue
			}
			h.live = true
		}
		fill := h.mail.fill()
		switch {
		case fill >= h.mail.window:
			h.full = true
		case fill <= h.mail.window/2:
			h.full = false
		}
		if h.full {
			limit = 0
			break
		}
		limit = min(limit, done+h.mail.window-fill)
	}
	d.door.setLimit(limit, d.log.Head())
	if d.waiting.Load() > 0 {
		for _, h := range d.attached {
			h.tellWaiters()
		}
	}
	d.tellQuiescer()
}

// do runs fn in the dispatcher's goroutine and waits for it; false if that has ended.
func (d *Dispatcher[E]) do(fn func()) bool {
	o := op{fn, make(chan struct{})}
	d.mu.Lock()
	if d.ending {
		d.mu.Unlock()
		return false
	}
	d.ops = append(d.ops, o)
	d.mu.Unlock()
	d.poke()
	<-o.done // the dispatcher runs every op that it was given before it ends
	return true
}

// runOps runs what do was given and reports whether the dispatcher is to end.
func (d *Dispatcher[E]) runOps() (end bool) {
	d.mu.Lock()
	ops := d.ops
	d.ops = nil
	end = d.ending
	d.mu.Unlock()
	for _, o := range ops {
		o.do()
		close(o.done)
	}
	return end
}

// Add registers a handler that gets every event of its kinds after position start, and
// returns once it has joined. Start must not lie beyond the log's head.
func (d *Dispatcher[E]) Add(cfg Config[E], start uint64) (*Handler[E], error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	if head := d.log.Head(); start > head {
		return nil, fmt.Errorf("dispatch: handler %q: start position %d is beyond the log's head %d", cfg.Name, start, head)
	}
	h := newHandler(d, cfg, start)
	err := d.register(h)
	if err == nil {
		err = h.resume()
	}
	if err == nil {
		err = h.loadParked()
	}
	switch {
	case err != nil:
	case !d.do(func() {
		if err = d.attach(h); err == nil {
			d.afterRound() // the door knows of h before Add returns
		}
	}):
		err = ErrClosed
	case err == nil && !h.start():
		d.do(func() { d.detach(h) })
		err = ErrClosed
	}
	if err != nil {
		h.setWant(wantEnd, nil) // somebody may have found it by its name
		h.exit()
		return nil, err
	}
	return h, nil
}

// resume moves the start to where a handler of that name has stood. Its name is taken by
// now, so an earlier one of that name is gone, and its checkpoint stored.
func (h *Handler[E]) resume() error {
	if h.cfg.Resume == nil {
		return nil
	}
	pos, ok, err := h.cfg.Resume()
	if err != nil || !ok {
		return err
	}
	if head := h.d.log.Head(); pos > head {
		return fmt.Errorf("dispatch: handler %q: checkpoint %d is beyond the log's head %d", h.cfg.Name, pos, head)
	}
	h.setDone(pos)
	return nil
}

func (d *Dispatcher[E]) register(h *Handler[E]) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return ErrClosed
	case d.handlers[h.cfg.Name] != nil:
		return ErrExists
	}
	d.handlers[h.cfg.Name] = h
	return nil
}

// Handler returns the handler of that name.
func (d *Dispatcher[E]) Handler(name string) (*Handler[E], bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h, ok := d.handlers[name]
	return h, ok
}

// Handlers returns the handlers, sorted by name.
func (d *Dispatcher[E]) Handlers() []*Handler[E] {
	d.mu.Lock()
	all := make([]*Handler[E], 0, len(d.handlers))
	for _, h := range d.handlers {
		all = append(all, h)
	}
	d.mu.Unlock()
	slices.SortFunc(all, func(a, b *Handler[E]) int {
		if a.cfg.Name < b.cfg.Name {
			return -1
		}
		return 1
	})
	return all
}

func (d *Dispatcher[E]) forget(h *Handler[E]) {
	d.mu.Lock()
	if d.handlers[h.cfg.Name] == h {
		delete(d.handlers, h.cfg.Name)
	}
	d.mu.Unlock()
}

// attach lets h take part from here on. Runs in the dispatcher's goroutine.
func (d *Dispatcher[E]) attach(h *Handler[E]) error {
	start := h.done()
	for d.done.Load() < start {
		// Appended before h joined: not to be counted as offered to it.
		if _, err := d.round(start); err != nil {
			return fmt.Errorf("dispatch: handler %q cannot join at position %d: %w", h.cfg.Name, start, err)
		}
	}
	h.full, h.live = false, false
	h.mail.reset(start, d.done.Load())
	h.attached.Store(true)
	d.attached = append(d.attached, h)
	if h.cfg.Kinds == nil {
		d.every = append(d.every, h)
	}
	for _, k := range h.cfg.Kinds.Kinds() {
		for int(k) >= len(d.byKind) {
			d.byKind = append(d.byKind, nil)
		}
		d.byKind[k] = append(d.byKind[k], h)
	}
	return nil
}

// detach ends h's part. Runs in the dispatcher's goroutine.
func (d *Dispatcher[E]) detach(h *Handler[E]) {
	if !h.attached.Load() {
		return
	}
	is := func(o *Handler[E]) bool { return o == h }
	d.attached = slices.DeleteFunc(d.attached, is)
	d.every = slices.DeleteFunc(d.every, is)
	for _, k := range h.cfg.Kinds.Kinds() {
		d.byKind[k] = slices.DeleteFunc(d.byKind[k], is)
	}
	from, empty := h.mail.start()
	if empty {
		from = d.done.Load()
	}
	h.setDone(max(h.done(), from)) // nothing up to here concerns it
	h.attached.Store(false)
}
