package filestore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// Compact implements [engine.Retention]. A segment that holds a removed event is written
// anew without it, and synced (fsync), before the manifest names it in place of the old one; the
// old file is removed last. The segment that is written to is left for a new one first, if it holds
// any. It needs room for one segment more. Commits and reads go on.
func (s *Store) Compact(ctx context.Context, rules []engine.RetentionRule) (c engine.Compaction, err error) {
	began := time.Now()
	defer func() { c.Took = time.Since(began) }()
	if err := s.check(); err != nil {
		return c, err
	}
	if ctx.Err() != nil {
		return c, context.Cause(ctx)
	}
	if err := take(ctx, s.compacting); err != nil {
		return c, err
	}
	defer func() { <-s.compacting }()
	if err := s.check(); err != nil { // closed while it waited: Close had the token
		return c, err
	}
	if c.Removed, err = s.applyRules(ctx, rules); err != nil {
		return c, err
	}
	if !s.streams.removed.Load() {
		return c, nil
	}
	segs := *s.segments.Load()
	if active := segs[len(segs)-1]; s.dead(active) > 0 {
		if err := s.call(ctx, func(w *writer) error { return w.roll(0) }); err != nil {
			return c, err
		}
	}
	segs = *s.segments.Load()
	for _, seg := range segs[:len(segs)-1] {
		if s.dead(seg) == 0 {
			continue
		}
		if err := s.check(); err != nil {
			return c, err
		}
		if p := s.poisoned.Load(); p != nil {
			return c, p.err() // the manifest may name a file that would be made again, and removed if that fails
		}
		if ctx.Err() != nil {
			return c, context.Cause(ctx)
		}
		freed, err := s.compact(seg)
		if err != nil {
			if s.isFull(err) {
				err = fmt.Errorf("%w: compact %s: %w", ErrFull, seg.path, err)
			}
			return c, err
		}
		c.Freed += freed
	}
	s.dropRemoved()
	return c, nil
}

// dead returns how many events of a segment are removed and still in it.
func (s *Store) dead(seg *segment) (n uint64) {
	streams := *s.streams.byNumber.Load()
	for i := range seg.events.Load() {
		number, _ := seg.column(i)
		if int(number) < len(streams) && uint64(seg.position(i)) < streams[number].cut.Load() {
			n++
		}
	}
	return n
}

// compactName is the file that is to take a segment's place.
const compactName = "compact" + temporary

// compact writes a segment anew without what is removed, and returns how many bytes that
// gives back.
func (s *Store) compact(old *segment) (freed int64, err error) {
	f, err := create(s.fs, compactName)
	if err != nil {
		return 0, err
	}
	seg, x, err := s.copyLive(old, f)
	renamed := false
	placed := false // it is part of the store, or may be: it must stay
	defer func() {
		if err == nil || placed {
			return
		}
		f.Close()
		if renamed {
			s.fs.Remove(seg.name())
		} else {
			s.fs.Remove(compactName)
		}
	}()
	if err != nil {
		return 0, err
	}
	if err := s.fs.Rename(compactName, seg.name()); err != nil {
		return 0, err
	}
	renamed = true
	if err := s.writeIndex(seg, x); err != nil { // syncs the directory for both
		return 0, err
	}
	streams, types, err := s.resolve(seg, x)
	if err != nil {
		return 0, err
	}
	for i := range x.records {
		if it := &x.records[i]; it.kind != kindEvent {
			seg.addControl(int(it.length))
		} else {
			seg.addItem(it, streams[it.stream], types[it.typ])
		}
	}
	if err := s.replaceSegment(old, seg); err != nil {
		if _, placed = errors.AsType[*unsureError](err); placed {
			f.Close()
		}
		return 0, err
	}
	placed = true
	old.file.Close() // whoever reads it tries again with the new one
	s.fs.Remove(old.name())
	s.fs.Remove(indexName(old)) // or the next opening does both
	return old.size - seg.size, s.syncDir()
}

// copyLive copies what is not removed into f, and syncs it (fsync).
func (s *Store) copyLive(old *segment, f vfs.File) (*segment, *contents, error) {
	h := old.header
	h.generation++
	h.next = old.stop(s.Head())
	x := newContents(h.base)
	c := old.scan(segmentHeader)
	var rec record
	var out []byte
	at := int64(segmentHeader)
	write := func() error {
		_, err := f.WriteAt(out, at)
		at += int64(len(out))
		out = out[:0]
		return err
	}
	for end := old.end.Load(); c.off < end; {
		here := c.off
		b, wrong, err := c.next(&rec)
		if err == nil && b == nil {
			err = corrupt(old.path, here, "%s", string(wrong))
		}
		if err != nil {
			return nil, nil, err
		}
		if !s.lives(&rec) {
			continue
		}
		x.add(&rec, len(b))
		if out = append(out, b...); len(out) >= windowSize {
			if err := write(); err != nil {
				return nil, nil, err
			}
		}
	}
	if err := write(); err != nil {
		return nil, nil, err
	}
	h.size, x.next = at, h.next
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return nil, nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, nil, err
	}
	return newSegment(h, s.path(h.name()), f), x, nil
}

// lives reports whether a record is still needed.
func (s *Store) lives(rec *record) bool {
	if rec.kind == kindClose {
		return false
	}
	st := s.streams.getBytes(rec.stream)
	switch rec.kind {
	case kindTruncate: // the last one of a stream also keeps its version
		last := false
		s.streams.change(st, func(*positions) { last = rec.version >= st.truncated && !st.isDeleted() })
		return last
	case kindDelete:
		return true
	}
	return uint64(rec.position) >= st.cut.Load()
}

// replaceSegment puts a segment in another's place: in the manifest, then for readers.
func (s *Store) replaceSegment(old, seg *segment) error {
	s.meta <- struct{}{}
	defer func() { <-s.meta }()
	segs := append([]*segment(nil), *s.segments.Load()...)
	for i := range segs {
		if segs[i] == old {
			segs[i] = seg
		}
	}
	if err := s.writeManifest(segs, nil); err != nil {
		return err
	}
	s.segments.Store(&segs)
	return nil
}

// dropRemoved takes events that are gone off the lists of their streams.
func (s *Store) dropRemoved() {
	for _, st := range *s.streams.byNumber.Load() {
		if st.cut.Load() == 0 {
			continue
		}
		s.streams.change(st, func(p *positions) {
			n := p.n
			if cut := st.cut.Load(); cut != deleted {
				n = p.upTo(engine.Position(cut) - 1)
			}
			if n > 0 {
				*p = p.drop(n)
			}
		})
	}
}
