package engine

import (
	"context"
	"slices"
	"time"
)

// memView is what a reader takes of a Memory. It has all that is at or before a head which
// was read before it.
type memView struct {
	segs    []*segment
	streams slabBlocks[memStream]
	names   []string // of types
	holes   bool     // something may have been removed: Memory.holes
}

// memLast is what the event had that was built last: those that were stored together have it in
// common, and to look it up and to make a time of a number was a third of what a read took.
type memLast struct {
	stream uint32
	typ    TypeID
	when   instant
	name   string // of stream
	typed  string // the name of typ
	extras bool   // of the events so far some may have an ID or metadata
}

// instant is a time, and the number that it is made of.
type instant struct {
	ns   int64 // Unix ns
	time time.Time
}

// is reports whether it is that of a number. Events that were stored together have the same one.
func (x *instant) is(ns int64) bool { return ns == x.ns && ns != 0 }

func (x *instant) set(ns int64) { x.ns, x.time = ns, time.Unix(0, ns).UTC() }

func (m *Memory) view() memView {
	v := memView{segs: *m.segments.Load(), streams: m.streams.values.all(), names: m.types.names()}
	v.holes = m.holes.Load() // after the segments
	return v
}

// at returns the segment of a position and the place in it. The segment is nil if Compact has
// let go of it.
func (v *memView) at(pos Position) (*segment, int) {
	s, i := pos.place()
	return v.segs[s], i
}

// removed reports whether an event was removed.
func (v *memView) removed(f *fact) bool {
	return v.holes && (f.stream == 0 || uint64(f.version) < v.streams.at(f.stream).cut.Load())
}

// matchesAll reports whether an event need not be looked at to know that it matches.
func (v *memView) matchesAll(filter *Filter) bool {
	return filter.Types == nil && len(filter.Categories) == 0 && !v.holes
}

// matches reports whether an event is there, and the filter wants it.
func (v *memView) matches(filter *Filter, f *fact) bool {
	if !filter.Types.Has(f.typ) || v.removed(f) {
		return false
	}
	if len(filter.Categories) == 0 {
		return true
	}
	s := v.streams.at(f.stream)
	return slices.Contains(filter.Categories, s.name[:s.category])
}

// look returns what is always there of the event at a position that matches, for put.
func (l *memLast) look(v *memView, pos Position) (f *fact, data *any) {
	seg, i := v.at(pos)
	f = &seg.facts[i]
	if f.stream != l.stream {
		l.stream, l.name = f.stream, v.streams.at(f.stream).name
	}
	if f.typ != l.typ {
		l.typ, l.typed = f.typ, v.names[f.typ]
	}
	if !l.when.is(f.time) {
		l.when.set(f.time)
	}
	if seg.ids.Load() != nil || seg.metas.Load() != nil {
		l.extras = true
	}
	return f, &seg.data[i]
}

// put stores in an event what look has just found, all but its ID and metadata. It is small enough
// for the compiler to see, in yield, that the event is no heap memory, and in one piece: one look at
// whether the collector wants to know of pointers is enough.
func (l *memLast) put(e *Event, pos Position, f *fact, data *any) {
	e.Stream, e.Type, e.Time = l.name, l.typed, l.when.time
	e.Version, e.Position, e.Data = f.version, pos, *data
}

// extra stores in an event its ID and metadata.
func (seg *segment) extra(e *Event, i int) {
	e.ID = seg.id(i)
	if meta := seg.meta(i); meta != nil {
		e.Meta = *meta
	} else {
		e.Meta = Metadata{}
	}
}

// extra does the same for a position.
func (v *memView) extra(e *Event, pos Position) {
	seg, i := v.at(pos)
	seg.extra(e, i)
}

// event builds the event at a position that matches: a single one, or one in a page. Of the last one
// it takes no more than the time: where streams alternate, to ask whether it is the same one costs more than to look it up.
func (v *memView) event(e *Event, pos Position, when *instant) {
	seg, i := v.at(pos)
	f := &seg.facts[i]
	e.Stream = v.streams.at(f.stream).name
	e.Version = f.version
	e.Position = pos
	e.Type = v.names[f.typ]
	if !when.is(f.time) {
		when.set(f.time)
	}
	e.Time = when.time
	e.Data = seg.data[i]
	seg.extra(e, i)
}

// find stores in dst where the events are that q asks for, and moves q.From behind those that it
// has looked at. If dst is not full, no more is there.
func (v *memView) find(q *Query, head Position, dst []Position) (n int) {
	all := v.matchesAll(&q.Filter)
	byType := !v.holes && len(q.Filter.Categories) == 0 // nothing else is to be looked at
	pos := q.From
	if q.Backward {
		for pos = min(pos, head); pos >= max(q.To, 1) && n < len(dst); pos-- {
			seg, i := v.at(pos)
			if seg == nil {
				pos -= Position(i) // to its first, before which the loop goes on
				continue
			}
			if all || v.matches(&q.Filter, &seg.facts[i]) {
				dst[n] = pos
				n++
			}
		}
		q.From = pos
		return n
	}
	pos = max(pos, 1)
	for to := min(q.To, head); pos <= to && n < len(dst); {
		seg, i := v.at(pos)
		if seg == nil {
			pos = min(pos+segmentSize-Position(i), to+1)
			continue
		}
		for ; i < segmentSize && pos <= to && n < len(dst); i++ {
			f := &seg.facts[i]
			if all || byType && q.Filter.Types.Has(f.typ) || !byType && v.matches(&q.Filter, f) {
				dst[n] = pos
				n++
			}
			pos++
		}
	}
	q.From = pos
	return n
}

// findIn does the same for a stream, whose first version that is there is given.
func (v *memView) findIn(x *index, first Version, q *StreamQuery, dst []Position) (n int) {
	all := v.matchesAll(&q.Filter)
	at := q.From
	step := Version(1)
	if q.Backward {
		at, step = min(at, Version(x.n)), ^Version(0)
	} else {
		at = max(at, first)
	}
	for ; n < len(dst) && at >= first && at <= Version(x.n); at += step {
		if q.Backward && at < q.To || !q.Backward && at > q.To {
			break
		}
		pos := x.at(at)
		if !all {
			if seg, i := v.at(pos); !v.matches(&q.Filter, &seg.facts[i]) {
				continue
			}
		}
		dst[n] = pos
		n++
	}
	if q.Backward && at < first {
		at = min(at, max(q.To, 1)-1) // nothing is left before it
	}
	q.From = at
	return n
}

// places are where the events are that a read wants: positions that were found, or some that follow one another.
type places struct {
	found []Position // nil for the latter
	first Position
	n     int
}

func (p *places) at(i int) Position {
	if p.found != nil {
		return p.found[i]
	}
	return p.first + Position(i)
}

// yield calls fn with the events at places until it returns false, which yield then does too.
//
// It builds four events before it passes on the first. An event is passed by value, by copying 16 bytes at a time,
// and the processor does that only when the words in them, which were written one by one, have left its store buffer: one
// event at a time waits for that each time. The four are fields of a variable, not elements of an array, since the
// compiler copies an element twice, to make sure of its index before it writes arguments.
func (v *memView) yield(p places, fn func(Event, error) bool) bool {
	var next struct{ a, b, c, d Event }
	var last memLast
	i := 0
	for ; i+4 <= p.n; i += 4 {
		a, b, c, d := p.at(i), p.at(i+1), p.at(i+2), p.at(i+3)
		f, data := last.look(v, a)
		last.put(&next.a, a, f, data)
		f, data = last.look(v, b)
		last.put(&next.b, b, f, data)
		f, data = last.look(v, c)
		last.put(&next.c, c, f, data)
		f, data = last.look(v, d)
		last.put(&next.d, d, f, data)
		if last.extras {
			v.extra(&next.a, a)
			v.extra(&next.b, b)
			v.extra(&next.c, c)
			v.extra(&next.d, d)
		}
		if !fn(next.a, nil) || !fn(next.b, nil) || !fn(next.c, nil) || !fn(next.d, nil) {
			return false
		}
	}
	for ; i < p.n; i++ {
		v.event(&next.a, p.at(i), &last.when)
		if !fn(next.a, nil) {
			return false
		}
	}
	return true
}

// placesAtOnce is how many events ReadAll and ReadStream look for before they build them.
const placesAtOnce = 8

// ReadAll implements [Backend].
func (m *Memory) ReadAll(_ context.Context, q Query, dst []Event) (n int, next Position, err error) {
	if err := m.check(); err != nil {
		return 0, q.From, err
	}
	head := m.Head() // first: the segments and type names of all up to it are there
	v := m.view()
	var places [placesAtOnce]Position
	var when instant
	for full := true; full && n < len(dst); {
		room := places[:min(placesAtOnce, len(dst)-n)]
		found := v.find(&q, head, room)
		for _, pos := range room[:found] {
			v.event(&dst[n], pos, &when)
			n++
		}
		full = found == len(room)
	}
	return n, q.From, nil
}

// yieldAll is ReadAll without a page of events between the log and the loop's body. It yields at
// most limit events, and not more than chunk, and reports whether more are wanted.
func (m *Memory) yieldAll(q Query, limit int, yield func(Event, error) bool) (n int, next Position, more bool, err error) {
	if err := m.check(); err != nil {
		return 0, q.From, false, err
	}
	head := m.Head() // first, as in ReadAll
	v := m.view()
	limit = min(limit, chunk)
	if first, to := max(q.From, 1), min(q.To, head); v.matchesAll(&q.Filter) && !q.Backward && first <= to {
		n = int(min(uint64(limit), uint64(to-first)+1)) // there is nothing to be found
		return n, first + Position(n), v.yield(places{first: first, n: n}, yield), nil
	}
	var found [chunk]Position
	n = v.find(&q, head, found[:limit])
	return n, q.From, v.yield(places{found: found[:], n: n}, yield), nil
}

// viewOf returns what a reader takes of a stream: its index, a view, and the first version that is
// not removed.
func (m *Memory) viewOf(s *memStream) (x index, v memView, first Version) {
	// In this order: what is at or after the cut is in the index, and in the segments, that
	// were read before it.
	x = s.upTo(m.Head())
	v = m.view()
	return x, v, max(Version(min(s.cut.Load(), uint64(x.n)+1)), 1)
}

// ReadStream implements [Backend].
func (m *Memory) ReadStream(_ context.Context, state StreamState, q StreamQuery, dst []Event) (n int, next Version, err error) {
	if err := m.check(); err != nil {
		return 0, q.From, err
	}
	s := m.stream(state)
	if s == nil {
		return 0, q.From, nil
	}
	x, v, first := m.viewOf(s)
	var places [placesAtOnce]Position
	var when instant
	for full := true; full && n < len(dst); {
		room := places[:min(placesAtOnce, len(dst)-n)]
		found := v.findIn(&x, first, &q, room)
		for _, pos := range room[:found] {
			v.event(&dst[n], pos, &when)
			n++
		}
		full = found == len(room)
	}
	return n, q.From, nil
}

// yieldStream is to ReadStream what yieldAll is to ReadAll.
func (m *Memory) yieldStream(state StreamState, q StreamQuery, limit int, yield func(Event, error) bool) (n int, next Version, more bool, err error) {
	if err := m.check(); err != nil {
		return 0, q.From, false, err
	}
	s := m.stream(state)
	if s == nil {
		return 0, q.From, true, nil
	}
	x, v, first := m.viewOf(s)
	var found [chunk]Position
	n = v.findIn(&x, first, &q, found[:min(chunk, limit)])
	return n, q.From, v.yield(places{found: found[:], n: n}, yield), nil
}
