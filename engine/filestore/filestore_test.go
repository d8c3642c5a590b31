package filestore_test

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/backendtest"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

func open(t testing.TB, dir string) *filestore.Store {
	s, err := filestore.Open(dir, filestore.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	backendtest.Harness{
		Open:   func(t *testing.T) engine.Backend { return open(t, t.TempDir()) },
		Reopen: func(t *testing.T, old engine.Backend) engine.Backend { return open(t, old.(*filestore.Store).Dir()) },
	}.Run(t)
}

// TestConformanceCrashed runs the suite over a disk that can crash, with segments so small
// that a few commits fill one. A crash takes whatever a power cut may take.
func TestConformanceCrashed(t *testing.T) {
	var mu sync.Mutex
	disks := make(map[engine.Backend]*crashfs.Disk)
	rng := rand.New(rand.NewPCG(1, 1))
	on := func(t *testing.T, disk *crashfs.Disk) engine.Backend {
		s, err := filestore.OpenFS(disk, filestore.Options{SegmentSize: 16 << 10, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		disks[s] = disk
		return s
	}
	take := func(s engine.Backend) *crashfs.Disk {
		mu.Lock()
		defer mu.Unlock()
		defer delete(disks, s)
		return disks[s]
	}
	backendtest.Harness{
		Open: func(t *testing.T) engine.Backend { return on(t, crashfs.New()) },
		Reopen: func(t *testing.T, old engine.Backend) engine.Backend {
			disk := take(old)
			disk.Reopen()
			disk.Forget()
			return on(t, disk)
		},
		Crash: func(t *testing.T, old engine.Backend) engine.Backend {
			disk := take(old)
			left := disk.PowerCut(disk.Len(), rng)
			old.Close()
			return on(t, left)
		},
	}.Run(t)
}
