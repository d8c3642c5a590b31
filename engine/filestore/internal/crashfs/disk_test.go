package crashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

func TestJournal(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	d.Mark("begin")
	s := newScript(t, d)
	s.create("a")
	s.write("a", 1, "A")
	d.Mark("written")
	s.datasync("a")
	s.sync("a")
	s.truncate("a", 3)
	s.failing(crashfs.Sync, s.file("a").Sync)
	s.rename("a", "b")
	s.syncDir()
	l, err := d.Lock("lock", "me")
	s.check(err)
	s.check(l.Close())
	s.remove("b")
	d.Mark("end")
	for _, err := range []error{d.Remove("x"), d.Rename("x", "y"), d.Remove("../x")} { // no operations
		if err == nil {
			t.Error("no error")
		}
	}
	var lines []string
	for i, op := range d.Ops() {
		if lines = append(lines, op.String()); op.N != i {
			t.Errorf("op %d has N %d", i, op.N)
		}
	}
	want := []string{"0 create a", "1 write a +512 512", "2 datasync a", "3 sync a", "4 truncate a to 3",
		"5 sync a: sync a: input/output error", "6 rename a b", "7 syncdir .", "8 lock lock", "9 unlock lock", "10 remove b"}
	if !slices.Equal(lines, want) || d.Len() != len(want) {
		t.Errorf("journal is %q (%d), want %q", lines, d.Len(), want)
	}
	for n, want := range map[int][]any{0: {"begin"}, 1: {"begin"}, 2: {"begin", "written"}, 10: {"begin", "written"}, 11: {"begin", "written", "end"}} {
		if got := d.Marks(n); !slices.Equal(got, want) {
			t.Errorf("Marks(%d) = %q, want %q", n, got, want)
		}
	}
	moments := 0
	for at := range d.Crashes() {
		if !slices.Equal(at.Marks(), d.Marks(at.N())) || at.N() != moments {
			t.Errorf("moment %d has N %d and marks %q", moments, at.N(), at.Marks())
		}
		if op, ok := at.Op(); ok != (moments < len(want)) || ok && op.N != moments {
			t.Errorf("moment %d has op %v, %v", moments, op, ok)
		}
		moments++
	}
	if moments != len(want)+1 {
		t.Errorf("%d moments", moments)
	}
	for range d.Crashes() {
		break
	}
	d.Forget()
	if d.Len() != 0 || len(d.Marks(0)) != 0 {
		t.Error("something was not forgotten")
	}
	if got := show(d.Kill(0)); got != show(d) {
		t.Errorf("after Forget and Kill: %q", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("a cut beyond the end did not panic")
		}
	}()
	d.Kill(1)
}

// What is not durable stays so when the journal is forgotten.
func TestForgetMakesNothingDurable(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	s := newScript(t, d)
	s.durable("a", "A")
	s.write("a", 0, "B")
	d.Forget()
	if got := show(d.Replay().PowerCutKeeping(0, rand.New(rand.NewPCG(1, 2)))); got != "a=A" {
		t.Errorf("%q", got)
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	s := newScript(t, d)
	s.create("a")
	s.check(d.Close())
	if _, err := d.Open("a"); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Open: %v, want ErrClosed", err)
	}
	d.Reopen()
	f, err := d.Open("a")
	s.check(err)
	s.check(f.Close())
}

func TestFail(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	s := newScript(t, d)
	s.create("a")
	d.FailNth(crashfs.WriteAt, 2, syscall.EIO)
	s.write("a", 0, "A")
	n, err := s.file("a").WriteAt(fill("B"), sector)
	if path, is := errors.AsType[*fs.PathError](err); !errors.Is(err, syscall.EIO) || !is || path.Path != "a" || path.Op != "write" {
		t.Errorf("second write: %v", err)
	}
	if size, _ := s.file("a").Size(); n >= sector || size != sector && size != int64(sector+n) {
		t.Errorf("second write: %d bytes, and the file has %d", n, size)
	}
	s.write("a", 1, "B")

	own := errors.New("own error")
	var asked []crashfs.Op
	d.Fail(func(op crashfs.Op) error { asked = append(asked, op); return own })
	_, createErr := d.Create("b")
	_, lockErr := d.Lock("lock", "me")
	for call, err := range map[string]error{
		"create": createErr, "lock": lockErr, "rename": d.Rename("a", "b"), "remove": d.Remove("a"), "syncdir": d.SyncDir(),
		"sync": s.file("a").Sync(), "datasync": s.file("a").Datasync(), "truncate": s.file("a").Truncate(0),
	} {
		if !errors.Is(err, own) {
			t.Errorf("%s: %v", call, err)
		}
	}
	for i, op := range asked {
		if recorded := d.Ops()[op.N]; recorded.Kind != op.Kind || recorded.Name != op.Name || op.N != d.Len()-len(asked)+i || recorded.Err == nil {
			t.Errorf("asked %v, recorded %v", op, recorded)
		}
	}
	d.Fail(nil)
	s.sync("a")
	if got := show(d); got != "a=AB" {
		t.Errorf("%q", got)
	}
}

// A failed write may have written any prefix, and says which: the same for the same seed.
func TestFailedWritePrefix(t *testing.T) {
	t.Parallel()
	prefixes := func(seed uint64) []int {
		d := crashfs.New()
		d.Seed(seed)
		s := newScript(t, d)
		s.create("a")
		d.Fail(func(op crashfs.Op) error { return syscall.EIO })
		var ns []int
		for range 1000 {
			n, err := s.file("a").WriteAt([]byte("12345678"), 0)
			if err == nil || n > 7 {
				t.Fatalf("%d, %v", n, err)
			}
			ns = append(ns, n)
		}
		if got := string(d.Content("a")); got != "1234567" { // the longest of them
			t.Errorf("content is %q", got)
		}
		return ns
	}
	a, b := prefixes(1), prefixes(1)
	if !slices.Equal(a, b) {
		t.Error("the same seed, other prefixes")
	}
	slices.Sort(a)
	if got := slices.Compact(a); len(got) != 8 {
		t.Errorf("prefixes are %d, want 0 to 7", got)
	}
}

func TestFailRead(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	s := newScript(t, d)
	s.durable("a", "A")
	ops := d.Len()
	for _, kind := range []crashfs.Kind{crashfs.Open, crashfs.ReadAt, crashfs.Size, crashfs.List} {
		d.FailRead(func(op crashfs.Op) error {
			if op.Kind == kind {
				return syscall.EIO
			}
			return nil
		})
		_, openErr := d.Open("a")
		n, readErr := s.file("a").ReadAt(make([]byte, sector), 0)
		_, sizeErr := s.file("a").Size()
		_, listErr := d.List()
		for i, err := range []error{openErr, readErr, sizeErr, listErr} {
			if failing := kind == crashfs.Open+crashfs.Kind(i); failing != errors.Is(err, syscall.EIO) {
				t.Errorf("%v fails, and call %d returns %v", kind, i, err)
			}
		}
		if readErr != nil && n >= sector {
			t.Errorf("a failed read read all %d bytes", n)
		}
	}
	if d.Len() != ops {
		t.Error("reads are in the journal")
	}
}

func TestCapacity(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	d.Capacity(1000)
	s := newScript(t, d)
	s.create("a")
	s.create("b")
	a, b := s.file("a"), s.file("b")
	full := func(f vfs.File, off, length, want int) {
		t.Helper()
		n, err := f.WriteAt(bytes.Repeat([]byte("x"), length), int64(off))
		if n != want || (n < length) != errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%d of %d bytes written, want %d: %v", n, length, want, err)
		}
	}
	full(a, 0, 600, 600)
	full(b, 0, 600, 400) // what fits
	full(b, 400, 1, 0)
	full(b, 0, 400, 400) // within itself
	full(b, 399, 2, 1)
	full(b, 5000, 2, 0)
	if err := b.Truncate(401); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Truncate: %v", err)
	}
	s.truncate("b", 300) // gives space back
	full(a, 600, 200, 100)
	s.check(d.Remove("a"))
	full(b, 300, 100, 0) // a is open still
	s.check(a.Close())
	full(b, 300, 1000, 700)
	if got := len(d.Content("b")); got != 1000 {
		t.Errorf("b has %d bytes", got)
	}
	d.Capacity(10) // less than there is
	full(b, 0, 1001, 1000)
	d.Capacity(-1)
	full(b, 0, 5000, 5000)
}

func TestDamage(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	d.Put("a", fill("ABC"))
	d.Put("b", nil)
	d.Put("zeros", make([]byte, 1000))
	if got, want := show(d), "a=ABC b= zeros=.+488."; got != want {
		t.Fatalf("after Put: %q, want %q", got, want)
	}
	before := d.Clone()
	d.FlipBit("a", 8*sector+1)
	if b := d.Content("a"); b[sector] != 'B'^2 || b[0] != 'A' || b[sector+1] != 'B' {
		t.Errorf("after FlipBit: %q", showBytes(b))
	}
	d.FlipBit("a", 8*sector+1)
	for _, c := range []struct {
		what string
		do   func()
		want string
	}{
		{"ZeroSector", func() { d.ZeroSector("a", 1) }, "a=A.C b= zeros=.+488."},
		{"ZeroSector beyond", func() { d.ZeroSector("a", 3) }, "a=A.C b= zeros=.+488."},
		{"TruncateTo", func() { d.TruncateTo("a", sector+1) }, "a=A+1. b= zeros=.+488."},
		{"TruncateTo longer", func() { d.TruncateTo("a", 3*sector) }, "a=A.. b= zeros=.+488."},
		{"Copy", func() { d.Copy("a", "c") }, "a=A.. b= c=A.. zeros=.+488."},
		{"Put again", func() { d.Put("a", fill("X")) }, "a=X b= c=A.. zeros=.+488."},
		{"Swap", func() { d.Swap("a", "c") }, "a=A.. b= c=X zeros=.+488."},
		{"Copy over", func() { d.Copy("c", "b") }, "a=A.. b=X c=X zeros=.+488."},
		{"Damage of a copy", func() { d.ZeroSector("b", 0) }, "a=A.. b=. c=X zeros=.+488."},
		{"Delete", func() { d.Delete("c") }, "a=A.. b=. zeros=.+488."},
	} {
		if c.do(); show(d) != c.want {
			t.Errorf("after %s: %q, want %q", c.what, show(d), c.want)
		}
	}
	if got, want := show(before), "a=ABC b= zeros=.+488."; got != want {
		t.Errorf("the clone is %q, want %q", got, want)
	}
	for what, do := range map[string]func(){
		"Content": func() { d.Content("x") }, "FlipBit": func() { d.FlipBit("x", 0) }, "Delete": func() { d.Delete("x") },
		"FlipBit beyond": func() { d.FlipBit("b", 8*sector) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s did not panic", what)
				}
			}()
			do()
		}()
	}
	rng := rand.New(rand.NewPCG(1, 2))
	if got := show(d.PowerCut(d.Len(), rng)); got != show(d) {
		t.Errorf("damage is not durable: %q", got)
	}
}

// Damage makes what is there durable, the failed syncs included.
func TestDamageSettles(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	s := newScript(t, d)
	s.create("a")
	s.write("a", 0, "AB")
	s.failing(crashfs.Sync, s.file("a").Sync)
	s.write("a", 2, "C")
	clone := d.Clone()
	d.ZeroSector("a", 0)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		if got := show(d.PowerCut(0, rng)); got != "a=.BC" {
			t.Errorf("damaged: %q", got)
		}
		if got := show(clone.PowerCut(0, rng)); got != "a=ABC" {
			t.Errorf("clone: %q", got)
		}
	}
	s.write("a", 0, "X") // what is open stays open
	if got := show(d); got != "a=XBC" {
		t.Errorf("%q", got)
	}
}

// Disks share pages. Writing to one must not show in another.
func TestDisksAreIndependent(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	s := newScript(t, d)
	s.durable("a", "AAAAAAAAAA")
	s.write("a", 1, "B")
	rng := rand.New(rand.NewPCG(1, 2))
	disks := []*crashfs.Disk{d, d.Clone(), d.Kill(d.Len()), d.PowerCut(d.Len(), rng), d.Replay().PowerCutKeeping(1, rng), d.Kill(d.Len())}
	disks = append(disks, disks[2].Clone(), disks[5].Kill(0))
	for i, disk := range disks {
		if len(disk.Files()) == 0 {
			continue
		}
		var want []string
		for _, other := range disks {
			want = append(want, show(other))
		}
		newScript(t, disk).write("a", 0, string(rune('0'+i))+".X")
		newScript(t, disk).truncate("a", 9*sector)
		for j, other := range disks {
			if changed := show(other) != want[j]; changed != (i == j) {
				t.Errorf("writing to disk %d, and disk %d becomes %q from %q", i, j, show(other), want[j])
			}
		}
	}
}

// Nor what two of them write after the same crash.
func TestKilledTwice(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	s := newScript(t, d)
	s.durable("a", "AA")
	for _, c := range "BCD" {
		s.write("a", 0, string(c))
	}
	at := replayTo(d, d.Len())
	x, y := at.Kill(), at.Kill()
	newScript(t, x).write("a", 1, "X")
	newScript(t, y).write("a", 1, "Y")
	x.Forget() // so that the cuts are of its state, not of its journal
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		if got := show(x.PowerCut(0, rng)); bytes.ContainsAny([]byte(got), "Y") {
			t.Fatalf("%q", got)
		}
	}
}

// The journal keeps what was written, not the caller's buffer.
func TestJournalCopies(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	s := newScript(t, d)
	s.create("a")
	b := fill("A")
	if _, err := s.file("a").WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	copy(b, fill("B"))
	if got := show(d.Kill(d.Len())); got != "a=A" {
		t.Errorf("%q", got)
	}
}

func TestDirs(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	d.Put("a", fill("A.B"))
	d.Put("b", nil)
	path := filepath.Join(t.TempDir(), "dump")
	if err := d.ToDir(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(path, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	back, err := crashfs.FromDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if show(back) != show(d) {
		t.Errorf("%q became %q", show(d), show(back))
	}
	if _, err := crashfs.FromDir(filepath.Join(path, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("FromDir: %v", err)
	}
	if err := d.ToDir(filepath.Join(path, "a")); err == nil {
		t.Error("ToDir onto a file: no error")
	}
}

// Several goroutines work, others cut what there is so far.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			name := fmt.Sprint("file", i)
			f, err := d.Create(name)
			if err != nil {
				t.Error(err)
				return
			}
			b := bytes.Repeat([]byte{byte('a' + i)}, 700)
			for n := range int64(100) {
				_, err1 := f.WriteAt(b, n*700)
				_, err2 := f.ReadAt(make([]byte, 700), n*700)
				if err := errors.Join(err1, err2, f.Datasync(), d.SyncDir()); err != nil {
					t.Error(err)
				}
				d.Mark([2]int64{int64(i), n})
			}
		})
	}
	for i := range 3 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 0))
			for range 15 {
				n := d.Len()
				marks := d.Marks(n)
				cut := d.PowerCut(n, rng)
				clone := d.Clone()
				for _, m := range marks {
					m := m.([2]int64)
					for _, disk := range []*crashfs.Disk{cut, clone} {
						f, err := disk.Open(fmt.Sprint("file", m[0]))
						if err != nil {
							t.Error(err)
							return
						}
						got := make([]byte, 700)
						if _, err := f.ReadAt(got, m[1]*700); err != nil && err != io.EOF || !bytes.Equal(got, bytes.Repeat([]byte{byte('a' + m[0])}, 700)) {
							t.Errorf("%v is not there: %v", m, err)
						}
						if _, err := f.WriteAt([]byte("mine"), 0); err != nil && m[1] > 0 {
							t.Error(err)
						}
						if _, err := f.WriteAt(bytes.Repeat([]byte{byte('a' + m[0])}, 4), 0); err != nil {
							t.Error(err)
						}
					}
				}
				for range 3 {
					_ = d.Ops()
					_ = d.Kill(n)
				}
			}
		})
	}
	wg.Wait()
}
