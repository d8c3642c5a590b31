package vfs

import (
	"os"
	"syscall"
)

// Datasync implements [File] with fdatasync.
func (f file) Datasync() error { return f.call("fdatasync", syscall.Fdatasync) }

// Reserve implements [File] with fallocate. What says that a file system has none is
// [errors.ErrUnsupported] to errors.Is.
func (f file) Reserve(size int64) error {
	return f.call("fallocate", func(fd int) error { return syscall.Fallocate(fd, 0, 0, size) })
}

// call makes a system call with the file's descriptor, again if it was interrupted.
func (f file) call(op string, fn func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		for {
			if failed = fn(int(fd)); failed != syscall.EINTR {
				return
			}
		}
	})
	if err != nil { // package poll's own error for a closed file, which is not fs.ErrClosed
		failed = os.ErrClosed
	}
	if failed != nil {
		return &os.PathError{Op: op, Path: f.Name(), Err: failed}
	}
	return nil
}
