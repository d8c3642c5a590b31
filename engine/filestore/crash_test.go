package filestore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// tiny makes segments that a few batches fill.
var tiny = filestore.Options{SegmentSize: 8 << 10, Logger: quiet, SyncEvery: 1 << 40}

func openDisk(t testing.TB, disk *crashfs.Disk) *filestore.Store {
	t.Helper()
	s, err := filestore.OpenFS(disk, tiny)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put commits batches of one to four events, and calls acked with the end of each.
func put(s *filestore.Store, rng *rand.Rand, n int, states map[string]*engine.StreamState, next *engine.Position, acked func(engine.Position)) error {
	typ, err := s.TypeID("A")
	if err != nil {
		return err
	}
	for range n {
		name := fmt.Sprintf("a-%d", rng.IntN(3))
		st := states[name]
		if st == nil {
			st = &engine.StreamState{Name: name}
			states[name] = st
		}
		w := &engine.Write{Stream: st, After: st.Version}
		last := *next
		for range 1 + rng.IntN(4) {
			last++
			data := fmt.Appendf(nil, "%d %0*d", last, rng.IntN(300), 0)
			w.Events = append(w.Events, engine.Record{Type: "A", TypeID: typ, Data: &engine.Payload{Encoding: "text", Schema: 1, Bytes: data}})
		}
		if err := s.Commit(context.Background(), []*engine.Write{w}); err != nil {
			return err
		}
		*next = last
		st.Version += engine.Version(len(w.Events))
		acked(last)
	}
	return nil
}

// holds checks that a store has every event up to acked, that its end is the end of a batch,
// and that nothing in it was never written.
func holds(s *filestore.Store, acked engine.Position, ends map[engine.Position]bool) error {
	head := s.Head()
	if head < acked || !ends[head] {
		return fmt.Errorf("the store ends at %d, acknowledged was %d; an end of a batch: %v", head, acked, ends[head])
	}
	dst := make([]engine.Event, 20)
	for pos := engine.Position(1); pos <= head; {
		n, next, err := s.ReadAll(context.Background(), engine.Query{From: pos, To: head}, dst)
		if err != nil || n == 0 {
			return fmt.Errorf("read at %d: %d, %w", pos, n, err)
		}
		for i, ev := range dst[:n] {
			var number engine.Position
			fmt.Sscan(string(ev.Data.(*engine.Payload).Bytes), &number)
			if want := pos + engine.Position(i); ev.Position != want || number != want {
				return fmt.Errorf("position %d holds %d, number %d", want, ev.Position, number)
			}
		}
		pos = next
	}
	return nil
}

// TestPowerCuts records a run that rolls, closes and opens again, cuts the power at every
// operation with many outcomes, and opens what is left, twice: every acknowledged event is there.
// WEIR_SOAK multiplies the number of runs.
func TestPowerCuts(t *testing.T) {
	runs := 12
	if n, err := strconv.Atoi(os.Getenv("WEIR_SOAK")); err == nil {
		runs *= n
	}
	cuts, torn := 0, 0
	for seed := range uint64(runs) {
		rng := rand.New(rand.NewPCG(seed, 2))
		disk := crashfs.New()
		states, next := make(map[string]*engine.StreamState), engine.Position(0)
		ends := map[engine.Position]bool{0: true}
		for range 3 {
			s := openDisk(t, disk)
			// A batch may be on disk before it is acknowledged: its end is one too.
			err := put(s, rng, 12, states, &next, func(last engine.Position) {
				ends[last] = true
				disk.Mark(last)
			})
			if err == nil {
				err = s.SaveCheckpoints(t.Context(), []engine.Checkpoint{{Handler: "h", Position: next}})
			}
			if err == nil {
				err = s.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, st := range states {
				st.Ref = nil
			}
			disk.Reopen()
		}
		for at := range disk.Crashes() {
			acked := engine.Position(0)
			if marks := at.Marks(); len(marks) > 0 {
				acked = marks[len(marks)-1].(engine.Position)
			}
			for range 6 {
				left := at.PowerCut(rng)
				cuts++
				for range 2 { // what the first opening has put in order must stay so
					s, err := filestore.OpenFS(left, tiny)
					if err == nil {
						if s.Recovery().Cut != nil {
							torn++
						}
						err = holds(s, acked, ends)
						if closeErr := s.Close(); err == nil {
							err = closeErr
						}
					}
					if err != nil {
						op, _ := at.Op()
						t.Fatalf("seed %d, cut in %v, %d acknowledged: %v", seed, op, acked, err)
					}
					left.Reopen()
				}
			}
		}
	}
	t.Logf("%d power cuts, 0 acknowledged events lost; %d torn ends cut", cuts, torn)
}

// TestFaults lets each call of the file system fail, one a run, with an error of the disk
// and with a full disk, goes on as far as that goes, and opens the store again.
func TestFaults(t *testing.T) {
	script := func(disk *crashfs.Disk) (acked engine.Position, ends map[engine.Position]bool, first error) {
		ends = map[engine.Position]bool{0: true}
		note := func(err error) {
			if first == nil {
				first = err
			}
		}
		s, err := filestore.OpenFS(disk, tiny)
		if err != nil {
			return 0, ends, err
		}
		rng := rand.New(rand.NewPCG(1, 3))
		states, next := make(map[string]*engine.StreamState), engine.Position(0)
		for range 30 {
			before := next
			err := put(s, rng, 1, states, &next, func(last engine.Position) { acked, ends[last] = last, true })
			note(err)
			if err != nil {
				for n := engine.Position(1); n <= 4; n++ { // it may be there, whole
					ends[before+n] = true
				}
				if errors.Is(err, engine.ErrOutcomeUnknown) || errors.Is(err, filestore.ErrPoisoned) {
					break
				}
			}
		}
		note(s.Truncate(context.Background(), engine.StreamState{Name: "none-1"}, 1))
		note(s.SaveCheckpoints(context.Background(), []engine.Checkpoint{{Handler: "h", Position: acked}}))
		note(s.Close())
		return acked, ends, first
	}
	disk := crashfs.New()
	if _, _, err := script(disk); err != nil {
		t.Fatal(err)
	}
	ops := disk.Len()
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		reported := 0
		for n := range ops {
			disk := crashfs.New()
			disk.Fail(func(op crashfs.Op) error {
				if op.N == n {
					return errno
				}
				return nil
			})
			acked, ends, err := script(disk)
			if err != nil {
				reported++
			}
			disk.Fail(nil)
			disk.Reopen()
			s, openErr := filestore.OpenFS(disk, tiny)
			if openErr == nil {
				openErr = holds(s, acked, ends)
				s.Close()
			}
			if openErr != nil {
				t.Errorf("%v at operation %d, reported as %v: %v", errno, n, err, openErr)
			}
		}
		t.Logf("%v: %d operations failed, %d of them were noticed by a caller", errno, ops, reported)
	}
}

// TestFailedCompaction lets each call of a compaction fail: whatever that breaks off, what
// is not removed stays, at once and after opening again.
func TestFailedCompaction(t *testing.T) {
	for n := 0; ; n++ {
		disk := crashfs.New()
		s := openDisk(t, disk)
		m := newModel(t, s, 9)
		m.grow(60)
		for range 6 {
			if err := m.truncate(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		failed, begin := false, disk.Len()
		disk.Fail(func(op crashfs.Op) error {
			if op.N == begin+n {
				failed = true
				return syscall.EIO
			}
			return nil
		})
		_, err := s.Compact(t.Context(), nil)
		disk.Fail(nil)
		m.check()
		s.Close() // an error if the store can write no more
		disk.Reopen()
		m.reopened(openDisk(t, disk))
		m.check()
		m.s.Close()
		if !failed {
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d operations failed", n)
			return
		}
	}
}
