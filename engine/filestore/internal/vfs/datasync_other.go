//go:build !linux

package vfs

// Datasync implements [File] with what there is: os.File.Sync, which on macOS is
// F_FULLFSYNC and on Windows FlushFileBuffers.
func (f file) Datasync() error { return f.Sync() }
