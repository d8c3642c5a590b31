package filestore

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/weirstore/weir/engine"
)

// recordHeader is the fixed part of a record in bytes: see the diagram in doc.go.
const recordHeader = 44

// Where the fields of a record stand. All numbers are little-endian.
const (
	atChecksum = 0
	atLength   = 4
	atPosition = 8
	atVersion  = 16
	atTime     = 24
	atUnsynced = 32
	atFlags    = 36
	atEncoding = 37
	atSchema   = 38
	atStream   = 40
	atType     = 42
)

// A record's flags: its kind in the low bits, and what it has.
const (
	kindMask  = 0x07
	flagEnd   = 0x80 // the last record of its batch
	flagID    = 0x40
	flagMeta  = 0x20
	flagNamed = 0x10 // the encoding is given by name
)

// kind says what a record is for. All but events are control records: they take no
// position, and say that of the last event before them.
type kind byte

const (
	kindEvent    kind = iota
	kindTruncate      // of its stream, versions before its version are removed
	kindDelete        // its stream is deleted
	kindClose         // the store was closed here
)

// Encodings that every store has; others are given by name.
var encodings = [...]string{engine.EncodingBytes, engine.EncodingText, engine.EncodingJSON}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is a record taken apart. Its slices are parts of the bytes that it was read from.
type record struct {
	kind     kind
	end      bool // of its batch
	position engine.Position
	version  engine.Version
	time     int64  // Unix ns
	unsynced uint32 // what lies more than so many bytes before it was on disk when it was written
	encoding byte   // index of encodings, or encodingNamed
	schema   uint16

	stream, typ, id, encodingName, meta, data []byte
}

const encodingNamed = 0xff

// recordLength returns the length that a record's bytes claim, which nothing has checked.
func recordLength(b []byte) int { return int(binary.LittleEndian.Uint32(b[atLength:])) }

func recordPosition(b []byte) engine.Position {
	return engine.Position(binary.LittleEndian.Uint64(b[atPosition:]))
}

// sum returns the checksum of a record. The seed is that of its segment, so that a record
// of another store, or copied to another place, is none.
func sum(b []byte, seed uint32) uint32 { return crc32.Update(seed, castagnoli, b[atLength:]) }

// checkRecord verifies the checksum of b, which is one record as long as it claims to be.
func checkRecord(b []byte, seed uint32) bool {
	return binary.LittleEndian.Uint32(b) == sum(b, seed)
}

// parse takes a record apart whose checksum is right. Its parts are checked all the same:
// what this program would not have written it does not believe.
func (r *record) parse(b []byte) error {
	flags := b[atFlags]
	*r = record{
		kind:     kind(flags & kindMask),
		end:      flags&flagEnd != 0,
		position: recordPosition(b),
		version:  engine.Version(binary.LittleEndian.Uint64(b[atVersion:])),
		time:     int64(binary.LittleEndian.Uint64(b[atTime:])),
		unsynced: binary.LittleEndian.Uint32(b[atUnsynced:]),
		encoding: b[atEncoding],
		schema:   binary.LittleEndian.Uint16(b[atSchema:]),
	}
	rest := b[recordHeader:]
	take := func(n int) (part []byte, ok bool) {
		if n < 0 || n > len(rest) { // 32 bits of length are more than an int may have
			return nil, false
		}
		part, rest = rest[:n:n], rest[n:]
		return part, true
	}
	ok := true
	short := func(what string) error { return fmt.Errorf("%s is longer than the record", what) }
	if r.stream, ok = take(int(binary.LittleEndian.Uint16(b[atStream:]))); !ok {
		return short("stream name")
	}
	if r.typ, ok = take(int(binary.LittleEndian.Uint16(b[atType:]))); !ok {
		return short("type name")
	}
	var n []byte
	if flags&flagID != 0 {
		if n, ok = take(2); ok {
			r.id, ok = take(int(binary.LittleEndian.Uint16(n)))
		}
		if !ok {
			return short("event ID")
		}
	}
	if flags&flagNamed != 0 {
		if n, ok = take(1); ok {
			r.encodingName, ok = take(int(n[0]))
		}
		if !ok {
			return short("name of the encoding")
		}
	}
	if flags&flagMeta != 0 {
		if n, ok = take(4); ok {
			r.meta, ok = take(int(binary.LittleEndian.Uint32(n)))
		}
		if !ok {
			return short("metadata")
		}
	}
	r.data = rest
	switch {
	case r.kind > kindClose:
		return fmt.Errorf("unknown kind of record %d", r.kind)
	case r.kind == kindEvent && (len(r.stream) == 0 || len(r.typ) == 0):
		return fmt.Errorf("an event without a stream or a type")
	case r.encoding != encodingNamed && int(r.encoding) >= len(encodings) || (r.encoding == encodingNamed) != (flags&flagNamed != 0):
		return fmt.Errorf("unknown encoding %d", r.encoding)
	}
	return nil
}

// payload returns the record's payload, whose bytes are part of the record's.
func (r *record) payload(p *engine.Payload) {
	p.Schema, p.Bytes = r.schema, r.data
	if r.encoding == encodingNamed {
		p.Encoding = string(r.encodingName)
	} else {
		p.Encoding = encodings[r.encoding]
	}
}

// appendRecord appends an event's record to dst, but for what is known only when it is
// written: see [seal]. A payload beyond the limit in bytes is refused; the caller looks at the sum.
func appendRecord(dst []byte, stream string, version engine.Version, ev *engine.Record, end bool, limit int64) ([]byte, error) {
	payload, ok := ev.Data.(*engine.Payload)
	if !ok || payload == nil {
		return dst, fmt.Errorf("payload is %T, want *engine.Payload", ev.Data)
	}
	if len(stream) > engine.MaxName || len(ev.Type) > engine.MaxName || len(ev.ID) > engine.MaxName || len(payload.Encoding) > 255 {
		return dst, fmt.Errorf("a name is too long: at most %d bytes, and 255 for that of an encoding", engine.MaxName)
	}
	if n := int64(len(payload.Bytes)); n > limit {
		return dst, &TooLargeError{Size: n, Limit: limit} // before it is copied
	}
	begin := len(dst)
	flags, encoding := byte(kindEvent), byte(slices.Index(encodings[:], payload.Encoding))
	if end {
		flags |= flagEnd
	}
	dst = append(dst, make([]byte, recordHeader)...)
	dst = append(dst, stream...)
	dst = append(dst, ev.Type...)
	if ev.ID != "" {
		flags |= flagID
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(ev.ID)))
		dst = append(dst, ev.ID...)
	}
	if encoding == encodingNamed { // byte(-1): not one of encodings
		flags |= flagNamed
		dst = append(dst, byte(len(payload.Encoding)))
		dst = append(dst, payload.Encoding...)
	}
	if !emptyMeta(&ev.Meta) {
		flags |= flagMeta
		at := len(dst)
		dst = appendMeta(append(dst, 0, 0, 0, 0), &ev.Meta)
		binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	}
	dst = append(dst, payload.Bytes...)
	b := dst[begin:]
	putHeader(b, version, flags, encoding, payload.Schema, len(stream), len(ev.Type))
	return dst, nil
}

func putHeader(b []byte, version engine.Version, flags, encoding byte, schema uint16, stream, typ int) {
	binary.LittleEndian.PutUint32(b[atLength:], uint32(len(b)))
	binary.LittleEndian.PutUint64(b[atVersion:], uint64(version))
	b[atFlags], b[atEncoding] = flags, encoding
	binary.LittleEndian.PutUint16(b[atSchema:], schema)
	binary.LittleEndian.PutUint16(b[atStream:], uint16(stream))
	binary.LittleEndian.PutUint16(b[atType:], uint16(typ))
}

// controlRecord returns a control record, unsealed.
func controlRecord(k kind, stream string, version engine.Version) []byte {
	b := append(make([]byte, recordHeader), stream...)
	putHeader(b, version, byte(k)|flagEnd, 0, 0, len(stream), 0)
	return b
}

// seal fills in what is known when a record is written, and its checksum.
func seal(b []byte, pos engine.Position, now int64, unsynced uint32, seed uint32) {
	binary.LittleEndian.PutUint64(b[atPosition:], uint64(pos))
	binary.LittleEndian.PutUint64(b[atTime:], uint64(now))
	binary.LittleEndian.PutUint32(b[atUnsynced:], unsynced)
	binary.LittleEndian.PutUint32(b[atChecksum:], sum(b, seed))
}

func emptyMeta(m *engine.Metadata) bool {
	return m.CorrelationID == "" && m.CausationID == "" && len(m.Extra) == 0
}

// appendMeta appends metadata: the two IDs, the number of extra entries, and each entry's
// key and value; every string behind its length, every length a varint.
func appendMeta(dst []byte, m *engine.Metadata) []byte {
	str := func(s string) {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	str(m.CorrelationID)
	str(m.CausationID)
	dst = binary.AppendUvarint(dst, uint64(len(m.Extra)))
	for k, v := range m.Extra {
		str(k)
		str(v)
	}
	return dst
}

// parseMeta is the reverse of appendMeta.
func parseMeta(b []byte) (m engine.Metadata, err error) {
	d := decoder{b: b}
	m.CorrelationID = d.string()
	m.CausationID = d.string()
	if n := d.count(2); n > 0 { // an entry takes two bytes at least
		m.Extra = make(map[string]string, n)
		for range n {
			k := d.string()
			m.Extra[k] = d.string()
		}
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail("bytes left over")
	}
	if d.err != nil {
		return engine.Metadata{}, fmt.Errorf("metadata: %w", d.err)
	}
	return m, nil
}

// decoder reads varints and strings off a slice, and remembers the first error.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(text string) {
	if d.err == nil {
		d.err = fmt.Errorf("%s", text)
	}
	d.b = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("a number is cut off")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads how many things follow that take at least so many bytes each: more than
// there is room for is an error, before anything is allocated.
func (d *decoder) count(bytes int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/bytes) {
		d.fail("more things than bytes")
		return 0
	}
	return int(n)
}

func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.fail("bytes are missing")
		return nil
	}
	part := d.b[:n]
	d.b = d.b[n:]
	return part
}

func (d *decoder) string() string { return string(d.bytes(d.count(1))) }
