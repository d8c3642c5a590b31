package engine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/weirstore/weir/engine"
)

// TestMemoryAgainstModel compares a Memory with a list of events, after each of many appends, removals and
// compactions: all ways to read it, over pages and without, events found by ID and by tag, and reads whose loop's
// body changes what they read.
func TestMemoryAgainstModel(t *testing.T) {
	seeds, steps := uint64(4), 200
	if engine.RaceDetector { // one goroutine does it all
		seeds, steps = 1, 100
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newMemoryModel(t, seed)
			for range steps {
				m.change()
				m.checkReads()
				m.checkPages()
				m.checkTypes()
				m.checkIDs()
				m.checkTags()
				if m.rng.IntN(4) == 0 {
					m.readAndChange()
				}
			}
		})
	}
}

// memoryModel is a Memory beside what it must hold.
type memoryModel struct {
	*testing.T
	rng     *rand.Rand
	mem     *engine.Memory
	direct  *engine.Engine // over mem
	pages   *engine.Engine // the same over pages; it only reads
	shared  *sharedPages   // the backend of pages
	typeIDs map[string]engine.TypeID
	log     []*engine.Event // by position, also what was removed
	names   []string        // of streams; more and more
	streams map[string]*modelStream
	made    int // names and IDs, which are numbered
}

// sharedPages is a Memory that another engine writes to, and which tells its own engine.
type sharedPages struct {
	paged
	grown func()
}

func (s *sharedPages) Watch(grown func()) { s.grown = grown }

// Close leaves the Memory open for the other engine, whose dispatcher may not have seen all.
func (s *sharedPages) Close() error { return nil }

type modelStream struct {
	log     []*engine.Event // by version
	cut     engine.Version
	deleted bool
	live    map[string]engine.Version // by ID; some may be before the cut
}

// baseStreams is how many streams there are from the beginning on: they get large, and are seldom deleted.
const baseStreams = 5

// maxFew is how many events Compact leaves of each stream of category few.
const maxFew = 300

func newMemoryModel(t *testing.T, seed uint64) *memoryModel {
	m := &memoryModel{T: t, rng: rand.New(rand.NewPCG(seed, 7)), mem: engine.NewMemory(), streams: make(map[string]*modelStream)}
	m.direct = quietEngine(t, engine.Options{Backend: m.mem, Retention: []engine.RetentionRule{{Category: "few", MaxCount: maxFew}}})
	t.Cleanup(func() { m.direct.Close() })
	m.shared = &sharedPages{paged: paged{m.mem}}
	m.pages = openOver(t, m.shared) // and closed first
	m.typeIDs = make(map[string]engine.TypeID)
	for i := range 3 {
		name := fmt.Sprint("t", i)
		id, err := m.mem.TypeID(name)
		if err != nil {
			t.Fatal(err)
		}
		m.typeIDs[name] = id
	}
	for _, name := range []string{"few-1", "few-2", "big-1", "big-2", "x"} {
		m.addStream(name)
	}
	return m
}

func (m *memoryModel) addStream(name string) {
	m.names = append(m.names, name)
	m.streams[name] = &modelStream{cut: 1, live: make(map[string]engine.Version)}
}

func (m *memoryModel) gone(ev *engine.Event) bool {
	s := m.streams[ev.Stream]
	return s.deleted || ev.Version < s.cut
}

func (m *memoryModel) anyStream() (string, *modelStream) {
	name := m.names[m.rng.IntN(len(m.names))]
	if m.rng.IntN(2) == 0 {
		name = m.names[m.rng.IntN(baseStreams)]
	}
	return name, m.streams[name]
}

// change does one thing to the store and to the model.
func (m *memoryModel) change() {
	m.Helper()
	name, s := m.anyStream()
	switch n := m.rng.IntN(20); {
	case n < 13:
		m.append(name, s)
	case n < 15:
		before := engine.Version(m.rng.IntN(len(s.log) + 2))
		if err := m.direct.Truncate(m.Context(), name, before); err != nil {
			m.Fatal(err)
		}
		s.cut = max(s.cut, before)
	case n < 17:
		done, err := m.direct.Compact(m.Context())
		if err != nil {
			m.Fatal(err)
		}
		removes := uint64(0)
		for name, s := range m.streams {
			if cut := engine.Version(max(len(s.log)-maxFew+1, 1)); strings.HasPrefix(name, "few-") && cut > s.cut && !s.deleted {
				removes += uint64(cut - s.cut)
				s.cut = cut
			}
		}
		if done.Removed != removes {
			m.Fatalf("Compact has removed %d, want %d", done.Removed, removes)
		}
	case n < 19:
		m.made++
		m.addStream(fmt.Sprint([]string{"new-", "few-"}[m.rng.IntN(2)], m.made))
	case !slices.Contains(m.names[:baseStreams], name) || m.rng.IntN(5) == 0:
		if err := m.direct.Delete(m.Context(), name, engine.Any); err != nil {
			m.Fatal(err)
		}
		s.deleted = true
	}
}

// append stores one event or many, or what is there already.
func (m *memoryModel) append(name string, s *modelStream) {
	m.Helper()
	events := make([]engine.NewEvent, 1+m.rng.IntN([]int{1, 1, 8, 8, 700}[m.rng.IntN(5)]))
	withIDs, withMeta := m.rng.IntN(3) == 0, m.rng.IntN(3) == 0
	for i := range events {
		m.made++
		events[i] = event(fmt.Sprint("t", m.rng.IntN(3)), m.made)
		if withIDs && m.rng.IntN(4) > 0 {
			events[i].ID = fmt.Sprint("id-", m.made)
		}
		if withMeta {
			switch m.rng.IntN(4) {
			case 0:
				events[i] = events[i].WithTags(fmt.Sprint("k", m.rng.IntN(4)))
			case 1:
				events[i].Meta.CausationID = fmt.Sprint("cause-", m.made)
			}
		}
	}
	again := engine.Version(0)
	if withIDs && len(s.log) > 0 { // one that was used, and may be used again if its event was removed
		if old := s.log[m.rng.IntN(len(s.log))]; old.ID != "" {
			events = events[:1]
			events[0].ID = old.ID
			again = m.version(s, old.ID)
		}
	}
	before := m.direct.Head()
	res, err := m.direct.Append(m.Context(), name, engine.Any, events...)
	switch deleted, is := errors.AsType[*engine.StreamDeletedError](err); {
	case s.deleted:
		if !is || deleted.Stream != name {
			m.Fatalf("append to %s, which was deleted: %+v, %v", name, res, err)
		}
		return
	case err != nil:
		m.Fatal(err)
	case again > 0:
		if !res.Duplicate || res.First != again || res.Last != again || res.Position != s.log[again-1].Position || m.direct.Head() != before {
			m.Fatalf("append to %s of what is there at %d: %+v", name, again, res)
		}
		return
	}
	m.shared.grown()
	last := engine.Version(len(s.log) + len(events))
	if res.Duplicate || res.Last != last || res.Position != engine.Position(len(m.log)+len(events)) {
		m.Fatalf("append to %s: %+v, want version %d", name, res, last)
	}
	for _, ne := range events {
		ev := &engine.Event{Stream: name, Type: ne.Type, ID: ne.ID, Data: ne.Data, Meta: ne.Meta}
		m.log, s.log = append(m.log, ev), append(s.log, ev)
		ev.Position, ev.Version = engine.Position(len(m.log)), engine.Version(len(s.log))
		if ev.ID != "" {
			s.live[ev.ID] = ev.Version
		}
	}
	first := res.Position - engine.Position(len(events)) + 1
	for ev, err := range m.pages.ReadAll(m.Context(), engine.From(first), engine.Limit(1)) {
		if err != nil || ev.Position != first || first > 1 && ev.Time.Before(m.log[first-2].Time) {
			m.Fatalf("at %d: %+v, %v", first, ev, err)
		}
		for _, e := range m.log[first-1:] {
			e.Time = ev.Time // of all: they were stored at once
		}
	}
}

// version returns where an ID is, 0 if it is not there.
func (m *memoryModel) version(s *modelStream, id string) engine.Version {
	if v := s.live[id]; v >= s.cut && !s.deleted {
		return v
	}
	return 0
}
