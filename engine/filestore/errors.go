package filestore

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// Errors of Open, Verify and Repair.

// LockedError means that somebody else has the store open. Holder says who, if they could
// write it down.
type LockedError struct {
	Dir    string
	Holder string
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("filestore: open %q: %v", e.Dir, &vfs.LockedError{Holder: e.Holder})
}

// CorruptionError means that a file is not what was written to it, in a place that was on
// disk before: no crash explains that. Nothing was changed. [Verify] lists all such places,
// [Repair] cuts the store there.
type CorruptionError struct {
	Path   string
	Offset int64 // in bytes; where the first thing stands that is wrong
	Reason string
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("filestore: %s is corrupt at byte %d: %s", e.Path, e.Offset, e.Reason)
}

// FormatError means that a file has a format version that this program does not know.
type FormatError struct {
	Path      string
	Found     uint32
	Supported uint32 // the newest that it knows
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("filestore: %s has format version %d, this program knows versions up to %d", e.Path, e.Found, e.Supported)
}

// Errors of Commit, and so of Append.

// ErrPoisoned means that a write or a sync has failed earlier: what the disk holds of it is
// not known, so nothing is written any more. What was acknowledged is there and can be
// read. Opening the store again finds out and goes on.
var ErrPoisoned = errors.New("filestore: an earlier write has failed; open the store again")

// ErrFull means that the disk has no room. Nothing was stored; reads go on, and so
// do appends once there is room.
var ErrFull = errors.New("filestore: disk full")

// TooLargeError means that the events of one commit take more bytes than a segment can have.
type TooLargeError struct {
	Size, Limit int64
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("filestore: the events of one append take %d bytes on disk, at most %d fit", e.Size, e.Limit)
}

// isFull reports whether an error says that the disk has no room, and nothing else is wrong: after a sync
// that has failed for want of room no room helps.
func (s *Store) isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) && s.poisoned.Load() == nil
}

// poison is the failure that ended all writing.
type poison struct {
	cause error
	time  time.Time
}

func (p *poison) err() error { return fmt.Errorf("%w (%w)", ErrPoisoned, p.cause) }

// unknown is what those are told whose events were in the failed write.
func (p *poison) unknown() error {
	return fmt.Errorf("%w: filestore: %w", engine.ErrOutcomeUnknown, p.cause)
}

func corrupt(path string, offset int64, format string, args ...any) *CorruptionError {
	return &CorruptionError{path, offset, fmt.Sprintf(format, args...)}
}
