package verify_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/engine"
)

// tagged is the payload of a storm's events: the append that they belong to, and their
// place in it.
type tagged struct {
	append, index, of int
}

// acked is an append that was acknowledged.
type acked struct {
	stream string
	tag    int
	n      int
	res    engine.Result
}

// storm lets appenders loose until they have made their appends, or are refused as closed
// if that is expected. It returns what was acknowledged.
type storm struct {
	appenders, appends, streams int
	maxBatch                    int
	types                       int  // event types "t0", "t1", …
	untilClosed                 bool // go on until ErrClosed
}

func (s storm) run(t testing.TB, ctx context.Context, eng *engine.Engine, rng *rand.Rand, started func(n int)) []acked {
	t.Helper()
	var (
		wg    sync.WaitGroup
		count atomic.Int64
		acks  = make([][]acked, s.appenders)
	)
	for a := range s.appenders {
		rng := rand.New(rand.NewPCG(rng.Uint64(), 2))
		wg.Go(func() {
			for i := 0; s.untilClosed || i < s.appends; i++ {
				stream := fmt.Sprintf("s%d-%d", a%3, rng.IntN(s.streams))
				tag := a<<20 | i
				events := make([]engine.NewEvent, 1+rng.IntN(s.maxBatch))
				for k := range events {
					events[k] = engine.NewEvent{Type: fmt.Sprint("t", rng.IntN(max(s.types, 1))), Data: tagged{tag, k, len(events)}}
				}
				res, err := eng.Append(ctx, stream, engine.Any, events...)
				if err != nil {
					if !s.untilClosed || !errors.Is(err, engine.ErrClosed) {
						t.Errorf("append: %v", err)
					}
					return
				}
				acks[a] = append(acks[a], acked{stream, tag, len(events), res})
				if started != nil {
					started(int(count.Add(1)))
				}
			}
		})
	}
	wg.Wait()
	var all []acked
	for _, a := range acks {
		all = append(all, a...)
	}
	return all
}

// checkLog checks what holds for every log: dense positions, versions without a gap, whole
// batches, and times that do not go back.
func checkLog(log []engine.Event) error {
	versions := make(map[string]engine.Version)
	for i, ev := range log {
		if ev.Position != engine.Position(i+1) {
			return fmt.Errorf("the %d. event is at position %d", i+1, ev.Position)
		}
		if versions[ev.Stream]++; ev.Version != versions[ev.Stream] {
			return fmt.Errorf("position %d holds %s@%d, want @%d", ev.Position, ev.Stream, ev.Version, versions[ev.Stream])
		}
		if i > 0 && ev.Time.Before(log[i-1].Time) {
			return fmt.Errorf("time goes back at position %d", ev.Position)
		}
		d, ok := ev.Data.(tagged)
		if !ok {
			continue
		}
		if d.index > 0 {
			before, ok := log[i-1].Data.(tagged)
			if !ok || before.append != d.append || before.index != d.index-1 || log[i-1].Stream != ev.Stream {
				return fmt.Errorf("position %d holds event %d of %d of an append, and before it %+v", ev.Position, d.index, d.of, log[i-1])
			}
		}
		if d.index < d.of-1 && i == len(log)-1 {
			return fmt.Errorf("the log ends within an append: %+v", d)
		}
	}
	return nil
}

// checkAcked checks that what was acknowledged is where it was said to be, and nothing else is there.
func checkAcked(log []engine.Event, acks []acked) error {
	stored := 0
	for _, a := range acks {
		for k := range a.n {
			pos := a.res.Position - engine.Position(a.n-1-k)
			if pos < 1 || int(pos) > len(log) {
				return fmt.Errorf("%+v was acknowledged beyond the log's end at %d", a, len(log))
			}
			ev := log[pos-1]
			if want := (tagged{a.tag, k, a.n}); ev.Data != want || ev.Stream != a.stream || ev.Version != a.res.First+engine.Version(k) {
				return fmt.Errorf("%+v was acknowledged, and position %d holds %+v", a, pos, ev)
			}
			stored++
		}
		if a.res.Last != a.res.First+engine.Version(a.n-1) || a.res.Duplicate {
			return fmt.Errorf("odd result: %+v", a)
		}
	}
	for _, ev := range log {
		if _, ok := ev.Data.(tagged); !ok {
			stored++ // not the storm's
		}
	}
	if stored != len(log) {
		return fmt.Errorf("%d events are in the log, %d were acknowledged", len(log), stored)
	}
	return nil
}

// view is what one reader has seen: positions from 1 on, and the identity of each event.
type view struct {
	name   string
	events []engine.Event
}

// samePrefix checks that a view is the beginning of the final log.
func (v *view) samePrefix(log []engine.Event) error {
	if len(v.events) > len(log) {
		return fmt.Errorf("%s saw %d events of %d", v.name, len(v.events), len(log))
	}
	for i, ev := range v.events {
		if f := log[i]; ev.Position != f.Position || ev.Stream != f.Stream || ev.Version != f.Version || ev.Data != f.Data || !ev.Time.Equal(f.Time) || ev.Type != f.Type {
			return fmt.Errorf("%s saw %+v where the log has %+v", v.name, ev, f)
		}
	}
	return nil
}

// TestLogIsOneGrowingSequence: while 64 goroutines append to many streams, whoever sees a position sees
// everything before it, then and for ever: each reader's view is a prefix of the final log.
func TestLogIsOneGrowingSequence(t *testing.T) {
	var (
		events int
		reads  atomic.Int64
	)
	forSeeds(t, 6, func(t *testing.T, seed uint64, rng *rand.Rand) {
		ctx, end := bounded(t)
		defer end()
		log := newKeeper()
		eng := open(t, engine.Options{Backend: log, MaxIdleStreams: 1 + rng.IntN(100)})
		done, beat := make(chan struct{}), make(chan struct{}, 1)
		pace := func() bool { // readers that spin would leave no time for appends
			select {
			case <-beat:
				return true
			case <-done:
				return false
			}
		}
		var (
			readers sync.WaitGroup
			mu      sync.Mutex
			seen    []view
		)
		keep := func(v view) {
			mu.Lock()
			seen = append(seen, v)
			mu.Unlock()
		}
		var acks []acked
		for r := range 2 { // they read the whole store again and again
			readers.Go(func() {
				v := view{name: fmt.Sprint("reader ", r)}
				defer func() { keep(v) }()
				for {
					now := view{name: v.name}
					for ev, err := range eng.ReadAll(ctx) {
						if err != nil {
							t.Error(err)
							return
						}
						now.events = append(now.events, ev)
					}
					if err := v.samePrefix(now.events); err != nil {
						t.Errorf("%v, in a later read", err)
						return
					}
					v = now
					reads.Add(1)
					if n := len(v.events); n > 0 {
						if d, ok := v.events[n-1].Data.(tagged); ok && d.index != d.of-1 {
							t.Errorf("a read ended within a batch: %+v", d)
						}
					}
					if !pace() {
						return
					}
				}
			})
		}
		for f := range 3 {
			readers.Go(func() {
				v := view{name: fmt.Sprint("follower ", f)}
				for ev, err := range eng.ReadAll(ctx, engine.Follow()) {
					if err != nil {
						t.Error(err)
						break
					}
					// What is seen stays: the event can be read, alone, right away.
					if len(v.events)%64 == f {
						for again, err := range eng.Read(ctx, ev.Stream, engine.FromVersion(ev.Version), engine.Limit(1)) {
							if err != nil || again.Position != ev.Position {
								t.Errorf("read %+v again: %+v, %v", ev, again, err)
							}
						}
						if head := eng.Head(); head < ev.Position {
							t.Errorf("saw position %d beyond the head at %d", ev.Position, head)
						}
					}
					if v.events = append(v.events, ev); ev.Stream == "the-end" {
						break
					}
				}
				keep(v)
			})
		}
		readers.Go(func() { // and one that reads backward: dense from wherever it begins
			for {
				next := engine.Position(0)
				for ev, err := range eng.ReadAll(ctx, engine.Backward()) {
					if err != nil || next > 0 && ev.Position != next {
						t.Errorf("backward: position %d, want %d: %v", ev.Position, next, err)
						return
					}
					next = ev.Position - 1
				}
				if !pace() {
					return
				}
			}
		})
		acks = storm{appenders: 64, appends: 30, streams: 40, maxBatch: 5}.run(t, ctx, eng, rng, func(n int) {
			if n%32 == 0 {
				select {
				case beat <- struct{}{}:
				default: // all readers are busy
				}
			}
		})
		close(done)
		mustAppend(t, eng, "the-end", "end") // where followers stop
		readers.Wait()
		if err := eng.Close(); err != nil {
			t.Error(err)
		}
		final := logOf(t, log)
		if err := errors.Join(checkLog(final), checkAcked(final, acks)); err != nil {
			t.Error(err)
		}
		for i := range seen {
			if err := seen[i].samePrefix(final); err != nil {
				t.Error(err)
			}
		}
		events += len(final)
	})
	t.Logf("%d events, %d reads of the whole store", events, reads.Load())
}
