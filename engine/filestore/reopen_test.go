package filestore_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
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

// TestOpenAfterFailure lets each operation of the disk fail, one a run: of a store that appends, truncates,
// deletes, compacts, rolls, and saves snapshots, while checkpoints are saved beside it. It closes the store or
// lets the process die, opens it again in the same machine, where reads find what never reached the disk, goes on,
// and cuts the power at moments of both lives. What was acknowledged is there, and what Open has found.
// WEIR_SOAK takes that many orders in which the goroutines come to the disk, and every moment.
func TestOpenAfterFailure(t *testing.T) {
	t.Parallel()
	seeds, stride, near, far := 6, 3, 4, 100
	switch {
	case os.Getenv("WEIR_SOAK") != "":
		seeds, stride, near, far = 10*soak(), 1, 1, 1
	case underRace:
		seeds, stride, near = 2, 9, 8
	}
	failed, cuts := 0, 0
	for seed := range uint64(seeds) {
		for n, op := range withoutFailure(t, seed) {
			switch {
			case op.Kind == crashfs.Unlock:
				continue // it cannot fail
			case op.Kind == crashfs.SyncDir: // what it was to do is many names, of many callers
				cuts += secondLife(t, seed, n, syscall.EIO, near, far)
			case n%stride == int(seed)%stride:
				cuts += secondLife(t, seed, n, []error{syscall.EIO, syscall.ENOSPC}[n/stride%2], far, far)
			default:
				continue
			}
			failed++
		}
	}
	t.Logf("%d operations failed one at a time, %d power cuts", failed, cuts)
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

// TestTornEndAfterFailure lets each operation of an opening fail that cuts off a torn end, opens the store again, and
// appends a record as long as the torn one. After a power cut nothing stands behind it: what was cut off was to be
// erased, and where the sync of that failed, only reads have seen it erased.
func TestTornEndAfterFailure(t *testing.T) {
	p := newPlain(t, 1, "a-1")
	p.mustPut(engine.Synced, "first")
	begin := len(bytes.TrimRight(p.disk.Content(firstSegment), "\x00"))
	head := begin - 64 - len("first") // of a record
	// A record that ends where a sector does: what follows is not written when it is written again.
	second, third := strings.Repeat("2", 2048-begin-head), strings.Repeat("3", 2000)
	p.mustPut(engine.Written, second)
	p.mustPut(engine.Written, third)
	torn := p.disk.Clone()
	torn.FlipBit(firstSegment, int64(8*begin+400))
	instead := strings.Repeat("x", len(second))
	for n := 0; ; n++ {
		disk, failed := torn.Clone(), crashfs.Op{}
		disk.Fail(func(op crashfs.Op) error {
			if op.N == n {
				failed = op
				return syscall.EIO
			}
			return nil
		})
		s, err := filestore.OpenFS(disk, tiny)
		if err == nil {
			s.Close()
			if n < 10 {
				t.Errorf("the opening has gone on after %d operations", n)
			}
			break
		}
		disk.Fail(nil)
		disk.Reopen()
		if s, err = filestore.OpenFS(disk, tiny); err != nil {
			t.Fatalf("%v failed: %v", failed, err)
		}
		q := &plain{TB: t, disk: disk, s: s, state: engine.StreamState{Name: "a-1", Version: 1}}
		q.mustPut(engine.Synced, instead)
		atOnce, open := cutNow(disk), disk.Len()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(3, uint64(n)))
		for i := range 20 {
			at := []int{open, disk.Len()}[i%2]
			left := disk.PowerCut(at, rng)
			switch i {
			case 0:
				left = atOnce
			case 1:
				left = cutNow(disk)
			}
			again, err := filestore.OpenFS(left, tiny)
			if err != nil {
				t.Errorf("%v failed, opened again, closed: %v, then the power was cut: %v", failed, at > open, err)
				break
			}
			if list, err := payloads(again); err != nil || !slices.Equal(list, []string{"first", instead}) {
				t.Errorf("%v failed, opened again, closed: %v, then the power was cut: there are %.9q, %v", failed, at > open, list, err)
			}
			again.Close()
		}
	}
}
