package crashfs_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// world does random things to a disk and knows, in the plainest way there is (for each byte the
// set of values that it may have), what a power cut may leave. It knows nothing of sectors but
// that a later sync makes good those that were written again.
type world struct {
	*testing.T
	d       *crashfs.Disk
	rng     *rand.Rand
	faults  bool
	dirLost bool // a SyncDir failed: names are never sure again
	files   []*known
}

// known is one file. Its first 8 bytes tell which; they are synced when it is made.
type known struct {
	f       vfs.File
	name    string          // now; "" if removed
	names   map[string]bool // since the last SyncDir; "" if not there
	content []byte

	may         []uint32     // for each byte, the set of values 0 to 31
	least, most int          // size
	lost        bool         // a sync failed
	dirty       map[int]bool // sectors, since the last sync
	dirtySize   bool
	dirtyEnd    int
}

const (
	worldSize = 12000
	idSize    = 8
)

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) named(name string) *known {
	for _, k := range w.files {
		if k.name == name {
			return k
		}
	}
	return nil
}

func id(n int) []byte { return fmt.Appendf(nil, "id%06d", n) }

// step does one thing. It returns whether a power cut that finds it under way is covered by
// what is known afterwards: not so when it made something sure.
func (w *world) step() bool {
	rng := w.rng
	var k *known
	if len(w.files) > 0 {
		k = w.files[rng.IntN(len(w.files))]
	}
	name := string(rune('a' + rng.IntN(6)))
	fail := w.faults && rng.IntN(8) == 0
	if fail {
		w.d.Fail(func(op crashfs.Op) error { return syscall.EIO })
		defer w.d.Fail(nil)
	}
	done := func(err error) bool {
		w.Helper()
		if fail != (err != nil) {
			w.Fatalf("fail is %v, and the error %v", fail, err)
		}
		return err == nil
	}
	switch what := rng.IntN(20); {
	case what < 2 || k == nil:
		if fail || w.named(name) != nil {
			return false
		}
		f, err := w.d.Create(name)
		w.ok(err)
		n := len(w.files)
		_, err = f.WriteAt(id(n), 0)
		w.ok(err)
		w.ok(f.Sync())
		k := &known{f: f, name: name, names: map[string]bool{"": true, name: true}, content: id(n), may: make([]uint32, worldSize), least: idSize, most: idSize, dirty: map[int]bool{}}
		for i := range k.may {
			k.may[i] = 1
		}
		w.files = append(w.files, k)
		return false
	case what < 9:
		off := idSize + rng.IntN(worldSize/2)
		b := make([]byte, 1+rng.IntN([]int{10, 600, worldSize/2 - idSize}[rng.IntN(3)]))
		if rng.IntN(4) > 0 {
			for i := range b {
				b[i] = byte(1 + rng.IntN(31))
			}
		}
		n, err := k.f.WriteAt(b, int64(off))
		done(err)
		k.write(off, b[:n])
	case what < 11:
		size := idSize + rng.IntN(worldSize-idSize)
		if done(k.f.Truncate(int64(size))) {
			k.truncate(size)
		}
	case what < 14:
		sync := k.f.Sync
		if rng.IntN(2) == 0 {
			sync = k.f.Datasync
		}
		if done(sync()) {
			k.synced()
		} else {
			k.lost = k.lost || len(k.dirty) > 0 || k.dirtySize
			clear(k.dirty)
			k.dirtySize, k.dirtyEnd = false, 0
		}
		return false
	case what < 16:
		if k.name == "" || k.name == name {
			return false
		}
		replaced := w.named(name)
		if done(w.d.Rename(k.name, name)) {
			if replaced != nil {
				replaced.name = ""
				replaced.names[""] = true
			}
			k.name = name
			k.names[name] = true
		}
	case what < 17:
		if k.name != "" && done(w.d.Remove(k.name)) {
			k.name = ""
			k.names[""] = true
		}
	default:
		if done(w.d.SyncDir()) && !w.dirLost {
			for _, k := range w.files {
				k.names = map[string]bool{k.name: true}
			}
		} else {
			w.dirLost = true
		}
		return false
	}
	return true
}

func (k *known) write(off int, b []byte) {
	if len(b) == 0 {
		return
	}
	if end := off + len(b); end > len(k.content) {
		k.content = append(k.content, make([]byte, end-len(k.content))...)
		k.most, k.dirtySize = max(k.most, end), true
	}
	k.dirtyEnd = max(k.dirtyEnd, off+len(b))
	copy(k.content[off:], b)
	for i, v := range b {
		k.may[off+i] |= 1 << v
	}
	for s := off / sector; s <= (off+len(b)-1)/sector; s++ {
		k.dirty[s] = true
	}
}

func (k *known) truncate(size int) {
	if size != len(k.content) {
		k.dirtySize = true
	}
	for i := size; i < len(k.content); i++ {
		k.may[i] |= 1
		k.dirty[i/sector] = true
	}
	k.content = append(k.content[:min(size, len(k.content))], make([]byte, max(0, size-len(k.content)))...)
	k.least, k.most = min(k.least, size), max(k.most, size)
}

func (k *known) synced() {
	for i := idSize; i < worldSize; i++ {
		if !k.lost || k.dirty[i/sector] {
			k.may[i] = 1
			if i < len(k.content) {
				k.may[i] = 1 << k.content[i]
			}
		}
	}
	if !k.lost || k.dirtySize || k.dirtyEnd > k.least {
		k.least, k.most = len(k.content), len(k.content)
	}
	clear(k.dirty)
	k.dirtySize, k.dirtyEnd = false, 0
}

// check holds a disk after a power cut against what is known.
func (w *world) check(cut *crashfs.Disk) {
	w.Helper()
	found := map[int]string{}
	for _, name := range cut.Files() {
		b := cut.Content(name)
		n := slices.IndexFunc(w.files, func(k *known) bool { return bytes.HasPrefix(b, id(slices.Index(w.files, k))) })
		if n < 0 {
			w.Fatalf("%q is of no file: %q", name, b[:min(len(b), idSize)])
		}
		if other, twice := found[n]; twice {
			w.Fatalf("file %d is both %q and %q", n, other, name)
		}
		found[n] = name
		k := w.files[n]
		if len(b) < k.least || len(b) > k.most {
			w.Fatalf("file %d has %d bytes, want %d to %d", n, len(b), k.least, k.most)
		}
		for i := idSize; i < len(b); i++ {
			if b[i] > 31 || k.may[i]&(1<<b[i]) == 0 {
				w.Fatalf("file %d has %d at %d, want one of %b; it was last %d", n, b[i], i, k.may[i], k.content[min(i, len(k.content)-1)])
			}
		}
	}
	for n, k := range w.files {
		if !k.names[found[n]] {
			w.Fatalf("file %d is named %q, want one of %q", n, found[n], slices.Sorted(maps.Keys(k.names)))
		}
	}
}

// checkLive holds what reads see against what is known.
func (w *world) checkLive(d *crashfs.Disk) {
	w.Helper()
	var names []string
	for _, k := range w.files {
		if k.name != "" {
			names = append(names, k.name)
			if !bytes.Equal(d.Content(k.name), k.content) {
				w.Fatalf("%q has not the content that was written", k.name)
			}
		}
	}
	slices.Sort(names)
	if got := d.Files(); !slices.Equal(got, names) {
		w.Fatalf("files are %q, want %q", got, names)
	}
}

// TestNothingElse: after a power cut everything synced is there, and nothing that was never
// written at that place.
func TestNothingElse(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		w := &world{T: t, d: crashfs.New(), rng: rand.New(rand.NewPCG(seed, 1)), faults: seed%2 == 1}
		w.d.Seed(seed)
		for step := range 60 {
			before := w.d.Len()
			underWay := w.step()
			w.checkLive(w.d)
			if step%4 > 0 && step < 50 {
				continue
			}
			at := replayTo(w.d, before)
			if underWay {
				for range 3 {
					w.check(at.PowerCut(w.rng))
				}
			}
			for at.Next() {
			}
			for range 6 {
				w.check(at.PowerCut(w.rng))
			}
			w.checkLive(at.Kill())
			w.check(at.Kill().PowerCut(0, w.rng))
			if t.Failed() {
				t.Fatalf("seed %d, step %d", seed, step)
			}
		}
	}
}

// The same seed gives the same disk, from a cursor as from the start.
func TestDeterministic(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	if err := runToy(d, noSync, 100, rand.New(rand.NewPCG(1, 0))); err != nil {
		t.Fatal(err)
	}
	for at := range d.Crashes() {
		a := at.PowerCut(rand.New(rand.NewPCG(7, uint64(at.N()))))
		b := d.PowerCut(at.N(), rand.New(rand.NewPCG(7, uint64(at.N()))))
		if !slices.Equal(a.Files(), b.Files()) {
			t.Fatalf("at %d: %q and %q", at.N(), a.Files(), b.Files())
		}
		for _, name := range a.Files() {
			if !bytes.Equal(a.Content(name), b.Content(name)) {
				t.Fatalf("at %d: %q differs", at.N(), name)
			}
		}
	}
}
