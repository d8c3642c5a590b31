//go:build !linux

package vfs

import "errors"

// Reserve implements [File]: there is nothing for it in package syscall.
func (f file) Reserve(int64) error { return errors.ErrUnsupported }
