package filestore_test

import (
	"bytes"
	"context"
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
	return p.putContext(context.Background(), d, payloads...)
}

func (p *plain) putContext(ctx context.Context, d engine.Durability, payloads ...string) error {
	w := &engine.Write{Stream: &p.state, After: p.state.Version, Durability: d}
	for i, data := range payloads {
		f := fact{stream: p.state.Name, version: p.state.Version + engine.Version(i) + 1, typ: "A", data: []byte(data)}
		w.Events = append(w.Events, f.record(p.s, "text"))
	}
	err := p.s.Commit(ctx, []*engine.Write{w})
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
			met, cuts := 0, 30
			if underRace {
				cuts = 3
			}
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
				for range cuts {
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
		step := int64(1)
		if underRace {
			step = 7
		}
		p := newPlain(t, 1, "a-1")
		p.mustPut(d, "first")
		end := int64(len(bytes.TrimRight(p.disk.Content(firstSegment), "\x00")))
		p.mustPut(d, "second")
		p.mustPut(d, "third")
		for bit := int64(64 * 8); bit < end*8; bit += step {
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

// TestFailedSync lets one sync of the log fail, which on Linux drops what it was for and lets
// the next one succeed. Nobody is told that it worked, nothing is written afterwards, and what was acknowledged is
// there when the power is cut then.
func TestFailedSync(t *testing.T) {
	for n := range 20 {
		r := newRun(crashfs.New(), tiny, uint64(n))
		if err := r.open(); err != nil {
			t.Fatal(err)
		}
		r.disk.FailNth(crashfs.Datasync, n+1, syscall.EIO)
		err := several(30, put(r))
		if !errors.Is(err, engine.ErrOutcomeUnknown) && !errors.Is(err, filestore.ErrPoisoned) {
			t.Errorf("sync %d fails, and the append that waits for it: %v", n, err)
		}
		if err := r.put(engine.Synced); !errors.Is(err, filestore.ErrPoisoned) {
			t.Errorf("sync %d failed, and then: %v, want ErrPoisoned", n, err)
		}
		for range 20 {
			if _, err := r.judgeTwice(r.disk.PowerCut(r.disk.Len(), r.rng), r.now); err != nil {
				t.Fatalf("sync %d failed, and the power was cut: %v", n, err)
			}
		}
		r.s.Close()
	}
}
