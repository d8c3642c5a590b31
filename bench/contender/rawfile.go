package contender

import (
	"os"
	"path/filepath"
	"syscall"
)

var rawFile = Entry{
	Name: "file + fdatasync", Kind: Limit,
	Can:  Keep | Concurrent | Durable,
	Note: "no index, no checksum, no order of streams; one write and one sync for all who wait",
	Open: openRawFile,
}

// plainFile is a file of records without anything, filled with zeros before the clock
// starts: a write that makes a file longer costs a journal entry at each sync.
type plainFile struct {
	*Grouped
	file *os.File
	off  int64
	buf  []byte
}

func openRawFile(c Config) (Bus, error) {
	file, err := os.Create(filepath.Join(c.Dir, "raw"))
	if err != nil {
		return nil, err
	}
	f := &plainFile{file: file}
	zeros := make([]byte, 1<<20)
	for off, size := int64(0), int64(c.Events)*int64(c.Size); off < size; off += int64(len(zeros)) {
		if _, err := file.WriteAt(zeros, off); err != nil {
			file.Close()
			return nil, err
		}
	}
	if err := file.Sync(); err != nil {
		file.Close()
		return nil, err
	}
	f.Grouped = NewGrouped(c, f.write)
	return f, nil
}

func (f *plainFile) write(group []*GroupRequest) error {
	f.buf = f.buf[:0]
	for _, r := range group {
		for _, ev := range r.Events {
			f.buf = ev.AppendTo(f.buf, f.Config.Size)
		}
	}
	if _, err := f.file.WriteAt(f.buf, f.off); err != nil {
		return err
	}
	f.off += int64(len(f.buf))
	return syscall.Fdatasync(int(f.file.Fd()))
}

func (f *plainFile) Read(fn func(Event)) error {
	data := make([]byte, f.off)
	if _, err := f.file.ReadAt(data, 0); err != nil {
		return err
	}
	for ; len(data) > 0; data = data[f.Config.Size:] {
		fn(Decode(data))
	}
	return nil
}

func (f *plainFile) Close() error {
	f.Stop()
	return f.file.Close()
}
