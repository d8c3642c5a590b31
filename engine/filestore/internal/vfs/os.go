package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Dir is a directory of the operating system. It differs from plain os calls in that no
// name leads out of it, symbolic links included (os.Root).
type Dir struct {
	root *os.Root
	path string
}

// OpenDir opens a directory, which it makes (with mode 0700, parents included) if there is none. The
// name of what it has made is durable: fsync of each directory that got a new one.
func OpenDir(path string) (*Dir, error) {
	var parents []string
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			break
		}
		parents = append(parents, filepath.Dir(dir))
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	for _, dir := range parents {
		d, err := openDir(dir)
		if err != nil {
			return nil, err
		}
		err = d.SyncDir()
		d.Close()
		if err != nil {
			return nil, fmt.Errorf("sync %s: %w", dir, err)
		}
	}
	return openDir(path)
}

// OpenExistingDir opens a directory that is there.
func OpenExistingDir(path string) (*Dir, error) { return openDir(path) }

func openDir(path string) (*Dir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &Dir{root, path}, nil
}

// Create implements [FS]. Files are for the owner alone: mode 0600.
func (d *Dir) Create(name string) (File, error) {
	if err := CheckName("create", name); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return file{f}, nil
}

// Open implements [FS].
func (d *Dir) Open(name string) (File, error) {
	if err := CheckName("open", name); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return file{f}, nil
}

// Rename implements [FS].
func (d *Dir) Rename(from, to string) error {
	if err := errors.Join(CheckName("rename", from), CheckName("rename", to)); err != nil {
		return err
	}
	return d.root.Rename(from, to)
}

// Remove implements [FS].
func (d *Dir) Remove(name string) error {
	if err := CheckName("remove", name); err != nil {
		return err
	}
	return d.root.Remove(name)
}

// List implements [FS].
func (d *Dir) List() ([]string, error) {
	dir, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// SyncDir implements [FS].
func (d *Dir) SyncDir() error { return syncDir(d.root) }

// Lock implements [FS].
func (d *Dir) Lock(name, holder string) (io.Closer, error) {
	if err := CheckName("lock", name); err != nil {
		return nil, err
	}
	c, err := lock(d.root, name, holder)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// Close implements [FS].
func (d *Dir) Close() error { return d.root.Close() }

type file struct{ *os.File }

func (f file) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// readHolder returns what the holder of a lock has written into its file.
func readHolder(f io.ReaderAt) string {
	var buf [256]byte
	n, _ := f.ReadAt(buf[:], 0) // who cannot be read has no name
	return string(buf[:n])
}
