package engine_test

import (
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/weirstore/weir/dispatch"
	"github.com/weirstore/weir/engine"
)

// readPlan is a read, of a stream or, if that is "", of everything.
type readPlan struct {
	stream    string
	backward  bool
	from, to  uint64
	limit     int
	typeNames []string
	category  []string
}

func (m *memoryModel) readPlan() (p readPlan) {
	if m.rng.IntN(2) == 0 {
		p.stream, _ = m.anyStream()
		if m.rng.IntN(20) == 0 {
			p.stream = "nobody"
		}
	} else if m.rng.IntN(4) == 0 {
		p.category = [][]string{{"few"}, {"big", "x"}, {"nobody"}}[m.rng.IntN(3)]
	}
	if m.rng.IntN(4) == 0 {
		p.typeNames = [][]string{{"t1"}, {"t0", "t2"}}[m.rng.IntN(2)]
	}
	p.backward = m.rng.IntN(2) == 0
	p.limit = 1 << 40
	if m.rng.IntN(2) == 0 {
		p.limit = 1 + m.rng.IntN(300)
	}
	size := len(m.places(p.stream))
	for _, at := range []*uint64{&p.from, &p.to} {
		switch m.rng.IntN(8) {
		case 0:
			*at = 0
		case 1:
			*at = 1
		case 2:
			*at = math.MaxUint64
		case 3:
			*at = uint64(size)
		default:
			*at = m.rng.Uint64N(uint64(size) + 20)
		}
	}
	return p
}

// places returns what is or was in the source of a read.
func (m *memoryModel) places(stream string) []*engine.Event {
	if stream == "" {
		return m.log
	}
	if s := m.streams[stream]; s != nil {
		return s.log
	}
	return nil
}

// want returns what a read must find.
func (m *memoryModel) want(p readPlan) (list []*engine.Event) {
	low, high := p.from, p.to
	if p.backward {
		low, high = high, low
	}
	for i, ev := range m.places(p.stream) {
		if at := uint64(i + 1); at < low || at > high || m.gone(ev) {
			continue
		}
		if (p.typeNames == nil || slices.Contains(p.typeNames, ev.Type)) && (p.category == nil || slices.Contains(p.category, ev.Category())) {
			list = append(list, ev)
		}
	}
	if p.backward {
		slices.Reverse(list)
	}
	return list[:min(len(list), p.limit)]
}

// read begins a read with an engine, which goes to the end.
func (m *memoryModel) read(e *engine.Engine, p readPlan) iter.Seq2[engine.Event, error] {
	var opts []engine.ReadOption
	if p.backward {
		opts = append(opts, engine.Backward())
	}
	if p.typeNames != nil {
		opts = append(opts, engine.Types(p.typeNames...))
	}
	if p.category != nil {
		opts = append(opts, engine.Categories(p.category...))
	}
	if p.limit < 1<<40 {
		opts = append(opts, engine.Limit(p.limit))
	}
	if p.stream != "" {
		return e.Read(m.Context(), p.stream, append(opts, engine.FromVersion(engine.Version(p.from)))...)
	}
	return e.ReadAll(m.Context(), append(opts, engine.From(engine.Position(p.from)))...)
}

// toTheEnd makes a plan one of a read with an engine.
func (p readPlan) toTheEnd() readPlan {
	if p.to = math.MaxUint64; p.backward {
		p.to = 0
	}
	return p
}

func (m *memoryModel) checkReads() {
	m.Helper()
	for range 3 {
		p := m.readPlan().toTheEnd()
		want := m.want(p)
		for which, e := range map[string]*engine.Engine{"without pages": m.direct, "over pages": m.pages} {
			n := 0
			for ev, err := range m.read(e, p) {
				if err != nil || n == len(want) || !same(ev, *want[n]) {
					m.Fatalf("%+v %s: event %d of %d is %+v, %v", p, which, n+1, len(want), ev, err)
				}
				n++
			}
			if n < len(want) {
				m.Fatalf("%+v %s: %d events, want %d, next %+v", p, which, n, len(want), want[n])
			}
		}
	}
}

// checkPages asks the backend itself, whose reads also have an end.
func (m *memoryModel) checkPages() {
	m.Helper()
	p := m.readPlan()
	p.limit = 1 << 40
	want := m.want(p)
	state, err := m.mem.Load(m.Context(), p.stream)
	if s := m.streams[p.stream]; s != nil && (err != nil || state.Version != engine.Version(len(s.log)) || state.Deleted != s.deleted) {
		m.Fatalf("Load(%s): %+v, %v; want %d, %v", p.stream, state, err, len(s.log), s.deleted)
	}
	filter := engine.Filter{TypeNames: p.typeNames, Categories: p.category}
	if p.typeNames != nil {
		var ids []engine.TypeID
		for _, name := range p.typeNames {
			ids = append(ids, m.typeIDs[name])
		}
		filter.Types = dispatch.NewKindSet(ids...)
	}
	dst := make([]engine.Event, 1+m.rng.IntN(40))
	from, seen := p.from, 0
	for {
		for i := range dst {
			dst[i] = engine.Event{ID: "used", Meta: engine.Metadata{CausationID: "used"}}
		}
		var n int
		var next uint64
		if p.stream == "" {
			var pos engine.Position
			n, pos, err = m.mem.ReadAll(m.Context(), engine.Query{From: engine.Position(from), To: engine.Position(p.to), Backward: p.backward, Filter: filter}, dst)
			next = uint64(pos)
		} else {
			var v engine.Version
			n, v, err = m.mem.ReadStream(m.Context(), state, engine.StreamQuery{From: engine.Version(from), To: engine.Version(p.to), Backward: p.backward, Filter: filter}, dst)
			next = uint64(v)
		}
		if err != nil || !p.backward && next < from || p.backward && next > from || seen+n > len(want) || n == len(dst) && next == from {
			m.Fatalf("%+v from %d: %d events, next %d, %v; %d of %d seen", p, from, n, next, err, seen, len(want))
		}
		for i := range dst[:n] {
			if !same(dst[i], *want[seen]) {
				m.Fatalf("%+v: event %d is %+v, want %+v", p, seen+1, dst[i], want[seen])
			}
			seen++
		}
		if beyond := next > p.to; !p.backward && beyond || p.backward && (next < p.to || next == 0) || next == from {
			break
		}
		from = next
	}
	if seen != len(want) {
		m.Fatalf("%+v: %d events, want %d", p, seen, len(want))
	}
}

func (m *memoryModel) checkTypes() {
	m.Helper()
	after := m.rng.IntN(len(m.log) + 1)
	dst := make([]engine.TypeID, 1+m.rng.IntN(2000))
	for i := range dst {
		dst[i] = 12345 // of another call
	}
	n, err := m.mem.Types(engine.Position(after), dst)
	if err != nil || n != min(len(dst), len(m.log)-after) {
		m.Fatalf("Types(%d) of %d: %d, %v", after, len(m.log), n, err)
	}
	for i, got := range dst[:n] {
		ev, want := m.log[after+i], engine.TypeID(0)
		if !m.gone(ev) {
			want = m.typeIDs[ev.Type]
		}
		if got != want {
			m.Fatalf("Types: %d at %d, want %d", got, ev.Position, want)
		}
	}
}

func (m *memoryModel) checkIDs() {
	m.Helper()
	name, s := m.anyStream()
	ids := []string{"unknown"}
	for range min(len(s.log), 60) {
		if ev := s.log[m.rng.IntN(len(s.log))]; ev.ID != "" {
			ids = append(ids, ev.ID)
		}
	}
	got := make([]engine.Version, len(ids))
	if err := m.mem.Find(m.Context(), engine.StreamState{Name: name}, ids, got); err != nil {
		m.Fatal(err)
	}
	for i, id := range ids {
		if want := m.version(s, id); got[i] != want {
			m.Fatalf("%s of %s is found at %d, want %d", id, name, got[i], want)
		}
	}
}

func (m *memoryModel) checkTags() {
	m.Helper()
	tag, after := fmt.Sprint("k", m.rng.IntN(4)), m.rng.IntN(len(m.log)+1)
	var want []*engine.Event
	for _, ev := range m.log[after:] {
		if slices.Contains(ev.Meta.Tags(), tag) && !m.gone(ev) {
			want = append(want, ev)
		}
	}
	dst := make([]engine.Event, len(want)+1)
	n, err := m.mem.Matching(m.Context(), []engine.TagMatch{{Tags: []string{tag}}}, engine.Position(after), math.MaxUint64, dst)
	if err != nil || n != len(want) {
		m.Fatalf("%d events with %s, %v; want %d", n, tag, err, len(want))
	}
	for i := range want {
		if !same(dst[i], *want[i]) {
			m.Fatalf("%s: %+v, want %+v", tag, dst[i], want[i])
		}
	}
}

// readAndChange changes the store in the loop's body: what was removed since may be missing, nothing else, and
// nothing that came since is there.
func (m *memoryModel) readAndChange() {
	m.Helper()
	p := m.readPlan().toTheEnd()
	p.limit = 1 << 40
	want := m.want(p)
	e, often := m.direct, 1+m.rng.IntN(200)
	if m.rng.IntN(4) == 0 {
		e = m.pages
	}
	i := 0
	skip := func(until engine.Position) {
		for i < len(want) && want[i].Position != until && m.gone(want[i]) {
			i++
		}
	}
	for ev, err := range m.read(e, p) {
		if skip(ev.Position); err != nil || i == len(want) || !same(ev, *want[i]) {
			m.Fatalf("%+v: event %d of %d is %+v, %v", p, i+1, len(want), ev, err)
		}
		i++
		if m.rng.IntN(often) == 0 {
			m.change()
		}
		if m.rng.IntN(2000) == 0 {
			return
		}
	}
	if skip(0); i < len(want) {
		m.Fatalf("%+v: ended before event %d of %d, %+v", p, i+1, len(want), want[i])
	}
}
