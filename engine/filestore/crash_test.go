package filestore_test

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// soak returns what WEIR_SOAK says, which multiplies the long tests.
func soak() int {
	if n, err := strconv.Atoi(os.Getenv("WEIR_SOAK")); err == nil {
		return max(n, 1)
	}
	return 1
}

// TestPowerCuts records runs that append with both durabilities, truncate, delete, compact,
// store checkpoints and parked lists, roll, close and open again. It cuts the power at every
// operation of the disk with many outcomes, and opens what is left, twice: all that was promised is there.
// WEIR_SOAK multiplies the number of runs.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	var cuts, torn atomic.Int64
	runs := 25
	if underRace {
		runs = 4
	}
	t.Run("runs", func(t *testing.T) {
		for seed := range uint64(runs * soak()) {
			t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
				t.Parallel()
				r := newRun(crashfs.New(), tiny, seed)
				err := r.open()
				for i := 0; err == nil && i < 30; i++ {
					err = r.step()
				}
				if err == nil {
					err = r.close()
				}
				if err != nil {
					t.Fatal(err)
				}
				for at := range r.disk.Crashes() {
					p := promise{handlers: []handlersAt{{}}}
					if marks := at.Marks(); len(marks) > 0 {
						p = marks[len(marks)-1].(promise)
					}
					for range 6 {
						left := at.PowerCut(r.rng)
						cuts.Add(1)
						found, err := r.judgeTwice(left, p)
						if found != nil && found.Cut != nil {
							torn.Add(1)
						}
						if err != nil {
							op, _ := at.Op()
							t.Fatalf("cut in operation %d, %v: %v", at.N(), op, err)
						}
					}
				}
			})
		}
	})
	t.Logf("%d power cuts, 0 acknowledged events lost; %d torn ends cut", cuts.Load(), torn.Load())
}

// judgeTwice opens a disk, judges it, and does so again: what the first opening has put in
// order must stay so, and there may be no more to put in order.
func (r *run) judgeTwice(left *crashfs.Disk, p promise) (first *filestore.Recovery, err error) {
	head := engine.Position(0)
	for i := range 2 {
		s, err := filestore.OpenFS(left, r.opts)
		if err != nil {
			return first, fmt.Errorf("opening %d: %w", i+1, err)
		}
		found := s.Recovery()
		err = r.judge(s, p)
		switch {
		case i == 0:
			first, head = &found, s.Head()
		case err == nil && (s.Head() != head || found.Cut != nil || !found.Clean):
			err = fmt.Errorf("head %d, then %+v", head, found)
		}
		if closeErr := s.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return first, fmt.Errorf("opening %d: %w", i+1, err)
		}
		left.Reopen()
	}
	return first, nil
}

// TestFaults lets each call of the file system fail, one a run, with an error of the disk
// and with a full disk, goes on as far as that goes, and opens the store again.
func TestFaults(t *testing.T) {
	t.Parallel()
	const seed, steps = 3, 60
	script := func(r *run) (first error) {
		note := func(err error) {
			if first == nil {
				first = err
			}
		}
		if err := r.open(); err != nil {
			return err
		}
		for range steps {
			err := r.step()
			note(err)
			if err != nil && !r.refused {
				break // no one knows
			}
		}
		if r.s != nil {
			note(r.close())
		}
		return first
	}
	whole := newRun(crashfs.New(), tiny, seed)
	if err := script(whole); err != nil {
		t.Fatal(err)
	}
	ops, every := whole.disk.Len(), 1
	if underRace {
		every = 5
	}
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			reported := 0
			for n := 0; n < ops; n += every {
				r := newRun(crashfs.New(), tiny, seed)
				r.disk.Fail(func(op crashfs.Op) error {
					if op.N == n {
						return errno
					}
					return nil
				})
				err := script(r)
				if err != nil {
					reported++
				}
				r.disk.Fail(nil)
				r.disk.Reopen()
				p := r.now
				p.handlers = append(p.handlers, handlersAt{r.now.handlers[0].checkpoints, r.parked}) // what Close would have stored
				if _, judged := r.judgeTwice(r.disk, p); judged != nil {
					t.Errorf("operation %d, reported as %v: %v", n, err, judged)
				}
			}
			t.Logf("%d operations failed, %d of them were noticed by a caller", (ops+every-1)/every, reported)
		})
	}
}
func onDisk(t testing.TB, disk *crashfs.Disk) *filestore.Store {
	t.Helper()
	s, err := filestore.OpenFS(disk, tiny)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFailedCompaction lets each call of a compaction fail: whatever that breaks off, what
// is not removed stays, at once and after opening again.
func TestFailedCompaction(t *testing.T) {
	t.Parallel()
	every := 1
	if underRace {
		every = 7
	}
	for n := 0; ; n += every {
		disk := crashfs.New()
		s := onDisk(t, disk)
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
		m.reopened(onDisk(t, disk))
		m.check()
		m.s.Close()
		if !failed {
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d operations failed", n/every)
			return
		}
	}
}
