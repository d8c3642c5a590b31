package filestore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// window reads a file in large pieces from its beginning to its end.
type window struct {
	path string
	file vfs.File
	size int64
	buf  []byte
	at   int64 // of buf[0]
}

// windowSize is what a window reads at once, if records are not longer.
const windowSize = 1 << 20

// bytes returns n bytes at off, which are there until the next call. REQUIRES: off+n ≤ size.
func (w *window) bytes(off int64, n int) ([]byte, error) {
	if off < w.at || off+int64(n) > w.at+int64(len(w.buf)) {
		size := int(min(max(windowSize, int64(n)), w.size-off))
		if cap(w.buf) < size {
			w.buf = make([]byte, size)
		}
		w.buf, w.at = w.buf[:size], off
		if err := readFull(w.file, w.buf, off); err != nil {
			w.buf = w.buf[:0]
			if err == io.ErrUnexpectedEOF {
				return nil, corrupt(w.path, off, "the file ends before byte %d", off+int64(size))
			}
			return nil, fmt.Errorf("filestore: read %s at byte %d: %w", w.path, off, err)
		}
	}
	return w.buf[off-w.at:][:n], nil
}

// scan reads the records of a segment one after the other.
type scan struct {
	window
	sum uint32 // seed of the checksums
	off int64  // of the next record
}

func (s *segment) scan(off int64) *scan {
	return &scan{window: window{path: s.path, file: s.file, size: s.size}, sum: s.sum, off: off}
}

// damage is why a scan stops before the end: no record of this segment stands there. It is
// not an error as long as nobody has promised one.
type damage string

// next returns the record at off and moves behind it. At the end of what was written it
// returns nil; where something else stands than a record, nil and what is wrong.
func (c *scan) next(rec *record) (b []byte, wrong damage, err error) {
	left := c.size - c.off
	if left == 0 {
		return nil, "", nil
	}
	head, err := c.bytes(c.off, int(min(left, recordHeader)))
	if err != nil {
		return nil, "", err
	}
	if allZero(head) {
		return nil, "", nil
	}
	if left < recordHeader {
		return nil, "less than a record's header is left", nil
	}
	n := recordLength(head)
	if n < recordHeader || int64(n) > left {
		return nil, damage(fmt.Sprintf("a record of %d bytes where %d are left", n, left)), nil
	}
	if b, err = c.bytes(c.off, n); err != nil {
		return nil, "", err
	}
	if !checkRecord(b, c.sum) {
		return nil, damage(errChecksum.Error()), nil
	}
	if err := rec.parse(b); err != nil {
		return nil, "", corrupt(c.path, c.off, "%v", err)
	}
	c.off += int64(n)
	return b, "", nil
}

func allZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// rest is what stands behind the place at which a scan has stopped.
type rest struct {
	end     int64 // behind the last byte that is not zero
	records int   // valid records
	durable bool  // one of them vouches for the place: it was on disk before that record was written
}

// look looks for records behind a place where none stands, at any byte: first is the
// position that should stand there. They tell a torn write, after which nothing was
// acknowledged, from damage to what was.
func (c *scan) look(first engine.Position) (r rest, err error) {
	last := first + engine.Position((c.size-c.off)/recordHeader)
	return c.lookFor(first, last, func([]byte) {})
}

// lookFor looks for records of some positions, and calls found with each. Its bytes are
// there until it returns.
func (c *scan) lookFor(first, last engine.Position, found func(b []byte)) (r rest, err error) {
	place := c.off
	r.end = place
	for off := place; off < c.size; {
		piece, err := c.bytes(off, int(min(c.size-off, windowSize/2)))
		if err != nil {
			return r, err
		}
		if allZero(piece) {
			off += int64(len(piece))
			continue
		}
		for i := len(piece) - 1; i >= 0; i-- {
			if piece[i] != 0 {
				r.end = max(r.end, off+int64(i)+1)
				break
			}
		}
		next := off + int64(len(piece))
		for off < next && off+recordHeader <= c.size {
			b, err := c.bytes(off, recordHeader)
			if err != nil {
				return r, err
			}
			n, pos := recordLength(b), recordPosition(b)
			if n < recordHeader || int64(n) > c.size-off || pos+1 < first || pos > last {
				off++
				continue
			}
			unsynced := int64(binary.LittleEndian.Uint32(b[atUnsynced:]))
			if b, err = c.bytes(off, n); err != nil {
				return r, err
			}
			if !checkRecord(b, c.sum) {
				off++
				continue
			}
			found(b)
			r.records++
			r.durable = r.durable || off-unsynced > place
			off += int64(n)
			r.end = max(r.end, off)
		}
		off = max(off, next)
	}
	return r, nil
}
