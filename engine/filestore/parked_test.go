package filestore_test

import (
	"math/rand/v2"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// syncHook is a directory that calls a function once, behind a datasync.
type syncHook struct {
	vfs.FS
	hook *func()
}

type hookedFile struct {
	vfs.File
	hook *func()
}

func (d syncHook) Create(name string) (vfs.File, error) {
	f, err := d.FS.Create(name)
	return hookedFile{f, d.hook}, err
}

func (f hookedFile) Datasync() error {
	err := f.File.Datasync()
	if fn := *f.hook; fn != nil {
		*f.hook = nil
		fn()
	}
	return err
}

// TestParkWhileCheckpointsAreSaved parks an event that is written and not synced, while
// another handler's checkpoint is saved, behind its sync of the log. A power cut takes the event. If the
// parked list still had it, it would be of whatever gets the position next, which the handler
// would then not be given.
func TestParkWhileCheckpointsAreSaved(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	opts := filestore.Options{SegmentSize: 64 << 10, Logger: quiet, SyncEvery: 1 << 40}
	disk := crashfs.New()
	var hook func()
	s, err := filestore.OpenFS(syncHook{disk, &hook}, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	first, err := appendOne(s, engine.Written, 10)
	if err != nil {
		t.Fatal(err)
	}
	hook = func() {
		pos, err := appendOne(s, engine.Written, 10)
		if err == nil {
			err = s.Park(ctx, "slow", engine.ParkedRecord{Position: pos, Error: "no"})
		}
		if err != nil {
			t.Error(err)
		}
	}
	if err := s.SaveCheckpoints(ctx, []engine.Checkpoint{{Handler: "quick", Position: first}}); err != nil {
		t.Fatal(err)
	}
	at := disk.Replay()
	for at.Next() {
	}
	left, err := filestore.OpenFS(at.PowerCutKeeping(0, rand.New(rand.NewPCG(1, 1))), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	parked, err := left.Parked(ctx, "slow")
	if err != nil || left.Head() != first {
		t.Fatalf("after the power cut the log ends at %d, %v", left.Head(), err)
	}
	for _, p := range parked {
		if p.Position > left.Head() {
			t.Errorf("position %d is parked, the log ends at %d", p.Position, left.Head())
		}
	}
	// The entry is still to be stored.
	if err := s.SaveCheckpoints(ctx, []engine.Checkpoint{{Handler: "quick", Position: first}}); err != nil {
		t.Fatal(err)
	}
	at = disk.Replay()
	for at.Next() {
	}
	left, err = filestore.OpenFS(at.PowerCutKeeping(0, rand.New(rand.NewPCG(1, 1))), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	if parked, err := left.Parked(ctx, "slow"); err != nil || len(parked) != 1 || left.Head() != first+1 {
		t.Errorf("saved once more: %d are parked, %v; the log ends at %d", len(parked), err, left.Head())
	}
}
