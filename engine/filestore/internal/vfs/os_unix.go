//go:build unix && !aix && (!solaris || illumos)

package vfs

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// lock uses flock: it is let go of when the process dies, and two openings within one
// process exclude each other too.
func lock(root *os.Root, name, holder string) (io.Closer, error) {
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &LockedError{readHolder(f)}
		}
		return nil, &os.PathError{Op: "flock", Path: name, Err: err}
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(holder), 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return flocked{f}, nil
}

// flocked is a file that is locked. Close unlocks it itself, as closing would not at once:
// a process that another goroutine is starting has a copy of the descriptor, and with it the
// lock, until it runs its program.
type flocked struct{ *os.File }

func (f flocked) Close() error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	// A closed file is an error of Close below. Should unlocking fail, closing is what is left.
	_ = conn.Control(func(fd uintptr) { _ = syscall.Flock(int(fd), syscall.LOCK_UN) })
	return f.File.Close()
}

func syncDir(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
