package backendtest

import (
	"bytes"
	"fmt"
	"reflect"
	"time"

	"github.com/weirstore/weir/engine"
)

var snapshotCases = []testCase{
	{
		name: "snapshots",
		why:  "a state is decided on: one of another stream, fold or moment is a wrong decision",
		run:  snapshots,
	},
	{
		name: "snapshots-of-removed",
		why:  "whoever deletes a stream wants its data gone; a state that was folded from it has them too",
		run:  snapshotsOfRemoved,
	},
	{
		name:  "snapshots-reopen",
		why:   "a snapshot may be lost, but one that is mixed of two was never anybody's state",
		needs: "Reopen",
		run:   snapshotsReopen,
	},
}

// snapshotting returns what a backend has to keep snapshots, or skips the case.
func (st *store) snapshotting() engine.Snapshotting {
	b, ok := st.b.(engine.Snapshotting)
	if !ok {
		st.Skipf("the backend does not implement engine.Snapshotting")
	}
	return b
}

// saved is what was saved of a stream under a name, the newest last.
type saved map[[2]string][]engine.Snapshot

// save stores a snapshot with contents that are different each time.
func (st *store) save(all saved, stream, name string, i int) {
	st.Helper()
	state := *st.stream(stream)
	snap := engine.Snapshot{
		Name: name, Fold: uint32(i), First: 1, Version: state.Version, Position: engine.Position(1000 + i),
		Time: time.Unix(int64(i), 987654321).UTC(), Encoding: "json", Data: fmt.Appendf(nil, "%q of %q, %d", name, stream, i),
	}
	switch i % 4 {
	case 1:
		snap.ID, snap.Encoding = "naïve 🦫", "other"
	case 2:
		snap.Data = bytes.Repeat([]byte{byte(i), 0, '\n'}, 30_000)
	case 3:
		snap.Data, snap.Fold = []byte{}, 1<<32-1
	}
	if err := st.snapshotting().SaveSnapshot(st.Context(), state, snap); err != nil {
		st.Fatalf("SaveSnapshot of %q, %q: %v", short(stream), short(name), err)
	}
	key := [2]string{stream, name}
	all[key] = append(all[key], snap)
}

// saveSome stores snapshots of three streams under three names, some of them many times.
func (st *store) saveSome(all saved, from int) {
	st.Helper()
	for i := from; i < from+60; i++ {
		stream, name := fmt.Sprint("a-", i%3), []string{"x", "xy", "naïve 🦫"}[i%7%3]
		if i%5 == 0 {
			st.add(stream, "A")
		}
		st.save(all, stream, name, i)
	}
}

// checkSnapshots compares what the backend has with what was saved: the newest, or, if it may have
// lost some, any of them or none.
func (st *store) checkSnapshots(all saved, lost bool) {
	st.Helper()
	for _, stream := range []string{"a-0", "a-1", "a-2", "a", "nobody"} {
		for _, name := range []string{"x", "xy", "naïve 🦫", "nobody"} {
			snap, there, err := st.snapshotting().LoadSnapshot(st.Context(), *st.stream(stream), name)
			if err != nil {
				st.Fatalf("LoadSnapshot of %q, %q: %v", stream, name, err)
			}
			want := all[[2]string{stream, name}]
			if there && len(snap.Data) == 0 {
				snap.Data = []byte{} // or nil
			}
			found := !there && (lost || len(want) == 0)
			for i := range want {
				newest := i == len(want)-1
				found = found || there && (lost || newest) && reflect.DeepEqual(snap, want[i])
			}
			if !found {
				st.Fatalf("LoadSnapshot of %q, %q returns %v, %s; %d were saved", stream, name, there, clip(snap), len(want))
			}
		}
	}
}

func clip(s engine.Snapshot) string {
	s.Data = s.Data[:min(len(s.Data), 32)]
	return fmt.Sprintf("%+v", s)
}

func snapshots(s *suite) {
	st := s.store()
	st.snapshotting()
	all := make(saved)
	st.checkSnapshots(all, false)
	st.saveSome(all, 0)
	st.checkSnapshots(all, false)
	st.saveSome(all, 60)
	st.checkSnapshots(all, false)
	st.check() // the log has nothing of it
}

func snapshotsOfRemoved(s *suite) {
	st := s.store()
	st.snapshotting()
	if _, ok := st.b.(engine.Retention); !ok {
		s.Skipf("the backend does not implement engine.Retention")
	}
	all := make(saved)
	st.saveSome(all, 0)
	st.truncate("a-0", 2) // what it was made of is gone, which the engine finds out
	st.checkSnapshots(all, true)
	st.delete("a-1")
	for _, name := range []string{"x", "xy", "naïve 🦫"} {
		delete(all, [2]string{"a-1", name})
	}
	st.checkSnapshots(all, true)
	st.compact(0)
	st.checkSnapshots(all, true)
	st.check()
}

func snapshotsReopen(s *suite) {
	st := s.store()
	st.snapshotting()
	all := make(saved)
	for round := range 4 {
		st.saveSome(all, 60*round)
		st.reopened()
		st.checkSnapshots(all, true)
	}
	st.check()
}
