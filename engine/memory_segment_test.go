package engine_test

import (
	"sync"
	"testing"

	"github.com/weirstore/weir/engine"
)

// commitNumbered commits the next n events of a stream: the payload of each is its version.
func commitNumbered(t *testing.T, m *engine.Memory, state *engine.StreamState, n int) {
	t.Helper()
	typ, err := m.TypeID("happened")
	if err != nil {
		t.Fatal(err)
	}
	w := &engine.Write{Stream: state, After: state.Version}
	for range n {
		state.Version++
		w.Events = append(w.Events, engine.Record{Type: "happened", TypeID: typ, Data: state.Version})
	}
	if err := m.Commit(t.Context(), []*engine.Write{w}); err != nil {
		t.Fatal(err)
	}
}

// The dispatcher makes the next segment when half of the last is full, again and again, and each is used once.
func TestSpareSegment(t *testing.T) {
	m := engine.NewMemory()
	state := engine.StreamState{Name: "s"}
	for i := range 4 {
		for _, step := range []struct {
			head engine.Position // in the segment
			want bool
		}{{1, false}, {511, false}, {512, true}, {1023, true}, {1024, true}} {
			commitNumbered(t, m, &state, int(engine.Position(i)*1024+step.head-m.Head()))
			for range 2 {
				if _, err := m.Types(m.Head()-1, make([]engine.TypeID, 1)); err != nil {
					t.Fatal(err)
				}
			}
			if got := m.HasSpare(); got != step.want {
				t.Errorf("%d in segment %d: spare %v", step.head, i, got)
			}
		}
	}
	checkNumbered(t, m, state.Version)
}

// checkNumbered reads what commitNumbered has stored in one stream.
func checkNumbered(t *testing.T, m *engine.Memory, n engine.Version) {
	t.Helper()
	dst := make([]engine.Event, n+1)
	got, _, err := m.ReadAll(t.Context(), engine.Query{From: 1, To: m.Head()}, dst)
	if err != nil || engine.Version(got) != n {
		t.Fatalf("%d events, %v, want %d", got, err, n)
	}
	for i, ev := range dst[:got] {
		if v := engine.Version(i + 1); ev.Version != v || ev.Data != v {
			t.Fatalf("version %d is %+v", v, ev)
		}
	}
}

// Several make the next segment at once, while it is taken: nothing is lost.
func TestSpareSegmentStorm(t *testing.T) {
	m := engine.NewMemory()
	state := engine.StreamState{Name: "s"}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			dst := make([]engine.TypeID, 64)
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := m.Types(m.Head()-min(m.Head(), 10), dst); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for state.Version < 60_000 {
		commitNumbered(t, m, &state, 1+int(state.Version%97))
	}
	close(done)
	wg.Wait()
	checkNumbered(t, m, state.Version)
}
