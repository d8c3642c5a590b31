package filestore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// The tests of this file hold one rule each that a random run meets too rarely to be relied
// on. docs/planted-bugs.md says which bugs they are there for.

// plain is a store on a disk, to which events are added one by one.
type plain struct {
	testing.TB
	disk  *crashfs.Disk
	s     *filestore.Store
	state engine.StreamState
}

func newPlain(t testing.TB, id byte, stream string) *plain {
	p := &plain{TB: t, disk: crashfs.New(), state: engine.StreamState{Name: stream}}
	var err error
	if p.s, err = filestore.OpenFixed(p.disk, tiny, [16]byte{id}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.s.Close() })
	return p
}

// put commits a batch with these payloads.
func (p *plain) put(d engine.Durability, payloads ...string) error {
	w := &engine.Write{Stream: &p.state, After: p.state.Version, Durability: d}
	for i, data := range payloads {
		f := fact{stream: p.state.Name, version: p.state.Version + engine.Version(i) + 1, typ: "A", data: []byte(data)}
		w.Events = append(w.Events, f.record(p.s, "text"))
	}
	err := p.s.Commit(context.Background(), []*engine.Write{w})
	if err == nil {
		p.state.Version += engine.Version(len(payloads))
	}
	return err
}

func (p *plain) mustPut(d engine.Durability, payloads ...string) {
	p.Helper()
	if err := p.put(d, payloads...); err != nil {
		p.Fatal(err)
	}
}

// payloads reads those of a whole store.
func payloads(s *filestore.Store) (list []string, err error) {
	dst := make([]engine.Event, 7)
	for pos := engine.Position(1); pos <= s.Head(); {
		n, next, err := s.ReadAll(context.Background(), engine.Query{From: pos, To: s.Head()}, dst)
		if err != nil {
			return list, err
		}
		for _, ev := range dst[:n] {
			list = append(list, string(ev.Data.(*engine.Payload).Bytes))
		}
		pos = next
	}
	return list, nil
}

func corruption(err error) bool {
	_, ok := errors.AsType[*filestore.CorruptionError](err)
	return ok
}

// cutNow returns what a power cut leaves of a disk if nothing survives that was not synced.
func cutNow(disk *crashfs.Disk) *crashfs.Disk {
	c := disk.Replay()
	for c.Next() {
	}
	return c.PowerCutKeeping(0, rand.New(rand.NewPCG(1, 1)))
}

const firstSegment = "00000000000000000001.seg"

// TestUnsureManifest lets the sync of the directory fail behind the renaming of a new manifest.
// Nobody knows which list of segments a crash leaves then, so nothing may be written any more that fits only
// one of them, and every file must stay that one of them names.
func TestUnsureManifest(t *testing.T) {
	for name, change := range map[string]func(r *run) error{
		"a roll":       func(r *run) error { return several(200, put(r)) },
		"a compaction": func(r *run) error { return r.compact() },
	} {
		t.Run(name, func(t *testing.T) {
			met := 0
			for seed := range uint64(12) {
				r := newRun(crashfs.New(), tiny, seed)
				if err := errors.Join(r.open(), several(25, put(r)), several(8, r.truncate)); err != nil {
					t.Fatal(err)
				}
				compacting, renamed, failed := name == "a roll", false, false
				r.disk.Fail(func(op crashfs.Op) error {
					compacting = compacting || op.Kind == crashfs.Rename && op.Name == "compact.tmp"
					renamed = renamed || compacting && op.Kind == crashfs.Rename && op.To == "manifest"
					if op.Kind == crashfs.SyncDir && renamed && !failed {
						failed = true
						return syscall.EIO
					}
					return nil
				})
				err := change(r)
				r.disk.Fail(nil)
				if err == nil { // nothing to compact, or it was the index of another segment that met the failure
					r.s.Close()
					continue
				}
				met++
				for range 3 {
					if err := r.put(engine.Synced); !errors.Is(err, filestore.ErrPoisoned) {
						t.Errorf("an append after that: %v, want ErrPoisoned", err)
					}
				}
				if err := r.judgeLog(r.s, r.now); err != nil {
					t.Errorf("reads do not go on: %v", err)
				}
				r.s.Close()
				for range 30 {
					if _, err := r.judgeTwice(r.disk.PowerCut(r.disk.Len(), r.rng), r.now); err != nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
				}
			}
			if met < 3 {
				t.Errorf("it was met %d times only", met)
			}
		})
	}
}

// TestDamageBeforeTheWatermark flips each bit of the first of three batches. Later ones say
// that it was on disk: the store is refused and not changed. Where they were only written, they cannot
// say so: then it is a torn end.
func TestDamageBeforeTheWatermark(t *testing.T) {
	for _, d := range []engine.Durability{engine.Synced, engine.Written} {
		p := newPlain(t, 1, "a-1")
		p.mustPut(d, "first")
		end := int64(len(bytes.TrimRight(p.disk.Content(firstSegment), "\x00")))
		p.mustPut(d, "second")
		p.mustPut(d, "third")
		for bit := int64(64 * 8); bit < end*8; bit++ {
			disk := p.disk.Clone()
			disk.FlipBit(firstSegment, bit)
			damaged := disk.Content(firstSegment)
			s, err := filestore.OpenFS(disk, tiny)
			if d == engine.Synced {
				c, ok := errors.AsType[*filestore.CorruptionError](err)
				if !ok || c.Offset != 64 || !bytes.Equal(disk.Content(firstSegment), damaged) {
					t.Fatalf("bit %d: %v", bit, err)
				}
				continue
			}
			if err != nil || s.Head() != 0 || s.Recovery().Cut == nil || s.Recovery().Cut.Records != 2 {
				t.Fatalf("bit %d of what was not synced: %v", bit, err)
			}
			s.Close()
		}
	}
}

// TestTornEnd tears the first record off a last batch of three. Opening keeps the bytes in a
// file and erases them, durably, so that they are never again taken for anything: not behind what is
// appended next, and not after another crash.
func TestTornEnd(t *testing.T) {
	p := newPlain(t, 1, "a-1")
	p.mustPut(engine.Synced, "first")
	begin := int64(len(bytes.TrimRight(p.disk.Content(firstSegment), "\x00")))
	p.mustPut(engine.Synced, "second", "third", "fourth")
	left := p.disk.Clone()
	left.FlipBit(firstSegment, 8*begin+400)
	torn := bytes.TrimRight(left.Content(firstSegment)[begin:], "\x00")
	s, err := filestore.OpenFS(left, tiny)
	if err != nil {
		t.Fatal(err)
	}
	cut := s.Recovery().Cut
	if cut == nil || s.Head() != 1 || cut.Offset != begin || cut.Records != 2 {
		t.Fatalf("it is at %d, %+v", s.Head(), cut)
	}
	for name, disk := range map[string]*crashfs.Disk{"at once": left, "after a power cut": cutNow(left)} {
		if rest := disk.Content(firstSegment)[begin:]; len(bytes.TrimLeft(rest, "\x00")) > 0 {
			t.Errorf("%s the torn end is still there", name)
		}
		if saved := disk.Content(strings.TrimPrefix(cut.SavedAs, "disk/")); !bytes.Equal(bytes.TrimRight(saved, "\x00"), torn) {
			t.Errorf("%s %s has %d bytes, torn were %d", name, cut.SavedAs, len(saved), len(torn))
		}
	}
	q := &plain{TB: t, disk: left, s: s, state: engine.StreamState{Name: "a-1", Version: 1}}
	q.mustPut(engine.Synced, "2nd") // shorter than what stood there
	again, err := filestore.OpenFS(left.Clone(), tiny)
	s.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if list, err := payloads(again); err != nil || !slices.Equal(list, []string{"first", "2nd"}) || again.Recovery().Cut != nil {
		t.Errorf("then there are %q, %v, %+v", list, err, again.Recovery().Cut)
	}
}

// TestFoundIsSynced lets the process die with events that were only written, opens the store
// and cuts the power: what an opening has found, and lets everybody see, does not go away.
func TestFoundIsSynced(t *testing.T) {
	p := newPlain(t, 1, "a-1")
	for i := range 5 {
		p.mustPut(engine.Written, fmt.Sprint(i))
	}
	dead := p.disk.Kill(p.disk.Len())
	s, err := filestore.OpenFS(dead, tiny)
	if err != nil {
		t.Fatal(err)
	}
	head, durable := s.Head(), s.Durable()
	after := cutNow(dead)
	s.Close()
	if head != 5 || durable != 5 {
		t.Errorf("found %d events, %d of them durable", head, durable)
	}
	again, err := filestore.OpenFS(after, tiny)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Head() != head {
		t.Errorf("the head was at %d, and is at %d after a power cut", head, again.Head())
	}
}

// TestErasedPartStaysErased lets a write of two batches find the disk full. Both are refused,
// and what was written of them is erased, so that no crash brings the first one back. It hangs if commits
// that other tests have used, with channels from outside of this bubble, come into it.
func TestErasedPartStaysErased(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			p := newPlain(t, 1, "a-1")
			p.disk.Seed(seed)
			others := []*plain{{TB: t, s: p.s, state: engine.StreamState{Name: "b-1"}}, {TB: t, s: p.s, state: engine.StreamState{Name: "c-1"}}}
			// The sync of a first commit takes until the two others wait.
			waits, refused, goes := false, false, make(chan struct{})
			p.disk.Fail(func(op crashfs.Op) error {
				switch {
				case op.Kind == crashfs.Datasync && !waits:
					waits = true
					<-goes
				case op.Kind == crashfs.WriteAt && op.Len > 1000 && waits && !refused:
					refused = true // the next one erases
					return syscall.ENOSPC
				}
				return nil
			})
			results := make(chan error, 3)
			go func() { results <- p.put(engine.Synced, "first") }()
			synctest.Wait()
			go func() { results <- others[0].put(engine.Synced, "second") }()
			synctest.Wait()
			go func() { results <- others[1].put(engine.Synced, strings.Repeat("third", 300)) }()
			synctest.Wait()
			close(goes)
			full := 0
			for range 3 {
				if err := <-results; errors.Is(err, filestore.ErrFull) {
					full++
				} else if err != nil {
					t.Error(err)
				}
			}
			if full != 2 {
				t.Fatalf("%d commits found the disk full, want 2 in one write", full)
			}
			p.disk.Fail(nil)
			left := make([]*crashfs.Disk, 0, 20)
			for range cap(left) {
				left = append(left, p.disk.PowerCut(p.disk.Len(), rng))
			}
			for _, disk := range left {
				s, err := filestore.OpenFS(disk, tiny)
				if err != nil {
					t.Fatal(err)
				}
				if s.Head() != 1 {
					t.Errorf("seed %d: the head is at %d: a batch that was refused is there", seed, s.Head())
				}
				s.Close()
			}
		})
	}
}

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
