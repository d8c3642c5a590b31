package backendtest

import (
	"slices"

	"github.com/weirstore/weir/engine"
)

// source is what a read can be made of, the log or one stream, beside what must be in
// it. Places are positions or versions.
type source struct {
	name string
	log  []engine.Event // the event at place p is log[p-1]
	at   func(*engine.Event) uint64
	read func(span, []engine.Event) (n int, next uint64, err error)
}

// span is a Query or a StreamQuery.
type span struct {
	from, to uint64
	backward bool
	filter   engine.Filter
}

// all is the log as a source.
func (st *store) all() source {
	return source{
		name: "ReadAll",
		log:  st.log,
		at:   func(e *engine.Event) uint64 { return uint64(e.Position) },
		read: func(q span, dst []engine.Event) (int, uint64, error) {
			n, next, err := st.b.ReadAll(st.Context(), engine.Query{
				From: engine.Position(q.from), To: engine.Position(q.to), Backward: q.backward, Filter: q.filter,
			}, dst)
			return n, uint64(next), err
		},
	}
}

// one is a stream as a source, by the state that Load returns now.
func (st *store) one(stream string) source {
	st.Helper()
	return st.oneBy(st.load(stream))
}

func (st *store) oneBy(state engine.StreamState) source {
	src := source{
		name: "ReadStream",
		at:   func(e *engine.Event) uint64 { return uint64(e.Version) },
		read: func(q span, dst []engine.Event) (int, uint64, error) {
			n, next, err := st.b.ReadStream(st.Context(), state, engine.StreamQuery{
				From: engine.Version(q.from), To: engine.Version(q.to), Backward: q.backward, Filter: q.filter,
			}, dst)
			return n, uint64(next), err
		},
	}
	for i := range st.log {
		if st.log[i].Stream == state.Name {
			src.log = append(src.log, st.log[i])
		}
	}
	return src
}

// used is how the events in a buffer look that was read into before.
var used = engine.Event{
	Stream: "used", Version: 1 << 40, Position: 1 << 40, Type: "used", ID: "used", Data: "used",
	Meta: engine.Metadata{CorrelationID: "used", CausationID: "used", Extra: map[string]string{"used": "used"}},
}

// wants reports whether the span asks for an event at place p.
func (q *span) wants(p uint64, e *engine.Event) bool {
	if lo, hi := min(q.from, q.to), max(q.from, q.to); p < lo || p > hi || q.empty() {
		return false
	}
	if len(q.filter.TypeNames) > 0 && !slices.Contains(q.filter.TypeNames, e.Type) {
		return false
	}
	return len(q.filter.Categories) == 0 || slices.Contains(q.filter.Categories, e.Category())
}

// empty reports whether no place is in the span.
func (q *span) empty() bool {
	if q.backward {
		return q.from < q.to || q.from == 0
	}
	return q.from > q.to
}

// checkRead reads a span of a source at rest, page by page, and checks each page against
// the contract: it holds exactly the events asked for that lie before next, next goes
// forward while there is anything to look at, and never past what there is.
func (st *store) checkRead(src source, q span, size int) {
	st.Helper()
	ask := q
	head := uint64(len(src.log))
	dst := make([]engine.Event, size)
	for page := 1; ; page++ {
		for i := range dst {
			dst[i] = used
		}
		n, next, err := src.read(q, dst)
		fail := func(format string, args ...any) {
			st.Helper()
			st.Errorf("%s, page %d of size %d, query %+v of a log with head %d: returns n=%d next=%d err=%v", src.name, page, size, ask, head, n, next, err)
			st.Fatalf(format, args...)
		}
		switch {
		case err != nil:
			fail("want no error")
		case n < 0 || n > size:
			fail("n must be from 0 to %d", size)
		case !q.backward && next < q.from || q.backward && next > q.from:
			fail("next goes back behind %d", q.from)
		case !q.backward && next > max(head+1, q.from):
			fail("next is past %d, which an event yet to come will have: whoever goes on from next never sees it", head+1)
		}

		// What must be in dst: the events of the span that lie before next.
		i := 0
		for p := q.from; !beyond(&q, p) && p != next; p = step(&q, p) {
			if p < 1 || p > head {
				if q.backward && p > head {
					p = max(head, next) + 1 // nothing is there
				}
				continue
			}
			e := &src.log[p-1]
			if !q.wants(p, e) || st.gone[e.Position] {
				continue
			}
			if i == n {
				fail("the event at %d lies before next and was not returned", p)
			}
			if diff := difference(&dst[i], e); diff != "" {
				fail("event %d of the page, at %d: %s", i+1, p, diff)
			}
			i++
		}
		if i < n {
			fail("event %d of the page, at %d, is one too many: it does not lie before next, or was not asked for", i+1, src.at(&dst[i]))
		}
		lo, hi := max(min(q.from, q.to), 1), min(max(q.from, q.to), head)
		switch {
		case beyond(&q, next):
			return
		case next == q.from && lo <= hi:
			fail("next has not moved although there is more to look at")
		case next == q.from:
			return // nothing more is there yet
		}
		q.from = next
	}
}

// beyond reports whether p is past the end of the span, in its order.
func beyond(q *span, p uint64) bool {
	if q.backward {
		return p < q.to || p == 0
	}
	return p > q.to
}

func step(q *span, p uint64) uint64 {
	if q.backward {
		return p - 1
	}
	return p + 1
}
