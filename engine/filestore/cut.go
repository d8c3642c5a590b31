package filestore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// cut copies the torn end of a segment into a file of its own, and erases it (fsync), so
// that no later opening takes it for records.
func (s *Store) cut(seg *segment, c *Cut) error {
	name, err := s.cutAside(seg, c.Offset, c.Bytes)
	if err != nil {
		return fmt.Errorf("filestore: cut the torn end of %s: %w", seg.path, err)
	}
	c.SavedAs = s.path(name)
	s.recovery.Cut = c
	s.opts.Logger.Warn("weir: cut the torn end of the log", "segment", c.Path, "offset", c.Offset, "bytes", c.Bytes,
		"records", c.Records, "reason", c.Reason, "saved", c.SavedAs)
	return nil
}

// cutAside copies n bytes of a segment into a new file, then overwrites them with zeros.
func (s *Store) cutAside(seg *segment, off, n int64) (name string, err error) {
	b := make([]byte, n)
	if err := seg.readAt(b, off); err != nil {
		return "", err
	}
	name, err = s.saveBytes(fmt.Sprint(damagedName(seg), off), b)
	if err == nil {
		err = seg.erase(off, off+n)
	}
	if err == nil {
		err = seg.file.Sync()
	}
	return name, err
}

// erase writes zeros from one byte to another.
func (s *segment) erase(off, end int64) (err error) {
	for ; err == nil && off < end; off += int64(len(zeros)) {
		_, err = s.file.WriteAt(zeros[:min(int64(len(zeros)), end-off)], off)
	}
	return err
}

// eraseAgain writes zeros once more where a segment that ends at a byte was cut before, without a sync: that of
// the first time may have failed. Then reads find zeros that are not on disk, and what was cut off would come back
// after a power cut, behind whatever is written next. The files that have what was cut say where it was.
func (s *Store) eraseAgain(seg *segment, end int64) error {
	names, err := s.fs.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, damagedName(seg))
		place, _, _ := strings.Cut(rest, "-") // behind it is what tells it from others of the same place
		off, noPlace := strconv.ParseInt(place, 10, 64)
		if !ok || noPlace != nil {
			continue
		}
		f, err := s.fs.Open(name)
		if err != nil {
			return err
		}
		n, err := f.Size()
		f.Close()
		if err == nil {
			err = seg.erase(max(off, end), min(off+n, seg.size))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// damagedName is how the names begin of files that have what was cut out of a segment. Its place follows.
func damagedName(seg *segment) string {
	return damaged + strings.TrimSuffix(seg.name(), ".seg") + "-"
}

// saveBytes makes a file of a name that begins so.
func (s *Store) saveBytes(prefix string, b []byte) (name string, err error) {
	if name, err = s.freeName(prefix); err != nil {
		return "", err
	}
	return name, s.replace(name, b)
}

// freeName returns a name that begins so and that no file has.
func (s *Store) freeName(prefix string) (string, error) {
	names, err := s.fs.List()
	if err != nil {
		return "", err
	}
	name := prefix
	for i := 2; slices.Contains(names, name); i++ {
		name = fmt.Sprintf("%s-%d", prefix, i)
	}
	return name, nil
}
