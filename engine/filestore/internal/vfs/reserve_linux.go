package vfs

import (
	"errors"
	"os"
	"syscall"
)

// Reserve implements [File] with fallocate.
func (f file) Reserve(size int64) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		for {
			if failed = syscall.Fallocate(int(fd), 0, 0, size); failed != syscall.EINTR {
				return
			}
		}
	})
	switch {
	case err != nil: // package poll's own error for a closed file, which is not fs.ErrClosed
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: os.ErrClosed}
	case failed == syscall.EOPNOTSUPP || failed == syscall.ENOSYS:
		return errors.ErrUnsupported
	case failed != nil:
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: failed}
	}
	return nil
}
