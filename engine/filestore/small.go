package filestore

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// formatVersion is that of every file. Files of older versions stay readable for ever.
const formatVersion = 1

// storeID is a store's own random number: no file of another store is taken for one of it.
type storeID [16]byte

// A small file, the manifest and the handlers' state, is a header and a body of JSON:
//
//	 0  8  magic
//	 8  4  format version
//	12  4  CRC-32C of bytes 16 to the end
//	16 16  store ID
//	32  8  length of the body
//	40     body
//
// It is never changed in place: see Store.replace.
const smallHeader = 40

// maxSmall is the length that a small file may have: more than a million segments, or
// parked events, need.
const maxSmall = 1 << 30

func encodeSmall(magic string, id storeID, body any) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	if len(text) > maxSmall-smallHeader { // nobody could read it
		return nil, fmt.Errorf("filestore: a file of %d bytes, the limit is %d", smallHeader+len(text), maxSmall)
	}
	b := make([]byte, smallHeader, smallHeader+len(text))
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	copy(b[16:], id[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(len(text)))
	b = append(b, text...)
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[16:], castagnoli))
	return b, nil
}

// decodeSmall reads the body of a small file. Path is for errors.
func decodeSmall(path, magic string, b []byte, body any) (id storeID, err error) {
	if len(b) < smallHeader || string(b[:8]) != magic {
		return id, corrupt(path, 0, "it does not begin as a file of its kind does")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v == 0 || v > formatVersion {
		return id, &FormatError{path, v, formatVersion}
	}
	if n := binary.LittleEndian.Uint64(b[32:]); n != uint64(len(b)-smallHeader) {
		return id, corrupt(path, 32, "its body has %d bytes, it says %d", len(b)-smallHeader, n)
	}
	if binary.LittleEndian.Uint32(b[12:]) != crc32.Checksum(b[16:], castagnoli) {
		return id, corrupt(path, 12, "checksum does not match")
	}
	copy(id[:], b[16:])
	d := json.NewDecoder(bytes.NewReader(b[smallHeader:]))
	d.DisallowUnknownFields()
	if err := d.Decode(body); err != nil {
		return id, corrupt(path, smallHeader, "body: %v", err)
	}
	return id, nil
}

// readFile returns the content of a file of at most max bytes.
func readFile(fs vfs.FS, path, name string, max int64) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > max {
		return nil, corrupt(path, max, "it has %d bytes, at most %d make sense", size, max)
	}
	b := make([]byte, size)
	if err := readFull(f, b, 0); err != nil {
		return nil, err
	}
	return b, nil
}

// readFull reads len(b) bytes at off.
func readFull(f vfs.File, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// temporary is the ending of files that are being made. Opening a store removes those
// that a crash has left.
const temporary = ".tmp"

// damaged is how the name of a file begins that has what was cut.
const damaged = "damaged-"

// replace makes name a file with content b, all of it or not at all: it writes another file,
// syncs it (fsync), gives it the name, and syncs the directory (fsync).
func (s *Store) replace(name string, b []byte) (err error) {
	if s.unnamed.Load() {
		return s.poisoned.Load().err()
	}
	f, err := create(s.fs, name+temporary)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = s.fs.Rename(name+temporary, name)
	}
	if err != nil {
		s.fs.Remove(name + temporary) // or the next opening does
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := s.syncDir(); err != nil {
		return &unsureError{name, err}
	}
	return nil
}

// syncDir makes all names durable that were made or taken away so far (fsync of the directory). A failure
// is of the names of everybody, and the system tells one of them, once: a later sync may succeed without
// having done anything for what the failed one was to do. So all syncs of the directory go through one token, and
// the first failure ends all writing: nobody builds upon a name after it.
func (s *Store) syncDir() error {
	s.naming <- struct{}{}
	defer func() { <-s.naming }()
	if s.unnamed.Load() {
		return s.poisoned.Load().err()
	}
	if err := s.fs.SyncDir(); err != nil {
		err = fmt.Errorf("sync directory: %w", err)
		s.fail(err)
		s.unnamed.Store(true)
		return err
	}
	return nil
}

// unsureError means that a file was renamed, and whether a crash undoes that is not known.
type unsureError struct {
	name string
	err  error
}

func (e *unsureError) Error() string {
	return fmt.Sprintf("%s has taken its place: %v", e.name, e.err)
}

func (e *unsureError) Unwrap() error { return e.err }

// create makes a temporary file, in place of one that a failure has left.
func create(fs vfs.FS, name string) (vfs.File, error) {
	f, err := fs.Create(name)
	if err != nil && fs.Remove(name) == nil {
		f, err = fs.Create(name)
	}
	return f, err
}
