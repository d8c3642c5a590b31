package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/weirstore/weir/engine"
)

// reader is one call that reads events. It sees the store as it was when it was made.
type reader struct {
	s       *Store
	head    engine.Position
	tail    tailView
	segs    []*segment
	streams []*stream
	names   []string // of types
	filter  *engine.Filter
	all     bool // nothing is filtered out and nothing removed
	page    *page
	pageOf  *segment
}

func (s *Store) reader(f *engine.Filter) reader {
	r := reader{s: s, head: s.Head(), filter: f} // first: what follows holds at least that
	r.tail = s.tail.view()
	r.segs = *s.segments.Load()
	r.streams = *s.streams.byNumber.Load()
	r.names = s.types.names()
	r.all = f.Types == nil && len(f.Categories) == 0 && !s.streams.removed.Load()
	return r
}

// retry reports whether a read is to be tried again because a segment's file was replaced
// by compaction, and closed, meanwhile.
func (s *Store) retry(err error) bool { return errors.Is(err, fs.ErrClosed) && !s.closed.Load() }

func (s *Store) readError(err error) error {
	if errors.Is(err, fs.ErrClosed) {
		return engine.ErrClosed
	}
	return err
}

// segmentAt returns the index of the segment that holds pos.
func segmentAt(segs []*segment, pos engine.Position) int {
	return sort.Search(len(segs), func(i int) bool { return segs[i].base > pos }) - 1
}

// wants reports whether the filter wants an event, by what its columns say.
func (r *reader) wants(pos engine.Position, stream uint32, typ engine.TypeID) bool {
	if r.all {
		return true
	}
	st := r.streams[stream]
	if uint64(pos) < st.cut.Load() {
		return false
	}
	return r.filter.Types.Has(typ) && (len(r.filter.Categories) == 0 || slices.Contains(r.filter.Categories, st.name[:st.category]))
}

// Types implements [engine.Backend].
func (s *Store) Types(after engine.Position, dst []engine.TypeID) (int, error) {
	if err := s.check(); err != nil {
		return 0, err
	}
	r := s.reader(&engine.Filter{})
	n := 0
	if after >= r.head {
		return 0, nil
	}
	for pos := after + 1; pos <= r.head && n < len(dst); {
		seg := r.segs[segmentAt(r.segs, pos)]
		i, events, stop := seg.index(pos), seg.events.Load(), seg.stop(r.head)
		for ; pos < stop && pos <= r.head && n < len(dst); pos++ {
			dst[n] = 0 // removed, unless it is found
			if i < events && seg.position(i) == pos {
				stream, typ := seg.column(i)
				if r.wants(pos, stream, typ) {
					dst[n] = typ
				}
				i++
			}
			n++
		}
	}
	return n, nil
}

// ReadAll implements [engine.Backend].
func (s *Store) ReadAll(ctx context.Context, q engine.Query, dst []engine.Event) (n int, next engine.Position, err error) {
	for {
		if err := s.check(); err != nil {
			return 0, q.From, err
		}
		if ctx.Err() != nil {
			return 0, q.From, context.Cause(ctx)
		}
		r := s.reader(&q.Filter)
		if q.Backward {
			n, next, err = r.backward(q, dst)
		} else {
			n, next, err = r.forward(q, dst)
		}
		if err == nil || n > 0 {
			return n, next, nil // what was read is good; the next call meets the error
		}
		if !s.retry(err) {
			return 0, q.From, s.readError(err)
		}
	}
}

func (r *reader) forward(q engine.Query, dst []engine.Event) (n int, next engine.Position, err error) {
	pos := max(q.From, 1)
	to := min(q.To, r.head)
	for pos <= to && n < len(dst) {
		if r.tail.get(pos) != nil {
			var k int
			k, pos = r.fromTail(pos, to, dst[n:])
			n += k
			continue
		}
		seg := r.segs[segmentAt(r.segs, pos)]
		stop := min(seg.stop(r.head), to+1)
		var k int
		k, pos, err = r.fromSegment(seg, pos, stop, dst[n:])
		n += k
		if err != nil {
			return n, pos, err
		}
	}
	return n, max(pos, q.From), nil
}

// fromTail copies events that are in memory, up to the first that is not.
func (r *reader) fromTail(pos, to engine.Position, dst []engine.Event) (n int, next engine.Position) {
	seg := r.segs[segmentAt(r.segs, pos)]
	for pos <= to && n < len(dst) {
		ev := r.tail.get(pos)
		if ev == nil {
			break
		}
		if !r.all {
			for pos >= seg.stop(r.head) {
				seg = r.segs[segmentAt(r.segs, pos)]
			}
			i := seg.index(pos)
			if i >= seg.events.Load() || seg.position(i) != pos {
				pos++ // compacted
				continue
			}
			if stream, typ := seg.column(i); !r.wants(pos, stream, typ) {
				pos++
				continue
			}
		}
		dst[n] = *ev
		n++
		pos++
	}
	return n, pos
}

// block is what a sequential read takes from the disk at once: what the events asked for
// take, as far as the average tells, but no more than this.
const block = 256 << 10

// fromSegment reads events with pos ≤ position < stop from a segment.
func (r *reader) fromSegment(seg *segment, pos, stop engine.Position, dst []engine.Event) (n int, next engine.Position, err error) {
	events := seg.events.Load()
	i := seg.index(pos)
	for n < len(dst) {
		// The columns tell which is the next event that is wanted: what lies between is not read.
		for ; i < events; i++ {
			if pos = seg.position(i); pos >= stop {
				return n, stop, nil
			}
			if stream, typ := seg.column(i); r.wants(pos, stream, typ) {
				break
			}
		}
		if i >= events {
			return n, stop, nil
		}
		if r.tail.get(pos) != nil {
			return n, pos, nil
		}
		var k int
		if k, i, err = r.fromBlock(seg, i, events, stop, dst[n:]); err != nil {
			return n, pos, err
		}
		n += k
	}
	if i < events {
		if pos = seg.position(i); pos < stop {
			return n, pos, nil
		}
	}
	return n, stop, nil
}

// fromBlock reads one block that begins with the page of event i, and takes from it what
// is wanted from i on. It returns the index to go on from.
func (r *reader) fromBlock(seg *segment, i, events uint32, stop engine.Position, dst []engine.Event) (n int, next uint32, err error) {
	end := seg.end.Load()
	_, at, after := seg.page(i)
	average := max(end/int64(events), recordHeader)
	size := min(int64(len(dst))*average+2*pageSize, block)
	size = min(max(size, int64(after.offset-at.offset)), end-int64(at.offset))
	buf := make([]byte, size)
	if err := seg.readAt(buf, int64(at.offset)); err != nil {
		return 0, i, err
	}
	payloads := make([]engine.Payload, min(len(dst), int(size/recordHeader)+1))
	var rec record
	taken := 0 // bytes of payloads
	k := at.index
	for off := 0; k < events && n < len(dst); {
		b, whole, damage := cutRecord(buf[off:])
		if damage == nil && !whole {
			break // the next block begins with it
		}
		here := int64(at.offset) + int64(off)
		if damage == nil {
			off += len(b)
			if kind(b[atFlags]&kindMask) != kindEvent {
				continue
			}
			if k >= i {
				pos := seg.position(k)
				if pos >= stop {
					break
				}
				if stream, typ := seg.column(k); r.wants(pos, stream, typ) {
					damage = errChecksum
					if checkRecord(b, seg.sum) {
						damage = r.event(&dst[n], &payloads[n], &rec, b, pos, stream, typ)
					}
					if damage == nil {
						taken += len(rec.data)
						n++
					}
				}
			}
		}
		if damage != nil {
			if n > 0 {
				break // what was read before is good; the next call begins here
			}
			return 0, i, corrupt(seg.path, here, "%v", damage)
		}
		k++
	}
	if k < i+1 && n == 0 {
		return 0, i, corrupt(seg.path, int64(at.offset), "the event at position %d is not where the index says", seg.position(i))
	}
	if taken < len(buf)/2 {
		release(dst[:n], taken)
	}
	return n, k, nil
}

// release copies payloads out of a block, which would otherwise stay as long as one of
// them is kept.
func release(evs []engine.Event, bytes int) {
	arena := make([]byte, 0, bytes)
	for i := range evs {
		p := evs[i].Data.(*engine.Payload)
		begin := len(arena)
		arena = append(arena, p.Bytes...)
		p.Bytes = arena[begin:len(arena):len(arena)]
	}
}

var errChecksum = errors.New("checksum does not match")

// cutRecord returns the record that b begins with, and false if b ends before it does.
func cutRecord(b []byte) (rec []byte, whole bool, err error) {
	if len(b) < recordHeader {
		return nil, false, nil
	}
	n := recordLength(b)
	if n < recordHeader || n > maxSegment {
		return nil, false, fmt.Errorf("a record of %d bytes", n)
	}
	if n > len(b) {
		return nil, false, nil
	}
	return b[:n], true, nil
}

// event builds an event from its record, whose checksum is right, and the columns.
func (r *reader) event(ev *engine.Event, p *engine.Payload, rec *record, b []byte, pos engine.Position, stream uint32, typ engine.TypeID) error {
	if err := rec.parse(b); err != nil {
		return err
	}
	st := r.streams[stream]
	if rec.position != pos || string(rec.stream) != st.name {
		return fmt.Errorf("it holds position %d of stream %q, the index says %d of %q", rec.position, rec.stream, pos, st.name)
	}
	*p = engine.Payload{}
	rec.payload(p)
	*ev = engine.Event{
		Stream: st.name, Version: rec.version, Position: pos, Type: r.names[typ],
		ID: string(rec.id), Time: time.Unix(0, rec.time).UTC(), Data: p,
	}
	if rec.meta != nil {
		var err error
		if ev.Meta, err = parseMeta(rec.meta); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) backward(q engine.Query, dst []engine.Event) (n int, next engine.Position, err error) {
	pos := min(q.From, r.head)
	to := max(q.To, 1)
	for pos >= to && n < len(dst) {
		seg := r.segs[segmentAt(r.segs, pos)]
		i := int64(seg.index(pos))
		if i >= int64(seg.events.Load()) || seg.position(uint32(i)) > pos {
			i-- // a gap
		}
		for ; i >= 0 && n < len(dst); i-- {
			if pos = seg.position(uint32(i)); pos < to {
				return n, to - 1, nil
			}
			if stream, typ := seg.column(uint32(i)); r.wants(pos, stream, typ) {
				if err := r.one(&dst[n], seg, uint32(i)); err != nil {
					return n, pos, err
				}
				n++
			}
			pos--
		}
		if i < 0 {
			pos = seg.base - 1
		}
	}
	return n, pos, nil
}

// one reads the event with an index in a segment: from the tail, or from its page.
func (r *reader) one(ev *engine.Event, seg *segment, i uint32) error {
	pos := seg.position(i)
	if t := r.tail.get(pos); t != nil {
		*ev = *t
		return nil
	}
	stream, typ := seg.column(i)
	b, off, err := r.record(seg, i)
	if err != nil {
		return err
	}
	var rec record
	if err := r.event(ev, new(engine.Payload), &rec, b, pos, stream, typ); err != nil {
		return corrupt(seg.path, off, "%v", err)
	}
	return nil
}

// record returns the record of the event with an index, from a page that is cached, or is
// from now on.
func (r *reader) record(seg *segment, i uint32) (b []byte, off int64, err error) {
	p := r.page
	if p == nil || r.pageOf != seg || i < p.index || i >= p.index+uint32(len(p.offsets)) {
		if p, err = r.s.readPage(seg, i); err != nil {
			return nil, 0, err
		}
		r.page, r.pageOf = p, seg
	}
	at := p.offsets[i-p.index]
	return p.buf[at : int(at)+recordLength(p.buf[at:])], int64(p.key.offset) + int64(at), nil
}

// readPage returns the page that holds the event with an index.
func (s *Store) readPage(seg *segment, i uint32) (*page, error) {
	_, at, next := seg.page(i)
	key := pageKey{seg.file, at.offset}
	size := int(next.offset - at.offset)
	if p := s.cache.get(key, size); p != nil {
		return p, nil
	}
	p := &page{key: key, buf: make([]byte, size), index: at.index}
	if err := seg.readAt(p.buf, int64(at.offset)); err != nil {
		return nil, err
	}
	for off := 0; off < size; {
		b, whole, err := cutRecord(p.buf[off:])
		if err == nil && !whole {
			err = errors.New("a record does not end with its page")
		}
		if err == nil && !checkRecord(b, seg.sum) {
			err = errChecksum
		}
		if err != nil {
			return nil, corrupt(seg.path, int64(at.offset)+int64(off), "%v", err)
		}
		if kind(b[atFlags]&kindMask) == kindEvent {
			p.offsets = append(p.offsets, uint32(off))
		}
		off += len(b)
	}
	if i-at.index >= uint32(len(p.offsets)) {
		return nil, corrupt(seg.path, int64(at.offset), "the page has %d events, the index says more", len(p.offsets))
	}
	s.cache.put(p)
	return p, nil
}

// Load implements [engine.Backend].
func (s *Store) Load(ctx context.Context, name string) (engine.StreamState, error) {
	if err := s.check(); err != nil {
		return engine.StreamState{}, err
	}
	if ctx.Err() != nil {
		return engine.StreamState{}, context.Cause(ctx)
	}
	head := s.Head() // first: what is committed up to here is in the list
	st := s.streams.get(name)
	if st == nil {
		return engine.StreamState{Name: name}, nil
	}
	l := s.streams.list(st, head)
	return engine.StreamState{Name: st.name, Version: l.version(), Deleted: st.isDeleted(), Ref: st}, nil
}

func (s *Store) stream(state engine.StreamState) *stream {
	if st, ok := state.Ref.(*stream); ok {
		return st
	}
	return s.streams.get(state.Name)
}

// ReadStream implements [engine.Backend].
func (s *Store) ReadStream(ctx context.Context, state engine.StreamState, q engine.StreamQuery, dst []engine.Event) (n int, next engine.Version, err error) {
	for {
		if err := s.check(); err != nil {
			return 0, q.From, err
		}
		if ctx.Err() != nil {
			return 0, q.From, context.Cause(ctx)
		}
		n, next, err = s.readStream(state, q, dst)
		if err == nil || n > 0 {
			return n, next, nil
		}
		if !s.retry(err) {
			return 0, q.From, s.readError(err)
		}
	}
}

var positionBuffers = sync.Pool{New: func() any { return new([markEvery]engine.Position) }}

func (s *Store) readStream(state engine.StreamState, q engine.StreamQuery, dst []engine.Event) (n int, next engine.Version, err error) {
	st := s.stream(state)
	if st == nil {
		return 0, q.From, nil
	}
	r := s.reader(&q.Filter)
	list := s.streams.list(st, r.head)
	last := list.version()
	if !q.Backward {
		v := max(q.From, 1)
		if v <= list.first { // those before are gone
			v = max(v, min(list.first, q.To)+1)
		}
		if v > last || v > q.To {
			return 0, v, nil
		}
		c := list.from(uint64(v - list.first - 1))
		for ; v <= last && v <= q.To && n < len(dst); v++ {
			k, err := r.take(&dst[n], c.next())
			if err != nil {
				return n, v, err
			}
			n += k
		}
		return n, v, nil
	}
	v := min(q.From, last)
	to := max(q.To, 1)
	buf := positionBuffers.Get().(*[markEvery]engine.Position)
	defer positionBuffers.Put(buf)
	for v >= to && v > list.first && n < len(dst) {
		// A list is read forward: from its last mark before v.
		i := uint64(v - list.first - 1)
		from := i / markEvery * markEvery
		c := list.from(from)
		for k := range i - from + 1 {
			buf[k] = c.next()
		}
		for k := int(i - from); k >= 0 && v >= to && n < len(dst); k-- {
			took, err := r.take(&dst[n], buf[k])
			if err != nil {
				return n, v, err
			}
			n += took
			v--
		}
	}
	if v <= list.first {
		v = min(v, to-1) // those before are gone
	}
	return n, v, nil
}

// take reads the event at pos if the filter wants it, and returns how many that are.
func (r *reader) take(ev *engine.Event, pos engine.Position) (int, error) {
	seg := r.segs[segmentAt(r.segs, pos)]
	i := seg.index(pos)
	if i >= seg.events.Load() || seg.position(i) != pos {
		return 0, nil // removed and compacted since the list was read
	}
	if stream, typ := seg.column(i); !r.wants(pos, stream, typ) {
		return 0, nil
	}
	return 1, r.one(ev, seg, i)
}

// Find implements [engine.Backend].
func (s *Store) Find(ctx context.Context, state engine.StreamState, ids []string, versions []engine.Version) error {
	for {
		if err := s.check(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := s.find(state, ids, versions)
		if err == nil || !s.retry(err) {
			return s.readError(err)
		}
	}
}

func (s *Store) find(state engine.StreamState, ids []string, versions []engine.Version) error {
	clear(versions)
	st := s.stream(state)
	if st == nil {
		return nil
	}
	r := s.reader(&engine.Filter{})
	hash := hashName(st.name)
	var may []engine.Position
	for k, id := range ids {
		may = s.ids.find(may[:0], hashID(hash, id))
		for _, pos := range may {
			if pos > r.head {
				continue
			}
			seg := r.segs[segmentAt(r.segs, pos)]
			i := seg.index(pos)
			if i >= seg.events.Load() || seg.position(i) != pos {
				continue // compacted
			}
			if stream, typ := seg.column(i); stream != st.number || !r.wants(pos, stream, typ) {
				continue
			}
			var ev engine.Event
			if err := r.one(&ev, seg, i); err != nil {
				return err
			}
			if ev.ID == id {
				versions[k] = ev.Version
			}
		}
	}
	return nil
}
