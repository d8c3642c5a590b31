// Package vfs is all that the file backend asks of an operating system: one flat
// directory of files, and which of its calls make what durable. The tests put a file system
// under it that loses what was not synced (package crashfs).
package vfs

import (
	"errors"
	"io"
	"io/fs"
	"strings"
)

// FS is one directory. All methods are safe for concurrent use. Names are plain: see
// [CheckName]. Errors wrap those of package io/fs where there is one, fs.ErrNotExist say,
// and the system's error number, so that errors.Is(err, syscall.ENOSPC) works.
type FS interface {
	// Create makes a file, which must not exist yet, of size 0. The name is durable after SyncDir.
	Create(name string) (File, error)
	// Open opens a file that exists for reading and writing.
	Open(name string) (File, error)
	// Rename gives a file another name, in place of the file that had it. Durable after SyncDir.
	Rename(from, to string) error
	// Remove takes a name away. Durable after SyncDir.
	Remove(name string) error
	// List returns the names of all files, sorted.
	List() ([]string, error)
	// SyncDir makes what Create, Rename and Remove did so far durable: fsync of the directory.
	SyncDir() error
	// Lock takes the lock of that name, which whoever dies lets go of, or returns a
	// *LockedError. Holder is for the error text of others.
	Lock(name, holder string) (io.Closer, error)
	// Close lets go of the directory. Files that are open stay open.
	Close() error
}

// File is an open file. Reads and writes may run at the same time.
type File interface {
	// ReadAt and WriteAt are as in package io. A WriteAt beyond the end makes the file longer.
	io.ReaderAt
	io.WriterAt
	// Sync makes content and size durable: fsync.
	Sync() error
	// Datasync makes content durable, and the size if it has changed: fdatasync. In a file
	// whose blocks are written already it is the cheaper one.
	Datasync() error
	Truncate(size int64) error
	// Reserve makes a file that is shorter than size, which is above 0, as long as that, with zeros, and
	// sets room aside: no WriteAt before size fails for lack of it. Unlike with zeros that are written, the first sync
	// of what is then written there is as dear as that of a file that grows. An error that wraps [errors.ErrUnsupported]
	// means that nothing was done.
	Reserve(size int64) error
	Size() (int64, error)
	Close() error
}

// LockedError means that somebody else has the lock.
type LockedError struct {
	Holder string // what they have said of themselves; may be empty
}

func (e *LockedError) Error() string {
	if e.Holder == "" {
		return "locked by another process"
	}
	return "locked by " + e.Holder
}

// ErrUnsupported means that this operating system has no such lock.
var ErrUnsupported = errors.New("file locks are not supported here")

// CheckName refuses, with an error that wraps fs.ErrInvalid, a name that is not plain: one
// that is empty or a dot or two, or has a separator of any operating system in it (with the
// colon, which on Windows leads to another stream of a file) or a zero byte.
func CheckName(op, name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\\:\x00") {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return nil
}
