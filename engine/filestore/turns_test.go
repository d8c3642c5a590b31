package filestore_test

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sync"
	"testing/synctest"

	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// turns is a disk in which one operation happens at a time, in an order that is drawn: whoever wants to
// change something waits, until all goroutines do, and one of them is let go on. Inside of a bubble
// of testing/synctest the same draws make the same run, so that the n-th operation can be made to fail.
type turns struct {
	*crashfs.Disk
	rng  *rand.Rand
	came chan struct{} // cap 1: somebody waits
	over chan struct{} // closed by stop
	done chan struct{} // closed when the goroutine that draws has returned

	mu      sync.Mutex
	waiting []*turn // guarded by mu
}

type turn struct {
	what  string
	begin chan struct{}
}

// takeTurns begins to draw, in a goroutine that ends with stop.
func takeTurns(disk *crashfs.Disk, rng *rand.Rand) *turns {
	f := &turns{Disk: disk, rng: rng, came: make(chan struct{}, 1), over: make(chan struct{}), done: make(chan struct{})}
	go f.draw()
	return f
}

func (f *turns) draw() {
	defer close(f.done)
	for {
		select {
		case <-f.came:
		case <-f.over:
			return
		}
		for f.next() {
		}
	}
}

// next lets one of those that wait go on, when nobody does anything else.
func (f *turns) next() bool {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) == 0 {
		return false
	}
	slices.SortStableFunc(f.waiting, func(a, b *turn) int { return cmp.Compare(a.what, b.what) })
	i := f.rng.IntN(len(f.waiting))
	close(f.waiting[i].begin)
	f.waiting = slices.Delete(f.waiting, i, i+1)
	return true
}

func (f *turns) stop() {
	close(f.over)
	<-f.done
}

// wait waits for the caller's turn.
func (f *turns) wait(kind crashfs.Kind, name string) {
	t := &turn{kind.String() + " " + name, make(chan struct{})}
	f.mu.Lock()
	f.waiting = append(f.waiting, t)
	f.mu.Unlock()
	select {
	case f.came <- struct{}{}:
	default:
	}
	<-t.begin
}

func (f *turns) Create(name string) (vfs.File, error) {
	f.wait(crashfs.Create, name)
	return f.file(name)(f.Disk.Create(name))
}

func (f *turns) Open(name string) (vfs.File, error) { return f.file(name)(f.Disk.Open(name)) }

func (f *turns) file(name string) func(vfs.File, error) (vfs.File, error) {
	return func(file vfs.File, err error) (vfs.File, error) {
		if err != nil {
			return nil, err
		}
		return &turnsFile{file, f, name}, nil
	}
}

func (f *turns) Rename(from, to string) error {
	f.wait(crashfs.Rename, from)
	return f.Disk.Rename(from, to)
}

func (f *turns) Remove(name string) error {
	f.wait(crashfs.Remove, name)
	return f.Disk.Remove(name)
}

func (f *turns) SyncDir() error {
	f.wait(crashfs.SyncDir, ".")
	return f.Disk.SyncDir()
}

type turnsFile struct {
	vfs.File
	turns *turns
	name  string
}

func (f *turnsFile) WriteAt(b []byte, off int64) (int, error) {
	f.turns.wait(crashfs.WriteAt, f.name)
	return f.File.WriteAt(b, off)
}

func (f *turnsFile) Truncate(size int64) error {
	f.turns.wait(crashfs.Truncate, f.name)
	return f.File.Truncate(size)
}

func (f *turnsFile) Sync() error {
	f.turns.wait(crashfs.Sync, f.name)
	return f.File.Sync()
}

func (f *turnsFile) Datasync() error {
	f.turns.wait(crashfs.Datasync, f.name)
	return f.File.Datasync()
}
