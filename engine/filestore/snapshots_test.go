package filestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// The name of the file in which the snapshots are.
const snapshotsFile = "snapshots"

type added struct{ N int }

// book is a state that remembers each event.
type book struct{ Seen []string }

type shown struct{ seen []string }

func (s *shown) Error() string { return fmt.Sprint(s.seen) }

func bookkeeper(policy engine.SnapshotPolicy) *engine.Decider[book, int] {
	return &engine.Decider[book, int]{
		Snapshots: policy,
		Evolve: func(b book, ev engine.Event) book {
			b.Seen = append(b.Seen, fmt.Sprint(ev.Version, "=", ev.Data.(added).N))
			return b
		},
		Decide: func(b book, n int) ([]engine.NewEvent, error) {
			if n == 0 {
				return nil, &shown{slices.Clone(b.Seen)}
			}
			return []engine.NewEvent{engine.New(added{n})}, nil
		},
	}
}

var (
	keeps = bookkeeper(engine.SnapshotPolicy{Name: "book", Every: 2, Leaving: true})
	folds = bookkeeper(engine.SnapshotPolicy{})
)

// engineOn opens an engine over a store on a disk, which keeps few states in memory.
func engineOn(disk *crashfs.Disk, id byte) (*engine.Engine, *filestore.Store, error) {
	return engineWith(disk, id, 1)
}

func engineWith(disk *crashfs.Disk, id byte, cached int) (*engine.Engine, *filestore.Store, error) {
	s, err := filestore.OpenFixed(disk, tiny, [16]byte{id})
	if err != nil {
		return nil, nil, err
	}
	e, err := engine.Open(engine.Options{Backend: s, Logger: quiet, CachedStates: cached, CheckpointEvery: time.Hour})
	if err == nil {
		err = engine.Register[added](e, "added")
	}
	return e, s, err
}

// compare folds each stream with and without snapshots.
func compare(ctx context.Context, e *engine.Engine, streams int) error {
	for i := range streams {
		name := fmt.Sprint("s-", i)
		want, at, err := engine.Load(ctx, e, folds, name)
		if err != nil {
			return err
		}
		got, gotAt, err := engine.Load(ctx, e, keeps, name)
		if err != nil || gotAt != at || !reflect.DeepEqual(got, want) {
			return fmt.Errorf("%s is at %d, %w: with snapshots\n%v\nwithout\n%v", name, at, err, got, want)
		}
		_, err = engine.Execute(ctx, e, keeps, name, 0)
		if s, ok := errors.AsType[*shown](err); ok {
			if !slices.Equal(s.seen, want.Seen) {
				return fmt.Errorf("%s: its owner has\n%v\nwithout snapshots\n%v", name, s.seen, want)
			}
		} else if _, deleted := errors.AsType[*engine.StreamDeletedError](err); !deleted {
			return err
		}
	}
	return nil
}

// TestSnapshotsAfterPowerCuts executes commands of both durabilities, truncates and closes, cuts the
// power at every operation, and goes on: what is folded with snapshots is what is folded without. In a bubble
// time stands still, so that an event which takes the place of a lost one has its time too.
func TestSnapshotsAfterPowerCuts(t *testing.T) {
	const streams = 20 // of which at most 16 states are kept
	runs, each := 6*soak(), 2
	if underRace {
		runs, each = 1, 1
	}
	cuts, found := 0, 0
	for seed := range uint64(runs) {
		synctest.Test(t, func(t *testing.T) {
			disk, rng, ctx := crashfs.New(), rand.New(rand.NewPCG(seed, 5)), t.Context()
			e, _, err := engineOn(disk, byte(seed))
			if err != nil {
				t.Fatal(err)
			}
			number := 0
			command := func(e *engine.Engine) error {
				number++
				durability := engine.Synced
				if rng.IntN(2) == 0 {
					durability = engine.Written
				}
				_, err := engine.Execute(engine.WithDurability(ctx, durability), e, keeps, fmt.Sprint("s-", rng.IntN(4)*rng.IntN(5)), number)
				if _, deleted := errors.AsType[*engine.StreamDeletedError](err); deleted {
					return nil
				}
				return err
			}
			for i := range 60 {
				switch n := rng.IntN(30); {
				case n == 0:
					if err = e.Close(); err == nil {
						disk.Reopen()
						e, _, err = engineOn(disk, byte(seed))
					}
				case n == 1:
					name := fmt.Sprint("s-", rng.IntN(3))
					_, at, _ := engine.Load(ctx, e, folds, name)
					err = e.Truncate(ctx, name, at/2)
				case n == 2 && i > 40:
					err = e.Delete(ctx, "s-3", engine.Any)
				default:
					err = command(e)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			for at := range disk.Crashes() {
				for range each {
					left := at.PowerCut(rng)
					cuts++
					e, s, err := engineOn(left, byte(seed))
					if err != nil {
						t.Fatalf("seed %d, operation %d: %v", seed, at.N(), err)
					}
					for i := range streams {
						state, _ := s.Load(ctx, fmt.Sprint("s-", i))
						if _, there, _ := s.LoadSnapshot(ctx, state, "book"); there {
							found++
						}
					}
					if err := compare(ctx, e, streams); err != nil {
						t.Fatalf("seed %d, operation %d: %v", seed, at.N(), err)
					}
					for range 4 { // what was lost is replaced
						if err := command(e); err != nil {
							t.Fatal(err)
						}
					}
					if err := compare(ctx, e, streams); err != nil {
						t.Fatalf("seed %d, operation %d, gone on: %v", seed, at.N(), err)
					}
					err = e.Close()
					left.Reopen()
					if err == nil {
						e, _, err = engineOn(left, byte(seed))
					}
					if err == nil {
						err = compare(ctx, e, streams)
					}
					if err == nil {
						err = e.Close()
					}
					if err != nil {
						t.Fatalf("seed %d, operation %d, opened again: %v", seed, at.N(), err)
					}
				}
			}
		})
	}
	if found < cuts {
		t.Errorf("after %d power cuts %d snapshots were found: too few to prove anything", cuts, found)
	}
	t.Logf("%d power cuts, %d snapshots found", cuts, found)
}

// TestSnapshotsAreNotAhead: what a snapshot was made of is on disk before it is.
func TestSnapshotsAreNotAhead(t *testing.T) {
	disk := crashfs.New()
	e, _, err := engineOn(disk, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	ctx := engine.WithDurability(t.Context(), engine.Written)
	for range 2 {
		if _, err := engine.Execute(ctx, e, keeps, "s-1", 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	disk.Reopen()
	synced := -1
	for i, op := range disk.Ops() {
		switch {
		case op.Kind == crashfs.Datasync || op.Kind == crashfs.Sync:
			synced = i
		case op.Kind == crashfs.WriteAt && op.Name == snapshotsFile && op.Offset > 0:
			for _, before := range disk.Ops()[synced+1 : i] {
				if before.Kind == crashfs.WriteAt && before.Name != snapshotsFile {
					t.Errorf("%v, after %v, which is not synced", op, before)
				}
			}
			return
		}
	}
	t.Error("no snapshot was written")
}

// storeWithSnapshots returns a disk with a store that was closed, with snapshots of some streams. It
// calls between after each command, whose snapshot is stored once it has been answered.
func storeWithSnapshots(t testing.TB, between func()) *crashfs.Disk {
	t.Helper()
	disk := crashfs.New()
	e, _, err := engineWith(disk, 1, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		if _, err := engine.Execute(t.Context(), e, keeps, fmt.Sprint("s-", i%3), i+1); err != nil {
			t.Fatal(err)
		}
		between()
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	disk.Reopen()
	disk.Forget()
	return disk
}

// TestSnapshotsThatAreDamaged changes every byte of the file, and cuts it at every length: the store opens,
// and no state is another one.
func TestSnapshotsThatAreDamaged(t *testing.T) {
	whole := storeWithSnapshots(t, func() {})
	file := whole.Content(snapshotsFile)
	saved := make(map[string]engine.Snapshot) // what there may be, by stream and version
	try := func(what string, b []byte, right bool) {
		disk := whole.Clone()
		disk.Put(snapshotsFile, b)
		e, s, err := engineOn(disk, 1)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for i := range 3 {
			state, _ := s.Load(t.Context(), fmt.Sprint("s-", i))
			snap, there, err := s.LoadSnapshot(t.Context(), state, "book")
			key := fmt.Sprint(state.Name, "@", snap.Version)
			if right && there {
				saved[key] = snap
			} else if there && (err != nil || !reflect.DeepEqual(snap, saved[key])) {
				t.Errorf("%s: %v, snapshot %+v, was stored as %+v", what, err, snap, saved[key])
			}
		}
		err = compare(t.Context(), e, 3)
		for i := 0; err == nil && i < 5; i++ { // a snapshot can be stored again
			_, err = engine.Execute(t.Context(), e, keeps, "s-1", 100+i)
		}
		if err == nil {
			err = compare(t.Context(), e, 3)
		}
		if closeErr := e.Close(); err != nil || closeErr != nil {
			t.Fatalf("%s: %v, %v", what, err, closeErr)
		}
		disk.Reopen()
		e, s, err = engineOn(disk, 1)
		if err == nil {
			err = compare(t.Context(), e, 3)
		}
		if err != nil {
			t.Fatalf("%s, opened again: %v", what, err)
		}
		state, _ := s.Load(t.Context(), "s-1")
		if snap, there, err := s.LoadSnapshot(t.Context(), state, "book"); err != nil || !there || snap.Version != state.Version {
			t.Errorf("%s: the snapshot that was stored afterwards: %v, %v, %+v", what, there, err, snap)
		}
		e.Close()
	}
	every := 1
	if underRace {
		every = 11
	}
	for i := 0; i <= len(file); i += every {
		try(fmt.Sprint("cut to ", i), file[:i], true)
	}
	if every == 1 && len(saved) != 6 {
		t.Errorf("%d snapshots were found in all", len(saved))
	}
	for i := 0; i < len(file) && every == 1; i++ {
		b := bytes.Clone(file)
		b[i] ^= 0x41
		try(fmt.Sprint("byte ", i), b, false)
	}
	try("of another store", func() []byte {
		disk := crashfs.New()
		e, _, err := engineOn(disk, 2)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 12 {
			if _, err := engine.Execute(t.Context(), e, keeps, fmt.Sprint("s-", i%3), 1000+i); err != nil {
				t.Fatal(err)
			}
		}
		e.Close()
		return disk.Content(snapshotsFile)
	}(), false)
}

// TestSnapshotsDamageIsLogged: once, and the store goes on.
func TestSnapshotsDamageIsLogged(t *testing.T) {
	disk := storeWithSnapshots(t, func() {})
	disk.FlipBit(snapshotsFile, int64(len(disk.Content(snapshotsFile))*8-8)) // in the last one's data
	var log bytes.Buffer
	s := onDisk(t, disk)
	e, err := engine.Open(engine.Options{Backend: s, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := engine.Register[added](e, "added"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := compare(t.Context(), e, 3); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "snapshot not used"); n != 1 || e.Stats().SnapshotsFailed != 1 {
		t.Errorf("%d counted, logged %d times:\n%s", e.Stats().SnapshotsFailed, n, &log)
	}
}

// TestSnapshotsFileIsRewritten: it does not grow with the number of snapshots stored, and those that are the
// newest stay, also when that fails for a while.
func TestSnapshotsFileIsRewritten(t *testing.T) {
	for _, fails := range []bool{false, true} {
		disk := crashfs.New()
		s := onDisk(t, disk)
		states := make(map[string]*engine.StreamState)
		for i := range 10 {
			name := fmt.Sprint("s-", i)
			states[name] = &engine.StreamState{Name: name}
			f := fact{stream: name, version: 1, typ: "A", data: []byte("x")}
			if err := s.Commit(t.Context(), []*engine.Write{{Stream: states[name], Events: []engine.Record{f.record(s, "text")}}}); err != nil {
				t.Fatal(err)
			}
			states[name].Version = 1
		}
		disk.Fail(func(op crashfs.Op) error {
			if fails && op.Kind == crashfs.Rename {
				return syscall.EIO
			}
			return nil
		})
		data := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 10_000) }
		failed := 0
		for i := range 1000 {
			name := fmt.Sprint("s-", i%10)
			if i == 300 {
				fails = false
			}
			if err := s.SaveSnapshot(t.Context(), *states[name], engine.Snapshot{Name: "n", First: 1, Version: 1, Position: 1, Data: data(i)}); err != nil {
				failed++
			}
		}
		check := func(s *filestore.Store) {
			for i := 990; i < 1000; i++ {
				snap, there, err := s.LoadSnapshot(t.Context(), *states[fmt.Sprint("s-", i%10)], "n")
				if err != nil || !there || !bytes.Equal(snap.Data, data(i)) {
					t.Fatalf("snapshot %d: %v, %v", i, there, err)
				}
			}
		}
		check(s)
		if n := len(disk.Content(snapshotsFile)); n > 800<<10 {
			t.Errorf("%d snapshots of 10 KB take %d bytes", 10, n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if failed > 10 {
			t.Errorf("%d saves failed: each tries to make the file anew", failed)
		}
		disk.Reopen()
		for name := range states { // Ref is of the store that was closed
			states[name] = &engine.StreamState{Name: name, Version: 1}
		}
		s = onDisk(t, disk)
		check(s)
		s.Close()
	}
}

// TestSnapshotsAndRepair: what was made of events that are cut off is not kept. A backup has none.
func TestSnapshotsAndRepair(t *testing.T) {
	disk := storeWithSnapshots(t, func() {})
	s := onDisk(t, disk)
	to := crashfs.New()
	if _, err := filestore.BackupFS(t.Context(), s, to); err != nil {
		t.Fatal(err)
	}
	s.Close()
	disk.Reopen()
	if slices.Contains(to.Files(), snapshotsFile) {
		t.Error("the backup has snapshots")
	}
	if _, err := filestore.RepairFS(disk.Clone()); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(disk.Files(), snapshotsFile) {
		t.Error("a store without damage has lost its snapshots")
	}
	segment := "00000000000000000001.seg"
	disk.FlipBit(segment, 8*600)
	if _, err := filestore.RepairFS(disk); err != nil {
		t.Fatal(err)
	}
	disk.Reopen()
	if n := len(disk.Content(snapshotsFile)); n != 40 {
		t.Errorf("a repaired store has snapshots of events that it may not have: its file has %d bytes, a header has 40", n)
	}
}

// TestSnapshotsFaults lets each call of the file system fail while snapshots are stored: no command fails
// for it that would not fail without.
func TestSnapshotsFaults(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		disk := storeWithSnapshots(t, func() {})
		e, _, err := engineOn(disk, 1)
		if err != nil {
			t.Fatal(err)
		}
		var n atomic.Int64
		disk.Fail(func(op crashfs.Op) error {
			if op.Name == snapshotsFile || op.Name == snapshotsFile+".tmp" {
				if n.Add(1)%2 == 1 {
					return errno
				}
			}
			return nil
		})
		for i := range 100 {
			if _, err := engine.Execute(t.Context(), e, keeps, fmt.Sprint("s-", i%3), i+1); err != nil {
				t.Fatal(err)
			}
		}
		if n.Load() == 0 || e.Stats().SnapshotsFailed == 0 {
			t.Errorf("%d calls, %d failed", n.Load(), e.Stats().SnapshotsFailed)
		}
		if err := compare(t.Context(), e, 3); err != nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		disk.Fail(nil)
		disk.Reopen()
		if e, _, err = engineOn(disk, 1); err == nil {
			err = compare(t.Context(), e, 3)
		}
		if err != nil {
			t.Fatal(err)
		}
		e.Close()
	}
}

// FuzzSnapshots puts arbitrary bytes in the place of the file, behind its checksums too: it opens,
// and gives no more than the file has.
func FuzzSnapshots(f *testing.F) {
	whole := storeWithSnapshots(f, func() {})
	file := whole.Content(snapshotsFile)
	f.Add(file, 0)
	f.Add(file[:60], 0)
	f.Add(file, 41)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, b []byte, seal int) {
		disk := whole.Clone()
		disk.Put(snapshotsFile, filestore.SealSnapshots(bytes.Clone(b), [16]byte{1}, seal))
		s := onDisk(t, disk)
		for i := range 3 {
			state, err := s.Load(t.Context(), fmt.Sprint("s-", i))
			if err != nil {
				t.Fatal(err)
			}
			snap, there, err := s.LoadSnapshot(t.Context(), state, "book")
			if there && (err != nil || len(snap.Data) > len(b)) {
				t.Fatalf("%d bytes, %v", len(snap.Data), err)
			}
			if err := s.SaveSnapshot(t.Context(), state, engine.Snapshot{Name: "book", First: 1, Version: 1, Position: 1, Data: []byte("new")}); err != nil {
				t.Fatal(err)
			}
			if snap, there, err = s.LoadSnapshot(t.Context(), state, "book"); err != nil || !there || string(snap.Data) != "new" {
				t.Fatalf("%v, %v, %q", there, err, snap.Data)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestGoldenSnapshots compares the file with what it was in version 1 of the format. WEIR_GOLDEN=snapshots writes it.
func TestGoldenSnapshots(t *testing.T) {
	const golden = "testdata/v1-snapshots"
	synctest.Test(t, func(t *testing.T) {
		got := storeWithSnapshots(t, synctest.Wait).Content(snapshotsFile)
		if os.Getenv("WEIR_GOLDEN") == "snapshots" {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v; the file is not the golden one: %d bytes, want %d", err, len(got), len(want))
		}
	})
}
