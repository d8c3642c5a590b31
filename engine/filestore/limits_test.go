package filestore_test

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// TestTooLarge lowers the limit of a commit, which is a GiB, to a size that a test can
// exceed: by one payload, by one record, and by records that fit one by one. Nothing is stored, and the next
// append works.
func TestTooLarge(t *testing.T) {
	const limit = 4 << 10
	disk := crashfs.New()
	s := onDisk(t, disk)
	defer func() { s.Close() }()
	filestore.SetLimit(s, limit)
	m := newModel(t, s, 1)
	put := func(name string, events, bytes int) error {
		st := &m.stream(name).state
		w := &engine.Write{Stream: st, After: st.Version}
		for i := range events {
			f := fact{stream: name, version: st.Version + 1 + engine.Version(i), typ: "A", id: strings.Repeat("i", i), data: make([]byte, bytes)}
			w.Events = append(w.Events, f.record(s, "bytes"))
		}
		return s.Commit(t.Context(), []*engine.Write{w})
	}
	before := disk.Len()
	for name, try := range map[string][2]int{
		"one payload":  {1, limit + 1},
		"one record":   {1, limit - 44}, // the payload fits, its header and names beside it do not
		"many records": {5, limit / 5},
	} {
		err := put("a-1", try[0], try[1])
		large, ok := errors.AsType[*filestore.TooLargeError](err)
		if !ok || large.Limit != limit || large.Size <= limit || large.Size > 2*limit {
			t.Errorf("%s: %v, want one that names %d", name, err, limit)
		}
	}
	if st, err := s.Load(t.Context(), "a-1"); err != nil || st.Version != 0 || s.Head() != 0 || disk.Len() != before {
		t.Errorf("the stream is at version %d, %v, the head at %d, after %d operations: something was stored", st.Version, err, s.Head(), disk.Len()-before)
	}
	if err := put("a-1", 1, limit-44-len("a-1")-len("A")); err != nil {
		t.Errorf("a record as long as the limit: %v", err)
	}
	m.log = append(m.log, fact{stream: "a-1", version: 1, typ: "A", data: make([]byte, limit-44-4)})
	m.stream("a-1").version, m.stream("a-1").state.Version = 1, 1
	m.grow(5)
	m.check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	disk.Reopen()
	s = onDisk(t, disk)
	m.reopened(s)
	m.check()
}

// TestReadFails lets each read of the disk fail, one after the other: its reader gets the
// error of the disk, and nobody else any; what is stored stays, and can be read and added to.
func TestReadFails(t *testing.T) {
	disk := crashfs.New()
	opts := tiny
	opts.CacheBytes = 1
	open := func() *filestore.Store {
		s, err := filestore.OpenFS(disk, opts)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	m := newModel(t, open(), 1)
	m.grow(20)
	for range 5 {
		if err := m.truncate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.s.Close(); err != nil { // what is in memory then is the index alone: reads go to the disk
		t.Fatal(err)
	}
	disk.Reopen()
	s := open()
	defer func() { s.Close() }()
	m.reopened(s)
	failed := 0
	fails := func(what string, do func() error) {
		t.Helper()
		if err := do(); err != nil {
			t.Fatalf("%s, with nothing that fails: %v", what, err)
		}
		disk.FailRead(func(op crashfs.Op) error { return syscall.EIO })
		err := do()
		disk.FailRead(nil)
		switch _, corrupt := errors.AsType[*filestore.CorruptionError](err); {
		case err == nil:
			return // from memory
		case !errors.Is(err, syscall.EIO), errors.Is(err, filestore.ErrPoisoned), corrupt:
			t.Errorf("%s: %v, want the error of the disk", what, err)
		}
		failed++
		if err := do(); err != nil {
			t.Errorf("%s, once more: %v", what, err)
		}
	}
	dst := make([]engine.Event, 3)
	for pos := engine.Position(1); pos <= s.Head(); pos++ {
		fails("ReadAll", func() error {
			_, _, err := s.ReadAll(t.Context(), engine.Query{From: pos, To: s.Head()}, dst)
			return err
		})
		fails("ReadAll backward", func() error {
			_, _, err := s.ReadAll(t.Context(), engine.Query{From: pos, To: 1, Backward: true}, dst[:1])
			return err
		})
	}
	for name, st := range m.streams {
		fails("ReadStream", func() error {
			_, _, err := s.ReadStream(t.Context(), st.state, engine.StreamQuery{From: 1, To: st.version}, dst)
			return err
		})
		ids := make([]string, 0, st.version)
		for i := range m.log {
			if f := &m.log[i]; f.stream == name && f.id != "" {
				ids = append(ids, f.id)
			}
		}
		fails("Find", func() error { return s.Find(t.Context(), st.state, ids, make([]engine.Version, len(ids))) })
	}
	fails("Backup", func() error { _, err := s.WriteBackup(t.Context(), new(bytes.Buffer)); return err })
	if failed < 50 {
		t.Errorf("%d reads failed: most of them should go to the disk", failed)
	}
	// While reads fail, appends do not; compaction, which reads, fails and can be done later.
	disk.FailRead(func(op crashfs.Op) error {
		if op.Kind == crashfs.ReadAt {
			return syscall.EIO
		}
		return nil
	})
	m.grow(20)
	if _, err := s.Compact(t.Context(), nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("Compact: %v, want the error of the disk", err)
	}
	disk.FailRead(nil)
	m.check()
	if _, err := s.Compact(t.Context(), nil); err != nil {
		t.Error(err)
	}
	m.check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// An opening that cannot read is no opening, and harms nothing: the next one finds everything.
	for n := 0; ; n++ {
		copied := disk.Clone()
		left := n
		copied.FailRead(func(op crashfs.Op) error {
			if left--; left == -1 {
				return syscall.EIO
			}
			return nil
		})
		s, err := filestore.OpenFS(copied, opts)
		reached := left < 0
		copied.FailRead(nil)
		if err == nil {
			m.reopened(s)
			m.check() // an index that could not be read is built anew
			s.Close()
		} else if _, corrupt := errors.AsType[*filestore.CorruptionError](err); corrupt || !errors.Is(err, syscall.EIO) {
			t.Errorf("Open, whose read %d fails: %v, want the error of the disk", n, err)
		}
		copied.Reopen()
		s, err = filestore.OpenFS(copied, opts)
		if err != nil {
			t.Fatalf("Open after one whose read %d failed: %v", n, err)
		}
		m.reopened(s)
		m.check()
		s.Close()
		if !reached {
			t.Logf("%d reads failed one by one, and %d openings", failed, n)
			break
		}
	}
}

// TestFull fills the disk: appends find it full and say so, what was acknowledged stays, and
// once there is room the same store goes on. Wherever the room ends in what makes a segment, and, where a
// file system has no room for an overwrite, in the middle of records.
func TestFull(t *testing.T) {
	full := 0
	for room := int64(0); room < 20<<10; room += 1013 {
		disk := crashfs.New()
		s := onDisk(t, disk)
		m := newModel(t, s, 5)
		m.grow(10)
		used := int64(size(disk))
		disk.Capacity(used + room)
		var err error
		for i := 0; i < 60 && err == nil; i++ {
			err = m.commit(t.Context())
		}
		if !errors.Is(err, filestore.ErrFull) || !errors.Is(err, syscall.ENOSPC) || errors.Is(err, engine.ErrOutcomeUnknown) {
			t.Fatalf("with %d bytes left: %v, want ErrFull", room, err)
		}
		full++
		refuse := true
		m.check()
		disk.Fail(func(op crashfs.Op) error {
			if op.Kind == crashfs.WriteAt {
				refuse = !refuse
			}
			if op.Kind == crashfs.WriteAt && !refuse { // every other one: the next erases
				return syscall.ENOSPC
			}
			return nil
		})
		for range 3 { // it stays full, and no worse than that
			if err := m.commit(t.Context()); err != nil && !errors.Is(err, filestore.ErrFull) {
				t.Fatalf("still full: %v", err)
			}
		}
		if err := s.SaveCheckpoints(t.Context(), []engine.Checkpoint{{Handler: "h", Position: 1}}); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("a checkpoint on a full disk: %v", err)
		}
		disk.Fail(nil)
		disk.Capacity(-1)
		m.grow(40)
		if err := s.SaveCheckpoints(t.Context(), []engine.Checkpoint{{Handler: "h", Position: 2}}); err != nil {
			t.Fatalf("a checkpoint once there is room: %v", err)
		}
		m.check()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		disk.Reopen()
		s = onDisk(t, disk)
		m.reopened(s)
		m.check()
		if at, ok, err := s.LoadCheckpoint(t.Context(), "h"); !ok || err != nil || at != 2 {
			t.Errorf("the checkpoint is %d, %v, %v", at, ok, err)
		}
		s.Close()
	}
	t.Logf("full %d times", full)
}
