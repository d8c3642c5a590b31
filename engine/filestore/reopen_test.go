package filestore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// appendOne appends an event of so many bytes to stream a-1, wherever that stands.
func appendOne(s *filestore.Store, d engine.Durability, bytes int) (engine.Position, error) {
	ctx := context.Background()
	typ, err := s.TypeID("A")
	if err != nil {
		return 0, err
	}
	state, err := s.Load(ctx, "a-1")
	if err != nil {
		return 0, err
	}
	w := &engine.Write{Stream: &state, After: state.Version, Durability: d, Events: []engine.Record{
		{Type: "A", TypeID: typ, Data: &engine.Payload{Encoding: "bytes", Bytes: make([]byte, bytes)}},
	}}
	err = s.Commit(ctx, []*engine.Write{w})
	return w.Position, err
}

// TestOpenAfterFailedSync lets each sync fail, of a file or the directory, opens the store again in
// the same machine, where reads find what never reached the disk, and cuts the power after
// the next acknowledgement. What Open finds there, and what comes behind it, must be on disk.
func TestOpenAfterFailedSync(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	opts := filestore.Options{SegmentSize: 4 << 10, Logger: quiet, SyncEvery: 1 << 40}
	use := func(s *filestore.Store) error {
		for i := range 14 {
			if _, err := appendOne(s, engine.Synced, 700); err != nil {
				return err
			}
			if i%5 != 4 {
				continue
			}
			if err := s.SaveCheckpoints(ctx, []engine.Checkpoint{{Handler: "h", Position: s.Head()}}); err != nil {
				return err
			}
			state, err := s.Load(ctx, "a-1")
			if err == nil {
				err = s.Truncate(ctx, state, state.Version-1)
			}
			if err == nil {
				_, err = s.Compact(ctx, nil)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	whole := crashfs.New()
	s, err := filestore.OpenFS(whole, opts)
	if err != nil {
		t.Fatal(err)
	}
	opened := whole.Len()
	if err := use(s); err != nil {
		t.Fatal(err)
	}
	ops := whole.Ops()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 3))
	failed := 0
	for n, op := range ops {
		if n < opened || op.Kind != crashfs.Sync && op.Kind != crashfs.Datasync && op.Kind != crashfs.SyncDir {
			continue
		}
		failed++
		where := fmt.Sprintf("operation %d, %v of %s, failed", n, op.Kind, op.Name)
		disk := crashfs.New()
		disk.Fail(func(op crashfs.Op) error {
			if op.N == n {
				return syscall.EIO
			}
			return nil
		})
		s, err := filestore.OpenFS(disk, opts)
		if err != nil {
			t.Fatal(err)
		}
		use(s)
		s.Close()
		disk.Fail(nil) // what goes on beside the log may have made fewer operations this time
		disk.Reopen()
		s, err = filestore.OpenFS(disk, opts)
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		pos, err := appendOne(s, engine.Synced, 10)
		if err != nil {
			t.Fatalf("%s: append after it was opened again: %v", where, err)
		}
		for i := range 20 {
			left := disk.Replay()
			for left.Next() {
			}
			cut := left.PowerCut(rng)
			if i == 0 {
				cut = left.PowerCutKeeping(0, rng)
			}
			after, err := filestore.OpenFS(cut, opts)
			if err != nil {
				t.Errorf("%s: opened again, appended to, then the power was cut: %v", where, err)
				break
			}
			if after.Head() < pos {
				t.Errorf("%s: position %d was acknowledged, the log ends at %d", where, pos, after.Head())
			}
			after.Close()
		}
		s.Close()
	}
	t.Logf("%d syncs failed one at a time", failed)
}

// TestOpenWithoutRoom opens a store after a crash on a disk that is full: it can be read, and
// appended to where there is room in its segment.
func TestOpenWithoutRoom(t *testing.T) {
	t.Parallel()
	opts := filestore.Options{SegmentSize: 16 << 10, Logger: quiet, SyncEvery: 1 << 40}
	disk := crashfs.New()
	s, err := filestore.OpenFS(disk, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 30 {
		if _, err := appendOne(s, engine.Synced, 700); err != nil {
			t.Fatal(err)
		}
	}
	left := disk.Kill(disk.Len())
	used := int64(0)
	for _, name := range left.Files() {
		used += int64(len(left.Content(name)))
	}
	left.Capacity(used)
	full, err := filestore.OpenFS(left, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if pos, err := appendOne(full, engine.Synced, 700); err != nil || pos != 31 {
		t.Errorf("append: position %d, %v", pos, err)
	}
}

func TestTypesBehindTheEnd(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, t.TempDir(), small)
	pos, err := appendOne(s, engine.Synced, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, after := range []engine.Position{pos, pos + 1, 1<<64 - 1} {
		var types [1]engine.TypeID
		if n, err := s.Types(after, types[:]); n != 0 || err != nil {
			t.Errorf("Types after %d: %d, %v", after, n, err)
		}
	}
}
