package filestore

import (
	"context"
	"encoding/binary"
	"hash/crc32"

	"github.com/weirstore/weir/actor"
	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// Groups returns how many writes of the log there were.
func Groups(s *Store) int { return int(s.groups.Load()) }

// Expect makes the writer expect so many commits, as if it had answered them just now. Before there are commits.
func Expect(s *Store, n int) { s.w.expected = n }

// Queue is the queue in front of the writer, by itself.
type Queue struct{ q queue }

// NewQueue returns an empty one.
func NewQueue() *Queue { return &Queue{queue{writer: actor.NewSignal()}} }

// Push adds a commit that can be told by a number, which is not 0.
func (q *Queue) Push(n int) bool { return q.q.push(context.Background(), &commit{events: n}) }

// PushWatched adds a commit, and reports whether the queue tells it of the end of its context.
func (q *Queue) PushWatched(ctx context.Context) bool {
	c := &commit{events: 1, done: make(chan struct{}, 1)}
	q.q.push(ctx, c)
	return c.watched
}

// Pop takes the next one and returns its number, 0 if none waits.
func (q *Queue) Pop() int {
	if c := q.q.pop(); c != nil {
		return c.events
	}
	return 0
}

// Wait is Pop that waits, until the queue has ended and is empty.
func (q *Queue) Wait() int {
	if c := q.q.wait(); c != nil {
		return c.events
	}
	return 0
}

// End accepts nothing more.
func (q *Queue) End() { q.q.end() }

// Size returns how many wait, and for how many there is room.
func (q *Queue) Size() (waiting, room int) { return q.q.len(), cap(q.q.list) }

// OpenFS opens a store in a directory of any kind, with segments as small as is asked for.
func OpenFS(fs vfs.FS, opts Options) (*Store, error) {
	s, err := newStoreFS(fs, opts)
	if err != nil {
		return nil, err
	}
	return s.open()
}

// OpenFixed is OpenFS with what makes one store differ from another that does the same: if the
// directory is empty, the store gets that ID.
func OpenFixed(fs vfs.FS, opts Options, id [16]byte) (*Store, error) {
	s, err := newStoreFS(fs, opts)
	if err != nil {
		return nil, err
	}
	s.id = id
	return s.open()
}

func newStoreFS(fs vfs.FS, opts Options) (*Store, error) {
	size := opts.SegmentSize
	opts.SegmentSize = 0
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	opts.SegmentSize = size
	return newStore(fs, "disk", opts), nil
}

// VerifyFS is Verify in a directory of any kind.
func VerifyFS(fs vfs.FS) (*Verification, error) { return verify(fs, "disk") }

// RepairFS is Repair in a directory of any kind.
func RepairFS(fs vfs.FS) (*Repaired, error) { return repair(fs, "disk") }

// BackupFS is Store.Backup into a directory of any kind.
func BackupFS(ctx context.Context, s *Store, to vfs.FS) (engine.Position, error) {
	return s.backup(ctx, to)
}

// SetLimit makes a commit's records too large that have more bytes. Before there are commits.
func SetLimit(s *Store, bytes int64) { s.limit = bytes }

// Numbers are the constants that docs/filestore-format.md tells of.
var Numbers = map[string]uint64{
	"format version":                             formatVersion,
	"bytes of a segment's header":                segmentHeader,
	"bytes of a record's header":                 recordHeader,
	"bytes of an index's header":                 indexHeader,
	"bytes of a small file's header":             smallHeader,
	"smallest Options.SegmentSize":               minSegment,
	"largest segment, and so record":             maxSegment,
	"first segment":                              firstSegment,
	"growth from one segment to the next":        growth,
	"largest position":                           maxPosition,
	"longest name of a stream, type or event ID": engine.MaxName,
	"largest small file":                         maxSmall,

	"bytes of the snapshots' file header":        snapshotsHeader,
	"bytes of a snapshot before its names":       snapshotHead,
	"largest data of a snapshot":                 maxSnapshot,
	"smallest snapshots' file that is rewritten": rewriteFrom,
}

// Fields are the offsets of a record's fields that it tells of, by the first word of the row.
var Fields = map[string]int{
	"checksum": atChecksum, "length": atLength, "position": atPosition, "version": atVersion, "time": atTime, "watermark": atUnsynced,
	"bits": atFlags, "encoding": atEncoding, "schema": atSchema,
}

// SealSnapshots makes the checksums of a file of snapshots right: of its header, and of so many records.
func SealSnapshots(b []byte, id [16]byte, records int) []byte {
	if records <= 0 || len(b) < snapshotsHeader {
		return b
	}
	le, seed := binary.LittleEndian, crc32.Checksum(id[:], castagnoli)
	copy(b, snapshotsMagic)
	le.PutUint32(b[8:], formatVersion)
	copy(b[16:], id[:])
	le.PutUint32(b[36:], crc32.Checksum(b[:36], castagnoli))
	for rest := b[snapshotsHeader:]; records > 0 && len(rest) >= snapshotHead; records-- {
		head, data := snapshotSizes(rest)
		if head+data > len(rest) {
			break
		}
		le.PutUint32(rest[56:], 0)
		le.PutUint32(rest[8:], crc32.Update(seed, castagnoli, rest[head:head+data]))
		le.PutUint32(rest, crc32.Update(seed, castagnoli, rest[4:head]))
		rest = rest[head+data:]
	}
	return b
}
