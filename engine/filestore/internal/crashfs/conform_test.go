package crashfs_test

import (
	"testing"

	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
	"github.com/weirstore/weir/engine/filestore/internal/vfs/vfstest"
)

func TestDiskConforms(t *testing.T) {
	vfstest.Run(t, func(*testing.T) vfs.FS { return crashfs.New() })
}

// Those that a crash leaves must conform too, once emptied.
func TestSurvivorConforms(t *testing.T) {
	vfstest.Run(t, func(*testing.T) vfs.FS { return crashfs.New().Kill(0) })
}
