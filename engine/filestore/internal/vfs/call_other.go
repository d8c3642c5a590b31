//go:build !linux

package vfs

import "errors"

// Datasync implements [File] with what there is: os.File.Sync, which on macOS is
// F_FULLFSYNC and on Windows FlushFileBuffers.
func (f file) Datasync() error { return f.Sync() }

// Reserve implements [File]: there is nothing for it in package syscall.
func (f file) Reserve(int64) error { return errors.ErrUnsupported }
