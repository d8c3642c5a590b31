package filestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"strings"

	"github.com/weirstore/weir/engine"
)

// An index file says what is in a segment, so that opening a store does not read the log. It
// is derived: if it is missing, damaged, or not that of the segment's store, base, generation and
// size, it is built anew. docs/filestore-format.md has its form.
const (
	indexMagic  = "WEIRIDX\n"
	indexHeader = 64
	indexEnding = ".idx"
)

func indexName(seg *segment) string {
	return strings.TrimSuffix(seg.name(), ".seg") + indexEnding
}

// writeIndex replaces a segment's index file (fsync of the file and the directory).
func (s *Store) writeIndex(seg *segment, x *contents) error {
	return s.replace(indexName(seg), x.encode(s.id, seg.generation))
}

func (x *contents) encode(id storeID, generation uint32) []byte {
	b := make([]byte, indexHeader, indexHeader+16*len(x.records))
	copy(b, indexMagic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	copy(b[16:], id[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(x.base))
	binary.LittleEndian.PutUint64(b[40:], uint64(x.next))
	binary.LittleEndian.PutUint64(b[48:], uint64(x.end))
	binary.LittleEndian.PutUint32(b[56:], generation)
	for _, list := range [][]string{x.streams, x.types} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, name := range list {
			b = binary.AppendUvarint(b, uint64(len(name)))
			b = append(b, name...)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(x.records)))
	versions := make([]engine.Version, len(x.streams)) // of each stream's last event
	pos := x.base - 1
	for i := range x.records {
		it := &x.records[i]
		if it.kind != kindEvent {
			b = binary.AppendUvarint(b, uint64(it.kind)<<1)
			b = binary.AppendUvarint(b, uint64(it.length))
			b = binary.AppendUvarint(b, uint64(it.stream))
			b = binary.AppendUvarint(b, uint64(it.version))
			continue
		}
		key := uint64(it.stream)<<2 | 1
		if it.hasID {
			key |= 2
		}
		b = binary.AppendUvarint(b, key)
		b = binary.AppendUvarint(b, uint64(it.typ))
		b = binary.AppendUvarint(b, uint64(it.length))
		b = binary.AppendUvarint(b, uint64(it.version-versions[it.stream]-1))
		b = binary.AppendUvarint(b, uint64(it.pos-pos-1))
		if it.hasID {
			b = binary.LittleEndian.AppendUint64(b, it.hash)
		}
		versions[it.stream], pos = it.version, it.pos
	}
	b = x.appendTags(b)
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[16:], castagnoli))
	return b
}

// appendTags appends what records have tags, if any have: how many, and of each its place
// among the records, as the distance from the one before, how many tags, and their hashes.
func (x *contents) appendTags(b []byte) []byte {
	n := 0
	for i := range x.records {
		if len(x.records[i].tags) > 0 {
			n++
		}
	}
	if n == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(n))
	last := 0
	for i := range x.records {
		if tags := x.records[i].tags; len(tags) > 0 {
			b = binary.AppendUvarint(b, uint64(i-last))
			b = binary.AppendUvarint(b, uint64(len(tags)))
			for _, h := range tags {
				b = binary.LittleEndian.AppendUint64(b, h)
			}
			last = i
		}
	}
	return b
}

// decodeTags is the reverse of appendTags.
func (x *contents) decodeTags(d *decoder) {
	i := uint64(0)
	for range d.count(10) {
		i += d.uvarint()
		n := d.count(8)
		if d.err == nil && (i >= uint64(len(x.records)) || x.records[i].kind != kindEvent || n == 0) {
			d.fail("tags of no event")
		}
		if d.err != nil {
			return
		}
		hashes := make([]uint64, n)
		for k := range hashes {
			hashes[k] = binary.LittleEndian.Uint64(d.bytes(8))
		}
		x.records[i].tags = hashes
	}
}

// readIndex reads a segment's index file. Next is the first position of the following
// segment, 0 for the last one, whose index may cover only its beginning.
func (s *Store) readIndex(seg *segment, next engine.Position) (*contents, error) {
	name := indexName(seg)
	path := s.path(name)
	b, err := readFile(s.fs, path, name, 2*maxSegment)
	if err != nil {
		return nil, err
	}
	x, err := decodeIndex(path, b, s.id, seg)
	if err == nil && next != 0 && x.next != next {
		err = errors.New("it does not cover the segment")
	}
	return x, err
}

// decodeIndex reads an index file for a segment of a store.
func decodeIndex(path string, b []byte, id storeID, seg *segment) (*contents, error) {
	if len(b) < indexHeader || string(b[:8]) != indexMagic {
		return nil, corrupt(path, 0, "it does not begin as an index does")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v == 0 || v > formatVersion {
		return nil, &FormatError{path, v, formatVersion}
	}
	if binary.LittleEndian.Uint32(b[12:]) != crc32.Checksum(b[16:], castagnoli) {
		return nil, corrupt(path, 12, "%v", errChecksum)
	}
	x := newContents(engine.Position(binary.LittleEndian.Uint64(b[32:])))
	x.next = engine.Position(binary.LittleEndian.Uint64(b[40:]))
	x.end = int64(binary.LittleEndian.Uint64(b[48:]))
	x.onDisk = x.end // it was synced before its index was made
	switch {
	case string(b[16:32]) != string(id[:]):
		return nil, corrupt(path, 16, "it belongs to another store")
	case x.base != seg.base || binary.LittleEndian.Uint32(b[56:]) != seg.generation:
		return nil, corrupt(path, 32, "it belongs to another segment")
	case x.end < segmentHeader || x.end > seg.size:
		return nil, corrupt(path, 48, "it covers %d bytes of a segment of %d", x.end, seg.size)
	}
	d := decoder{b: b[indexHeader:]}
	x.decode(&d, seg.next != 0)
	if d.err == nil && len(d.b) > 0 {
		x.decodeTags(&d)
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail("bytes are left over")
	}
	if d.err != nil {
		return nil, corrupt(path, int64(len(b)-len(d.b)), "%v", d.err)
	}
	return x, nil
}

// decode reads the lists behind the header. What does not add up to what the header says
// is an error: the checksum vouches for the bytes, not for who wrote them.
func (x *contents) decode(d *decoder, gaps bool) {
	for i, list := range []*[]string{&x.streams, &x.types} {
		indexes := []map[string]uint32{x.streamOf, x.typeOf}[i]
		n := d.count(1)
		*list = make([]string, n)
		for k := range *list {
			(*list)[k] = d.string()
			indexes[(*list)[k]] = uint32(k)
		}
	}
	n := d.count(4) // a control record, the shortest
	x.records = make([]item, n)
	versions := make([]engine.Version, len(x.streams))
	pos, end := x.base-1, int64(segmentHeader)
	for i := range x.records {
		it := &x.records[i]
		key := d.uvarint()
		if key&1 == 0 {
			it.kind = kind(key >> 1)
			it.length = uint32(d.uvarint())
			it.stream = uint32(d.uvarint())
			it.version = engine.Version(d.uvarint())
			it.pos = pos
			if it.kind == kindEvent || it.kind > kindClose || it.kind != kindClose && int(it.stream) >= len(x.streams) {
				d.fail("a control record that there is not")
				return
			}
			end += int64(it.length)
			continue
		}
		it.hasID = key&2 != 0
		it.stream = uint32(key >> 2)
		it.typ = uint32(d.uvarint())
		it.length = uint32(d.uvarint())
		if int(it.stream) >= len(x.streams) || int(it.typ) >= len(x.types) {
			d.fail("an event of no stream or type")
			return
		}
		it.version = versions[it.stream] + 1 + engine.Version(d.uvarint())
		skip := d.uvarint()
		if skip > 0 && !gaps {
			d.fail("a position is missing")
			return
		}
		it.pos = pos + 1 + engine.Position(skip)
		if it.hasID {
			if h := d.bytes(8); h != nil {
				it.hash = binary.LittleEndian.Uint64(h)
			}
		}
		versions[it.stream], pos = it.version, it.pos
		end += int64(it.length)
	}
	if d.err == nil && (end != x.end || pos >= x.next || !gaps && pos+1 != x.next) {
		d.fail("its records do not add up")
	}
}

// indexSealed writes the index file of a segment that was left, in a goroutine of its own.
func (s *Store) indexSealed(seg *segment) {
	x, err := s.scanSealed(seg, seg.base+engine.Position(seg.events.Load()))
	if err == nil {
		err = s.writeIndex(seg, x)
	}
	if err != nil && !errors.Is(err, fs.ErrClosed) { // compaction has replaced it
		s.opts.Logger.Warn("weir: index not written; the next opening builds it", "segment", seg.path, "err", err)
	}
}

// indexActive writes the index file of the last segment, if there is much to be read
// without it.
func (s *Store) indexActive(seg *segment) error {
	if seg.end.Load() < windowSize {
		return nil
	}
	x := newContents(seg.base)
	if old, err := s.readIndex(seg, 0); err == nil {
		x = old
	}
	c := seg.scan(x.end)
	var rec record
	for c.off < seg.end.Load() {
		at := c.off
		b, wrong, err := c.next(&rec)
		if err == nil && b == nil {
			err = corrupt(seg.path, at, "%s", string(wrong))
		}
		if err == nil {
			err = x.check(seg, at, &rec, false)
		}
		if err != nil {
			return fmt.Errorf("index: %w", err)
		}
		x.add(&rec, len(b))
	}
	return s.writeIndex(seg, x)
}
