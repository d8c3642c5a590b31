package filestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/weirstore/weir/actor"
	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// Store is the file backend: an [engine.Backend] over one directory, which it alone uses
// from Open to Close. It implements [engine.Retention] too.
type Store struct {
	dir  string
	fs   vfs.FS
	opts Options
	id   storeID // of an empty directory's store: drawn, unless it is set
	lock io.Closer

	// group has every goroutine of the store: the writer, the syncer, and while there is
	// need of them one that prepares a segment and one that writes index files.
	group *actor.Group

	types   *types
	streams *streams
	ids     ids
	tags    *tags
	// segments is replaced, never changed, under the token meta.
	segments  atomic.Pointer[[]*segment]
	head      atomic.Uint64 // the newest position that can be read; written by the writer
	durable   atomic.Uint64 // everything up to it is on disk; written under the token syncing
	tail      *tail
	cache     *cache
	handlers  *handlers
	snapshots *snapshots
	limit     int64 // of a commit's records in bytes

	pool     sync.Pool     // of *commit
	commits  queue         // to the writer
	gone     chan struct{} // closed when the writer has returned
	unsynced chan struct{} // cap 1: something was written and not synced

	// syncing and meta are locks that are held across system calls: channels of one token, so
	// that testing/synctest and contexts know of the waiting. Order: compacting, meta, syncing; naming is the last.
	syncing    chan struct{} // to sync the log: one failure must reach everybody
	meta       chan struct{} // to change the list of segments, in the manifest and here
	compacting chan struct{} // to compact, or to copy segments that must stay
	naming     chan struct{} // to sync the directory: one failure must reach everybody
	unnamed    atomic.Bool   // that has failed; written under the token naming

	groups   atomic.Uint64 // writes of the log
	poisoned atomic.Pointer[poison]
	closed   atomic.Bool
	closeOne sync.Once
	closeErr error
	w        *writer
	recovery Recovery
}

var (
	_ engine.Backend      = (*Store)(nil)
	_ engine.Retention    = (*Store)(nil)
	_ engine.Snapshotting = (*Store)(nil)
)

// Open opens the store in a directory, which it makes if there is none. It returns a
// [*LockedError] if somebody has it open, a [*CorruptionError] if it is damaged in a way that no
// crash explains, and a [*FormatError] if a newer program has written it. What a crash has left behind
// is put in order: [Store.Recovery] says what was done.
func Open(dir string, opts Options) (*Store, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	fs, err := vfs.OpenDir(dir)
	if err != nil {
		return nil, fmt.Errorf("filestore: open %q: %w", dir, err)
	}
	return newStore(fs, dir, opts).open()
}

func newStore(fs vfs.FS, dir string, opts Options) *Store {
	s := &Store{
		dir:        dir,
		fs:         fs,
		opts:       opts,
		group:      actor.NewGroup(),
		types:      newTypes(),
		streams:    newStreams(),
		tail:       newTail(opts.TailEvents, opts.TailBytes),
		cache:      newCache(opts.CacheBytes),
		commits:    queue{writer: actor.NewSignal()},
		gone:       make(chan struct{}),
		unsynced:   make(chan struct{}, 1),
		syncing:    make(chan struct{}, 1),
		meta:       make(chan struct{}, 1),
		compacting: make(chan struct{}, 1),
		naming:     make(chan struct{}, 1),
		limit:      maxSegment - segmentHeader,
		tags:       newTags(),
		snapshots:  newSnapshots(),
	}
	s.segments.Store(new([]*segment))
	return s
}

// open makes the store ready. Its directory is closed if there is an error.
func (s *Store) open() (_ *Store, err error) {
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	if err := s.recover(); err != nil {
		return nil, err
	}
	s.w = newWriter(s)
	s.group.Go("filestore writer", "", s.w.run)
	s.group.Go("filestore syncer", "", s.runSyncer)
	return s, nil
}

// release lets go of files, the lock and the directory.
func (s *Store) release() error {
	var errs []error
	for _, seg := range *s.segments.Load() {
		errs = append(errs, seg.file.Close())
	}
	if f := s.snapshots.file; f != nil {
		f.Close() // nothing in it is owed to anybody
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(append(errs, s.fs.Close())...)
}

// Dir returns the directory that the store was opened with.
func (s *Store) Dir() string { return s.dir }

// Caps implements [engine.Backend].
func (s *Store) Caps() engine.Caps {
	return engine.Caps{Name: "file", Durable: true, Reopen: true, Encoded: true}
}

// TypeID implements [engine.Backend].
func (s *Store) TypeID(name string) (engine.TypeID, error) {
	if err := s.check(); err != nil {
		return 0, err
	}
	return s.types.id(name)
}

// Head implements [engine.Backend].
func (s *Store) Head() engine.Position { return engine.Position(s.head.Load()) }

// Durable returns the position up to which everything is on disk.
func (s *Store) Durable() engine.Position { return engine.Position(s.durable.Load()) }

// Watch implements [engine.Backend]: nobody else writes to the store.
func (s *Store) Watch(func()) {}

func (s *Store) check() error {
	if s.closed.Load() {
		return engine.ErrClosed
	}
	return nil
}

// Close implements [engine.Backend]. It waits for commits under way, syncs the log (fdatasync),
// writes its end into the manifest (fsync of file and directory), by which the next Open knows
// that nothing is missing, and lets go of the lock.
func (s *Store) Close() error {
	s.closeOne.Do(func() {
		s.closed.Store(true)
		s.commits.end()
		<-s.gone
		s.closeErr = s.finish()
		if err := s.group.Wait(context.Background()); err != nil {
			s.closeErr = errors.Join(s.closeErr, err)
		}
		if err := s.release(); err != nil && s.closeErr == nil {
			s.closeErr = fmt.Errorf("filestore: close: %w", err)
		}
	})
	return s.closeErr
}

// take takes a token, or gives up with ctx.
func take(ctx context.Context, token chan struct{}) error {
	select {
	case token <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
