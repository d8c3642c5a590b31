//go:build (!unix && !windows) || aix || (solaris && !illumos)

package vfs

import (
	"io"
	"os"
)

func lock(*os.Root, string, string) (io.Closer, error) { return nil, ErrUnsupported }

func syncDir(*os.Root) error { return nil }
