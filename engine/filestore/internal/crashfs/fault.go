package crashfs

import (
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
)

// Fail lets calls fail: fail is asked before each operation but Unlock, and what it returns, wrapped in
// an *fs.PathError unless it is one, is the error of the call: syscall.EIO, say. Nil takes it away. It runs
// under the disk's lock: it must not call the disk.
//
// A failed WriteAt may have written a prefix, and says how long it is. A failed Sync or Datasync
// drops what was to be written: reads still see it, and later syncs return nil without making it
// durable. A failed SyncDir may or may not have worked, and no later one makes up for it. Other
// failed calls change nothing.
func (d *Disk) Fail(fail func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failFunc = fail
}

// FailNth is Fail for the n-th call of a kind from now on, counted from 1, and for it alone.
func (d *Disk) FailNth(kind Kind, n int, err error) {
	d.Fail(func(op Op) error {
		if op.Kind == kind {
			if n--; n == 0 {
				return err
			}
		}
		return nil
	})
}

// FailRead is Fail for Open, List, ReadAt and Size. A failed ReadAt may have read something.
func (d *Disk) FailRead(fail func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failReadFunc = fail
}

// Seed sets how far failed writes and reads get: the same seed, the same prefixes. The seed
// of a new disk is 0.
func (d *Disk) Seed(seed uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failRand = rand.New(rand.NewPCG(seed, 0))
}

// Capacity sets how long all files together can be, in bytes, negative for no limit. Beyond
// it WriteAt writes what fits and returns ENOSPC, and Truncate does nothing and returns it.
// Files that are removed but open count.
func (d *Disk) Capacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = bytes
}

// roomLocked returns how long a file can get.
func (d *Disk) roomLocked(ino int) int64 {
	if d.capacity < 0 {
		return math.MaxInt64
	}
	used := make(map[int]bool, len(d.live.names))
	for _, i := range d.live.names {
		used[i] = true
	}
	for i := range d.handles {
		used[i] = true
	}
	room := d.capacity
	for i := range used {
		if i != ino {
			room -= d.live.files[i].cache.size
		}
	}
	return max(room, d.live.files[ino].cache.size) // within itself a file can always be written
}

func (d *Disk) failLocked(op Op) error {
	if d.failFunc == nil {
		return nil
	}
	op.N = len(d.journal)
	return asPathError(op, d.failFunc(op))
}

func (d *Disk) failReadLocked(op Op) error {
	op.N = d.reads
	d.reads++
	if d.failReadFunc == nil {
		return nil
	}
	return asPathError(op, d.failReadFunc(op))
}

func asPathError(op Op, err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok || err == nil {
		return err
	}
	return &fs.PathError{Op: op.Kind.String(), Path: op.Name, Err: err}
}

// partLocked returns how far a failed call of that length got: often nowhere.
func (d *Disk) partLocked(length int) int {
	if d.failRand == nil {
		d.failRand = rand.New(rand.NewPCG(0, 0))
	}
	if length == 0 || d.failRand.IntN(4) == 0 {
		return 0
	}
	return d.failRand.IntN(length)
}
