package vfs

import (
	"os"
	"syscall"
)

// Datasync implements [File] with fdatasync.
func (f file) Datasync() error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var syncErr error
	err = conn.Control(func(fd uintptr) {
		for {
			if syncErr = syscall.Fdatasync(int(fd)); syncErr != syscall.EINTR {
				return
			}
		}
	})
	if err == nil {
		err = os.NewSyscallError("fdatasync", syncErr)
	}
	return err
}
