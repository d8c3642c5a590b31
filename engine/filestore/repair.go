package filestore

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// Repaired is what Repair has done.
type Repaired struct {
	Damage   []error         // what was wrong
	Head     engine.Position // of the newest event that is left
	SavedAs  []string        // the files that have what was cut
	Handlers bool            // checkpoints and parked lists were lost: handlers begin as if they were new
}

// Repair cuts a damaged store before the first thing that is wrong: what stands behind it,
// good events included, is no more part of the log, since a log has no holes. Nothing is deleted:
// all that is cut is kept in files that begin with "damaged-". A manifest that is missing or damaged
// is made anew from the segments, the handlers' file as an empty one, and checkpoints beyond the end
// are moved to it. What was truncated or deleted stays so: the records that say it, as far as they can
// be read, are carried over the cut. A store that a newer program has written is refused with a
// [*FormatError]. One that is not damaged is left as it is; Open deals with what a crash leaves.
//
// Make a copy of the directory first.
func Repair(dir string) (*Repaired, error) {
	fs, err := vfs.OpenExistingDir(dir)
	if err != nil {
		return nil, fmt.Errorf("filestore: repair %q: %w", dir, err)
	}
	return repair(fs, dir)
}

func repair(fs vfs.FS, dir string) (*Repaired, error) {
	opts, err := Options{Logger: slog.New(slog.DiscardHandler)}.withDefaults() // what is wrong is returned
	if err != nil {
		return nil, err
	}
	lock := newStore(fs, dir, opts)
	defer lock.release()
	if err := lock.takeLock(); err != nil {
		return nil, err
	}
	r := &Repaired{}
	// Each look is made with a store of its own, so that nothing is remembered of the last one.
	look := func() (*examination, error) {
		s := newStore(fs, dir, opts)
		s.handlers = newHandlers()
		x := &examination{s: s}
		return x, x.run()
	}
	x, err := look()
	if err == nil && x.manifest == nil {
		// Each opening writes the manifest: a newer program has had the store last, and what this one
		// would cut off may be right.
		if newer, ok := errors.AsType[*FormatError](x.v.Err()); ok {
			return nil, fmt.Errorf("filestore: repair %q: %w", dir, newer)
		}
		r.Damage = append(r.Damage, x.v.Damage...)
		if err = r.remakeManifest(x.s); err == nil {
			x, err = look()
		}
	}
	defer func() { x.close() }()
	if err != nil {
		return nil, fmt.Errorf("filestore: repair %q: %w", dir, err)
	}
	r.Damage = append(r.Damage, x.v.Damage...)
	r.Head = x.v.Head
	if len(r.Damage) == 0 {
		return r, nil
	}
	// What they were made of may be cut off, and other events take its place.
	if err := x.s.emptySnapshots(); err != nil {
		return r, fmt.Errorf("filestore: repair %q: %w", dir, err)
	}
	if err := r.cut(x); err != nil {
		return r, fmt.Errorf("filestore: repair %q: %w", dir, err)
	}
	x.close()
	if x, err = look(); err == nil {
		err = x.v.Err()
	}
	if err != nil {
		return r, fmt.Errorf("filestore: repair %q: it is not right yet: %w", dir, err)
	}
	return r, nil
}

func (x *examination) close() {
	for _, seg := range x.open {
		seg.file.Close()
	}
	x.open = nil
}

// remakeManifest writes a manifest of the segments that there are.
func (r *Repaired) remakeManifest(s *Store) error {
	list, err := s.sortedSegments()
	if err != nil {
		return err
	}
	var segs []*segment
	for _, ms := range list {
		seg := &segment{header: header{base: ms.Base, generation: ms.Generation}}
		if s.id == (storeID{}) {
			opened, err := s.openSegment(ms)
			if err == nil {
				s.id = opened.id
				opened.file.Close()
			}
			if newer, ok := errors.AsType[*FormatError](err); ok {
				return newer
			}
		}
		segs = append(segs, seg)
	}
	if len(segs) == 0 || segs[0].base != 1 {
		return errors.New("the first segment is missing: nothing can be kept")
	}
	if s.id == (storeID{}) {
		return errors.New("no segment has a header that is right: nothing can be kept")
	}
	if err := r.setAside(s, manifestName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.writeManifest(segs, nil)
}

// setAside gives a file a name that begins with "damaged-".
func (r *Repaired) setAside(s *Store, name string) error {
	to, err := s.freeName(damaged + name)
	if err != nil {
		return err
	}
	if err := s.fs.Rename(name, to); err != nil {
		return err
	}
	r.SavedAs = append(r.SavedAs, s.path(to))
	return s.syncDir()
}

// cut makes what is whole the store.
func (r *Repaired) cut(x *examination) error {
	s := x.s
	controls, err := x.removals() // before anything is erased
	if err != nil {
		return err
	}
	if err := s.emptyIndexes(x.whole); err != nil {
		return err
	}
	segs, next, err := r.cutSegment(x)
	if err != nil {
		return err
	}
	r.Head = next - 1
	if len(segs) == 0 || segs[len(segs)-1].next != 0 || len(controls) > 0 {
		// There is no segment that can be written to, or none in which these stand yet.
		seg, err := s.startWith(segs, next, controls)
		if err != nil {
			return err
		}
		segs = append(segs, seg)
		x.open = append(x.open, seg)
	}
	if err := s.writeManifest(segs, nil); err != nil {
		return err
	}
	// Only now, so that an interruption leaves a store that is still known to be damaged.
	keep := make(map[string]bool)
	for _, seg := range segs {
		keep[seg.name()] = true
	}
	names, err := s.fs.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		_, _, segment := parseSegmentName(name)
		switch {
		case segment && !keep[name]:
			err = r.setAside(s, name)
		case isIndexName(name):
			err = s.fs.Remove(name)
		}
		if err != nil {
			return err
		}
	}
	return r.fixHandlers(x)
}

// emptyIndexes makes the index files useless of all segments that are cut, or cut off: the last of those that are whole
// may be one. While the damage is still there, so that a repair which this interrupts is done again; and
// they are not removed, as emptySnapshots says.
func (s *Store) emptyIndexes(whole []*segment) error {
	names, err := s.fs.List()
	if err != nil {
		return err
	}
	keep := make(map[string]bool)
	for _, seg := range whole[:max(0, len(whole)-1)] {
		keep[indexName(seg)] = true
	}
	for _, name := range names {
		if isIndexName(name) && !keep[name] {
			if err := s.replace(name, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// cutSegment cuts the first damaged segment, and returns those that are left, and the
// position that comes next.
func (r *Repaired) cutSegment(x *examination) (segs []*segment, next engine.Position, err error) {
	s := x.s
	segs, next = x.whole, 1
	if n := len(segs); n > 0 {
		next = segs[n-1].stop(maxPosition)
	}
	seg, good := x.endOf, x.end
	switch {
	case x.firstLost == len(x.manifest.Segments) && x.v.Torn != nil:
		// Another segment may have to follow: then what Open would cut is damage.
		return segs, next, r.cutAside(s, segs[len(segs)-1], x.v.Torn.Offset, x.v.Torn.Bytes)
	case seg == nil || good == nil:
		if x.firstLost < len(x.manifest.Segments) {
			next = max(next, x.manifest.Segments[x.firstLost].Base)
		}
		return segs, next, nil
	case seg.next == 0:
		c := seg.scan(good.end)
		rest, err := c.look(good.next)
		if err == nil {
			err = r.cutAside(s, seg, good.end, rest.end-good.end)
		}
		return append(segs, seg), good.next, err
	}
	// A compacted segment cannot be written to: what is good of it is copied. Control records
	// behind its last event that is left keep the positions that they had.
	for _, it := range good.records {
		good.next = max(good.next, it.pos+1)
	}
	h := seg.header
	h.next, h.size = good.next, good.end
	if h.generation, err = s.freeGeneration(h.base, h.generation+1); err != nil {
		return nil, 0, err
	}
	f, err := create(s.fs, compactName)
	if err != nil {
		return nil, 0, err
	}
	b := make([]byte, good.end)
	if err = seg.readAt(b, 0); err == nil {
		copy(b, h.encode())
		_, err = f.WriteAt(b, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.fs.Rename(compactName, h.name())
	}
	if err == nil {
		err = s.syncDir()
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	copied := newSegment(h, s.path(h.name()), f)
	x.open = append(x.open, copied)
	return append(segs, copied), good.next, nil
}

// cutAside cuts n bytes out of a segment.
func (r *Repaired) cutAside(s *Store, seg *segment, off, n int64) error {
	if n == 0 { // an earlier repair may have cut it, of which a sync has failed
		err := s.eraseAgain(seg, off)
		if err == nil {
			err = seg.file.Sync()
		}
		return err
	}
	name, err := s.cutAside(seg, off, n)
	if err == nil {
		r.SavedAs = append(r.SavedAs, s.path(name))
	}
	return err
}

// startWith adds a segment that begins with control records.
func (s *Store) startWith(segs []*segment, next engine.Position, controls []control) (*segment, error) {
	h := header{id: s.id, base: next}
	var out []byte
	now := time.Now().UnixNano()
	for _, c := range controls {
		b := controlRecord(c.kind, c.stream, c.version)
		seal(b, next-1, now, 0, h.seed())
		out = append(out, b...)
	}
	sp := s.makeSpare(s.nextSize(len(segs), int64(len(out))), false)
	if sp.err == nil {
		_, sp.err = sp.file.WriteAt(out, segmentHeader) // addSegment syncs it
	}
	s.segments.Store(&segs)
	generation, err := s.freeGeneration(next, s.nextGeneration(next))
	if err != nil {
		return nil, err
	}
	return s.addSegment(next, generation, sp)
}

// freeGeneration returns one, at or above another, of which there is no file: one that is
// cut off may begin at the same position, and is to be kept.
func (s *Store) freeGeneration(base engine.Position, generation uint32) (uint32, error) {
	names, err := s.fs.List()
	for slices.Contains(names, segmentName(base, generation)) {
		generation++
	}
	return generation, err
}

// removals returns what the store must still be told once it is cut: what the records behind
// say was truncated or deleted, and what must have been, since versions are missing that compaction
// has taken from what is kept.
func (x *examination) removals() ([]control, error) {
	var list []control
	told := make(map[string]engine.Version) // before which a stream is truncated
	for i, ms := range x.manifest.Segments[x.firstLost:] {
		var good *contents
		if i == 0 && x.endOf != nil {
			good = x.end // these records stay, if there are any
		}
		found, err := x.s.findControls(ms, good)
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			if c.kind == kindTruncate {
				told[c.stream] = max(told[c.stream], c.version)
			} else {
				told[c.stream] = maxVersion
			}
			list = append(list, c)
		}
	}
	kept := x.ix
	if x.endOf != nil && x.end != nil {
		// What is good of the damaged segment stays, too.
		if err := x.wrong(kept.add(newSegment(x.endOf.header, x.endOf.path, x.endOf.file), x.end)); err != nil {
			return nil, err
		}
	}
	for st, g := range kept.unexplained() {
		if told[st.name] < g.version {
			list = append(list, control{kindTruncate, st.name, g.version})
		}
	}
	return list, nil
}

const maxVersion = engine.Version(1<<64 - 1)

// findControls returns the records of a segment, damaged perhaps, that say what was
// truncated or deleted, without those that are known.
func (s *Store) findControls(ms manifestSegment, known *contents) (list []control, err error) {
	name := segmentName(ms.Base, ms.Generation)
	f, err := s.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	// Its header may be what is damaged.
	seg := newSegment(header{id: s.id, base: ms.Base, generation: ms.Generation, size: size}, s.path(name), f)
	first, from := ms.Base, int64(segmentHeader)
	if known != nil {
		first, from = known.next, known.end
	}
	if from >= size {
		return nil, nil
	}
	var rec record
	_, err = seg.scan(from).lookFor(first, maxPosition, func(b []byte) {
		if rec.parse(b) == nil && (rec.kind == kindTruncate || rec.kind == kindDelete) {
			list = append(list, control{rec.kind, string(rec.stream), rec.version})
		}
	})
	return list, err
}

// fixHandlers makes the handlers' file fit the log.
func (r *Repaired) fixHandlers(x *examination) error {
	s := x.s
	if x.handlers == nil {
		r.Handlers = true
		if err := r.setAside(s, handlersName); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		x.handlers = &handlersFile{}
	}
	for i := range x.handlers.Handlers {
		st := &x.handlers.Handlers[i].handlerState
		if st.Checkpoint != nil {
			*st.Checkpoint = min(*st.Checkpoint, r.Head)
		}
		var parked []parkedEvent
		for _, p := range st.Parked {
			if p.Position <= r.Head {
				parked = append(parked, p)
			}
		}
		st.Parked = parked
	}
	s.handlers = newHandlers()
	s.handlers.set(x.handlers)
	b, err := s.handlers.snapshot(true).encode(s.id, r.Head)
	if err != nil {
		return err
	}
	return s.replace(handlersName, b)
}
