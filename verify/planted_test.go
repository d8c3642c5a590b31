package verify_test

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/weirstore/weir/engine"
)

// TestPlantedBugsAreCaught is the control of TestStreamsAreLinearizable: each bug is one
// that some event store had (research/reliability.md §2), and the same search must reject it.
func TestPlantedBugsAreCaught(t *testing.T) {
	facade := func(wrap func(*engine.Engine) store) func(*rand.Rand, engine.Backend) (engine.Backend, func(*engine.Engine) store) {
		return func(_ *rand.Rand, b engine.Backend) (engine.Backend, func(*engine.Engine) store) { return b, wrap }
	}
	backend := func(wrap func(*rand.Rand, engine.Backend) engine.Backend) func(*rand.Rand, engine.Backend) (engine.Backend, func(*engine.Engine) store) {
		return func(rng *rand.Rand, b engine.Backend) (engine.Backend, func(*engine.Engine) store) {
			return wrap(rng, b), honest
		}
	}
	for _, bug := range []struct {
		name  string
		plant func(*rand.Rand, engine.Backend) (engine.Backend, func(*engine.Engine) store)
	}{
		{"expected version is checked against a stale counter", facade(func(e *engine.Engine) store {
			return &staleCounter{store: e, at: make(map[string]engine.Version)}
		})},
		{"an acknowledged append is lost", backend(func(rng *rand.Rand, b engine.Backend) engine.Backend { return &losing{Backend: b, rng: rng} })},
		{"a version is given twice", backend(func(rng *rand.Rand, b engine.Backend) engine.Backend { return &doubling{Backend: b, rng: rng} })},
		{"a batch becomes visible one by one", backend(func(_ *rand.Rand, b engine.Backend) engine.Backend { return tearing{b} })},
		{"event IDs are forgotten", backend(func(_ *rand.Rand, b engine.Backend) engine.Backend { return forgetful{b} })},
		{"a read is answered from a cache", facade(func(e *engine.Engine) store {
			return &cachingReads{store: e, cache: make(map[string][]engine.Event)}
		})},
		{"a conflict is stored nevertheless", facade(func(e *engine.Engine) store { return storingConflicts{e} })},
		{"a stored append is refused as closed", facade(func(e *engine.Engine) store { return &denying{store: e} })},
		{"the events of a batch are stored in another order", backend(func(_ *rand.Rand, b engine.Backend) engine.Backend { return shuffling{b} })},
	} {
		t.Run(bug.name, func(t *testing.T) {
			const tries = 40
			caught := 0
			for i := range uint64(tries) {
				rng := rand.New(rand.NewPCG(i, 1))
				w := randomWorkload(rng)
				w.ids, w.cancels, w.shutdown = true, false, false
				log := newKeeper()
				lying, wrap := bug.plant(rng, log)
				h := recordHistory(t, rng, w, lying, log.again, wrap)
				if h.check() == porcupine.Illegal {
					caught++
				}
			}
			t.Logf("rejected %d of %d histories", caught, tries)
			if caught == 0 {
				t.Error("the checker has not noticed: it proves nothing")
			}
		})
	}
}

// staleCounter checks expectations against its own idea of the version, which it updates
// after the append: NATS #4320.
type staleCounter struct {
	store
	mu sync.Mutex
	at map[string]engine.Version
}

func (s *staleCounter) Append(ctx context.Context, stream string, expected engine.Expected, events ...engine.NewEvent) (engine.Result, error) {
	s.mu.Lock()
	v := s.at[stream]
	s.mu.Unlock()
	if expected != engine.Any {
		if !met(expected, v) {
			return engine.Result{}, &engine.VersionConflictError{Stream: stream, Expected: expected, Actual: v}
		}
		expected = engine.Any
	}
	res, err := s.store.Append(ctx, stream, expected, events...)
	if err == nil && !res.Duplicate {
		s.mu.Lock()
		s.at[stream] = max(s.at[stream], res.Last)
		s.mu.Unlock()
	}
	return res, err
}

// withLock is for backends that use a random source in Commit.
type withLock struct {
	mu sync.Mutex
}

func (l *withLock) oneIn(rng *rand.Rand, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return rng.IntN(n) == 0
}

// losing drops the last write of one commit in twenty and says that it is stored: NATS #7564.
type losing struct {
	engine.Backend
	rng *rand.Rand
	withLock
}

func (b *losing) Commit(ctx context.Context, writes []*engine.Write) error {
	if b.oneIn(b.rng, 20) {
		last := writes[len(writes)-1]
		last.Position = b.Head() + 1
		writes = writes[:len(writes)-1]
	}
	return b.Backend.Commit(ctx, writes)
}

// doubling gives the version of the newest event once more: exarchos #943.
type doubling struct {
	engine.Backend
	rng *rand.Rand
	withLock
}

func (b *doubling) Commit(ctx context.Context, writes []*engine.Write) error {
	if w := writes[0]; w.After > 0 && b.oneIn(b.rng, 20) {
		w.After--
		defer func() { w.After++ }()
	}
	return b.Backend.Commit(ctx, writes)
}

// tearing commits each event by itself: KurrentDB #3896.
type tearing struct{ engine.Backend }

func (b tearing) Commit(ctx context.Context, writes []*engine.Write) error {
	for _, w := range writes {
		for i := range w.Events {
			part := *w
			part.After, part.Events = w.After+engine.Version(i), w.Events[i:i+1]
			if err := b.Backend.Commit(ctx, []*engine.Write{&part}); err != nil {
				return err
			}
			if i == 0 {
				w.Position, w.UnixNano = part.Position, part.UnixNano
			}
			runtime.Gosched()
		}
	}
	return nil
}

// forgetful finds no event ID.
type forgetful struct{ engine.Backend }

func (forgetful) Find(_ context.Context, _ engine.StreamState, _ []string, versions []engine.Version) error {
	clear(versions)
	return nil
}

// cachingReads answers every other read of a stream with what the one before it has found.
type cachingReads struct {
	store
	mu    sync.Mutex
	cache map[string][]engine.Event
}

func (s *cachingReads) Read(ctx context.Context, stream string, opts ...engine.ReadOption) iter.Seq2[engine.Event, error] {
	if len(opts) > 0 {
		return s.store.Read(ctx, stream, opts...)
	}
	return func(yield func(engine.Event, error) bool) {
		s.mu.Lock()
		events, hit := s.cache[stream]
		delete(s.cache, stream)
		s.mu.Unlock()
		if !hit {
			for ev, err := range s.store.Read(ctx, stream) {
				if err != nil {
					yield(ev, err)
					return
				}
				events = append(events, ev)
			}
			s.mu.Lock()
			s.cache[stream] = events
			s.mu.Unlock()
		}
		for _, ev := range events {
			if !yield(ev, nil) {
				return
			}
		}
	}
}

// storingConflicts stores what it says it has refused.
type storingConflicts struct{ store }

func (s storingConflicts) Append(ctx context.Context, stream string, expected engine.Expected, events ...engine.NewEvent) (engine.Result, error) {
	res, err := s.store.Append(ctx, stream, expected, events...)
	if _, ok := errors.AsType[*engine.VersionConflictError](err); ok {
		_, _ = s.store.Append(ctx, stream, engine.Any, events...)
	}
	return res, err
}

// denying says of every twentieth append that the engine was closed, and has stored it.
type denying struct {
	store
	mu sync.Mutex
	n  int
}

func (s *denying) Append(ctx context.Context, stream string, expected engine.Expected, events ...engine.NewEvent) (engine.Result, error) {
	res, err := s.store.Append(ctx, stream, expected, events...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n++; err == nil && s.n%20 == 0 {
		return engine.Result{}, engine.ErrClosed
	}
	return res, err
}

// shuffling reverses batches.
type shuffling struct{ engine.Backend }

func (b shuffling) Commit(ctx context.Context, writes []*engine.Write) error {
	for _, w := range writes {
		slices.Reverse(w.Events)
	}
	return b.Backend.Commit(ctx, writes)
}

// errDisk means that nothing was stored.
var errDisk = errors.New("disk on fire")

// doubtful is no bug: a backend over a network, say, that sometimes fails, and sometimes does not
// know whether it has stored a commit. It lets other goroutines run meanwhile, so that commits of many appends form.
type doubtful struct {
	engine.Backend
	rng *rand.Rand
	withLock
}

func (b *doubtful) Commit(ctx context.Context, writes []*engine.Write) error {
	for range 4 {
		runtime.Gosched()
	}
	switch {
	case b.oneIn(b.rng, 12):
		return errDisk
	case b.oneIn(b.rng, 12):
		return engine.ErrOutcomeUnknown
	case b.oneIn(b.rng, 12):
		_ = b.Backend.Commit(ctx, writes)
		return engine.ErrOutcomeUnknown
	}
	return b.Backend.Commit(ctx, writes)
}
