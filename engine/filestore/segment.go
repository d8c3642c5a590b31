package filestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"sort"
	"sync/atomic"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// A segment file begins with this header; see doc.go.
const (
	segmentMagic  = "WEIRSEG\n"
	segmentHeader = 64
)

// header is a segment's header.
type header struct {
	id         storeID
	base       engine.Position // of the first event
	next       engine.Position // compacted: the first position behind it; 0 for others
	size       int64           // of the file in bytes
	generation uint32          // how often it was compacted
}

func (h *header) encode() []byte {
	b := make([]byte, segmentHeader)
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	binary.LittleEndian.PutUint32(b[12:], segmentHeader)
	copy(b[16:], h.id[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(h.base))
	binary.LittleEndian.PutUint64(b[40:], uint64(h.size))
	binary.LittleEndian.PutUint64(b[48:], uint64(h.next))
	binary.LittleEndian.PutUint32(b[56:], h.generation)
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

// decodeHeader reads a segment's header. Path is for errors.
func decodeHeader(path string, b []byte) (h header, err error) {
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic {
		return h, corrupt(path, 0, "it does not begin as a segment does")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v == 0 || v > formatVersion {
		return h, &FormatError{path, v, formatVersion}
	}
	if binary.LittleEndian.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli) {
		return h, corrupt(path, 60, "checksum of the header does not match")
	}
	copy(h.id[:], b[16:])
	h.base = engine.Position(binary.LittleEndian.Uint64(b[32:]))
	h.size = int64(binary.LittleEndian.Uint64(b[40:]))
	h.next = engine.Position(binary.LittleEndian.Uint64(b[48:]))
	h.generation = binary.LittleEndian.Uint32(b[56:])
	return h, nil
}

// seed is where the checksums of the segment's records begin.
func (h *header) seed() uint32 {
	b := binary.LittleEndian.AppendUint64(h.id[:], uint64(h.base))
	return crc32.Checksum(b, castagnoli)
}

// name is the segment's file name: base and generation.
func (h *header) name() string { return segmentName(h.base, h.generation) }

func segmentName(base engine.Position, generation uint32) string {
	if generation == 0 {
		return fmt.Sprintf("%020d.seg", base)
	}
	return fmt.Sprintf("%020d-%d.seg", base, generation)
}

// segment is one file of the log and the index of what is in it. A sealed one never
// changes; the active one, the last, grows at its end by the writer.
type segment struct {
	header
	path string // for errors
	file vfs.File
	sum  uint32 // seed of its records' checksums

	// The index: a column of streams and types, one entry for each event, and points from which
	// to read. Those at or before the store's head are complete.
	chunks atomic.Pointer[[]*chunk]
	points atomic.Pointer[[]point]
	events atomic.Uint32            // entries of the columns
	end    atomic.Int64             // behind the last record, in bytes
	synced atomic.Int64             // what lies before this byte is on disk; written under Store.syncing
	places atomic.Pointer[[]uint32] // compacted: the events' positions, less base
}

// chunk is the columns of 1024 events: six bytes each.
type chunk struct {
	stream [chunkSize]uint32 // number
	typ    [chunkSize]uint16 // engine.TypeID
}

const chunkSize = 1024

// point says where a record stands: that of the event with an index in the segment. There
// is one for every pageSize bytes of the log, or every record that is longer.
type point struct {
	index  uint32
	offset uint32
}

const pageSize = 4 << 10

func newSegment(h header, path string, file vfs.File) *segment {
	s := &segment{header: h, path: path, file: file, sum: h.seed()}
	s.chunks.Store(new([]*chunk))
	s.points.Store(new([]point))
	if h.next != 0 {
		s.places.Store(new([]uint32))
	}
	s.end.Store(segmentHeader)
	s.synced.Store(segmentHeader)
	return s
}

// add indexes a record of n bytes at the segment's end: an event of a stream and type.
func (s *segment) add(st *stream, typ engine.TypeID, n int) {
	i := s.events.Load()
	chunks := *s.chunks.Load()
	if int(i/chunkSize) == len(chunks) {
		grown := append(chunks, new(chunk)) // a reader's shorter slice is not touched
		s.chunks.Store(&grown)
		chunks = grown
	}
	c := chunks[i/chunkSize]
	c.stream[i%chunkSize] = st.number
	c.typ[i%chunkSize] = uint16(typ)
	at := s.end.Load()
	points := *s.points.Load()
	if len(points) == 0 || at-int64(points[len(points)-1].offset) >= pageSize {
		grown := append(points, point{i, uint32(at)})
		s.points.Store(&grown)
	}
	s.events.Store(i + 1)
	s.end.Store(at + int64(n))
}

// addControl skips a control record of n bytes at the segment's end.
func (s *segment) addControl(n int) { s.end.Add(int64(n)) }

// stop returns the first position behind the segment. REQUIRES: s is not the active one, or
// head is what the caller may see.
func (s *segment) stop(head engine.Position) engine.Position {
	if s.next > 0 {
		return s.next
	}
	return min(s.base+engine.Position(s.events.Load()), head+1)
}

// column returns what the columns say of the event with an index.
func (s *segment) column(i uint32) (stream uint32, typ engine.TypeID) {
	c := (*s.chunks.Load())[i/chunkSize]
	return c.stream[i%chunkSize], engine.TypeID(c.typ[i%chunkSize])
}

// index returns the index of the first event at or behind pos.
func (s *segment) index(pos engine.Position) uint32 {
	d := uint32(pos - s.base)
	places := s.places.Load()
	if places == nil {
		return d
	}
	return uint32(sort.Search(len(*places), func(i int) bool { return (*places)[i] >= d }))
}

// position returns the position of the event with an index.
func (s *segment) position(i uint32) engine.Position {
	if places := s.places.Load(); places != nil {
		return s.base + engine.Position((*places)[i])
	}
	return s.base + engine.Position(i)
}

// addPlace says where the event that is added next stands, in a compacted segment. Before
// there are readers.
func (s *segment) addPlace(pos engine.Position) {
	grown := append(*s.places.Load(), uint32(pos-s.base))
	s.places.Store(&grown)
}

// page returns the place of the page that holds the event with an index, and of the next
// one: the end if there is none.
func (s *segment) page(i uint32) (n int, at point, next point) {
	end := point{s.events.Load(), uint32(s.end.Load())} // first: points are added before
	points := *s.points.Load()
	n = sort.Search(len(points), func(k int) bool { return points[k].index > i }) - 1
	if n+1 < len(points) {
		end = points[n+1]
	}
	return n, points[n], end
}

// readAt reads len(b) bytes. What cannot be read that was written is corrupt, unless the
// system says otherwise.
func (s *segment) readAt(b []byte, off int64) error {
	err := readFull(s.file, b, off)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return corrupt(s.path, off, "the file ends before byte %d", off+int64(len(b)))
	case errors.Is(err, fs.ErrClosed):
		return fs.ErrClosed
	}
	return fmt.Errorf("filestore: read %s at byte %d: %w", s.path, off, err)
}
