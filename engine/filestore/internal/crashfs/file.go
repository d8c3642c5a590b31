package crashfs

import (
	"io"
	"io/fs"
	"slices"
	"syscall"
)

// file is an open file.
type file struct {
	d      *Disk
	name   string
	ino    int
	closed bool // guarded by d.mu
}

func (f *file) inodeLocked() *inode { return f.d.live.files[f.ino] }

func (f *file) refusedLocked(op string, off int64) error {
	switch {
	case f.closed:
		return &fs.PathError{Op: op, Path: f.name, Err: fs.ErrClosed}
	case off < 0:
		return &fs.PathError{Op: op, Path: f.name, Err: syscall.EINVAL}
	}
	return nil
}

// ReadAt implements [vfs.File].
func (f *file) ReadAt(b []byte, off int64) (int, error) {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := f.refusedLocked("read", off); err != nil {
		return 0, err
	}
	if err := d.failReadLocked(Op{Kind: ReadAt, Name: f.name, Offset: off, Len: len(b)}); err != nil {
		return f.inodeLocked().cache.readAt(b[:d.partLocked(len(b))], off), err
	}
	n := f.inodeLocked().cache.readAt(b, off)
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements [vfs.File].
func (f *file) WriteAt(b []byte, off int64) (int, error) {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := f.refusedLocked("write", off); err != nil || len(b) == 0 {
		return 0, err
	}
	e := entry{Op: Op{Kind: WriteAt, Name: f.name, Offset: off, Len: len(b)}, ino: f.ino, written: len(b)}
	if e.Err = d.failLocked(e.Op); e.Err != nil {
		e.written = d.partLocked(len(b))
	} else if room := d.roomLocked(f.ino) - off; room < int64(len(b)) {
		e.written = int(max(0, room))
		e.Err = &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	if b = b[:e.written]; !zeros(b) {
		e.data = slices.Clone(b)
	}
	d.recordLocked(e)
	return e.written, e.Err
}

// Sync implements [vfs.File].
func (f *file) Sync() error { return f.sync(Sync) }

// Datasync implements [vfs.File].
func (f *file) Datasync() error { return f.sync(Datasync) }

func (f *file) sync(kind Kind) error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := f.refusedLocked(kind.String(), 0); err != nil {
		return err
	}
	e := entry{Op: Op{Kind: kind, Name: f.name}, ino: f.ino}
	e.Err = d.failLocked(e.Op)
	d.recordLocked(e)
	return e.Err
}

// Reserve implements [vfs.File]: as if zeros were written. A crash leaves the same of both.
func (f *file) Reserve(size int64) error {
	have, err := f.Size()
	if err != nil || have >= size {
		return err
	}
	_, err = f.WriteAt(make([]byte, size-have), have)
	return err
}

// Truncate implements [vfs.File].
func (f *file) Truncate(size int64) error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := f.refusedLocked("truncate", size); err != nil {
		return err
	}
	e := entry{Op: Op{Kind: Truncate, Name: f.name, Offset: size}, ino: f.ino}
	e.Err = d.failLocked(e.Op)
	if e.Err == nil && size > f.inodeLocked().cache.size && size > d.roomLocked(f.ino) {
		e.Err = &fs.PathError{Op: "truncate", Path: f.name, Err: syscall.ENOSPC}
	}
	d.recordLocked(e)
	return e.Err
}

// Size implements [vfs.File].
func (f *file) Size() (int64, error) {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := f.refusedLocked("stat", 0); err != nil {
		return 0, err
	}
	if err := d.failReadLocked(Op{Kind: Size, Name: f.name}); err != nil {
		return 0, err
	}
	return f.inodeLocked().cache.size, nil
}

// Close implements [vfs.File]. It makes nothing durable.
func (f *file) Close() error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := f.refusedLocked("close", 0); err != nil {
		return err
	}
	f.closed = true
	if d.handles[f.ino]--; d.handles[f.ino] == 0 {
		delete(d.handles, f.ino)
	}
	return nil
}
