package filestore

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"github.com/weirstore/weir/engine"
)

// writer is the goroutine that writes the log. It takes all commits that wait, gives
// positions in that order, writes their records with one write, syncs them with one fdatasync if one of
// them asks for it, and only then lets anybody see them. While it syncs, the next commits are
// encoded by their callers and gather in the queue.
type writer struct {
	s      *Store
	active *segment        // the last one
	pos    engine.Position // the last that was given
	now    int64           // time of the newest event, Unix ns: never goes back

	group []*commit // of the write that is being prepared
	out   []byte    // its records
	sync  bool      // one of them wants to be on disk

	// expected is how many commits the next group may have: as many as were answered with the one
	// before, and waited then.
	expected int

	unsynced int // bytes written since a group was synced
	perSync  int // how many these were of late, when it was: a running mean

	prepared chan *spare // cap 1: the next segment's file, once it is made
	wanted   bool        // somebody makes it, or it is there
}

// maxGroup is the size of a write at which the writer gathers no more: several thousand
// events, so that one write is worth its sync, and a bound for its buffer.
const maxGroup = 4 << 20

func newWriter(s *Store) *writer {
	segs := *s.segments.Load()
	w := &writer{s: s, active: segs[len(segs)-1], pos: s.Head(), prepared: make(chan *spare, 1)}
	w.now = s.recovery.lastTime
	return w
}

// run is the writer's goroutine. It ends when the store closes, with everything that was
// given to it until then.
func (w *writer) run() {
	defer close(w.s.gone)
	for c := w.s.commits.wait(); c != nil; c = w.s.commits.wait() {
		w.take(c)
		w.gather()
		w.flush()
	}
}

// patience is for how many turns in vain the writer lets others run before it writes without those that it
// expects: 5 to 10 µs where nobody else wants to run, and a sync takes 200.
const patience = 64

// patienceTime bounds these turns in time, where somebody keeps the processor for long: it is half of a sync.
const patienceTime = 100 * time.Microsecond

// gather takes what waits. Those who were answered just now, and those who waited meanwhile, get a chance
// to come: else there would be two crowds, of which one waits while the other is synced, and each sync would
// serve half of them. See docs/bench/NOTES.md.
func (w *writer) gather() {
	w.drain()
	var since time.Time // the last that came
	for idle := 0; len(w.group) < w.expected && len(w.out) < maxGroup; idle++ {
		if idle == 0 {
			since = time.Now()
		} else if idle == patience || time.Since(since) > patienceTime {
			return
		}
		before := len(w.group)
		runtime.Gosched()
		if w.drain(); len(w.group) > before {
			idle = -1
		}
	}
}

func (w *writer) drain() {
	for len(w.out) < maxGroup {
		c := w.s.commits.pop()
		if c == nil {
			return
		}
		w.take(c)
	}
}

// take adds a commit to the group, or answers it.
func (w *writer) take(c *commit) {
	if !c.state.CompareAndSwap(commitWaits, commitTaken) {
		return // its caller has left
	}
	if err := w.admit(c); err != nil {
		c.answer(err)
		return
	}
	if c.call != nil {
		w.flush()
		c.answer(c.call(w))
		return
	}
	if len(c.conditions) > 0 {
		// All before it must be found. The disk may fail meanwhile.
		w.flush()
		if err := w.admit(c); err != nil {
			c.answer(err)
			return
		}
		if err := w.s.decide(c.conditions); err != nil {
			c.answer(err)
			return
		}
	}
	if w.active.end.Load()+int64(len(w.out)+len(c.buf)) > w.active.size {
		w.flush()
		if err := w.roll(int64(len(c.buf))); err != nil {
			c.answer(err)
			return
		}
	}
	if len(w.group) == 0 {
		w.now = max(w.now, time.Now().UnixNano())
	}
	// How much before a record is not known to be on disk. Segments are smaller than 4 GiB.
	unsynced := uint32(w.active.end.Load() + int64(len(w.out)) - w.active.synced.Load())
	begin := uint32(0)
	for _, end := range c.ends {
		if len(c.controls) == 0 {
			w.pos++
		}
		seal(c.buf[begin:end], w.pos, w.now, unsynced+begin, w.active.sum)
		begin = end
	}
	w.out = append(w.out, c.buf...)
	w.sync = w.sync || c.durability == engine.Synced
	w.group = append(w.group, c)
}

// admit refuses what cannot be written.
func (w *writer) admit(c *commit) error {
	if p := w.s.poisoned.Load(); p != nil {
		return p.err()
	}
	for _, wr := range c.writes {
		if st := w.stream(wr.Stream); st != nil && st.isDeleted() {
			return &engine.StreamDeletedError{Stream: wr.Stream.Name}
		}
	}
	if w.pos+engine.Position(c.events) > maxPosition {
		return fmt.Errorf("filestore: a store can have %d events", uint64(maxPosition))
	}
	return nil
}

func (w *writer) stream(state *engine.StreamState) *stream {
	if st, ok := state.Ref.(*stream); ok {
		return st
	}
	return w.s.streams.get(state.Name)
}

// flush writes the group, syncs it, publishes it and answers. After a failure nothing of
// it is published.
func (w *writer) flush() {
	if len(w.group) == 0 {
		return
	}
	w.s.groups.Add(1)
	reached, err := w.write()
	if err == nil {
		w.publish(reached)
	} else {
		w.pos = w.s.Head()
	}
	w.expected = len(w.group) + w.s.commits.len()
	for i, c := range w.group {
		c.answer(err)
		w.group[i] = nil
	}
	w.group, w.out, w.sync = w.group[:0], w.out[:0], false
	if cap(w.out) > 2*maxGroup {
		w.out = nil
	}
	if err == nil {
		w.prepare()
	}
}

// write writes the group's records and syncs them if need be.
func (w *writer) write() (engine.Durability, error) {
	s, at := w.s, w.active.end.Load()
	if p := s.poisoned.Load(); p != nil {
		return 0, p.err() // the syncer has met an error meanwhile: nothing was written yet
	}
	if _, err := w.active.file.WriteAt(w.out, at); err != nil {
		if errors.Is(err, syscall.ENOSPC) && w.erase(at, len(w.out)) {
			return 0, fmt.Errorf("%w: write %s: %w", ErrFull, w.active.path, err)
		}
		return 0, s.fail(fmt.Errorf("write %s at byte %d: %w", w.active.path, at, err)).unknown()
	}
	w.unsynced += len(w.out)
	if !w.sync {
		return engine.Written, nil
	}
	w.perSync, w.unsynced = (3*w.perSync+w.unsynced)/4, 0
	if err := s.syncLog(w.active, w.pos, at+int64(len(w.out))); err != nil {
		return 0, err
	}
	return engine.Synced, nil
}

// erase zeroes what a failed write may have left, and makes sure (fdatasync) that no crash
// brings it back: who was told that nothing is stored must be able to rely on it.
func (w *writer) erase(at int64, n int) bool {
	if _, err := w.active.file.WriteAt(make([]byte, n), at); err != nil {
		return false
	}
	return w.s.syncLog(w.active, w.s.Head(), at) == nil
}

// syncLog makes everything durable up to a position, and a byte of the active segment:
// fdatasync. Segments before it are synced when they are left. All syncs of the log go through one token: the
// system tells of a failure only once, and nobody may then take the next success for his own.
func (s *Store) syncLog(active *segment, upTo engine.Position, end int64) error {
	s.syncing <- struct{}{}
	defer func() { <-s.syncing }()
	if p := s.poisoned.Load(); p != nil {
		return p.unknown()
	}
	if err := active.file.Datasync(); err != nil {
		return s.fail(fmt.Errorf("sync %s: %w", active.path, err)).unknown()
	}
	s.durable.Store(max(s.durable.Load(), uint64(upTo)))
	active.synced.Store(max(active.synced.Load(), end))
	return nil
}

// fail ends all writing. The first failure is the one that everybody is told.
func (s *Store) fail(err error) *poison {
	if s.poisoned.CompareAndSwap(nil, &poison{err, time.Now()}) {
		s.opts.Logger.Error("weir: file backend can write no more; open it again", "dir", s.dir, "err", err)
	}
	return s.poisoned.Load()
}

// publish indexes the group and lets readers see it.
func (w *writer) publish(reached engine.Durability) {
	s, pos := w.s, w.s.Head()
	when := time.Unix(0, w.now).UTC()
	for _, c := range w.group {
		if len(c.controls) > 0 {
			w.active.addControl(len(c.buf))
			for _, r := range c.controls {
				s.apply(r.kind, r.stream, r.version)
			}
			continue
		}
		i, begin := 0, uint32(0)
		for _, wr := range c.writes {
			st := w.stream(wr.Stream)
			if st == nil {
				st = s.streams.getOrAdd(wr.Stream.Name)
			}
			wr.Stream.Ref = st
			wr.Position, wr.UnixNano, wr.Durability = pos+1, w.now, reached
			first := pos + 1
			for k := range wr.Events {
				ev := &wr.Events[k]
				pos++
				w.active.add(st, ev.TypeID, int(c.ends[i]-begin))
				if ev.ID != "" {
					s.ids.add(hashID(hashName(st.name), ev.ID), pos)
				}
				for _, tag := range ev.Meta.Tags() {
					s.tags.add(hashTag(tag), pos)
				}
				s.tail.add(engine.Event{
					Stream: st.name, Version: wr.After + 1 + engine.Version(k), Position: pos,
					Type: ev.Type, ID: ev.ID, Time: when, Data: ev.Data, Meta: ev.Meta,
				})
				begin = c.ends[i]
				i++
			}
			s.streams.change(st, func(p *positions) {
				for at := first; at <= pos; at++ {
					p.add(at)
				}
			})
		}
	}
	// The moment at which all of it can be seen: after the columns and the lists.
	s.head.Store(uint64(pos))
	if reached != engine.Synced {
		select {
		case s.unsynced <- struct{}{}:
		default: // the syncer knows
		}
	}
}

// runSyncer is the goroutine that syncs what was only written, Options.SyncEvery later.
func (s *Store) runSyncer() {
	timer := time.NewTimer(0)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-s.unsynced:
		case <-s.gone:
			return
		}
		timer.Reset(s.opts.SyncEvery)
		select {
		case <-timer.C:
		case <-s.gone:
			return
		}
		s.syncWritten()
	}
}

// syncWritten syncs what can be read. Segments that were left are synced.
func (s *Store) syncWritten() error {
	head := s.Head() // first: it is in the segments that there are now
	if s.Durable() >= head {
		return nil
	}
	segs := *s.segments.Load()
	active := segs[len(segs)-1]
	return s.syncLog(active, head, active.end.Load())
}
