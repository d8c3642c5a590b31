package filestore

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// Recovery says what Open has found and done.
type Recovery struct {
	Clean   bool            // the store was closed in order, or is new
	Head    engine.Position // of the newest event
	Cut     *Cut            // what a crash had left half written; nil if nothing
	Indexes int             // index files that were missing or wrong, and were built anew
	Scanned int64           // bytes of the log that were read
	Took    time.Duration

	lastTime int64 // of the newest event, Unix ns
}

// Cut is a torn end of the log: the traces of a write that a crash has interrupted, of which
// nothing was acknowledged as synced. It was copied aside, then erased.
type Cut struct {
	Path    string // the segment
	Offset  int64  // where the cut was made, in bytes
	Bytes   int64
	Records int    // whole ones behind the tear, written but never synced
	Reason  string // what was found there
	SavedAs string // the file that has the bytes now
}

// Recovery returns what Open has found and done. It never changes, and can be asked for at any time.
func (s *Store) Recovery() Recovery { return s.recovery }

const lockName = "lock"

// takeLock makes sure that nobody else has the store open.
func (s *Store) takeLock() error {
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown host"
	}
	holder := fmt.Sprintf("process %d on %s since %s", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339))
	s.lock, err = s.fs.Lock(lockName, holder)
	if locked, ok := errors.AsType[*vfs.LockedError](err); ok {
		return &LockedError{s.dir, locked.Holder}
	}
	if err != nil {
		return fmt.Errorf("filestore: open %q: %w", s.dir, err)
	}
	return nil
}

// recover reads what the directory holds, puts in order what a crash has left, and leaves
// a store that can be written to. Before there are other goroutines.
func (s *Store) recover() error {
	began := time.Now()
	s.handlers = newHandlers()
	m, err := s.readManifest()
	if err != nil {
		return err
	}
	if m == nil {
		s.recovery.Clean = true
		err = s.create()
	} else {
		s.recovery.Clean = m.Clean != nil
		err = s.load(m)
	}
	s.recovery.Head = s.Head()
	s.recovery.Took = time.Since(began)
	return err
}

// readManifest returns nil if there is no store yet.
func (s *Store) readManifest() (*manifest, error) {
	path := s.path(manifestName)
	b, err := readFile(s.fs, path, manifestName, maxSmall)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s.checkNew(path)
	}
	if err != nil {
		return nil, err
	}
	var m manifest
	if s.id, err = decodeSmall(path, manifestMagic, b, &m); err != nil {
		return nil, err
	}
	return &m, checkManifest(path, &m)
}

// checkNew makes sure that a directory without a manifest holds nothing but what the
// making of a store leaves behind that was interrupted: a first segment without records.
func (s *Store) checkNew(path string) error {
	names, err := s.fs.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		base, generation, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		empty := false
		if base == 1 && generation == 0 {
			if empty, err = s.isEmpty(name); err != nil {
				return err
			}
		}
		if !empty {
			return corrupt(path, 0, "the file is missing, and there is %s", name)
		}
	}
	return nil
}

// isEmpty reports whether a segment's header is right and nothing but zeros follows.
func (s *Store) isEmpty(name string) (bool, error) {
	f, err := s.fs.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	seg, err := s.readHeader(name, f)
	if err != nil {
		return false, nil
	}
	c := seg.scan(segmentHeader)
	r, err := c.look(seg.base)
	return err == nil && r.end == segmentHeader, err
}

// create makes a new store. The manifest is written last: without it there is none.
func (s *Store) create() error {
	if err := s.removeLeft(map[string]bool{}); err != nil {
		return err
	}
	if s.id == (storeID{}) {
		if _, err := rand.Read(s.id[:]); err != nil {
			return err
		}
	}
	if err := s.emptySnapshots(); err != nil {
		return s.createError(err)
	}
	b, err := s.handlers.snapshot(true).encode(s.id, 0)
	if err != nil {
		return err
	}
	if err := s.replace(handlersName, b); err != nil {
		return s.createError(err)
	}
	_, err = s.addSegment(1, 0, s.makeSpare(s.nextSize(0, 0), false))
	return s.createError(err)
}

func (s *Store) createError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("filestore: make a store in %q: %w", s.dir, err)
}

// removeLeft removes what a crash has left that nobody needs: temporary files, and segments
// and index files that are not, or no more, part of the store.
func (s *Store) removeLeft(keep map[string]bool) error {
	names, err := s.fs.List()
	if err != nil {
		return err
	}
	removed := false
	for _, name := range names {
		_, _, segment := parseSegmentName(name)
		if keep[name] || !segment && !isIndexName(name) && !isTemporary(name) {
			continue // it may be somebody else's
		}
		if err := s.fs.Remove(name); err != nil {
			return fmt.Errorf("filestore: remove %s: %w", name, err)
		}
		removed = true
	}
	if removed {
		return s.syncDir()
	}
	return nil
}

// removeTemporary removes what was being made, which may be all the room that there is.
func (s *Store) removeTemporary() error {
	names, err := s.fs.List()
	for _, name := range names {
		if err == nil && isTemporary(name) {
			err = s.fs.Remove(name)
		}
	}
	return err
}

// load opens a store that is there.
func (s *Store) load(m *manifest) error {
	var segs []*segment
	defer func() { s.segments.Store(&segs) }() // for release
	keep := make(map[string]bool)
	for _, ms := range m.Segments {
		seg, err := s.openSegment(ms)
		if err != nil {
			return err
		}
		segs = append(segs, seg)
		keep[seg.name()], keep[indexName(seg)] = true, true
	}
	if err := s.checkUnlisted(m, keep); err != nil {
		return err
	}
	ix := newIndexer(s)
	for i, seg := range segs[:len(segs)-1] {
		if err := s.loadSealed(ix, seg, segs[i+1].base); err != nil {
			return err
		}
	}
	active := segs[len(segs)-1]
	cut, err := s.loadActive(ix, active)
	if err != nil {
		return err
	}
	if err := ix.checkGaps(); err != nil {
		return err
	}
	f, err := s.readHandlers()
	if err != nil {
		return err
	}
	head := active.base + engine.Position(active.events.Load()) - 1
	end := logEnd{head, active.end.Load()}
	switch {
	case f.Head > head:
		return corrupt(active.path, end.Offset, "the log ends at position %d, but %d was on disk", head, f.Head)
	case m.Clean != nil && *m.Clean != end:
		return corrupt(active.path, end.Offset, "the log ends at position %d, byte %d, but was closed at position %d, byte %d",
			head, end.Offset, m.Clean.Position, m.Clean.Offset)
	case m.Clean != nil && cut != nil:
		return corrupt(active.path, cut.Offset, "%s, although the store was closed", cut.Reason)
	}
	// All is known to be right: from here on something may be changed.
	if cut != nil {
		if err := s.cut(active, cut); err != nil {
			return err
		}
	}
	s.handlers.set(f)
	s.head.Store(uint64(head))
	if err := s.settle(active, m.Clean != nil); err != nil {
		return err
	}
	s.segments.Store(&segs)
	if err := s.readLastTime(segs); err != nil {
		return err
	}
	s.openSnapshots()
	// Before the first record, since from then on a crash may tear it; and before anything is
	// removed, since the one that was found may not be on disk: its sync may have failed.
	err = s.removeTemporary()
	if err == nil && m.Clean == nil {
		s.handlers.dirty = true // the same goes for it, and what it says is read from now on
		err = s.writeHandlers()
	}
	if err == nil {
		err = s.writeManifest(segs, nil)
	}
	if s.isFull(err) && m.Clean == nil {
		// Those that are there will do, unless a sync of them has failed before: all can be read
		// without room. Nothing else is removed.
		s.opts.Logger.Warn("weir: handlers' file and manifest not written anew", "dir", s.dir, "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	return s.removeLeft(keep)
}

// settle makes what was found durable (fdatasync): a process that died may have left it to the
// operating system to be written, and it is visible, and vouched for, from now on. If the store was not
// closed, a sync may have failed: then reads still find what is not on disk, and another sync
// does nothing about it. So what no record vouches for is written once more, and so are the zeros where it was cut.
func (s *Store) settle(active *segment, closed bool) error {
	end := active.end.Load()
	for off := active.synced.Load(); !closed && off < end; off += windowSize {
		b := make([]byte, min(windowSize, end-off))
		if err := active.readAt(b, off); err != nil {
			return err
		}
		if _, err := active.file.WriteAt(b, off); err != nil {
			return fmt.Errorf("filestore: write %s at byte %d: %w", active.path, off, err)
		}
	}
	if !closed {
		if err := s.eraseAgain(active, end); err != nil {
			return fmt.Errorf("filestore: erase what was cut off %s: %w", active.path, err)
		}
	}
	if err := active.file.Datasync(); err != nil {
		return fmt.Errorf("filestore: sync %s: %w", active.path, err)
	}
	active.synced.Store(active.end.Load())
	s.durable.Store(s.head.Load())
	return nil
}

// openSegment opens a segment that the manifest names.
func (s *Store) openSegment(ms manifestSegment) (*segment, error) {
	name := segmentName(ms.Base, ms.Generation)
	f, err := s.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, corrupt(s.path(name), 0, "the file is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	seg, err := s.readHeader(name, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return seg, nil
}

// readHeader reads a segment's header and checks that it belongs where it is.
func (s *Store) readHeader(name string, f vfs.File) (*segment, error) {
	path := s.path(name)
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	b := make([]byte, min(size, segmentHeader))
	if err := readFull(f, b, 0); err != nil {
		return nil, fmt.Errorf("filestore: read %s: %w", path, err)
	}
	h, err := decodeHeader(path, b)
	if err != nil {
		return nil, err
	}
	var zero storeID
	switch {
	case s.id != zero && h.id != s.id:
		return nil, corrupt(path, 16, "it belongs to another store")
	case h.name() != name:
		return nil, corrupt(path, 32, "it says that its name is %s", h.name())
	case h.size != size || h.size > 2*maxSegment:
		return nil, corrupt(path, min(size, h.size), "it has %d bytes, it was made with %d", size, h.size)
	case h.next != 0 && h.next < h.base:
		return nil, corrupt(path, 48, "it ends before it begins")
	}
	return newSegment(h, path, f), nil
}

// checkUnlisted looks at segments that the manifest does not name. A crash leaves such: one
// that was begun and not used, or one that compaction was to replace, or has replaced. Anything
// else means that the manifest is not the store's newest, or that a repair was interrupted.
func (s *Store) checkUnlisted(m *manifest, keep map[string]bool) error {
	names, err := s.fs.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		base, generation, ok := parseSegmentName(name)
		if !ok || keep[name] {
			continue
		}
		left, err := s.isEmpty(name)
		for _, ms := range m.Segments {
			if err == nil && !left && ms.Base == base {
				// Of two generations compaction has made the later one.
				left, err = s.isCompacted(segmentName(base, max(generation, ms.Generation)))
			}
		}
		if err != nil {
			return err
		}
		if !left {
			return corrupt(s.path(manifestName), smallHeader, "it does not name %s, which has records or is damaged", name)
		}
	}
	return nil
}

// isCompacted reports whether a segment's header says that compaction has made it.
func (s *Store) isCompacted(name string) (bool, error) {
	f, err := s.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	seg, err := s.readHeader(name, f)
	if _, damaged := errors.AsType[*CorruptionError](err); damaged {
		return false, nil
	}
	return err == nil && seg.next != 0, err
}

// loadSealed indexes a segment that nobody writes to any more.
func (s *Store) loadSealed(ix *indexer, seg *segment, next engine.Position) error {
	if seg.next != 0 && seg.next != next {
		return corrupt(seg.path, 48, "it ends before position %d, the next segment begins at %d", seg.next, next)
	}
	x, err := s.readIndex(seg, next)
	if err != nil {
		x, err = s.scanSealed(seg, next)
		if err != nil {
			return err
		}
		s.recovery.Indexes++
		s.recovery.Scanned += x.end - segmentHeader
		if err := s.writeIndex(seg, x); err != nil {
			s.opts.Logger.Warn("weir: index not written", "segment", seg.path, "err", err)
		}
	}
	return ix.add(seg, x)
}

// scanSealed reads a whole segment that was left, in which every record must be right. With
// an error it returns the whole batches before the damage.
func (s *Store) scanSealed(seg *segment, next engine.Position) (*contents, error) {
	x := newContents(seg.base)
	// Room for as many as there should be, or for those that have room, if a damaged file says something else.
	x.records = make([]item, 0, min(uint64(next-min(next, seg.base)), uint64(seg.size)/smallRecord))
	whole := *x // at the end of the last whole batch
	c := seg.scan(segmentHeader)
	var rec record
	for {
		at := c.off
		b, wrong, err := c.next(&rec)
		switch {
		case err != nil:
		case wrong != "":
			err = corrupt(seg.path, at, "%s", string(wrong))
		case b == nil && seg.next == 0 && (x.next != next || whole.end != x.end):
			err = corrupt(seg.path, at, "its records end before position %d, the next segment begins at %d", x.next, next)
		case b == nil && seg.next != 0 && at != seg.size:
			err = corrupt(seg.path, at, "its records end before the file does")
		case b == nil:
			x.next = next
			return x, nil
		default:
			err = x.check(seg, at, &rec, seg.next != 0)
		}
		if err == nil && rec.position >= next {
			err = corrupt(seg.path, at, "position %d belongs to the next segment", rec.position)
		}
		if err != nil {
			return &whole, err
		}
		x.add(&rec, len(b))
		if rec.end || seg.next != 0 {
			whole = *x
		}
	}
}

// smallRecord is about the size of the smallest records in bytes.
const smallRecord = 32

// loadActive indexes the last segment, and says what a crash has left at its end.
func (s *Store) loadActive(ix *indexer, seg *segment) (*Cut, error) {
	if seg.next != 0 {
		return nil, corrupt(seg.path, 48, "a compacted segment is the last")
	}
	x, err := s.readIndex(seg, 0)
	if err != nil {
		x = newContents(seg.base)
	}
	cut, err := s.scanActive(seg, x)
	if err != nil {
		return nil, err
	}
	seg.synced.Store(x.onDisk)
	return cut, ix.add(seg, x)
}

// scanActive reads the last segment behind what x knows, adds the whole batches to x, and
// says what is to be cut. With an error x has what stands before the damage.
func (s *Store) scanActive(seg *segment, x *contents) (*Cut, error) {
	c := seg.scan(x.end)
	var rec record
	whole := *x // at the end of the last whole batch
	for {
		at := c.off
		b, wrong, err := c.next(&rec)
		if err == nil && b == nil {
			s.recovery.Scanned += c.off - segmentHeader
			cut, err := c.judge(x.next, &whole, string(wrong))
			*x = whole
			return cut, err
		}
		if err == nil {
			err = x.check(seg, at, &rec, false)
		}
		if err != nil {
			*x = whole
			return nil, err
		}
		x.add(&rec, len(b))
		if rec.end {
			whole = *x
		}
	}
}

// judge says what it means that a scan of the last segment has stopped where position next
// should stand: the end of the log, a torn write behind what is whole, or damage.
func (c *scan) judge(next engine.Position, whole *contents, reason string) (*Cut, error) {
	r, err := c.look(next)
	switch {
	case err != nil:
		return nil, err
	case reason != "":
	case r.records > 0:
		reason = "records are missing"
	default:
		reason = "a batch is cut off"
	}
	if r.durable {
		return nil, corrupt(c.path, c.off, "%s, and was on disk: later records say so", reason)
	}
	torn := max(r.end, c.off) - whole.end
	if torn == 0 {
		return nil, nil
	}
	return &Cut{Path: c.path, Offset: whole.end, Bytes: torn, Records: r.records, Reason: reason}, nil
}

// readLastTime finds the time of the newest event: times never go back.
func (s *Store) readLastTime(segs []*segment) error {
	for i := len(segs) - 1; i >= 0; i-- {
		if n := segs[i].events.Load(); n > 0 {
			r := s.reader(&engine.Filter{})
			b, off, err := r.record(segs[i], n-1)
			if err != nil {
				return err
			}
			var rec record
			if err := rec.parse(b); err != nil {
				return corrupt(segs[i].path, off, "%v", err)
			}
			s.recovery.lastTime = rec.time
			return nil
		}
	}
	return nil
}
