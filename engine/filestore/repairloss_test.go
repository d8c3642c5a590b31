package filestore_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// TestRepairKeepsWhatItReplaces damages a store such that the segment that Repair has to make
// begins where a segment begins that is cut off, and so wants its name.
func TestRepairKeepsWhatItReplaces(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	opts := filestore.Options{SegmentSize: 4 << 10, Logger: quiet, SyncEvery: 1 << 40}
	for name, tc := range map[string]struct {
		compact bool
		segment int
		bit     int64 // negative: behind the last record
	}{
		"a header behind a compacted segment":              {true, 1, 8 * 33},
		"behind the last record, and a truncation follows": {false, 0, -1},
	} {
		disk := crashfs.New()
		s, err := filestore.OpenFS(disk, opts)
		if err != nil {
			t.Fatal(err)
		}
		for range 13 {
			if _, err := appendOne(s, engine.Synced, 700); err != nil {
				t.Fatal(err)
			}
		}
		state, err := s.Load(ctx, "a-1")
		if err == nil {
			err = s.Truncate(ctx, state, 3)
		}
		if err == nil && tc.compact {
			_, err = s.Compact(ctx, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		var segs []string
		for _, n := range disk.Files() {
			if strings.HasSuffix(n, ".seg") {
				segs = append(segs, n)
			}
		}
		left := disk.Clone()
		bit := tc.bit
		if bit < 0 {
			b := left.Content(segs[tc.segment])
			end := len(b)
			for b[end-1] == 0 {
				end--
			}
			// The payloads are zeros: five records of one size.
			bit = 8 * (64 + 5*(44+3+1+700) + 4)
		}
		left.FlipBit(segs[tc.segment], bit)
		before := make(map[string][]byte)
		for _, n := range segs[tc.segment+1:] {
			before[n] = bytes.TrimRight(left.Content(n), "\x00") // a footer may follow
		}
		before["the damaged one"] = left.Content(segs[tc.segment])
		if bit != tc.bit {
			delete(before, "the damaged one") // cut in place
		}
		kept := func(what string, disk *crashfs.Disk) {
			t.Helper()
			for n, content := range before {
				if !slices.ContainsFunc(disk.Files(), func(f string) bool { return bytes.HasPrefix(disk.Content(f), content) }) {
					t.Errorf("%s, %s: no file has what %s held, there are %q", name, what, n, disk.Files())
				}
			}
		}
		repaired := left.Clone()
		r, err := filestore.RepairFS(repaired)
		if err != nil || len(r.Damage) == 0 {
			t.Fatalf("%s: %+v, %v", name, r, err)
		}
		kept("repaired", repaired)
		// The same with a crash at each operation, after which the store is opened, if that is
		// possible, and repaired again.
		rng := rand.New(rand.NewPCG(5, 5))
		for at := range repaired.Crashes() {
			for range 2 {
				cut := at.PowerCut(rng)
				if s, err := filestore.OpenFS(cut, opts); err == nil {
					s.Close()
				}
				cut.Reopen()
				where := fmt.Sprintf("crashed in operation %d", at.N())
				kept(where+" and opened", cut)
				again, err := filestore.RepairFS(cut)
				if err != nil {
					t.Errorf("%s, %s: %v", name, where, err)
					continue
				}
				kept(where+" and repaired again", cut)
				cut.Reopen()
				s, err := filestore.OpenFS(cut, opts)
				if err != nil {
					t.Errorf("%s, %s: %v", name, where, err)
					continue
				}
				if s.Head() != again.Head && len(again.Damage) > 0 {
					t.Errorf("%s, %s: repaired to %d, opened at %d", name, where, again.Head, s.Head())
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		t.Logf("%s: %d operations", name, repaired.Len())
	}
}

// TestRepairLeavesNewerFormats lets a program repair a store that a later one has written.
func TestRepairLeavesNewerFormats(t *testing.T) {
	t.Parallel()
	disk := crashfs.New()
	s, err := filestore.OpenFS(disk, filestore.Options{SegmentSize: 4 << 10, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := appendOne(s, engine.Synced, 10); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range disk.Files() {
		if name == "lock" {
			continue
		}
		b := disk.Content(name)
		b[8] = 2
		disk.Put(name, b)
	}
	for _, missing := range []string{"nothing", "manifest"} {
		left := disk.Clone()
		if missing == "manifest" {
			left.Delete(missing)
		}
		files := left.Files()
		r, err := filestore.RepairFS(left)
		if newer, ok := errors.AsType[*filestore.FormatError](err); !ok || newer.Found != 2 {
			t.Errorf("%s is missing: Repair: %+v, %v, want a FormatError", missing, r, err)
		}
		if !slices.Equal(left.Files(), files) {
			t.Errorf("%s is missing: there were %q, and are %q", missing, files, left.Files())
		}
	}
}

// TestRepairWithTwoSegmentsOfOneBase loses the manifest of a store that has a segment with control
// records alone: the next segment begins at the same position.
func TestRepairWithTwoSegmentsOfOneBase(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	opts := filestore.Options{SegmentSize: 4 << 10, Logger: quiet}
	for _, compacted := range []bool{false, true} {
		disk := crashfs.New()
		s, err := filestore.OpenFS(disk, opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(ctx, engine.StreamState{Name: "x-1"}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := appendOne(s, engine.Synced, 5000); err != nil {
				t.Fatal(err)
			}
		}
		if compacted {
			state, err := s.Load(ctx, "a-1")
			if err == nil {
				err = s.Truncate(ctx, state, 3)
			}
			if err == nil {
				_, err = s.Compact(ctx, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		disk.Reopen()
		disk.Delete("manifest")
		r, err := filestore.RepairFS(disk)
		if err != nil || r.Head != 3 {
			t.Fatalf("compacted %v: Repair: %+v, %v", compacted, r, err)
		}
		disk.Reopen()
		if s, err = filestore.OpenFS(disk, opts); err != nil {
			t.Fatal(err)
		}
		if state, err := s.Load(ctx, "x-1"); err != nil || !state.Deleted {
			t.Errorf("compacted %v: the deleted stream is %+v, %v", compacted, state, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRepairOfATornRemoval damages the last record of a store that was not closed: it said why
// versions are missing that compaction has taken. What is to say so instead goes into a segment of its
// own, behind one whose end is torn.
func TestRepairOfATornRemoval(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	opts := filestore.Options{SegmentSize: 4 << 10, Logger: quiet}
	disk := crashfs.New()
	s, err := filestore.OpenFS(disk, opts)
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if _, err := appendOne(s, engine.Synced, 700); err != nil {
			t.Fatal(err)
		}
	}
	state, err := s.Load(ctx, "a-1")
	if err == nil {
		err = s.Truncate(ctx, state, 3)
	}
	if err == nil {
		_, err = s.Compact(ctx, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	left := disk.Kill(disk.Len())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	segs := slices.DeleteFunc(left.Files(), func(n string) bool { return !strings.HasSuffix(n, ".seg") })
	active := segs[len(segs)-1]
	end := len(bytes.TrimRight(left.Content(active), "\x00"))
	left.FlipBit(active, int64(end-1)*8)
	if s, err := filestore.OpenFS(left, opts); err == nil {
		s.Close()
		t.Fatal("opened")
	}
	left.Reopen()
	r, err := filestore.RepairFS(left)
	if err != nil || r.Head != 8 {
		t.Fatalf("Repair: %+v, %v", r, err)
	}
	left.Reopen()
	if s, err = filestore.OpenFS(left, opts); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if state, err := s.Load(ctx, "a-1"); err != nil || state.Version != 8 || s.Head() != 8 {
		t.Errorf("stream at version %d, head %d, %v", state.Version, s.Head(), err)
	}
	if _, err := appendOne(s, engine.Synced, 700); err != nil {
		t.Error(err)
	}
}

// TestRepairAfterFailure lets each operation of a repair fail, repairs the store again in the same machine, and appends
// events in the place of those that were cut off. After a power cut nothing is back that the repair took away:
// records, an index of them, or a snapshot that was made of them. If it is the manifest's word against that of a segment that is
// back, it is said so.
func TestRepairAfterFailure(t *testing.T) {
	p := newPlain(t, 1, "a-1")
	for i := range 6 {
		p.mustPut(engine.Synced, fmt.Sprint("old ", i+1, strings.Repeat("o", 2000)))
	}
	if err := p.s.SaveSnapshot(t.Context(), p.state, engine.Snapshot{Name: "fold", First: 1, Version: 6, Position: 6, Time: time.Unix(1, 0), Data: []byte("old")}); err != nil {
		t.Fatal(err)
	}
	if err := p.s.SaveCheckpoints(t.Context(), []engine.Checkpoint{{Handler: "h", Position: 6}}); err != nil {
		t.Fatal(err)
	}
	if err := p.s.Close(); err != nil {
		t.Fatal(err)
	}
	p.disk.FlipBit(firstSegment, 8*(64+2100+500))
	want := []string{"old 1"}
	for i := range 8 {
		want = append(want, fmt.Sprint("new ", i+2))
	}
	for n := 0; ; n++ {
		disk, failed := p.disk.Clone(), crashfs.Op{}
		disk.Fail(func(op crashfs.Op) error {
			if op.N == n {
				failed = op
				return syscall.EIO
			}
			return nil
		})
		filestore.RepairFS(disk)
		if failed.Kind == 0 {
			if n < 20 {
				t.Errorf("a repair has %d operations", n)
			}
			break
		}
		disk.Fail(nil)
		disk.Reopen()
		if _, err := filestore.RepairFS(disk); err != nil {
			t.Errorf("%v failed; repaired again: %v", failed, err)
			continue
		}
		disk.Reopen()
		s, err := filestore.OpenFS(disk, tiny)
		if err != nil {
			t.Errorf("%v failed; repaired again: %v", failed, err)
			continue
		}
		q := &plain{TB: t, disk: disk, s: s, state: engine.StreamState{Name: "a-1", Version: 1}}
		for _, text := range want[1:] {
			q.mustPut(engine.Synced, text+strings.Repeat("n", 700))
		}
		rng := rand.New(rand.NewPCG(4, uint64(n)))
		for i := range 20 {
			left := disk.PowerCut(disk.Len(), rng)
			if i == 0 {
				left = cutNow(disk)
			}
			err := repairedWell(t, left, want)
			if corruption(err) {
				// A segment that was set aside has its name again. Nothing is lost, and the next repair does it again.
				left.Reopen()
				if _, err = filestore.RepairFS(left); err == nil {
					left.Reopen()
					err = repairedWell(t, left, want)
				}
			}
			if err != nil {
				t.Errorf("%v failed; repaired again, appended to, then the power was cut: %v", failed, err)
				break
			}
		}
		s.Close()
	}
}

// repairedWell opens a store, and looks whether it has these events, and no snapshot of others.
func repairedWell(t *testing.T, disk *crashfs.Disk, want []string) error {
	s, err := filestore.OpenFS(disk, tiny)
	if err != nil {
		return err
	}
	defer s.Close()
	list, err := payloads(s)
	for i := range list {
		list[i] = list[i][:5]
	}
	if err != nil || !slices.Equal(list, want) {
		return fmt.Errorf("there are %q, %v", list, err)
	}
	st, err := s.Load(t.Context(), "a-1")
	if err != nil {
		return err
	}
	if snap, there, err := s.LoadSnapshot(t.Context(), st, "fold"); there || err != nil {
		return fmt.Errorf("there is a snapshot of version %d, %q, %v", snap.Version, snap.Data, err)
	}
	return nil
}
