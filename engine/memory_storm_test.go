package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/engine"
)

// memoryStorm is a few writers to one Memory, under the eyes of readers. What an event is follows from its
// stream and version, so that a reader knows each.
type memoryStorm struct {
	*testing.T
	e    *engine.Engine
	done chan struct{} // closed when all is written
	long [3]struct {   // streams that are truncated, and not deleted
		version atomic.Uint64 // stored after an append
		cut     atomic.Uint64 // stored before a truncation
	}
}

const (
	stormSize = 8000 // of a long stream
	stormKeep = 1200 // at least so many are left of it
)

// stormEvent is the event of a version: IDs and metadata appear when there are many without.
func stormEvent(stream string, v engine.Version) engine.NewEvent {
	ev := event(fmt.Sprint("t", v%3), int(v))
	if v > 700 && v%5 == 0 {
		ev.ID = fmt.Sprint(stream, " ", v)
	}
	if v > 1300 && v%7 == 0 {
		ev.Meta.CausationID = fmt.Sprint("cause ", v)
	}
	return ev
}

// check says what is wrong with an event that was read.
func (*memoryStorm) check(ev *engine.Event) error {
	want := stormEvent(ev.Stream, ev.Version)
	if ev.Type != want.Type || ev.ID != want.ID || ev.Data != want.Data || ev.Meta.CausationID != want.Meta.CausationID || ev.Time.IsZero() {
		return fmt.Errorf("%+v, want %+v", ev, want)
	}
	return nil
}

// TestMemoryStorm reads in all ways, without pages, while streams come to be, grow, are truncated, deleted and
// compacted.
func TestMemoryStorm(t *testing.T) {
	s := &memoryStorm{T: t, e: quietEngine(t, engine.Options{}), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	var writers, readers sync.WaitGroup
	for i := range s.long {
		writers.Go(func() { s.write(i) })
	}
	writers.Go(s.writeShort)
	s.loop(&readers, func(*rand.Rand) error {
		_, err := s.e.Compact(ctx)
		return err
	})
	for i := range s.long {
		s.loop(&readers, func(r *rand.Rand) error { return s.readStream(i, r.IntN(2) == 0) })
	}
	for range 2 {
		s.loop(&readers, s.readAll)
	}
	readers.Go(func() { s.follow(ctx) })
	writers.Wait()
	close(s.done)
	cancel()
	readers.Wait()
	for i := range s.long {
		if err := errors.Join(s.readStream(i, false), s.readStream(i, true)); err != nil {
			t.Error(err)
		}
	}
	mustClose(t, s.e)
}

// loop runs fn until all is written, or it fails.
func (s *memoryStorm) loop(wg *sync.WaitGroup, fn func(*rand.Rand) error) {
	wg.Go(func() {
		r := rand.New(rand.NewPCG(8, 8))
		for {
			select {
			case <-s.done:
				return
			default:
				runtime.Gosched() // so that writers get their turn among so many
			}
			if err := fn(r); err != nil && !errors.Is(err, context.Canceled) {
				s.Error(err)
				return
			}
		}
	})
}

// write fills and truncates a long stream.
func (s *memoryStorm) write(i int) {
	stream, r := fmt.Sprint("long-", i), rand.New(rand.NewPCG(uint64(i), 9))
	for version := engine.Version(0); version < stormSize; {
		events := make([]engine.NewEvent, 1+r.IntN(40))
		for k := range events {
			events[k] = stormEvent(stream, version+engine.Version(k)+1)
		}
		if _, err := s.e.Append(s.Context(), stream, engine.Exactly(version), events...); err != nil {
			s.Error(err)
			return
		}
		version += engine.Version(len(events))
		s.long[i].version.Store(uint64(version))
		if cut := version - min(version, stormKeep); r.IntN(4) == 0 && cut > 0 {
			s.long[i].cut.Store(uint64(cut))
			if err := s.e.Truncate(s.Context(), stream, cut); err != nil {
				s.Error(err)
				return
			}
		}
	}
}

// writeShort makes streams, and deletes most of them.
func (s *memoryStorm) writeShort() {
	name := func(n int) string { return fmt.Sprint("short-", n) }
	for n := range 1500 {
		if _, err := s.e.Append(s.Context(), name(n), engine.NoStream, stormEvent(name(n), 1), stormEvent(name(n), 2)); err != nil {
			s.Error(err)
			return
		}
		if n >= 20 && n%8 > 0 {
			if err := s.e.Delete(s.Context(), name(n-20), engine.Exactly(2)); err != nil {
				s.Error(err)
				return
			}
		}
	}
}

// readStream reads a long stream: what was there when it began, and was not truncated when it ended, is seen.
func (s *memoryStorm) readStream(i int, backward bool) error {
	stream, version := fmt.Sprint("long-", i), s.long[i].version.Load()
	var opts []engine.ReadOption
	if backward {
		opts = append(opts, engine.Backward())
	}
	low, high := uint64(0), uint64(0)
	for ev, err := range s.e.Read(s.Context(), stream, opts...) {
		if err == nil {
			err = s.check(&ev)
		}
		if err != nil {
			return err
		}
		v := uint64(ev.Version)
		switch {
		case low == 0:
			low, high = v, v
		case backward && v == low-1:
			low = v
		case !backward && v > high && v <= max(high+1, s.long[i].cut.Load()):
			high = v
		default:
			return fmt.Errorf("%s: version %d after %d to %d, cut at %d", stream, v, low, high, s.long[i].cut.Load())
		}
	}
	if cut := s.long[i].cut.Load(); low > max(cut, 1) || high < version && version >= cut {
		return fmt.Errorf("%s at %d, cut at %d: read from %d to %d", stream, version, cut, low, high)
	}
	return nil
}

// readAll reads everything, or begins to: in the order of positions, and of versions.
func (s *memoryStorm) readAll(r *rand.Rand) error {
	var opts []engine.ReadOption
	backward, category, leave := r.IntN(2) == 0, "", -1
	if backward {
		opts = append(opts, engine.Backward())
	}
	if r.IntN(3) == 0 {
		category = []string{"long", "short"}[r.IntN(2)]
		opts = append(opts, engine.Categories(category))
	}
	if r.IntN(3) == 0 {
		opts = append(opts, engine.Types("t1"))
	}
	if r.IntN(3) == 0 {
		leave = r.IntN(500)
	}
	n, last := 0, engine.Event{}
	versions := make(map[string]engine.Version)
	for ev, err := range s.e.ReadAll(s.Context(), opts...) {
		if err == nil {
			err = s.check(&ev)
		}
		if err != nil {
			return err
		}
		v, seen := versions[ev.Stream]
		if n > 0 && ev.Position < last.Position != backward || seen && ev.Version < v != backward || !strings.HasPrefix(ev.Stream, category) {
			return fmt.Errorf("%+v after %+v and version %d", ev, last, v)
		}
		versions[ev.Stream], last = ev.Version, ev
		if n++; n == leave {
			break
		}
	}
	return nil
}

// follow reads everything, and what comes, until ctx ends.
func (s *memoryStorm) follow(ctx context.Context) {
	last := engine.Position(0)
	for ev, err := range s.e.ReadAll(ctx, engine.Follow()) {
		if err == nil {
			err = s.check(&ev)
		}
		if err != nil || ev.Position <= last {
			s.Errorf("%+v after %d: %v", ev, last, err)
			return
		}
		last = ev.Position
	}
}
