package filestore

import (
	"iter"

	"github.com/weirstore/weir/engine"
)

// contents is what a segment holds, without the payloads: what a scan has found, or an
// index file says. An indexer makes the index of it.
type contents struct {
	base    engine.Position
	next    engine.Position // the first position that is not in it
	end     int64           // behind the last record, in bytes
	onDisk  int64           // a record says that what lies before this byte was on disk
	streams []string
	types   []string
	records []item

	streamOf map[string]uint32 // indexes of streams and types, while records are added
	typeOf   map[string]uint32
}

// item is one record. Its kinds use the fields differently: see add.
type item struct {
	kind    kind
	hasID   bool
	stream  uint32 // index of streams
	typ     uint32 // index of types
	length  uint32 // of the record in bytes
	pos     engine.Position
	version engine.Version
	hash    uint64   // of the ID
	tags    []uint64 // hashes
}

func newContents(base engine.Position) *contents {
	return &contents{
		base: base, next: base, end: segmentHeader, onDisk: segmentHeader,
		streamOf: make(map[string]uint32), typeOf: make(map[string]uint32),
	}
}

// check makes sure that a record, whose checksum is right, is the one that must come next.
// In a compacted segment positions may be missing.
func (x *contents) check(seg *segment, at int64, rec *record, gaps bool) error {
	want := x.next
	if rec.kind != kindEvent {
		want--
	}
	if rec.position == want || gaps && (rec.kind != kindEvent || rec.position > want) && rec.position >= seg.base-1 {
		return nil
	}
	return corrupt(seg.path, at, "position %d where %d must come", rec.position, want)
}

// add adds a record of n bytes.
func (x *contents) add(rec *record, n int) {
	it := item{kind: rec.kind, length: uint32(n), pos: rec.position, version: rec.version}
	if len(rec.stream) > 0 {
		it.stream = place(&x.streams, x.streamOf, rec.stream)
	}
	if rec.kind == kindEvent {
		it.typ = place(&x.types, x.typeOf, rec.typ)
		if it.hasID = len(rec.id) > 0; it.hasID {
			it.hash = hashID(hashName(rec.stream), rec.id)
		}
		if rec.meta != nil {
			if meta, err := parseMeta(rec.meta); err == nil { // else who reads it is told
				it.tags = hashTags(nil, &meta)
			}
		}
		x.next = rec.position + 1
	}
	x.records = append(x.records, it)
	x.onDisk = max(x.onDisk, x.end-int64(rec.unsynced))
	x.end += int64(n)
}

// place returns the index of a name in a list, to which it is added if it is not there.
func place(list *[]string, indexes map[string]uint32, name []byte) uint32 {
	i, ok := indexes[string(name)]
	if !ok {
		i = uint32(len(*list))
		*list = append(*list, string(name))
		indexes[string(name)] = i
	}
	return i
}

// indexer makes the store's index from the contents of its segments, one after the other.
// Before there are readers.
type indexer struct {
	s    *Store
	gaps map[*stream]gap
}

func newIndexer(s *Store) *indexer { return &indexer{s: s, gaps: make(map[*stream]gap)} }

// gap says that a stream's versions before one are missing, which is right if they were
// removed: a later record must say so.
type gap struct {
	version engine.Version
	seg     *segment
}

func (ix *indexer) add(seg *segment, x *contents) error {
	s := ix.s
	streams, types, err := s.resolve(seg, x)
	if err != nil {
		return err
	}
	for i := range x.records {
		it := &x.records[i]
		if it.kind != kindEvent {
			seg.addControl(int(it.length))
			if it.kind != kindClose {
				s.apply(it.kind, x.streams[it.stream], it.version)
			}
			continue
		}
		st := streams[it.stream]
		switch want := st.list.version() + 1; {
		case it.version == want:
		case it.version > want:
			ix.gaps[st] = gap{it.version, seg}
			st.list = positions{first: it.version - 1}
		default:
			return corrupt(seg.path, seg.end.Load(), "version %d of stream %q where %d must come", it.version, st.name, want)
		}
		seg.addItem(it, st, types[it.typ])
		st.list.add(it.pos)
		if it.hasID {
			s.ids.add(it.hash, it.pos)
		}
		for _, h := range it.tags {
			s.tags.add(h, it.pos)
		}
	}
	return nil
}

// addItem indexes an event at the segment's end.
func (s *segment) addItem(it *item, st *stream, typ engine.TypeID) {
	if s.next != 0 {
		s.addPlace(it.pos)
	}
	s.add(st, typ, int(it.length))
}

// resolve returns the streams and types that a segment's contents name.
func (s *Store) resolve(seg *segment, x *contents) ([]*stream, []engine.TypeID, error) {
	streams := make([]*stream, len(x.streams))
	for i, name := range x.streams {
		streams[i] = s.streams.getOrAdd(name)
	}
	types := make([]engine.TypeID, len(x.types))
	for i, name := range x.types {
		var err error
		if types[i], err = s.types.id(name); err != nil {
			return nil, nil, corrupt(seg.path, 0, "event type %q: %v", name, err)
		}
	}
	return streams, types, nil
}

// checkGaps makes sure that every missing version was removed.
func (ix *indexer) checkGaps() error {
	for st, g := range ix.unexplained() {
		return corrupt(g.seg.path, 0, "versions of stream %q before %d are missing and were not removed", st.name, g.version)
	}
	return nil
}

// unexplained returns the gaps that no record accounts for.
func (ix *indexer) unexplained() iter.Seq2[*stream, gap] {
	return func(yield func(*stream, gap) bool) {
		for st, g := range ix.gaps {
			if st.truncated < g.version && !st.isDeleted() && !yield(st, g) {
				return
			}
		}
	}
}

// apply does what a control record says. The writer's goroutine, or before there are others.
func (s *Store) apply(k kind, name string, version engine.Version) {
	if k == kindClose {
		return
	}
	st := s.streams.getOrAdd(name)
	s.streams.change(st, func(p *positions) {
		last := p.last
		// The record also keeps the version of a stream whose events are gone.
		if k == kindTruncate && p.version()+1 < version {
			*p = positions{first: version - 1}
		}
		if k == kindDelete && p.version() < version {
			*p = positions{first: version}
		}
		switch {
		case k == kindDelete:
			st.cut.Store(deleted)
		case st.isDeleted() || version <= st.truncated:
		case p.n == 0 || version > p.version():
			st.cut.Store(max(st.cut.Load(), uint64(last)+1))
		case version > p.first:
			st.cut.Store(uint64(p.at(version)))
		}
		if k == kindTruncate {
			st.truncated = max(st.truncated, version)
		}
	})
	s.streams.removed.Store(true)
}
