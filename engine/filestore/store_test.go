package filestore_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// small makes segments that are full after a few hundred events.
var small = filestore.Options{SegmentSize: 64 << 10, Logger: quiet}

func mustOpen(t testing.TB, dir string, opts filestore.Options) *filestore.Store {
	t.Helper()
	s, err := filestore.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// grow commits n times at random.
func (m *model) grow(n int) {
	m.Helper()
	for range n {
		if err := m.commit(m.Context()); err != nil {
			m.Fatal(err)
		}
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, small)
	for _, try := range []func() error{
		func() error { _, err := filestore.Open(dir, small); return err },
		func() error { _, err := filestore.Verify(dir); return err },
		func() error { _, err := filestore.Repair(dir); return err },
	} {
		locked, ok := errors.AsType[*filestore.LockedError](try())
		if !ok || !strings.Contains(locked.Error(), "process ") || locked.Dir != dir {
			t.Errorf("a second opening: %v", locked)
		}
	}
	// Every opening lets go of the lock (raft-wal v0.4.0 did not).
	for range 20 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, dir, small)
	}
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	for _, tc := range []struct {
		opts filestore.Options
		want string
	}{
		{filestore.Options{SegmentSize: 1000}, "Options.SegmentSize is 1000 bytes, want 65536 to 1073741824"},
		{filestore.Options{SegmentSize: 2 << 30}, "Options.SegmentSize is 2147483648 bytes"},
		{filestore.Options{SyncEvery: -1}, "Options.SyncEvery is -1"},
		{filestore.Options{TailEvents: -1}, "Options.TailEvents is -1"},
		{filestore.Options{TailBytes: -1}, "Options.TailBytes is -1"},
		{filestore.Options{CacheBytes: -1}, "Options.CacheBytes is -1"},
	} {
		if _, err := filestore.Open(t.TempDir(), tc.opts); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.opts, err, tc.want)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := filestore.Open(file, small); err == nil {
		t.Error("a file was opened as a directory")
	}
	if _, err := filestore.Verify(filepath.Join(t.TempDir(), "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Verify of nothing: %v", err)
	}
	if _, err := filestore.Verify(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Verify of an empty directory: %v", err)
	}
}

func TestCommitOfWhatCannotBeStored(t *testing.T) {
	s := mustOpen(t, t.TempDir(), small)
	m := newModel(t, s, 1)
	m.grow(3)
	typ, _ := s.TypeID("A")
	payload := func(n int) *engine.Payload {
		return &engine.Payload{Encoding: "json", Schema: 1, Bytes: make([]byte, n)}
	}
	write := func(data any) *engine.Write {
		return &engine.Write{Stream: &engine.StreamState{Name: "x-1"}, Events: []engine.Record{{Type: "A", TypeID: typ, Data: data}}}
	}
	for name, w := range map[string]*engine.Write{
		"a Go value":          write("text"),
		"no payload":          write((*engine.Payload)(nil)),
		"an endless encoding": write(&engine.Payload{Encoding: strings.Repeat("x", 256)}),
		"volatile":            {Stream: &engine.StreamState{Name: "x-1"}, Durability: engine.Volatile, Events: write(payload(1)).Events},
		"no events":           {Stream: &engine.StreamState{Name: "x-1"}},
		"an endless name":     {Stream: &engine.StreamState{Name: strings.Repeat("x", 1025)}, Events: write(payload(1)).Events},
		"an endless event ID": {Stream: &engine.StreamState{Name: "x-1"}, Events: []engine.Record{{Type: "A", TypeID: typ, ID: strings.Repeat("x", 1025), Data: payload(1)}}},
	} {
		err := s.Commit(t.Context(), []*engine.Write{w})
		if err == nil {
			t.Errorf("%s: stored", name)
		}
	}
	// What is larger than a segment gets one that is large enough.
	if err := s.Commit(t.Context(), []*engine.Write{write(payload(300 << 10))}); err != nil {
		t.Fatal(err)
	}
	state, _ := s.Load(t.Context(), "x-1")
	var ev [1]engine.Event
	if n, _, err := s.ReadStream(t.Context(), state, engine.StreamQuery{From: 1, To: 1}, ev[:]); n != 1 || err != nil || len(ev[0].Data.(*engine.Payload).Bytes) != 300<<10 {
		t.Fatalf("read of a large event: %d, %v", n, err)
	}
}

// TestDurability commits with what each append asks for, and looks at what is on disk.
func TestDurability(t *testing.T) {
	opts := small
	opts.SyncEvery = time.Hour
	dir := t.TempDir()
	s := mustOpen(t, dir, opts)
	typ, _ := s.TypeID("A")
	state := engine.StreamState{Name: "a-1"}
	put := func(d engine.Durability) engine.Durability {
		w := &engine.Write{Stream: &state, After: state.Version, Durability: d, Events: []engine.Record{{Type: "A", TypeID: typ, Data: &engine.Payload{Encoding: "json", Bytes: []byte("1")}}}}
		if err := s.Commit(t.Context(), []*engine.Write{w}); err != nil {
			t.Fatal(err)
		}
		state.Version++
		return w.Durability
	}
	if d := put(engine.Written); d != engine.Written || s.Durable() != 0 || s.Head() != 1 {
		t.Errorf("Written: %v, durable up to %d of %d", d, s.Durable(), s.Head())
	}
	if d := put(0); d != engine.Synced || s.Durable() != 2 {
		t.Errorf("the default: %v, durable up to %d of %d", d, s.Durable(), s.Head())
	}
	put(engine.Written)
	if err := s.SaveCheckpoints(t.Context(), []engine.Checkpoint{{Handler: "h", Position: 3}}); err != nil {
		t.Fatal(err)
	}
	if s.Durable() != 3 {
		t.Errorf("a checkpoint was stored at 3, the log is durable up to %d: it must never be ahead", s.Durable())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	opts.SyncEvery = time.Millisecond
	s = mustOpen(t, dir, opts)
	put(engine.Written)
	for end := time.Now().Add(10 * time.Second); s.Durable() < 4; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what was only written was never synced")
		}
	}
}

func TestRetentionRules(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, small)
	m := newModel(t, s, 2)
	m.grow(300)
	old := s.Head()
	<-time.After(2 * time.Millisecond)
	moment := time.Now()
	<-time.After(2 * time.Millisecond)
	m.grow(300)
	size := dirSize(t, dir)
	c, err := s.Compact(t.Context(), []engine.RetentionRule{{Stream: "a-1", MaxCount: 3}, {Category: "b", MaxAge: time.Since(moment)}})
	if err != nil || c.Removed == 0 || c.Freed <= 0 {
		t.Fatalf("Compact: %+v, %v", c, err)
	}
	if now := dirSize(t, dir); now >= size {
		t.Errorf("the directory had %d bytes and has %d", size, now)
	}
	for name, st := range m.streams {
		switch {
		case name == "a-1":
			st.before = st.version - 2
		case name[0] == 'b':
			for i := range m.log[:old] {
				if f := &m.log[i]; f.stream == name {
					st.before = f.version + 1
				}
			}
		}
	}
	m.check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	m.reopened(mustOpen(t, dir, small))
	m.check()
	m.grow(20)
	m.check()
}

// TestCompactWhileBusy compacts under appends and reads.
func TestCompactWhileBusy(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, small)
	m := newModel(t, s, 3)
	m.grow(500)
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	for range 3 {
		reading.Go(func() {
			dst := make([]engine.Event, 50)
			for ctx.Err() == nil {
				last := engine.Position(0)
				for pos := engine.Position(1); pos <= s.Head(); {
					n, next, err := s.ReadAll(t.Context(), engine.Query{From: pos, To: s.Head()}, dst)
					if err != nil {
						t.Errorf("read at %d: %v", pos, err)
						return
					}
					for _, ev := range dst[:n] {
						if ev.Position <= last {
							t.Errorf("position %d after %d", ev.Position, last)
						}
						last = ev.Position
					}
					pos = next
				}
			}
		})
	}
	reading.Go(func() {
		for ctx.Err() == nil {
			if _, err := s.Compact(t.Context(), nil); err != nil {
				t.Errorf("Compact: %v", err)
			}
		}
	})
	for range 300 {
		m.grow(2)
		if err := m.truncate(ctx); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	reading.Wait()
	m.check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	m.reopened(mustOpen(t, dir, small))
	m.check()
}

func dirSize(t *testing.T, dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
	}
	return n
}

// TestBackup copies a store that is being written to, in both ways, and opens the copies.
func TestBackup(t *testing.T) {
	s := mustOpen(t, t.TempDir(), small)
	m := newModel(t, s, 4)
	m.grow(200)
	if err := m.truncate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Compact(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveCheckpoints(t.Context(), []engine.Checkpoint{{Handler: "h", Position: s.Head()}}); err != nil {
		t.Fatal(err)
	}
	quit := make(chan struct{})
	var busy sync.WaitGroup
	busy.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
				m.grow(1)
			}
		}
	})
	check := func(dir string, pos engine.Position) {
		t.Helper()
		v, err := filestore.Verify(dir)
		if err != nil || v.Err() != nil || v.Torn != nil || v.Head != pos {
			t.Fatalf("Verify of the copy: %+v, %v; its head must be %d", v, err, pos)
		}
		c := mustOpen(t, dir, small)
		if c.Head() != pos || !c.Recovery().Clean {
			t.Errorf("the copy is at %d, want %d; %+v", c.Head(), pos, c.Recovery())
		}
		if at, ok, err := c.LoadCheckpoint(t.Context(), "h"); !ok || err != nil || at > pos {
			t.Errorf("the copy's checkpoint is %d, %v, %v, its head %d", at, ok, err, pos)
		}
		n := newModel(t, c, 5)
		n.log, n.streams = m.log[:pos], make(map[string]*modelStream)
		for i := range n.log {
			f := &n.log[i]
			n.stream(f.stream).version = f.version
			n.stream(f.stream).before = m.streams[f.stream].before
		}
		n.check()
	}
	dir := t.TempDir()
	pos, err := s.Backup(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	second, err := s.WriteBackup(t.Context(), &archive)
	if err != nil {
		t.Fatal(err)
	}
	close(quit)
	busy.Wait()
	check(dir, pos)
	check(untar(t, &archive), second)
	if _, err := s.Backup(t.Context(), dir); err == nil {
		t.Error("a backup over another store: no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Backup(ctx, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled backup: %v", err)
	}
}

func untar(t *testing.T, r io.Reader) string {
	dir := t.TempDir()
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, h.Name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRepair damages a store, and repairs it: what stood before the damage is left, and what
// was cut is kept.
func TestRepair(t *testing.T) {
	segment := func(names []string, i int) string {
		var segs []string
		for _, n := range names {
			if strings.HasSuffix(n, ".seg") {
				segs = append(segs, n)
			}
		}
		return segs[(i+len(segs))%len(segs)]
	}
	flip := func(t *testing.T, path string, at int64) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[at] ^= 4
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const (
		kept = iota
		truncated
		compacted
	)
	for _, tc := range []struct {
		name    string
		damage  func(t *testing.T, dir string, names []string)
		all     bool // nothing of the log is lost
		removal int  // kept, truncated, or compacted too
	}{
		{"a bit in the first segment", func(t *testing.T, dir string, names []string) { flip(t, filepath.Join(dir, segment(names, 0)), 5000) }, false, kept},
		{"a bit in the first record", func(t *testing.T, dir string, names []string) { flip(t, filepath.Join(dir, segment(names, 0)), 70) }, false, kept},
		{"a bit in the last segment", func(t *testing.T, dir string, names []string) { flip(t, filepath.Join(dir, segment(names, -1)), 200) }, false, kept},
		{"a bit before what says what was removed", func(t *testing.T, dir string, names []string) { flip(t, filepath.Join(dir, segment(names, 1)), 5000) }, false, truncated},
		{"a bit in a compacted segment", func(t *testing.T, dir string, names []string) { flip(t, filepath.Join(dir, segment(names, 1)), 9000) }, false, compacted},
		{"a bit in the header of a compacted segment", func(t *testing.T, dir string, names []string) { flip(t, filepath.Join(dir, segment(names, 2)), 33) }, false, compacted},
		{"a compacted segment is missing", func(t *testing.T, dir string, names []string) { os.Remove(filepath.Join(dir, segment(names, 1))) }, false, compacted},
		{"what says what was removed is missing", func(t *testing.T, dir string, names []string) {
			for i := 1; ; i++ {
				name := segment(names, i)
				if name == segment(names, 0) {
					return
				}
				os.Remove(filepath.Join(dir, name))
			}
		}, false, compacted},
		{"a bit in a header", func(t *testing.T, dir string, names []string) { flip(t, filepath.Join(dir, segment(names, 2)), 20) }, false, kept},
		{"a segment is missing", func(t *testing.T, dir string, names []string) { os.Remove(filepath.Join(dir, segment(names, 1))) }, false, kept},
		{"the last segment is missing", func(t *testing.T, dir string, names []string) { os.Remove(filepath.Join(dir, segment(names, -1))) }, false, kept},
		{"the manifest is missing", func(t *testing.T, dir string, names []string) { os.Remove(filepath.Join(dir, "manifest")) }, true, kept},
		{"the manifest is damaged", func(t *testing.T, dir string, names []string) { flip(t, filepath.Join(dir, "manifest"), 50) }, true, kept},
		{"the handlers' file is damaged", func(t *testing.T, dir string, names []string) { flip(t, filepath.Join(dir, "handlers"), 45) }, true, kept},
		{"the handlers' file is missing", func(t *testing.T, dir string, names []string) { os.Remove(filepath.Join(dir, "handlers")) }, true, kept},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			s := mustOpen(t, dir, small)
			m := newModel(t, s, 6)
			m.grow(250)
			if tc.removal >= truncated {
				for range 10 {
					if err := m.truncate(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if err := m.delete(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if tc.removal == compacted {
				if _, err := s.Compact(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.SaveCheckpoints(t.Context(), []engine.Checkpoint{{Handler: "h", Position: s.Head()}}); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			tc.damage(t, dir, list(t, dir))
			v, err := filestore.Verify(dir)
			if err != nil || v.Err() == nil {
				t.Fatalf("Verify: %+v, %v", v, err)
			}
			if opened, err := filestore.Open(dir, small); err == nil {
				opened.Close() // the damage is in what its index covers
			} else {
				if _, ok := errors.AsType[*filestore.CorruptionError](err); !ok {
					t.Errorf("Open of a damaged store: %v", err)
				}
			}
			r, err := filestore.Repair(dir)
			if err != nil {
				t.Fatalf("Repair: %+v, %v", r, err)
			}
			if len(r.Damage) == 0 || tc.all && r.Head != engine.Position(len(m.log)) || !tc.all && r.Head >= engine.Position(len(m.log)) {
				t.Errorf("Repair: %+v of %d events", r, len(m.log))
			}
			s, err = filestore.Open(dir, small)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if s.Head() != r.Head {
				t.Errorf("repaired, the store is at %d, Repair says %d", s.Head(), r.Head)
			}
			if at, ok, err := s.LoadCheckpoint(t.Context(), "h"); err != nil || ok == r.Handlers || at > s.Head() {
				t.Errorf("the checkpoint is %d, %v, %v; %+v", at, ok, err, r)
			}
			n := newModel(t, s, 7)
			n.log = m.log[:s.Head()]
			for i := range n.log {
				n.stream(n.log[i].stream).version = n.log[i].version
			}
			for name, st := range m.streams { // what was removed stays so, and no version is given twice
				if kept := n.stream(name); st.deleted {
					kept.version, kept.deleted = st.version, true
				} else if st.before > 0 {
					kept.version, kept.before = max(kept.version, st.before-1), st.before
				}
			}
			if tc.name == "what says what was removed is missing" {
				n.believe(s)
			}
			n.reopened(s)
			n.check()
			n.grow(20)
			n.check()
			again, err := filestore.Open(dir, small)
			if err == nil {
				again.Close()
				t.Fatal("opened twice")
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if r, err := filestore.Repair(dir); err != nil || len(r.Damage) > 0 {
				t.Errorf("Repair of what is right: %+v, %v", r, err)
			}
		})
	}
}

// believe makes the model forget what was removed, but for what cannot be there any more.
func (m *model) believe(s *filestore.Store) {
	m.Helper()
	for name, st := range m.streams {
		st.deleted, st.before, st.version = false, 0, 0
		for i := range m.log {
			if f := &m.log[i]; f.stream == name {
				st.version = f.version
			}
		}
		state, err := s.Load(m.Context(), name)
		if err != nil {
			m.Fatal(err)
		}
		var first [1]engine.Event
		n, _, err := s.ReadStream(m.Context(), state, engine.StreamQuery{From: 1, To: maxVersion}, first[:])
		switch {
		case err != nil:
			m.Fatal(err)
		case n == 1:
			st.before = first[0].Version
		default:
			// Nothing is known of it any more: its versions begin anew.
			st.before, st.version = 1, state.Version
			for i := range m.log {
				if f := &m.log[i]; f.stream == name {
					f.version = 0
				}
			}
		}
	}
}

const maxVersion = ^engine.Version(0)

func list(t *testing.T, dir string) (names []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}
