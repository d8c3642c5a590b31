package filestore

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// Backup copies the store as it is at one moment into another directory, which must be
// empty or not there, while appends go on; the copy is synced (fsync of files and directory). To
// restore, open the copy. It returns the position of its newest event. Compaction waits meanwhile.
func (s *Store) Backup(ctx context.Context, dir string) (engine.Position, error) {
	fs, err := vfs.OpenDir(dir)
	if err != nil {
		return 0, fmt.Errorf("filestore: backup: %w", err)
	}
	defer fs.Close()
	pos, err := s.backup(ctx, fs)
	if err != nil {
		return 0, fmt.Errorf("filestore: backup to %q: %w", dir, err)
	}
	return pos, nil
}

func (s *Store) backup(ctx context.Context, to vfs.FS) (engine.Position, error) {
	names, err := to.List()
	if err != nil {
		return 0, err
	}
	if len(names) > 0 {
		return 0, fmt.Errorf("the directory is not empty: there is %s", names[0])
	}
	pos, err := s.copyTo(ctx, func(name string, size int64, content io.Reader) (err error) {
		f, err := to.Create(name)
		if err != nil {
			return err
		}
		defer func() {
			if closeErr := f.Close(); err == nil {
				err = closeErr
			}
		}()
		if _, err := io.Copy(io.NewOffsetWriter(f, 0), content); err != nil {
			return err
		}
		return f.Sync()
	})
	if err != nil {
		return 0, err
	}
	return pos, to.SyncDir()
}

// WriteBackup writes the same as a tar archive: unpacked, it is a directory to be opened.
func (s *Store) WriteBackup(ctx context.Context, w io.Writer) (engine.Position, error) {
	archive := tar.NewWriter(w)
	pos, err := s.copyTo(ctx, func(name string, size int64, content io.Reader) error {
		h := &tar.Header{Name: name, Size: size, Mode: 0o600, ModTime: time.Now()}
		if err := archive.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(archive, content)
		return err
	})
	if err == nil {
		err = archive.Close()
	}
	if err != nil {
		return 0, fmt.Errorf("filestore: backup: %w", err)
	}
	return pos, nil
}

// copyTo gives every file of the store, as it is at one moment, to put.
func (s *Store) copyTo(ctx context.Context, put func(name string, size int64, content io.Reader) error) (engine.Position, error) {
	if err := s.check(); err != nil {
		return 0, err
	}
	// Segments must stay until they are copied.
	if err := take(ctx, s.compacting); err != nil {
		return 0, err
	}
	defer func() { <-s.compacting }()
	if err := s.check(); err != nil {
		return 0, err
	}
	// The handlers' state first: it must not be ahead of the log.
	handlers, err := s.handlers.snapshot(false).encode(s.id, 0)
	if err != nil {
		return 0, err
	}
	var end logEnd
	var segs []*segment
	err = s.call(ctx, func(w *writer) error {
		if err := s.syncWritten(); err != nil {
			return err
		}
		end = logEnd{s.Head(), w.active.end.Load()}
		segs = *s.segments.Load()
		return nil
	})
	if err != nil {
		return 0, err
	}
	for i, seg := range segs {
		size := seg.size
		if i == len(segs)-1 {
			size = end.Offset // what follows is zeros, or came later
		}
		content := io.Reader(io.NewSectionReader(contextReader{ctx, seg.file}, 0, size))
		content = io.MultiReader(content, io.LimitReader(zeroReader{}, seg.size-size))
		if err := put(seg.name(), seg.size, content); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
	}
	m := manifest{Clean: &end}
	for _, seg := range segs {
		m.Segments = append(m.Segments, manifestSegment{seg.base, seg.generation})
	}
	b, err := encodeSmall(manifestMagic, s.id, m)
	if err != nil {
		return 0, err
	}
	for _, file := range []struct {
		name    string
		content []byte
	}{{handlersName, handlers}, {manifestName, b}} { // the manifest last: before it, this is no store
		if err := put(file.name, int64(len(file.content)), bytes.NewReader(file.content)); err != nil {
			return 0, err
		}
	}
	return end.Position, nil
}

// contextReader reads until its context is done.
type contextReader struct {
	ctx  context.Context
	file io.ReaderAt
}

func (r contextReader) ReadAt(b []byte, off int64) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.file.ReadAt(b, off)
}

// zeroReader reads zeros for ever.
type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
