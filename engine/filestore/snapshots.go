package filestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

const (
	snapshotsName   = "snapshots"
	snapshotsMagic  = "WEIRSNP\n"
	snapshotsHeader = 40
	snapshotHead    = 60 // of a record, before its names
	// maxSnapshot is the greatest length of a snapshot's data.
	maxSnapshot = 256 << 20
	// rewriteFrom is the size from which on the file is rewritten when more than half of it is
	// garbage.
	rewriteFrom = 256 << 10
)

// snapshots is the file of snapshots: a header, and records that are only appended. All in it is
// derived from the log: whatever is wrong with it is logged, and the file begun anew.
//
// A record is written once the events that it was made of are on disk, and is not synced. So
// it may be lost, or be there in part, which its checksums tell, but a crash never leaves it without its events.
type snapshots struct {
	using  chan struct{} // cap 1: the token for all that follows; before Store.syncing
	file   vfs.File      // nil if there is none yet
	end    int64         // behind the last record
	live   int64         // bytes of the records that are in places
	retry  int64         // the size from which on a rewrite that failed is tried again
	places map[snapshotKey]snapshotPlace
	names  map[string]bool // of policies
}

type snapshotKey struct {
	stream *stream
	name   string
}

// snapshotPlace is where a record stands.
type snapshotPlace struct {
	offset int64
	head   uint32 // bytes before its data
	data   uint32
}

func (p snapshotPlace) size() int64 { return int64(p.head) + int64(p.data) }

func newSnapshots() *snapshots {
	return &snapshots{using: make(chan struct{}, 1), places: make(map[snapshotKey]snapshotPlace), names: make(map[string]bool)}
}

// SaveSnapshot implements [engine.Snapshotting]. The log is synced first (fdatasync) if the events are
// not on disk. The record itself is not synced.
func (s *Store) SaveSnapshot(ctx context.Context, state engine.StreamState, snap engine.Snapshot) error {
	st := s.stream(state)
	if st == nil || st.isDeleted() {
		return s.check()
	}
	if len(snap.Data) > maxSnapshot {
		return fmt.Errorf("filestore: a snapshot of %d bytes, the limit is %d", len(snap.Data), maxSnapshot)
	}
	return s.withSnapshots(ctx, func(x *snapshots) error {
		if p := s.poisoned.Load(); p != nil {
			return p.err()
		}
		if s.Durable() < snap.Position {
			if err := s.syncWritten(); err != nil {
				return err
			}
		}
		if x.file == nil {
			if err := s.beginSnapshots(); err != nil {
				return err
			}
		}
		b, head := encodeSnapshot(st.name, &snap, s.snapshotSeed())
		if _, err := x.file.WriteAt(b, x.end); err != nil {
			x.file.Truncate(x.end) // or the next record stands over what is there of this one
			return fmt.Errorf("filestore: write %s: %w", s.path(snapshotsName), err)
		}
		x.put(snapshotKey{st, snap.Name}, snapshotPlace{x.end, uint32(head), uint32(len(snap.Data))})
		x.end += int64(len(b))
		return s.rewriteSnapshots()
	})
}

// LoadSnapshot implements [engine.Snapshotting].
func (s *Store) LoadSnapshot(ctx context.Context, state engine.StreamState, name string) (snap engine.Snapshot, there bool, err error) {
	st := s.stream(state)
	err = s.withSnapshots(ctx, func(x *snapshots) error {
		key := snapshotKey{st, name}
		p, known := x.places[key]
		if !known || st.isDeleted() {
			return nil
		}
		b := make([]byte, p.size())
		if err := readFull(x.file, b, p.offset); err != nil {
			return fmt.Errorf("filestore: read %s at byte %d: %w", s.path(snapshotsName), p.offset, err)
		}
		var reason string
		if snap, reason = decodeSnapshot(b, key, s.snapshotSeed()); reason != "" {
			x.drop(key)
			return corrupt(s.path(snapshotsName), p.offset, "%s", reason)
		}
		there = true
		return nil
	})
	return snap, there, err
}

// withSnapshots calls fn with the token, while the store is open.
func (s *Store) withSnapshots(ctx context.Context, fn func(x *snapshots) error) error {
	if err := s.check(); err != nil {
		return err
	}
	if err := take(ctx, s.snapshots.using); err != nil {
		return err
	}
	defer func() { <-s.snapshots.using }()
	if err := s.check(); err != nil { // closed while it waited: the directory is somebody else's
		return err
	}
	return fn(s.snapshots)
}

// put notes where a stream's snapshot is. What was there before is garbage.
func (x *snapshots) put(key snapshotKey, p snapshotPlace) {
	x.drop(key)
	x.places[key] = p
	x.names[key.name] = true
	x.live += p.size()
}

func (x *snapshots) drop(key snapshotKey) {
	x.live -= x.places[key].size()
	delete(x.places, key)
}

// dropSnapshots forgets those of a deleted stream.
func (s *Store) dropSnapshots(ctx context.Context, st *stream) {
	s.withSnapshots(ctx, func(x *snapshots) error {
		for name := range x.names {
			x.drop(snapshotKey{st, name})
		}
		return nil
	}) // with an error it is found to be deleted later
}

func (s *Store) snapshotSeed() uint32 { return crc32.Checksum(s.id[:], castagnoli) }

// beginSnapshots makes the file, in place of one that is there.
func (s *Store) beginSnapshots() error {
	f, err := s.newSnapshotFile(snapshotsName)
	if err == nil {
		x := s.snapshots
		x.file, x.end, x.live = f, snapshotsHeader, 0
		clear(x.places)
	}
	return err
}

// newSnapshotFile makes a file with a header.
func (s *Store) newSnapshotFile(name string) (vfs.File, error) {
	f, err := create(s.fs, name)
	if err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	if _, err := f.WriteAt(s.snapshotsHead(), 0); err != nil {
		f.Close()
		s.fs.Remove(name) // or it is found to be damaged
		return nil, fmt.Errorf("filestore: write %s: %w", s.path(name), err)
	}
	return f, nil
}

// snapshotsHead is what the file begins with.
func (s *Store) snapshotsHead() []byte {
	b := make([]byte, snapshotsHeader)
	copy(b, snapshotsMagic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	binary.LittleEndian.PutUint32(b[12:], snapshotsHeader)
	copy(b[16:], s.id[:])
	binary.LittleEndian.PutUint32(b[36:], crc32.Checksum(b[:36], castagnoli))
	return b
}

// A record is this, then the names of stream and policy, the event ID, the encoding, the data:
//
//	 0 4 checksum of bytes 4 up to the data; its seed is the checksum of the store ID
//	 4 4 length of the data
//	 8 4 checksum of the data, with the same seed
//	12 4 version of the fold
//	16 8 version of the first event
//	24 8 version of the last event
//	32 8 position of the last event
//	40 8 time of the last event, Unix nanoseconds
//	48 2 length of the stream name
//	50 2 length of the policy's name
//	52 2 length of the event ID
//	54 2 length of the encoding
//	56 4 0
func encodeSnapshot(stream string, s *engine.Snapshot, seed uint32) (b []byte, head int) {
	head = snapshotHead + len(stream) + len(s.Name) + len(s.ID) + len(s.Encoding)
	b = make([]byte, snapshotHead, head+len(s.Data))
	le := binary.LittleEndian
	le.PutUint32(b[4:], uint32(len(s.Data)))
	le.PutUint32(b[8:], crc32.Update(seed, castagnoli, s.Data))
	le.PutUint32(b[12:], s.Fold)
	le.PutUint64(b[16:], uint64(s.First))
	le.PutUint64(b[24:], uint64(s.Version))
	le.PutUint64(b[32:], uint64(s.Position))
	le.PutUint64(b[40:], uint64(s.Time.UnixNano()))
	for i, text := range []string{stream, s.Name, s.ID, s.Encoding} {
		le.PutUint16(b[48+2*i:], uint16(len(text)))
		b = append(b, text...)
	}
	le.PutUint32(b, crc32.Update(seed, castagnoli, b[4:]))
	return append(b, s.Data...), head
}

// snapshotSizes returns how many bytes of a record stand before its data, and its data.
func snapshotSizes(b []byte) (head, data int) {
	head = snapshotHead
	for i := range 4 {
		head += int(binary.LittleEndian.Uint16(b[48+2*i:]))
	}
	return head, int(binary.LittleEndian.Uint32(b[4:]))
}

// checkSnapshotHead returns the names of a record of which the head is whole and right.
func checkSnapshotHead(b []byte, seed uint32) (stream, name string, s engine.Snapshot, ok bool) {
	le := binary.LittleEndian
	if le.Uint32(b) != crc32.Update(seed, castagnoli, b[4:]) || le.Uint32(b[56:]) != 0 {
		return "", "", s, false
	}
	var texts [4]string
	rest := b[snapshotHead:]
	for i := range texts {
		n := int(le.Uint16(b[48+2*i:]))
		texts[i], rest = string(rest[:n]), rest[n:]
	}
	s = engine.Snapshot{
		Name: texts[1], Fold: le.Uint32(b[12:]), First: engine.Version(le.Uint64(b[16:])),
		Version: engine.Version(le.Uint64(b[24:])), Position: engine.Position(le.Uint64(b[32:])),
		Time: time.Unix(0, int64(le.Uint64(b[40:]))).UTC(), ID: texts[2], Encoding: texts[3],
	}
	return texts[0], texts[1], s, true
}

// decodeSnapshot returns the snapshot that a record holds, or what is wrong with it.
func decodeSnapshot(b []byte, want snapshotKey, seed uint32) (s engine.Snapshot, wrong string) {
	head, data := snapshotSizes(b)
	if head+data != len(b) {
		return s, "the lengths of a snapshot have changed"
	}
	stream, name, s, ok := checkSnapshotHead(b[:head], seed)
	switch {
	case !ok:
		return s, "the checksum of a snapshot's head does not match"
	case stream != want.stream.name || name != want.name:
		return s, "it is the snapshot of another stream"
	case binary.LittleEndian.Uint32(b[8:]) != crc32.Update(seed, castagnoli, b[head:]):
		return s, "the checksum of a snapshot's data does not match"
	}
	s.Data = b[head:]
	return s, ""
}

// openSnapshots finds out what the file holds. It never fails: whatever is wrong is logged, and
// cut. After all segments are indexed.
func (s *Store) openSnapshots() {
	x, path := s.snapshots, s.path(snapshotsName)
	f, err := s.fs.Open(snapshotsName)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	end, size := int64(0), int64(0)
	if err == nil {
		x.file = f
		if size, err = f.Size(); err == nil {
			end, err = s.scanSnapshots(size)
		}
	}
	if err == nil {
		return
	}
	s.opts.Logger.Warn("weir: the rest of the snapshots is lost; events are read instead", "path", path, "bytes", size-end, "err", err)
	if end < snapshotsHeader || x.file.Truncate(end) != nil {
		s.loseSnapshots()
	}
}

// loseSnapshots forgets the file. Another one takes its place when there is a snapshot.
func (s *Store) loseSnapshots() {
	x := s.snapshots
	if x.file != nil {
		x.file.Close()
	}
	x.file, x.end, x.live = nil, 0, 0
	clear(x.places)
}

// scanSnapshots reads the heads of all records, and returns where those end that are right, with
// what is wrong there.
func (s *Store) scanSnapshots(size int64) (end int64, err error) {
	x, path, seed := s.snapshots, s.path(snapshotsName), s.snapshotSeed()
	w := window{path: path, file: x.file, size: size}
	read := func(off int64, n int) ([]byte, error) { // nil if the file ends before
		if off+int64(n) > size {
			return nil, nil
		}
		return w.bytes(off, n)
	}
	b, err := read(0, snapshotsHeader)
	switch {
	case err != nil:
		return 0, err
	case b == nil || string(b[:8]) != snapshotsMagic || binary.LittleEndian.Uint32(b[36:]) != crc32.Checksum(b[:36], castagnoli):
		return 0, corrupt(path, 0, "it does not begin as a file of its kind does")
	case binary.LittleEndian.Uint32(b[8:]) != formatVersion:
		return 0, &FormatError{path, binary.LittleEndian.Uint32(b[8:]), formatVersion}
	case string(b[16:32]) != string(s.id[:]):
		return 0, corrupt(path, 16, "it belongs to another store")
	}
	for x.end = snapshotsHeader; x.end < size; {
		if b, err = read(x.end, snapshotHead); err != nil || b == nil {
			break
		}
		head, data := snapshotSizes(b)
		if b, err = read(x.end, head); err != nil || b == nil || x.end+int64(head)+int64(data) > size || data > maxSnapshot {
			break
		}
		stream, name, snap, ok := checkSnapshotHead(b, seed)
		if !ok {
			break
		}
		p := snapshotPlace{x.end, uint32(head), uint32(data)}
		if st := s.streams.get(stream); st != nil && s.mayFit(st, &snap) {
			x.put(snapshotKey{st, name}, p)
		}
		x.end += p.size()
	}
	if err == nil && x.end < size {
		err = corrupt(path, x.end, "a snapshot is damaged or cut off")
	}
	return x.end, err
}

// mayFit reports whether a snapshot may still be used: what is truncated never comes back.
func (s *Store) mayFit(st *stream, snap *engine.Snapshot) bool {
	fits := !st.isDeleted()
	s.streams.change(st, func(p *positions) {
		fits = fits && snap.First >= st.truncated && snap.Version <= p.version()
	})
	return fits
}

// rewriteSnapshots makes the file anew without its garbage, if that is more than half of it. If it
// cannot be made, the old one is gone on with.
func (s *Store) rewriteSnapshots() error {
	x := s.snapshots
	if x.end < max(rewriteFrom, x.retry) || x.live*2 >= x.end {
		return nil
	}
	x.retry = 2 * x.end // if this fails
	f, err := s.newSnapshotFile(snapshotsName + temporary)
	if err != nil {
		return err
	}
	places, end := make(map[snapshotKey]snapshotPlace, len(x.places)), int64(snapshotsHeader)
	for key, p := range x.places {
		b := make([]byte, p.size())
		if err = readFull(x.file, b, p.offset); err != nil {
			break
		}
		if _, wrong := decodeSnapshot(b, key, s.snapshotSeed()); wrong != "" {
			continue // it is lost
		}
		if _, err = f.WriteAt(b, end); err != nil {
			break
		}
		places[key] = snapshotPlace{end, p.head, p.data}
		end += p.size()
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.fs.Rename(snapshotsName+temporary, snapshotsName)
	}
	if err != nil {
		f.Close()
		s.fs.Remove(snapshotsName + temporary) // or the next opening does
		return fmt.Errorf("filestore: make %s anew: %w", s.path(snapshotsName), err)
	}
	x.file.Close()
	x.file, x.end, x.places, x.live, x.retry = f, end, places, end-snapshotsHeader, 0
	if err := s.syncDir(); err != nil { // a crash leaves the one or the other, and both are right
		return fmt.Errorf("filestore: sync directory after %s: %w", snapshotsName, err)
	}
	return nil
}

// emptySnapshots puts a file without snapshots in the place of one that is there, in a store that is not
// open. It is not removed: if the sync of that fails, the next caller finds no file, and after a power cut there is one.
func (s *Store) emptySnapshots() error {
	f, err := s.fs.Open(snapshotsName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f.Close()
	return s.replace(snapshotsName, s.snapshotsHead())
}
