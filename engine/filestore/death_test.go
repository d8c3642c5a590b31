package filestore_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// promisedAt returns what was promised at a moment of a run.
func promisedAt(marks []any) promise {
	if len(marks) == 0 {
		return promise{handlers: []handlersAt{{}}}
	}
	return marks[len(marks)-1].(promise)
}

// recorded does so many steps and closes the store.
func recorded(t *testing.T, seed uint64, steps int) *run {
	r := newRun(crashfs.New(), tiny, seed)
	err := r.open()
	if err == nil {
		err = several(steps, r.step)
	}
	if err == nil {
		err = r.close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestProcessDeath lets the process die at every operation of the disk, and in the middle of
// it. What was acknowledged is there, [engine.Written] or not: the operating system has it. The next
// opening makes it durable, so a power cut right after that takes nothing either.
func TestProcessDeath(t *testing.T) {
	t.Parallel()
	runs := 6
	if underRace {
		runs = 2
	}
	for seed := range uint64(runs * soak()) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			r := recorded(t, 100+seed, 30)
			for at := range r.disk.Crashes() {
				p := promisedAt(at.Marks())
				p.durable = max(p.durable, p.written)
				for what, left := range map[string]*crashfs.Disk{"kill": at.Kill(), "torn kill": at.KillTorn(r.rng)} {
					err := r.judgeSettled(left, p)
					if err == nil {
						left.Reopen()
						_, err = r.judgeTwice(left, p)
					}
					if err != nil {
						op, _ := at.Op()
						t.Fatalf("%s in operation %d, %v: %v", what, at.N(), op, err)
					}
				}
			}
		})
	}
}

// judgeSettled opens a store, and cuts the power as soon as it is open.
func (r *run) judgeSettled(left *crashfs.Disk, p promise) error {
	s, err := filestore.OpenFS(left, r.opts)
	if err != nil {
		return err
	}
	head, cut := s.Head(), left.Replay()
	for cut.Next() {
	}
	after := cut.PowerCutKeeping(0, r.rng)
	err = r.judge(s, p)
	s.Close()
	if err != nil {
		return err
	}
	p.durable = head // what could be read stays
	if _, err := r.judgeTwice(after, p); err != nil {
		return fmt.Errorf("opened, and then the power was cut: %w", err)
	}
	return nil
}

// TestSyncEvery cuts the power of a disk that writes nothing before it must: what was only
// written is there Options.SyncEvery later, and before that it may be lost.
func TestSyncEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := tiny
		opts.SyncEvery = 50 * time.Millisecond
		r := newRun(crashfs.New(), opts, 5)
		if err := r.open(); err != nil {
			t.Fatal(err)
		}
		cut := func() engine.Position {
			t.Helper()
			at := r.disk.Replay()
			for at.Next() {
			}
			left := at.PowerCutKeeping(0, r.rng)
			s, err := filestore.OpenFS(left, opts)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := r.judgeLog(s, r.now); err != nil {
				t.Fatal(err)
			}
			return s.Head()
		}
		for range 5 {
			before := r.s.Durable()
			if err := r.put(engine.Written); err != nil {
				t.Fatal(err)
			}
			if got := cut(); got != before {
				t.Errorf("a power cut at once leaves %d events, %d were synced", got, before)
			}
			<-time.After(opts.SyncEvery - 1)
			synctest.Wait()
			if got := r.s.Durable(); got != before {
				t.Errorf("synced up to %d before its time", got)
			}
			<-time.After(1)
			synctest.Wait()
			if got := cut(); got != r.s.Head() || got != r.s.Durable() {
				t.Errorf("a power cut %v later leaves %d of %d events, Durable is %d", opts.SyncEvery, got, r.s.Head(), r.s.Durable())
			}
		}
		if err := r.close(); err != nil {
			t.Fatal(err)
		}
	})
}
