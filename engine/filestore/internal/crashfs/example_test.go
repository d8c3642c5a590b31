package crashfs_test

import (
	"fmt"
	"math/rand/v2"

	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// A store that acknowledges before it syncs works, until the power goes.
func Example() {
	store := func(fs vfs.FS, acknowledge func()) error {
		f, err := fs.Create("log")
		if err != nil {
			return err
		}
		if err := fs.SyncDir(); err != nil {
			return err
		}
		if _, err := f.WriteAt([]byte("event"), 0); err != nil {
			return err
		}
		acknowledge()
		return f.Sync()
	}

	disk := crashfs.New()
	if err := store(disk, func() { disk.Mark("event") }); err != nil {
		fmt.Println(err)
	}
	for at := range disk.Crashes() {
		survivor := at.PowerCutKeeping(0, rand.New(rand.NewPCG(1, 2)))
		if len(at.Marks()) > 0 && string(survivor.Content("log")) != "event" {
			op, _ := at.Op()
			fmt.Println("lost:", at.Marks(), "before", op)
		}
	}
	// Output:
	// lost: [event] before 3 sync log
}
