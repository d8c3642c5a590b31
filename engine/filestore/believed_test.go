package filestore_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// The tests of this file are about what is believed: files that are old, foreign, or that lack
// something, each with checksums that are right.

// TestLogEndsBeforeTheHandlersFile takes the last batch away without a trace, from a store
// that was not closed. The handlers' file knows that it was there.
func TestLogEndsBeforeTheHandlersFile(t *testing.T) {
	p := newPlain(t, 1, "a-1")
	p.mustPut(engine.Synced, "first")
	end := len(bytes.TrimRight(p.disk.Content(firstSegment), "\x00"))
	p.mustPut(engine.Synced, "second")
	if err := p.s.SaveCheckpoints(t.Context(), []engine.Checkpoint{{Handler: "h", Position: 1}}); err != nil {
		t.Fatal(err)
	}
	disk := p.disk.Clone()
	b := disk.Content(firstSegment)
	clear(b[end:])
	disk.Put(firstSegment, b)
	s, err := filestore.OpenFS(disk, tiny)
	if err == nil {
		s.Close()
	}
	if !corruption(err) {
		t.Errorf("%v, want a CorruptionError", err)
	}
}

// TestStaleManifest puts an older manifest in the place of the newest, which names segments
// that the older does not: it is refused, and they stay.
func TestStaleManifest(t *testing.T) {
	p := newPlain(t, 1, "a-1")
	old := p.disk.Content("manifest")
	for i := range 60 {
		p.mustPut(engine.Synced, fmt.Sprintf("%0400d", i))
	}
	if err := p.s.Close(); err != nil {
		t.Fatal(err)
	}
	disk := p.disk.Clone()
	disk.Put("manifest", old)
	before := disk.Files()
	s, err := filestore.OpenFS(disk, tiny)
	if err == nil {
		s.Close()
	}
	if !corruption(err) || !slices.Equal(disk.Files(), before) {
		t.Errorf("%v; there are %q, and were %q", err, disk.Files(), before)
	}
}

// closedStore is a store of a few segments, at rest.
func closedStore(t *testing.T, id byte, stream, filler string) *crashfs.Disk {
	p := newPlain(t, id, stream)
	for i := range 60 {
		p.mustPut(engine.Synced, fmt.Sprint(i, strings.Repeat(filler, 400)))
	}
	if err := p.s.SaveCheckpoints(t.Context(), []engine.Checkpoint{{Handler: stream, Position: 7}}); err != nil {
		t.Fatal(err)
	}
	if err := p.s.Close(); err != nil {
		t.Fatal(err)
	}
	p.disk.Reopen()
	return p.disk.Clone()
}

// TestForeignFiles puts the files of another store in the place of those of the same name,
// one by one: lengths and positions are the same. All but an index are refused; that is built anew.
func TestForeignFiles(t *testing.T) {
	ours, other := closedStore(t, 1, "a-1", "x"), closedStore(t, 2, "b-2", "y")
	if !slices.Equal(ours.Files(), other.Files()) || len(ours.Files()) < 6 {
		t.Fatalf("%q and %q", ours.Files(), other.Files())
	}
	for _, name := range ours.Files() {
		if name == "lock" {
			continue
		}
		disk := ours.Clone()
		disk.Put(name, other.Content(name))
		s, err := filestore.OpenFS(disk, tiny)
		if !strings.HasSuffix(name, ".idx") {
			if err == nil {
				s.Close()
			}
			if !corruption(err) {
				t.Errorf("%s: %v, want a CorruptionError", name, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n := s.Recovery().Indexes; n != 1 {
			t.Errorf("%s: %d indexes built anew", name, n)
		}
		if st, err := s.Load(t.Context(), "a-1"); err != nil || st.Version != 60 {
			t.Errorf("%s: a-1 is at version %d, %v", name, st.Version, err)
		}
		s.Close()
	}
}

// TestRecordsOfAnotherSegment puts the records of another store behind the header of our
// segment, as a disk does that takes one block for another. Lengths, positions and versions are right; the checksums,
// which begin with that of the store and the segment, are not.
func TestRecordsOfAnotherSegment(t *testing.T) {
	ours, other := closedStore(t, 1, "a-1", "x"), closedStore(t, 2, "a-1", "y")
	for _, name := range ours.Files() {
		if !strings.HasSuffix(name, ".seg") {
			continue
		}
		disk := withoutIndexes(ours.Clone())
		disk.Put(name, slices.Concat(ours.Content(name)[:64], other.Content(name)[64:]))
		s, err := filestore.OpenFS(disk, tiny)
		if err == nil {
			s.Close()
		}
		if !corruption(err) {
			t.Errorf("%s: %v, want a CorruptionError", name, err)
		}
	}
}

// TestEveryReadChecks flips a bit in a segment whose index is good, so that opening does not
// read it. Whichever way the event is read, its checksum is looked at.
func TestEveryReadChecks(t *testing.T) {
	p := newPlain(t, 1, "a-1")
	for i := range 60 {
		f := fact{stream: "a-1", version: engine.Version(i + 1), typ: "A", id: fmt.Sprint("id-", i+1), data: bytes.Repeat([]byte{'x'}, 400)}
		if err := p.s.Commit(t.Context(), []*engine.Write{{Stream: &p.state, After: engine.Version(i), Events: []engine.Record{f.record(p.s, "text")}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.s.Close(); err != nil {
		t.Fatal(err)
	}
	p.disk.Reopen()
	const third = 3
	ctx := t.Context()
	for name, read := range map[string]func(s *filestore.Store, st engine.StreamState, dst []engine.Event) (int, error){
		"ReadAll": func(s *filestore.Store, st engine.StreamState, dst []engine.Event) (int, error) {
			n, _, err := s.ReadAll(ctx, engine.Query{From: third, To: third}, dst)
			return n, err
		},
		"ReadAll backward": func(s *filestore.Store, st engine.StreamState, dst []engine.Event) (int, error) {
			n, _, err := s.ReadAll(ctx, engine.Query{From: third, To: third, Backward: true}, dst)
			return n, err
		},
		"ReadStream": func(s *filestore.Store, st engine.StreamState, dst []engine.Event) (int, error) {
			n, _, err := s.ReadStream(ctx, st, engine.StreamQuery{From: third, To: third}, dst)
			return n, err
		},
		"Find": func(s *filestore.Store, st engine.StreamState, dst []engine.Event) (int, error) {
			found := make([]engine.Version, 1)
			err := s.Find(ctx, st, []string{fmt.Sprint("id-", third)}, found)
			return int(found[0]), err
		},
	} {
		for _, damaged := range []bool{false, true} {
			disk := p.disk.Clone()
			if damaged {
				disk.FlipBit(firstSegment, 8*(64+(third-1)*(44+4+2+4+400)+200))
			}
			s, err := filestore.OpenFS(disk, tiny)
			if err != nil {
				t.Fatal(err)
			}
			st, err := s.Load(ctx, "a-1")
			if err != nil {
				t.Fatal(err)
			}
			n, err := read(s, st, make([]engine.Event, 1))
			if !damaged && (n == 0 || err != nil) || damaged && !corruption(err) {
				t.Errorf("%s, damaged %v: %d, %v", name, damaged, n, err)
			}
			s.Close()
		}
	}
}

// TestMissingVersionsNeedAReason takes away, without a trace, the record that says why a
// compacted segment lacks a stream's first versions.
func TestMissingVersionsNeedAReason(t *testing.T) {
	p := newPlain(t, 1, "a-1")
	for i := range 30 {
		p.mustPut(engine.Synced, fmt.Sprintf("%0400d", i))
	}
	last, _ := (&run{disk: p.disk}).active()
	end := len(bytes.TrimRight(p.disk.Content(last), "\x00"))
	if err := p.s.Truncate(t.Context(), p.state, 3); err != nil {
		t.Fatal(err)
	}
	if c, err := p.s.Compact(t.Context(), nil); err != nil || c.Freed == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, lost := range []bool{false, true} {
		disk := p.disk.Clone()
		b := disk.Content(last)
		if len(bytes.TrimRight(b, "\x00")) <= end {
			t.Fatalf("the record is not in %s", last)
		}
		if lost {
			clear(b[end:])
			disk.Put(last, b)
		}
		s, err := filestore.OpenFS(disk, tiny)
		if err == nil {
			s.Close()
		}
		if lost != corruption(err) {
			t.Errorf("lost %v: %v", lost, err)
		}
	}
}

// TestClosedLogEndsWhereItSays takes the last batch away without a trace, and the close
// record, from a store that was closed.
func TestClosedLogEndsWhereItSays(t *testing.T) {
	p := newPlain(t, 1, "a-1")
	p.mustPut(engine.Synced, "first")
	end := len(bytes.TrimRight(p.disk.Content(firstSegment), "\x00"))
	p.mustPut(engine.Synced, "second")
	if err := p.s.Close(); err != nil {
		t.Fatal(err)
	}
	disk := p.disk.Clone()
	b := disk.Content(firstSegment)
	clear(b[end:])
	disk.Put(firstSegment, b)
	s, err := filestore.OpenFS(disk, tiny)
	if err == nil {
		s.Close()
	}
	if !corruption(err) {
		t.Errorf("%v, want a CorruptionError", err)
	}
}

// TestIndexThatDoesNotFit makes index files with right checksums that say more than the
// segment has, or less. Neither is believed.
func TestIndexThatDoesNotFit(t *testing.T) {
	const name = "00000000000000000001.idx"
	good := closedStore(t, 1, "a-1", "x")
	add := func(b []byte, at int, n int64) {
		binary.LittleEndian.PutUint64(b[at:], uint64(int64(binary.LittleEndian.Uint64(b[at:]))+n))
	}
	for what, change := range map[string]func(b []byte) []byte{
		"ahead of the log": func(b []byte) []byte {
			at := len(b) - 3 // the high byte of the last record's length
			add(b, 48, int64(0x7f-b[at])<<7)
			b[at] = 0x7f
			return b
		},
		"one record less": func(b []byte) []byte {
			length, _ := binary.Uvarint(b[len(b)-4:])
			b[64+5+3]-- // their number, behind one stream and one type
			add(b, 40, -1)
			add(b, 48, -int64(length))
			return b[:len(b)-6]
		},
	} {
		disk := good.Clone()
		b := change(disk.Content(name))
		resumIndex(b)
		disk.Put(name, b)
		s, err := filestore.OpenFS(disk, tiny)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if list, err := payloads(s); err != nil || len(list) != 60 || s.Recovery().Indexes != 1 {
			t.Errorf("%s: %d events, %v, %+v", what, len(list), err, s.Recovery())
		}
		s.Close()
	}
}
