package filestore

import (
	"errors"
	"fmt"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// spare is a file for the next segment: zeros, its size synced, and without a name that lasts.
type spare struct {
	file vfs.File
	size int64
	err  error
}

// spareName is the spare's: there is one at a time.
const spareName = "next" + temporary

// nextSize is the size of the n-th segment, counted from 0, that is to hold so many bytes.
func (s *Store) nextSize(n int, bytes int64) int64 {
	size := s.opts.SegmentSize
	if n < 8 {
		first := int64(firstSegment)
		for range n {
			first *= growth
		}
		size = min(size, first)
	}
	const round = 4096
	return max(size, (bytes+segmentHeader+round-1)/round*round)
}

// zeros is what fills a new segment.
var zeros [256 << 10]byte

// spareSync is how much of a new segment is written before it is synced: all at once would stand
// in the way of the log's own syncs. With 64 appenders the slowest commit of a thousand took 5.4 to
// 6.1 ms instead of 14 to 18 (3 runs each, in turn).
const spareSync = 1 << 20

// reserveFrom is how many bytes there are to a sync from which on it is not worth while to write zeros first: all
// bytes are then written twice. With 256 KiB to a sync zeros took 1.5 to 1.6 times as long in all, with 1 MiB 2.4 to
// 2.7 times, with 16 KiB half to 1.4 (docs/bench/NOTES.md).
const reserveFrom = 128 << 10

// makeSpare makes the next segment's file: it is filled with zeros and synced (fsync), so
// that later syncs have no metadata to write, which is what makes them quick. If syncs are few, room for it is
// only reserved.
func (s *Store) makeSpare(size int64, reserve bool) *spare {
	f, err := create(s.fs, spareName)
	if err == nil && reserve {
		if err = f.Reserve(size); errors.Is(err, errors.ErrUnsupported) {
			reserve, err = false, nil
		}
	}
	for off := int64(0); err == nil && !reserve && off < size; off += int64(len(zeros)) {
		_, err = f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off)
		if done := off + int64(len(zeros)); err == nil && done%spareSync == 0 {
			err = f.Datasync()
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil && f != nil {
		f.Close()
		s.fs.Remove(spareName)
	}
	return &spare{f, size, err}
}

// prepare lets the next segment's file be made while the active one is filled, once that is
// half full.
func (w *writer) prepare() {
	if w.wanted || w.active.end.Load() < w.active.size/2 {
		return
	}
	size, reserve := w.s.nextSize(len(*w.s.segments.Load()), 0), w.reserves()
	w.wanted = w.s.group.Go("filestore segment", "", func() { w.prepared <- w.s.makeSpare(size, reserve) })
}

// spare returns a file of at least size bytes.
func (w *writer) spare(size int64) *spare {
	if w.wanted {
		sp := <-w.prepared // at most as long as making it would take now
		w.wanted = false
		if sp.err == nil && sp.size >= size {
			return sp
		}
		if sp.err == nil {
			sp.file.Close() // a batch that is larger than any other
		}
	}
	return w.s.makeSpare(size, w.reserves())
}

// reserves reports whether there are so many bytes to a sync, of late or since the last, that the next
// segment's room had better be reserved only.
func (w *writer) reserves() bool { return max(w.perSync, w.unsynced) >= reserveFrom }

// roll begins a new segment that has room for so many bytes. The old one is synced
// (fdatasync), then the new one's header (fsync), its name (fsync of the directory), and the
// manifest (fsync of file and directory): only then is it used. Nothing is lost if that fails.
func (w *writer) roll(bytes int64) error {
	s := w.s
	if err := s.syncLog(w.active, w.pos, w.active.end.Load()); err != nil {
		return err
	}
	base := w.pos + 1
	seg, err := s.addSegment(base, s.nextGeneration(base), w.spare(s.nextSize(len(*s.segments.Load()), bytes)))
	if err != nil {
		if s.isFull(err) {
			return fmt.Errorf("%w: new segment: %w", ErrFull, err)
		}
		return fmt.Errorf("filestore: new segment: %w", err)
	}
	old := w.active
	w.active = seg
	s.group.Go("filestore index", "", func() { s.indexSealed(old) })
	return nil
}

// nextGeneration is that of a new segment that begins at base: if the last one has no
// events it begins there too, and the name must be another.
func (s *Store) nextGeneration(base engine.Position) uint32 {
	if segs := *s.segments.Load(); len(segs) > 0 && segs[len(segs)-1].base == base {
		return segs[len(segs)-1].generation + 1
	}
	return 0
}

// addSegment makes a spare the segment that begins at base. It replaces a file of that name.
func (s *Store) addSegment(base engine.Position, generation uint32, sp *spare) (_ *segment, err error) {
	if sp.err != nil {
		return nil, sp.err
	}
	h := header{id: s.id, base: base, size: sp.size, generation: generation}
	seg := newSegment(h, s.path(h.name()), sp.file)
	renamed := false
	defer func() {
		if err == nil {
			return
		}
		sp.file.Close()
		if _, unsure := errors.AsType[*unsureError](err); unsure {
			return // the manifest may name it: it must stay
		}
		if renamed {
			s.fs.Remove(h.name())
		} else {
			s.fs.Remove(spareName)
		}
	}()
	if _, err := sp.file.WriteAt(h.encode(), 0); err != nil {
		return nil, err
	}
	if err := sp.file.Sync(); err != nil {
		return nil, err
	}
	if err := s.fs.Rename(spareName, h.name()); err != nil {
		return nil, err
	}
	renamed = true
	if err := s.syncDir(); err != nil {
		return nil, err
	}
	s.meta <- struct{}{}
	defer func() { <-s.meta }()
	segs := append((*s.segments.Load())[:len(*s.segments.Load()):len(*s.segments.Load())], seg)
	if err := s.writeManifest(segs, nil); err != nil {
		return nil, err
	}
	s.segments.Store(&segs)
	return seg, nil
}
