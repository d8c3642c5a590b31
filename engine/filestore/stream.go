package filestore

import (
	"encoding/binary"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/weirstore/weir/engine"
)

// stream is what is known of one stream: where its events are. It takes about 170 bytes
// with its entry in the map of names, and about three bytes an event.
type stream struct {
	name     string
	category uint16 // length of the category, a prefix of name
	number   uint32 // its place in the list of streams; columns hold it
	// cut is the position before which the stream's events are removed; all if it was deleted.
	cut       atomic.Uint64
	truncated engine.Version // versions before it are removed; guarded by streams.locks
	list      positions      // guarded by streams.locks
}

const deleted = ^uint64(0)

func (s *stream) isDeleted() bool { return s.cut.Load() == deleted }

// positions is a list of ascending positions, each as a varint of its distance from the
// one before: three bytes an event where 10,000 streams take turns. What is in there never
// changes, so a copy of the struct is a snapshot.
type positions struct {
	first engine.Version // the version of the list's first entry, less one
	n     uint64         // entries
	last  engine.Position
	bytes []byte
	marks []mark // one for every markEvery entries
}

// mark is the state after so many entries, so that looking one up reads few bytes.
type mark struct {
	pos engine.Position
	at  int // in bytes
}

const markEvery = 64

// version returns that of the last entry, which is the stream's.
func (p *positions) version() engine.Version { return p.first + engine.Version(p.n) }

func (p *positions) add(pos engine.Position) {
	p.bytes = appendDelta(p.bytes, uint64(pos-p.last))
	p.last = pos
	if p.n++; p.n%markEvery == 0 {
		p.marks = append(p.marks, mark{pos, len(p.bytes)})
	}
}

// appendDelta grows the slice by less than append would: most lists are small, and there
// are many.
func appendDelta(b []byte, d uint64) []byte {
	if need := binary.MaxVarintLen64; cap(b)-len(b) < need && cap(b)-len(b) < varintLen(d) {
		grown := make([]byte, len(b), len(b)+max(8, len(b)/4))
		copy(grown, b)
		b = grown
	}
	return binary.AppendUvarint(b, d)
}

func varintLen(d uint64) int {
	n := 1
	for ; d >= 0x80; d >>= 7 {
		n++
	}
	return n
}

// cursor reads a list from one entry on.
type cursor struct {
	list *positions
	i    uint64 // entries read
	at   int
	pos  engine.Position
}

// from returns a cursor whose next entry is i, counted from 0.
func (p *positions) from(i uint64) cursor {
	c := cursor{list: p}
	if m := i / markEvery; m > 0 {
		c.i, c.at, c.pos = m*markEvery, p.marks[m-1].at, p.marks[m-1].pos
	}
	for c.i < i {
		c.next()
	}
	return c
}

// next returns the next entry. REQUIRES: c.i < c.list.n.
func (c *cursor) next() engine.Position {
	d, n := binary.Uvarint(c.list.bytes[c.at:])
	c.at += n
	c.i++
	c.pos += engine.Position(d)
	return c.pos
}

// at returns the position of a version that is in the list.
func (p *positions) at(v engine.Version) engine.Position {
	c := p.from(uint64(v - p.first - 1))
	return c.next()
}

// upTo returns how many entries are at or before pos.
func (p *positions) upTo(pos engine.Position) uint64 {
	if pos >= p.last {
		return p.n
	}
	lo, hi := 0, len(p.marks) // the first mark after pos
	for lo < hi {
		if m := (lo + hi) / 2; p.marks[m].pos > pos {
			hi = m
		} else {
			lo = m + 1
		}
	}
	c := p.from(uint64(lo) * markEvery)
	for c.i < p.n {
		if n := c.i; c.next() > pos {
			return n
		}
	}
	return p.n
}

// drop returns the list without its first n entries.
func (p *positions) drop(n uint64) positions {
	kept := positions{first: p.first + engine.Version(n)}
	for c := p.from(n); c.i < p.n; {
		kept.add(c.next())
	}
	return kept
}

// streams is all streams, by name and by number.
type streams struct {
	names shardedNames
	// byNumber is replaced, never changed, when a stream is added.
	byNumber atomic.Pointer[[]*stream]
	locks    [64]sync.RWMutex // of lists, by number: pure memory work
	removed  atomic.Bool      // some stream has a cut
}

// shardedNames is the map from names to streams.
type shardedNames [64]struct {
	sync.RWMutex
	m map[string]*stream
}

func newStreams() *streams {
	s := new(streams)
	s.byNumber.Store(new([]*stream))
	for i := range s.names {
		s.names[i].m = make(map[string]*stream)
	}
	return s
}

// get returns a stream, nil if there is none.
func (s *streams) get(name string) *stream {
	sh := &s.names[hashName(name)%uint64(len(s.names))]
	sh.RLock()
	defer sh.RUnlock()
	return sh.m[name]
}

// getBytes is get without the allocation of a string.
func (s *streams) getBytes(name []byte) *stream {
	sh := &s.names[hashName(name)%uint64(len(s.names))]
	sh.RLock()
	defer sh.RUnlock()
	return sh.m[string(name)]
}

// getOrAdd is called by the writer alone, or before there is one.
func (s *streams) getOrAdd(name string) *stream {
	if st := s.get(name); st != nil {
		return st
	}
	all := *s.byNumber.Load()
	name = strings.Clone(name) // it may be part of something larger
	category, _, _ := strings.Cut(name, "-")
	st := &stream{name: name, category: uint16(len(category)), number: uint32(len(all))}
	grown := append(all, st) // a reader's shorter slice is not touched
	s.byNumber.Store(&grown)
	sh := &s.names[hashName(name)%uint64(len(s.names))]
	sh.Lock()
	sh.m[name] = st
	sh.Unlock()
	return st
}

// list returns a snapshot of a stream's positions up to head.
func (s *streams) list(st *stream, head engine.Position) positions {
	l := &s.locks[st.number%uint32(len(s.locks))]
	l.RLock()
	p := st.list
	l.RUnlock()
	if p.last > head { // in the list, and about to be committed
		p.n = p.upTo(head)
	}
	return p
}

// change runs fn with the lock of a stream's list. The writer's goroutine, or compaction's.
func (s *streams) change(st *stream, fn func(p *positions)) {
	l := &s.locks[st.number%uint32(len(s.locks))]
	l.Lock()
	fn(&st.list)
	l.Unlock()
}

// hashName is FNV-1a with a final mix. It is stored in index files: it never changes.
func hashName[S string | []byte](name S) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return mix(h)
}

func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// hashID is the hash of an event ID in its stream.
func hashID[S string | []byte](stream uint64, id S) uint64 { return mix(stream ^ hashName(id)<<1) }
