package filestore_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// spareDir counts in which way the files of next segments are made.
type spareDir struct {
	vfs.FS
	reserved, zeroed *atomic.Int64 // files, writes
	fail             error         // of Reserve
}

type spareFile struct {
	vfs.File
	dir spareDir
}

func (d spareDir) Create(name string) (vfs.File, error) {
	f, err := d.FS.Create(name)
	if err != nil || !strings.HasPrefix(name, "next") {
		return f, err
	}
	return spareFile{f, d}, nil
}

func (f spareFile) Reserve(size int64) error {
	f.dir.reserved.Add(1)
	if f.dir.fail != nil {
		return f.dir.fail
	}
	return f.File.Reserve(size)
}

func (f spareFile) WriteAt(b []byte, off int64) (int, error) {
	if len(bytes.TrimLeft(b, "\x00")) == 0 { // neither a header nor a record
		f.dir.zeroed.Add(1)
	}
	return f.File.WriteAt(b, off)
}

// TestRoomIsReservedWhereSyncsAreFew: segments are filled with zeros as long as there are many syncs, and are only
// given room when there are few; where the system cannot do that they are filled. Whatever it is, what was acknowledged
// outlives a power cut.
func TestRoomIsReservedWhereSyncsAreFew(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	for name, c := range map[string]struct {
		bytes, commits int
		durability     engine.Durability
		fail           error
		reserves       bool
	}{
		"small groups":            {4 << 10, 1000, engine.Synced, nil, false},
		"large groups":            {200 << 10, 30, engine.Synced, nil, true},
		"no syncs":                {4 << 10, 1000, engine.Written, nil, true},
		"large, and no fallocate": {200 << 10, 30, engine.Synced, errors.ErrUnsupported, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := crashfs.New()
			dir := spareDir{disk, new(atomic.Int64), new(atomic.Int64), c.fail}
			opts := filestore.Options{SegmentSize: size, Logger: quiet, SyncEvery: 1 << 40}
			s, err := filestore.OpenFS(dir, opts)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			half := int64(0) // zeros written until then: the first segments cannot know
			for i := range c.commits {
				if i == c.commits/2 {
					half = dir.zeroed.Load()
				}
				if _, err := appendOne(s, c.durability, c.bytes); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := appendOne(s, engine.Synced, 1); err != nil {
				t.Fatal(err)
			}
			if got := dir.reserved.Load() > 0; got != c.reserves {
				t.Errorf("%d segments were reserved", dir.reserved.Load())
			}
			if got, want := dir.zeroed.Load() > half, !c.reserves || c.fail != nil; got != want {
				t.Errorf("zeros were written %d times in the first half, %d times in the second", half, dir.zeroed.Load()-half)
			}
			at := disk.Replay()
			for at.Next() {
			}
			left, err := filestore.OpenFS(at.PowerCut(rand.New(rand.NewPCG(1, 1))), opts)
			if err != nil {
				t.Fatal(err)
			}
			defer left.Close()
			if want := engine.Position(c.commits + 1); left.Head() != want {
				t.Errorf("after the power cut the log ends at %d, want %d", left.Head(), want)
			}
		})
	}
}

// TestNoRoomToReserve: a disk on which room for the next segment cannot be reserved is full, and says so; nothing of
// that append is stored, and the next ones are, once there is room.
func TestNoRoomToReserve(t *testing.T) {
	t.Parallel()
	dir := spareDir{crashfs.New(), new(atomic.Int64), new(atomic.Int64), syscall.ENOSPC}
	s, err := filestore.OpenFS(&dir, filestore.Options{SegmentSize: 1 << 20, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := 0; err == nil; i++ {
		if i == 30 {
			t.Fatal("room was never reserved")
		}
		_, err = appendOne(s, engine.Synced, 200<<10)
	}
	head := s.Head()
	if !errors.Is(err, filestore.ErrFull) {
		t.Errorf("%v, want ErrFull", err)
	}
	dir.fail = nil
	if pos, err := appendOne(s, engine.Synced, 200<<10); err != nil || pos != head+1 {
		t.Errorf("with room again: position %d after %d, %v", pos, head, err)
	}
}
