package engine_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/weirstore/weir/engine"
)

// What finds events by their IDs keeps all of them, in parts none of which gets large, and gives back what
// it does not need.
func TestIDs(t *testing.T) {
	for _, tc := range []struct {
		name    string
		count   int
		hash    func(i int) uint32
		largest int // places of a part
	}{
		{"spread", 20_000, func(i int) uint32 { return uint32(i) * 2654435761 }, 1024},
		{"at one end", 10_000, func(i int) uint32 { return uint32(2 * i) }, 1024},
		{"few", 2_500, func(i int) uint32 { return uint32(i%50) << 8 }, 5_000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			count := tc.count
			var ids engine.IDs
			perHash := make(map[uint32][]uint32)
			for i := range count {
				ids.Put(tc.hash(i), engine.Version(i+1))
				perHash[tc.hash(i)|1] = append(perHash[tc.hash(i)|1], uint32(i+1))
			}
			check := func() {
				t.Helper()
				for hash, want := range perHash {
					got := ids.Find(hash)
					if slices.Sort(got); !slices.Equal(got, want) {
						t.Fatalf("hash %#x: %v, want %v", hash, got, want)
					}
				}
			}
			check()
			n, parts, places := ids.Size()
			if n != count || places > tc.largest || parts > 4*count/896+4 {
				t.Errorf("%d IDs in %d parts, %d places in the largest", n, parts, places)
			}
			for i := range count - 100 {
				ids.Forget(tc.hash(i), engine.Version(i+1))
				perHash[tc.hash(i)|1] = perHash[tc.hash(i)|1][1:]
				ids.Forget(tc.hash(i), engine.Version(i+1)) // again: nothing happens
			}
			check()
			if n, parts, places = ids.Size(); n != 100 || places > tc.largest/4 {
				t.Errorf("%d IDs in %d parts, %d places in the largest", n, parts, places)
			}
			for i := count - 100; i < count; i++ {
				ids.Forget(tc.hash(i), engine.Version(i+1))
			}
			if n, parts, places = ids.Size(); n+parts+places != 0 {
				t.Errorf("%d IDs in %d parts, %d places in the largest", n, parts, places)
			}
		})
	}
}

// A model of the memory backend's IDs: they are found until their events are removed, and can be used
// again then, before Compact and after.
func TestFindAgainstModel(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 5))
			m := engine.NewMemory()
			typ, err := m.TypeID("happened")
			if err != nil {
				t.Fatal(err)
			}
			type model struct {
				state engine.StreamState
				live  map[string]engine.Version
				ids   []string // by version
				cut   engine.Version
			}
			streams := make([]*model, 3)
			for i := range streams {
				streams[i] = &model{state: engine.StreamState{Name: fmt.Sprintf("s-%d", i)}, live: make(map[string]engine.Version), cut: 1}
			}
			next := 0
			for range 150 {
				s := streams[r.IntN(len(streams))]
				switch op := r.IntN(12); {
				case op < 7 && !s.state.Deleted:
					w := &engine.Write{Stream: &s.state, After: s.state.Version}
					for range 1 + r.IntN(200) {
						id := ""
						if r.IntN(8) > 0 {
							if next++; r.IntN(3) > 0 {
								id = fmt.Sprint("id-", next)
							} else {
								id = fmt.Sprint("id-", r.IntN(next)) // perhaps again
							}
							if s.live[id] != 0 {
								id = ""
							}
						}
						s.state.Version++
						w.Events = append(w.Events, engine.Record{Type: "happened", TypeID: typ, ID: id, Data: boxed})
						s.ids = append(s.ids, id)
						if id != "" {
							s.live[id] = s.state.Version
						}
					}
					if err := m.Commit(t.Context(), []*engine.Write{w}); err != nil {
						t.Fatal(err)
					}
				case op < 9:
					before := engine.Version(1 + r.Uint64N(uint64(s.state.Version)+1))
					if err := m.Truncate(t.Context(), s.state, before); err != nil {
						t.Fatal(err)
					}
					for ; s.cut < before && !s.state.Deleted; s.cut++ {
						if id := s.ids[s.cut-1]; s.live[id] == s.cut {
							delete(s.live, id)
						}
					}
				case op < 11:
					if _, err := m.Compact(t.Context(), nil); err != nil {
						t.Fatal(err)
					}
				case r.IntN(10) == 0:
					if err := m.Delete(t.Context(), s.state); err != nil {
						t.Fatal(err)
					}
					s.state.Deleted = true
					clear(s.live)
				}
				ids := []string{"none"}
				for range 50 {
					ids = append(ids, fmt.Sprint("id-", r.IntN(next+1)))
				}
				for id := range s.live { // in no order
					if ids = append(ids, id); len(ids) > 150 {
						break
					}
				}
				got := make([]engine.Version, len(ids))
				if err := m.Find(t.Context(), s.state, ids, got); err != nil {
					t.Fatal(err)
				}
				for i, id := range ids {
					if got[i] != s.live[id] {
						t.Fatalf("%s, %q: version %d, want %d", s.state.Name, id, got[i], s.live[id])
					}
				}
			}
		})
	}
}

// IDs with one hash are told apart, whichever of them is there.
func TestFindOneHash(t *testing.T) {
	m := engine.NewMemory()
	seen := make(map[uint32]string)
	var ids []string // two
	for i := 0; ids == nil; i++ {
		id := fmt.Sprint("id-", i)
		if other, ok := seen[m.IDHash(id)]; ok {
			ids = []string{other, id}
		}
		seen[m.IDHash(id)] = id
	}
	typ, err := m.TypeID("happened")
	if err != nil {
		t.Fatal(err)
	}
	state := engine.StreamState{Name: "s"}
	check := func(first, second engine.Version) {
		t.Helper()
		got := make([]engine.Version, 2)
		if err := m.Find(t.Context(), state, ids, got); err != nil || got[0] != first || got[1] != second {
			t.Errorf("%q: %v, %v, want %d, %d", ids, got, err, first, second)
		}
	}
	for i, id := range ids {
		w := &engine.Write{Stream: &state, After: engine.Version(i), Events: []engine.Record{{Type: "happened", TypeID: typ, ID: id, Data: boxed}}}
		if err := m.Commit(t.Context(), []*engine.Write{w}); err != nil {
			t.Fatal(err)
		}
		check(1, engine.Version(2*i))
	}
	state.Version = 2
	if err := m.Truncate(t.Context(), state, 2); err != nil {
		t.Fatal(err)
	}
	check(0, 2)
}

// Finders beside an appender, a truncater and Compact: an ID is found at its version or, when that has been
// removed, not at all.
func TestFindStorm(t *testing.T) {
	const size, keep = 12_000, 3_000
	m := engine.NewMemory()
	typ, err := m.TypeID("happened")
	if err != nil {
		t.Fatal(err)
	}
	state := engine.StreamState{Name: "s"}
	mine := state // the appender's
	id := func(v engine.Version) string { return fmt.Sprint("id-", v) }
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		for mine.Version < size {
			w := &engine.Write{Stream: &mine, After: mine.Version}
			for range 50 {
				mine.Version++
				w.Events = append(w.Events, engine.Record{Type: "happened", TypeID: typ, ID: id(mine.Version), Data: boxed})
			}
			if err := m.Commit(t.Context(), []*engine.Write{w}); err != nil {
				t.Error(err)
				return
			}
			if v := mine.Version; v%1000 == 0 && v > keep {
				if err := m.Truncate(t.Context(), mine, v-keep); err != nil {
					t.Error(err)
				}
			}
		}
	})
	wg.Go(func() {
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			if _, err := m.Compact(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
	})
	for w := range 2 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 6))
			ids, versions := make([]string, 20), make([]engine.Version, 20)
			for running := true; running; {
				select {
				case <-done:
					running = false
				default:
				}
				before, err := m.Load(t.Context(), "s")
				if err != nil {
					t.Error(err)
				}
				from := engine.Version(r.IntN(size))
				for i := range ids {
					ids[i] = id(from + engine.Version(i))
				}
				if err := m.Find(t.Context(), state, ids, versions); err != nil {
					t.Error(err)
				}
				after, err := m.Load(t.Context(), "s")
				if err != nil {
					t.Error(err)
				}
				for i, got := range versions {
					v := from + engine.Version(i)
					switch {
					case got != 0 && (got != v || v > after.Version):
						t.Errorf("%q: version %d of %d", ids[i], got, after.Version)
					case got == 0 && v > 0 && v <= before.Version && v+keep >= after.Version:
						t.Errorf("%q of %d to %d is not found", ids[i], before.Version, after.Version)
					}
				}
			}
		})
	}
	wg.Wait()
}
