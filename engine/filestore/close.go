package filestore

import (
	"fmt"

	"github.com/weirstore/weir/engine"
)

// finish writes what the next opening wants to find. The writer has returned. A compaction
// or backup under way is waited for: nothing may be written once the lock is let go of.
func (s *Store) finish() error {
	s.compacting <- struct{}{}
	defer func() { <-s.compacting }()
	defer s.dropSpare()
	s.snapshots.using <- struct{}{} // whoever saves a snapshot is done, and nobody begins
	defer func() { <-s.snapshots.using }()
	if p := s.poisoned.Load(); p != nil {
		s.handlers.writing <- struct{}{} // whoever saves checkpoints is done
		<-s.handlers.writing
		return p.err() // what is on disk is for recovery to find out
	}
	if err := s.syncWritten(); err != nil {
		return err
	}
	w := s.w
	s.footer()
	s.handlers.writing <- struct{}{}
	err := s.writeHandlers()
	<-s.handlers.writing
	if err != nil {
		return fmt.Errorf("filestore: close: %w", err)
	}
	if err := s.indexActive(w.active); err != nil {
		s.opts.Logger.Warn("weir: index not written; the next opening builds it", "segment", w.active.path, "err", err)
	}
	if p := s.poisoned.Load(); p != nil {
		return p.err()
	}
	s.meta <- struct{}{}
	defer func() { <-s.meta }()
	if err := s.writeManifest(*s.segments.Load(), &logEnd{s.Head(), w.active.end.Load()}); err != nil {
		return fmt.Errorf("filestore: close: %w", err)
	}
	return nil
}

// footer writes and syncs a record that says that the log ends here, and so vouches for
// those before it, should the manifest be lost. Where there is no room it is left out.
func (s *Store) footer() {
	w := s.w
	b := controlRecord(kindClose, "", engine.Version(0))
	at := w.active.end.Load()
	if at+int64(len(b)) > w.active.size {
		return
	}
	seal(b, s.Head(), w.now, 0, w.active.sum)
	if _, err := w.active.file.WriteAt(b, at); err != nil {
		s.fail(fmt.Errorf("write %s at byte %d: %w", w.active.path, at, err))
		return
	}
	if s.syncLog(w.active, s.Head(), at+int64(len(b))) == nil {
		w.active.addControl(len(b))
	}
}

// dropSpare removes the file that was to be the next segment.
func (s *Store) dropSpare() {
	if s.w.wanted {
		if sp := <-s.w.prepared; sp.err == nil {
			sp.file.Close()
			s.fs.Remove(spareName) // or the next opening does
		}
	}
}
