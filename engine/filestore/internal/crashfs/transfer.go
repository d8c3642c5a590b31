package crashfs

import (
	"errors"
	"os"
	"path/filepath"
)

// ToDir writes all files into a directory of the operating system, which it makes if there
// is none: for a look at what a test has failed on.
func (d *Disk) ToDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	for _, name := range d.Files() {
		if err := os.WriteFile(filepath.Join(path, name), d.Content(name), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// FromDir returns a disk at rest with the files of such a directory.
func FromDir(path string) (*Disk, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	d := New()
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		b, readErr := os.ReadFile(filepath.Join(path, e.Name()))
		err = errors.Join(err, readErr)
		d.Put(e.Name(), b)
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}
