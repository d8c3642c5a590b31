package filestore

import (
	"context"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// Groups returns how many writes of the log there were.
func Groups(s *Store) int { return int(s.groups.Load()) }

// OpenFS opens a store in a directory of any kind, with segments as small as is asked for.
func OpenFS(fs vfs.FS, opts Options) (*Store, error) {
	size := opts.SegmentSize
	opts.SegmentSize = 0
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	opts.SegmentSize = size
	return open(fs, "disk", opts)
}

// VerifyFS is Verify in a directory of any kind.
func VerifyFS(fs vfs.FS) (*Verification, error) { return verify(fs, "disk") }

// RepairFS is Repair in a directory of any kind.
func RepairFS(fs vfs.FS) (*Repaired, error) { return repair(fs, "disk") }

// BackupFS is Store.Backup into a directory of any kind.
func BackupFS(ctx context.Context, s *Store, to vfs.FS) (engine.Position, error) {
	return s.backup(ctx, to)
}

// LimitBatch sets how many bytes the events of one commit may take, before there are any.
func LimitBatch(s *Store, bytes int64) { s.maxBatch = bytes }
