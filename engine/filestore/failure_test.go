package filestore_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// TestFaultsThenPowerCuts lets each sync fail, of a file or the directory, one a run, goes on
// as far as that goes, and cuts the power at every operation from there on. Whoever went on after
// a sync that failed would promise what a crash takes away.
func TestFaultsThenPowerCuts(t *testing.T) {
	t.Parallel()
	const seed, steps = 7, 40
	whole := recorded(t, seed, steps)
	every := 1
	if underRace {
		every = 11
	}
	cuts, failed := 0, 0
	for n, op := range whole.disk.Ops() {
		if op.Kind != crashfs.Sync && op.Kind != crashfs.Datasync && op.Kind != crashfs.SyncDir {
			continue
		}
		if failed++; failed%every != 0 {
			continue
		}
		r := newRun(crashfs.New(), tiny, seed)
		r.disk.Fail(func(op crashfs.Op) error {
			if op.N == n {
				return syscall.EIO
			}
			return nil
		})
		err := r.open()
		for i := 0; err == nil && i < steps; i++ {
			if err = r.step(); r.refused {
				err = nil
			}
		}
		r.payload = 1
		for range 3 { // what is small may fit where something else did not
			if r.s == nil {
				break
			}
			if _, err := r.s.TypeID("A"); err != nil {
				break // closed
			}
			r.put(engine.Synced)
		}
		seen := r.disk.Len()
		if r.s != nil {
			r.close()
		}
		for at := range r.disk.Crashes() {
			if at.N() < n || at.N() > seen {
				continue
			}
			p := promisedAt(at.Marks())
			p.handlers = append(p.handlers, handlersAt{r.now.handlers[0].checkpoints, r.parked})
			for range 3 {
				cuts++
				if _, err := r.judgeTwice(at.PowerCut(r.rng), p); err != nil {
					t.Fatalf("%v failed; power cut in operation %d: %v", op, at.N(), err)
				}
			}
		}
	}
	t.Logf("%d syncs failed one at a time, %d power cuts after that", failed/every, cuts)
}

// TestFailedReads lets each read of the disk fail, one a round: while a store is opened,
// read, backed up and compacted. Whoever reads is told, and nothing else is harmed.
func TestFailedReads(t *testing.T) {
	t.Parallel()
	every := 1
	if underRace {
		every = 5
	}
	r := newRun(crashfs.New(), filestore.Options{SegmentSize: 8 << 10, Logger: quiet, SyncEvery: 1 << 40, TailEvents: 1, CacheBytes: 1}, 11)
	if err := errors.Join(r.open(), several(40, r.step), r.save(), r.put(engine.Synced)); err != nil {
		t.Fatal(err)
	}
	r.disk.Forget()
	still := r.disk.Kill(0) // as the death of the process leaves it
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	p := r.now
	p.handlers = append(p.handlers, r.now.handlers...)
	p.durable = engine.Position(len(r.log))
	for name, disk := range map[string]*crashfs.Disk{"killed": still, "closed": r.disk} {
		fired, told := true, 0
		for n := 0; fired; n += every {
			left := disk.Clone()
			fired = false
			fail := func(op crashfs.Op) error {
				if fired = fired || op.N == n; op.N == n {
					return syscall.EIO
				}
				return nil
			}
			left.FailRead(fail)
			s, err := filestore.OpenFS(left, r.opts)
			if err == nil {
				err = r.useReads(s, p)
			}
			if err != nil && !errors.Is(err, syscall.EIO) {
				t.Fatalf("%s: read %d failed, which is reported as %v", name, n, err)
			}
			if err != nil {
				told++
			}
			left.FailRead(nil)
			if s != nil {
				if err := r.judge(s, p); err != nil {
					t.Fatalf("%s: read %d failed, then: %v", name, n, err)
				}
				if err := s.Close(); err != nil {
					t.Fatalf("%s: read %d failed, then: %v", name, n, err)
				}
			}
			left.Reopen()
			if _, err := r.judgeTwice(left, p); err != nil {
				t.Fatalf("%s: read %d failed, opened again: %v", name, n, err)
			}
			if n > 5000 {
				t.Fatal("no end of reads")
			}
		}
		t.Logf("%s: %d failed reads were told of", name, told)
	}
}

// useReads does everything with a store that reads.
func (r *run) useReads(s *filestore.Store, p promise) error {
	err := r.judge(s, p)
	if err == nil {
		_, err = filestore.BackupFS(context.Background(), s, crashfs.New())
	}
	if err == nil {
		_, err = s.Compact(context.Background(), nil)
	}
	return err
}

// TestBackupCrashes makes backups while the store is written to, and cuts the power of where
// they go at every operation. A backup that was done opens and has everything; one that was not is
// refused, or is empty, and never a part of the store that passes for the whole.
func TestBackupCrashes(t *testing.T) {
	t.Parallel()
	runs := 8
	if underRace {
		runs = 2
	}
	for seed := range uint64(runs * soak()) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			r, to := newRun(crashfs.New(), tiny, 200+seed), crashfs.New()
			if err := errors.Join(r.open(), several(20, r.step)); err != nil {
				t.Fatal(err)
			}
			r.s.SaveCheckpoints(t.Context(), nil) // what is parked
			p := r.promised()
			p.durable = engine.Position(len(r.log))
			p.handlers = []handlersAt{{r.now.handlers[0].checkpoints, r.parked}}
			type result struct {
				pos engine.Position
				err error
			}
			done := make(chan result, 1)
			go func() {
				pos, err := filestore.BackupFS(t.Context(), r.s, to)
				done <- result{pos, err}
			}()
			err := several(10, func() error { return errors.Join(r.put(engine.Synced), r.put(engine.Written), r.truncate()) })
			made := <-done
			if err = errors.Join(err, made.err, r.compact(), r.close()); err != nil {
				t.Fatal(err)
			}
			p.maybe = r.now.maybe
			for at := range to.Crashes() {
				for range 3 {
					left := at.PowerCut(r.rng)
					s, err := filestore.OpenFS(left, tiny)
					switch {
					case at.N() < to.Len() && err != nil:
						continue // refused
					case err == nil && (at.N() == to.Len() || s.Head() > 0):
						if err = r.judge(s, p); err == nil && (s.Head() != made.pos || !s.Recovery().Clean) {
							err = fmt.Errorf("head %d, want %d; %+v", s.Head(), made.pos, s.Recovery())
						}
					}
					if s != nil {
						s.Close()
					}
					if err != nil {
						t.Fatalf("power cut in operation %d of %d of the backup: %v", at.N(), to.Len(), err)
					}
				}
			}
		})
	}
}

// TestFailedBackup lets each call fail on the disk to which a backup goes: the backup is an
// error, and the store goes on.
func TestFailedBackup(t *testing.T) {
	t.Parallel()
	r := newRun(crashfs.New(), tiny, 12)
	if err := errors.Join(r.open(), several(20, r.step)); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		to, failed := crashfs.New(), false
		to.Fail(func(op crashfs.Op) error {
			if op.N == n {
				failed = true
				return syscall.ENOSPC
			}
			return nil
		})
		_, err := filestore.BackupFS(t.Context(), r.s, to)
		if !failed {
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
			break
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("operation %d failed, which is reported as %v", n, err)
		}
		if err := r.put(engine.Synced); err != nil {
			t.Fatalf("operation %d of a backup failed, then: %v", n, err)
		}
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	r.disk.Reopen()
	if _, err := r.judgeTwice(r.disk, r.now); err != nil {
		t.Fatal(err)
	}
}

// TestRoomAgain fills the disk: appends, compaction and checkpoints fail, with nothing
// stored and nothing else harmed. With room they work again, in the same store.
func TestRoomAgain(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		r := newRun(crashfs.New(), tiny, 300+seed)
		if err := errors.Join(r.open(), several(10, put(r)), r.truncate(), r.save()); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			r.disk.Capacity(int64(size(r.disk)))
			var err error
			for err == nil {
				err = r.put(engine.Synced)
			}
			if !errors.Is(err, filestore.ErrFull) || !r.refused {
				t.Fatalf("the disk is full: %v", err)
			}
			if _, err := r.s.Compact(t.Context(), nil); err != nil && !errors.Is(err, filestore.ErrFull) {
				t.Fatalf("compact where there is no room: %v", err)
			}
			if err := r.save(); err != nil && !errors.Is(err, syscall.ENOSPC) { // what a failed append has left may be room enough
				t.Fatalf("checkpoints where there is no room: %v", err)
			}
			p := r.now
			p.durable = engine.Position(len(r.log))
			if err := r.judge(r.s, p); err != nil {
				t.Fatalf("the disk is full, and then: %v", err)
			}
			r.disk.Capacity(-1)
			if err := errors.Join(several(10, put(r)), r.save(), r.compact()); err != nil {
				t.Fatalf("there is room again, and then: %v", err)
			}
		}
		if err := r.close(); err != nil {
			t.Fatal(err)
		}
		r.disk.Reopen()
		if _, err := r.judgeTwice(r.disk, r.now); err != nil {
			t.Fatal(err)
		}
	}
}

// hooked is a disk that tells of each renaming, before anything else is done.
type hooked struct {
	*crashfs.Disk
	renamed atomic.Pointer[func(to string)]
}

func (h *hooked) Rename(from, to string) error {
	err := h.Disk.Rename(from, to)
	if tell := h.renamed.Load(); err == nil && tell != nil {
		(*tell)(to)
	}
	return err
}

// TestFailedSyncOfAnother saves a checkpoint between the renaming of a file and the sync of the directory that is to make
// it durable, and lets that fail which the checkpoint asks for. It was to make both names durable, and the next one,
// which succeeds, makes up for nothing: whoever renamed the file must not rely on it.
func TestFailedSyncOfAnother(t *testing.T) {
	roll := func(s *filestore.Store) error {
		return several(3, func() error { _, err := appendOne(s, engine.Synced, 3000); return err })
	}
	compact := func(s *filestore.Store) error { _, err := s.Compact(context.Background(), nil); return err }
	for _, c := range []struct {
		name, file string
		do         func(s *filestore.Store) error
	}{
		{"the segment of a roll", "00000000000000000007.seg", roll},
		{"the manifest of a roll", "manifest", roll},
		{"the segment of a compaction", "00000000000000000001-1.seg", compact},
		{"the manifest of a compaction", "manifest", compact},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &hooked{Disk: crashfs.New()}
			s, err := filestore.OpenFS(h, tiny)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var pos engine.Position
			for range 5 {
				if pos, err = appendOne(s, engine.Synced, 3000); err != nil {
					t.Fatal(err)
				}
			}
			state, err := s.Load(t.Context(), "a-1")
			if err = errors.Join(err, s.Truncate(t.Context(), state, 2)); err != nil {
				t.Fatal(err)
			}
			met := false
			tell := func(to string) {
				if to != c.file || met {
					return
				}
				met = true
				h.FailNth(crashfs.SyncDir, 1, syscall.EIO)
				if err := s.SaveCheckpoints(t.Context(), []engine.Checkpoint{{Handler: "h", Position: 1}}); !errors.Is(err, syscall.EIO) {
					t.Errorf("the checkpoint: %v, want EIO", err)
				}
			}
			h.renamed.Store(&tell)
			err = c.do(s)
			if !met || err == nil {
				t.Errorf("met: %v; it is done, and nothing has failed", met)
			}
			if next, err := appendOne(s, engine.Synced, 10); err == nil {
				pos = next
			} else if !errors.Is(err, filestore.ErrPoisoned) {
				t.Errorf("an append after that: %v, want ErrPoisoned", err)
			}
			if err := s.SaveCheckpoints(t.Context(), nil); !errors.Is(err, filestore.ErrPoisoned) {
				t.Errorf("a checkpoint after that: %v, want ErrPoisoned", err)
			}
			after, err := filestore.OpenFS(cutNow(h.Disk), tiny)
			if err != nil {
				t.Fatalf("after a power cut: %v", err)
			}
			defer after.Close()
			if after.Head() < pos {
				t.Errorf("after a power cut the log ends at %d, %d was acknowledged", after.Head(), pos)
			}
		})
	}
}
