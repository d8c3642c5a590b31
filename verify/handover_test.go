package verify_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/engine"
)

// joiner joins a storm at a random moment, as a handler or a follower, and remembers what it
// sees.
type joiner struct {
	t     *testing.T
	eng   *engine.Engine
	ctx   context.Context
	rng   *rand.Rand
	name  string
	types []string // nil for all
	kind  joinKind

	h      *engine.Handler
	lives  []*life
	slow   int         // how often a call yields
	paused atomic.Bool // no call may come
	work   sync.WaitGroup
	over   chan struct{} // closed when the storm is
	lagged atomic.Uint64
}

// life is the time between a handler's registration and its removal. Its slices have no
// lock: the engine promises that calls with one key follow one another, and that Wait, Pause
// and Remove return after them; -race sees whether that is so.
type life struct {
	lo, hi engine.Position            // it begins behind a position in lo…hi
	seen   map[string]*[]engine.Event // by key; "" without keyed workers
	gaps   map[int]uint64             // Lagged(n) came before the i-th call
}

// joinKind is a way to join, and what to expect of it.
type joinKind struct {
	name   string
	opts   func(j *joiner) []engine.HandlerOption
	start  func(j *joiner) (opt []engine.HandlerOption, lo, hi engine.Position) // nil: FromStart
	during func(j *joiner)                                                      // while the storm goes on
	keyed  bool
	latest bool
	follow func(j *joiner, yield func(engine.Event) bool) // no handler at all
}

const stormStreams = 12

// streamNames are those that storm appends to.
func streamNames(n int) (names []string) {
	for a := range 3 {
		for s := range n {
			names = append(names, fmt.Sprintf("s%d-%d", a, s))
		}
	}
	return names
}

func options(opts ...engine.HandlerOption) func(*joiner) []engine.HandlerOption {
	return func(j *joiner) []engine.HandlerOption {
		return append(slices.Clone(opts), engine.Mailbox(1<<j.rng.IntN(8)))
	}
}

func keyedOptions(opts ...engine.HandlerOption) func(*joiner) []engine.HandlerOption {
	return func(j *joiner) []engine.HandlerOption {
		return append(options(opts...)(j), engine.Keyed(1+j.rng.IntN(4)))
	}
}

// startNow and startAfter join elsewhere than at the beginning.
func startNow(j *joiner) ([]engine.HandlerOption, engine.Position, engine.Position) {
	return nil, j.eng.Head(), 0 // hi is known once it has joined
}

func startAfter(j *joiner) ([]engine.HandlerOption, engine.Position, engine.Position) {
	pos := engine.Position(j.rng.Uint64N(uint64(j.eng.Head()) + 1))
	return []engine.HandlerOption{engine.StartAfter(pos)}, pos, pos
}

var joinKinds = []joinKind{
	{name: "from start, block", opts: options()},
	{name: "from start, catch up", opts: options(engine.Overflow(engine.CatchUp))},
	{name: "now", opts: options(), start: startNow},
	{name: "after a position", opts: options(), start: startAfter},
	{name: "keyed", opts: keyedOptions(), keyed: true},
	{name: "keyed, catch up, now", opts: keyedOptions(engine.Overflow(engine.CatchUp)), start: startNow, keyed: true},
	{name: "latest", opts: options(engine.Overflow(engine.Latest)), latest: true},
	{name: "latest, paused", opts: options(engine.Overflow(engine.Latest)), latest: true, during: (*joiner).pause},
	{name: "keyed, latest", opts: keyedOptions(engine.Overflow(engine.Latest)), keyed: true, latest: true},
	{name: "keyed, latest, pauses cut short", opts: keyedOptions(engine.Overflow(engine.Latest)), keyed: true, latest: true, during: (*joiner).pauseCutShort},
	{name: "paused", opts: options(), during: (*joiner).pause},
	{name: "pauses cut short", opts: options(), during: (*joiner).pauseCutShort},
	{name: "keyed, paused", opts: keyedOptions(), keyed: true, during: (*joiner).pause},
	{name: "keyed, pauses cut short", opts: keyedOptions(engine.Overflow(engine.CatchUp)), keyed: true, during: (*joiner).pauseCutShort},
	{name: "stopped by overflow", opts: options(engine.Overflow(engine.Fail)), during: (*joiner).resumeWhenStopped},
	{name: "keyed, stopped by overflow", opts: keyedOptions(engine.Overflow(engine.Fail)), keyed: true, during: (*joiner).resumeWhenStopped},
	{name: "removed and back", opts: options(), during: (*joiner).rejoin},
	{name: "keyed, removed and back", opts: keyedOptions(), keyed: true, during: (*joiner).rejoin},
	{name: "follower", follow: (*joiner).followAll},
	{name: "follower from a position", start: startAfter, follow: (*joiner).followAll},
	{name: "stream follower", follow: (*joiner).followStream},
}

// handle is the handler's function.
func (l *life) handle(j *joiner, ev engine.Event) error {
	if j.paused.Load() {
		j.t.Errorf("%s: called with position %d while paused", j.name, ev.Position)
	}
	for range j.slow {
		runtime.Gosched()
	}
	key := ""
	if j.kind.keyed {
		key = ev.Stream
	}
	seen := l.seen[key] // nil for a stream that nobody writes to
	*seen = append(*seen, ev)
	return nil
}

func (l *life) onLagged(j *joiner, n uint64) {
	if n == 0 {
		j.t.Errorf("%s: told that it lagged by nothing", j.name)
	}
	j.lagged.Add(n)
	if !j.kind.keyed {
		l.gaps[len(*l.seen[""])] += n
	}
}

func newLife(lo, hi engine.Position, keys []string) *life {
	l := &life{lo: lo, hi: hi, seen: make(map[string]*[]engine.Event), gaps: make(map[int]uint64)}
	for _, k := range append(keys, "") {
		l.seen[k] = new([]engine.Event)
	}
	return l
}

// join begins the joiner's first life.
func (j *joiner) join() {
	var lo, hi engine.Position
	start := []engine.HandlerOption{engine.FromStart()}
	if j.kind.start != nil {
		start, lo, hi = j.kind.start(j)
	}
	l := newLife(lo, hi, append(streamNames(stormStreams), "the-end"))
	j.lives = append(j.lives, l)
	if j.kind.follow != nil {
		j.work.Go(func() {
			j.kind.follow(j, func(ev engine.Event) bool {
				*l.seen[""] = append(*l.seen[""], ev)
				return ev.Stream != "the-end"
			})
		})
		return
	}
	j.register(l, start...)
	l.hi = max(l.hi, lo)
	if len(start) == 0 {
		l.hi = j.eng.Head()
	}
	if j.kind.during != nil {
		j.work.Go(func() { j.kind.during(j) })
	}
}

func (j *joiner) register(l *life, opts ...engine.HandlerOption) {
	opts = append(opts, j.kind.opts(j)...)
	if j.types != nil {
		opts = append(opts, engine.Types(j.types...))
	}
	if j.kind.latest {
		opts = append(opts, engine.OnLagged(func(_ context.Context, n uint64) { l.onLagged(j, n) }))
	}
	h, err := j.eng.Handle(j.name, func(_ context.Context, ev engine.Event) error { return l.handle(j, ev) }, opts...)
	if err != nil {
		j.t.Errorf("%s: %v", j.name, err)
		return
	}
	j.h = h
}

// ended reports whether the storm is over, after letting it go on for a while.
func (j *joiner) ended() bool {
	for range j.rng.IntN(200) {
		runtime.Gosched()
	}
	select {
	case <-j.over:
		return true
	default:
		return false
	}
}

func (j *joiner) pause() {
	for !j.ended() {
		if err := j.h.Pause(j.ctx); err != nil {
			j.t.Errorf("%s: %v", j.name, err)
			return
		}
		j.paused.Store(true)
		j.ended() // a moment
		j.paused.Store(false)
		if err := j.h.Resume(); err != nil {
			j.t.Errorf("%s: %v", j.name, err)
			return
		}
	}
}

// pauseCutShort pauses without waiting, and resumes at once or soon, from two goroutines.
func (j *joiner) pauseCutShort() {
	over, cancel := context.WithCancel(j.ctx)
	cancel()
	var other sync.WaitGroup
	other.Go(func() {
		for range 50 {
			_ = j.h.Pause(over)
			runtime.Gosched()
			_ = j.h.Resume()
		}
	})
	for !j.ended() {
		_ = j.h.Pause(over)
		for range j.rng.IntN(3) {
			runtime.Gosched()
		}
		_ = j.h.Resume()
	}
	other.Wait()
	_ = j.h.Resume()
}

func (j *joiner) resumeWhenStopped() {
	for over := false; ; {
		select {
		case <-j.over:
			over = true
		default:
			runtime.Gosched()
		}
		err := j.eng.Wait(j.ctx, j.eng.Head(), j.name)
		if err == nil && over {
			return
		}
		if _, stopped := errors.AsType[*engine.StoppedError](err); stopped && errors.Is(err, engine.ErrOverflow) {
			err = j.h.Resume()
		}
		if err != nil {
			j.t.Errorf("%s: %v", j.name, err)
			return
		}
	}
}

// rejoin removes the handler and registers it again under its name.
func (j *joiner) rejoin() {
	for len(j.lives) < 5 && !j.ended() {
		if err := j.h.Remove(j.ctx); err != nil {
			j.t.Errorf("%s: %v", j.name, err)
			return
		}
		pos := j.h.Position()
		l := newLife(pos, pos, append(streamNames(stormStreams), "the-end"))
		j.lives = append(j.lives, l)
		j.register(l, engine.FromStart()) // but it has a checkpoint
	}
}

func (j *joiner) followAll(yield func(engine.Event) bool) {
	opts := []engine.ReadOption{engine.Follow(), engine.After(j.lives[0].lo)}
	if j.types != nil {
		opts = append(opts, engine.Types(append(slices.Clone(j.types), "end")...))
	}
	for ev, err := range j.eng.ReadAll(j.ctx, opts...) {
		if err != nil {
			j.t.Errorf("%s: %v", j.name, err)
			return
		}
		if !yield(ev) {
			return
		}
	}
	j.t.Errorf("%s: ended by itself", j.name)
}

func (j *joiner) followStream(yield func(engine.Event) bool) {
	j.types = nil
	names := streamNames(stormStreams)
	for ev, err := range j.eng.Read(j.ctx, names[j.rng.IntN(len(names))], engine.Follow()) {
		if err != nil {
			j.t.Errorf("%s: %v", j.name, err)
			return
		}
		if yield(ev); ev.Type == "end" {
			return
		}
	}
	j.t.Errorf("%s: ended by itself", j.name)
}

// finish waits until the joiner has seen everything.
func (j *joiner) finish() {
	j.work.Wait()
	if j.h != nil {
		if err := j.eng.Wait(j.ctx, j.eng.Head(), j.name); err != nil {
			j.t.Errorf("%s: %v: %v", j.name, err, j.h.Stats())
		}
	}
}

// check compares what was seen with the log.
func (j *joiner) check(log []engine.Event) error {
	var mine []engine.Event
	for _, ev := range log {
		if j.types == nil || slices.Contains(j.types, ev.Type) || j.kind.follow != nil && ev.Type == "end" {
			mine = append(mine, ev)
		}
	}
	if j.kind.latest {
		return j.checkLatest(mine)
	}
	for i, l := range j.lives {
		through := ^engine.Position(0) // it has seen everything up to here…
		last := i == len(j.lives)-1
		if !last {
			through = j.lives[i+1].lo
		}
		for key, seen := range l.seen {
			want := mine
			switch {
			case j.kind.keyed && key != "":
				want = ofStream(mine, key)
			case j.kind.keyed:
				continue
			case key != "":
				continue
			case j.kind.name == "stream follower":
				want = ofStream(mine, (*seen)[0].Stream)
			}
			if err := contiguous(*seen, want, l.lo, l.hi, through); err != nil {
				return fmt.Errorf("life %d, key %q: %w", i, key, err)
			}
			if n := len(*seen); !last && !j.kind.keyed && n > 0 && (*seen)[n-1].Position > through {
				return fmt.Errorf("life %d saw position %d, its checkpoint is %d", i, (*seen)[n-1].Position, through)
			}
		}
	}
	return nil
}

func ofStream(events []engine.Event, name string) (of []engine.Event) {
	for _, ev := range events {
		if ev.Stream == name {
			of = append(of, ev)
		}
	}
	return of
}

// contiguous checks that seen is a piece of want without a gap or a repetition, which begins
// behind lo, misses nothing that comes behind hi, and reaches at least to through.
func contiguous(seen, want []engine.Event, lo, hi, through engine.Position) error {
	at := func(pos engine.Position) int { // of the first event behind pos
		i, _ := slices.BinarySearchFunc(want, pos+1, func(ev engine.Event, p engine.Position) int { return int(ev.Position) - int(p) })
		return i
	}
	first := at(hi)
	if len(seen) > 0 {
		first = at(seen[0].Position - 1)
	}
	if first < at(lo) || first > at(hi) {
		return fmt.Errorf("began with event %d of those that concern it, want %d to %d", first, at(lo), at(hi))
	}
	want = want[first:]
	for i, ev := range seen {
		if i >= len(want) || ev.Position != want[i].Position || ev.Stream != want[i].Stream || ev.Version != want[i].Version || ev.Data != want[i].Data {
			return fmt.Errorf("call %d was with %s@%d at position %d: want %v; the calls: %v", i, ev.Stream, ev.Version, ev.Position, positions(want), positions(seen))
		}
	}
	if n := len(seen); n < len(want) && want[n].Position <= through {
		return fmt.Errorf("never saw position %d, although all up to %d counts as handled; saw %v", want[n].Position, through, positions(seen))
	}
	return nil
}

func positions(events []engine.Event) (list []engine.Position) {
	for _, ev := range events {
		list = append(list, ev.Position)
	}
	return list
}

// checkLatest checks that what was seen is in order, and that what was not seen was told
// as lagged, to the last event; without keyed workers, also where.
func (j *joiner) checkLatest(mine []engine.Event) error {
	l := j.lives[0]
	total := 0
	for key, seen := range l.seen {
		total += len(*seen)
		for i := 1; i < len(*seen); i++ {
			if (*seen)[i].Position <= (*seen)[i-1].Position {
				return fmt.Errorf("key %q: position %d after %d", key, (*seen)[i].Position, (*seen)[i-1].Position)
			}
		}
	}
	if total+int(j.lagged.Load()) != len(mine) {
		return fmt.Errorf("saw %d events and lagged %d, want %d in all", total, j.lagged.Load(), len(mine))
	}
	if stats := j.h.Stats(); stats.Lagged != j.lagged.Load() || stats.Handled != uint64(total) {
		return fmt.Errorf("saw %d and lagged %d, the stats say %d and %d", total, j.lagged.Load(), stats.Handled, stats.Lagged)
	}
	if j.kind.keyed {
		return nil
	}
	next := 0 // in mine
	for i, ev := range *l.seen[""] {
		missed := uint64(0)
		for ; next < len(mine) && mine[next].Position < ev.Position; next++ {
			missed++
		}
		next++
		if missed != l.gaps[i] {
			return fmt.Errorf("missed %d events before position %d, was told %d", missed, ev.Position, l.gaps[i])
		}
	}
	if next != len(mine) {
		return fmt.Errorf("the newest event was not seen")
	}
	return nil
}

// TestHandOver: whoever joins a storm at a random moment, and pauses, stops or is removed and comes back
// in its midst, sees what it should: reliable, unique, ordered.
func TestHandOver(t *testing.T) {
	handOvers, events := 0, 0
	var lagged uint64
	forSeeds(t, 20, func(t *testing.T, seed uint64, rng *rand.Rand) {
		ctx, end := bounded(t)
		defer end()
		log := newKeeper()
		eng := open(t, engine.Options{Backend: log})
		const joiners, appenders, appends = 11, 16, 20
		over := make(chan struct{})
		at := make(map[int][]*joiner) // by number of appends
		var all []*joiner
		for i := range joiners {
			j := &joiner{
				t: t, eng: eng, ctx: ctx, rng: rand.New(rand.NewPCG(rng.Uint64(), 3)), over: over,
				kind: joinKinds[(int(seed)*joiners+i)%len(joinKinds)],
				slow: rng.IntN(4),
			}
			j.name = fmt.Sprintf("%d %s", i, j.kind.name)
			if rng.IntN(2) == 0 {
				j.types = []string{"t1", "t2"}
			}
			n := 1 + rng.IntN(appenders*appends-1)
			at[n] = append(at[n], j)
			all = append(all, j)
		}
		var joining sync.WaitGroup
		acks := storm{appenders: appenders, appends: appends, streams: stormStreams, maxBatch: 3, types: 4}.run(t, ctx, eng, rng, func(n int) {
			for _, j := range at[n] {
				joining.Go(j.join) // beside the appenders, who go on
			}
		})
		joining.Wait()
		for _, stream := range append(streamNames(stormStreams), "the-end") { // the last of its kind
			if _, err := eng.Append(ctx, stream, engine.Any, engine.NewEvent{Type: "end", Data: "end"}); err != nil {
				t.Error(err)
			}
		}
		close(over)
		for _, j := range all {
			j.finish()
		}
		final := readAll(t, eng)
		for _, j := range all {
			if err := j.check(final); err != nil {
				t.Errorf("%s: %v", j.name, err)
			}
			lagged += j.lagged.Load()
		}
		if _, err := eng.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := errors.Join(checkLog(final), checkAcked(final, acks)); err != nil {
			t.Error(err)
		}
		handOvers += joiners
		events += len(final)
	})
	t.Logf("%d hand-overs, %d events, %d lagged", handOvers, events, lagged)
	atLeastOne(t, map[string]int{"lagged": int(lagged)}, "lagged")
}
