// Package vfstest says what every [vfs.FS] must do, and tests it. What becomes of what was
// not synced is not its business: that is of package crashfs.
package vfstest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// Run tests the file systems that open returns, each a new and empty one.
func Run(t *testing.T, open func(t *testing.T) vfs.FS) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

var cases = []struct {
	name string
	run  func(*testing.T, vfs.FS)
}{
	{"a created file is empty, and there once", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		if size := must(f.Size())(t); size != 0 {
			t.Errorf("size is %d", size)
		}
		if _, err := d.Create("a"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create again: %v, want ErrExist", err)
		}
		ok(t, f.Close())
	}},
	{"what does not exist cannot be used", func(t *testing.T, d vfs.FS) {
		_, err := d.Open("a")
		for name, err := range map[string]error{"Open": err, "Rename": d.Rename("a", "b"), "Remove": d.Remove("a")} {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v, want ErrNotExist", name, err)
			}
		}
	}},
	{"names are plain", func(t *testing.T, d vfs.FS) {
		// A store that builds a name out of data must not get out of its directory.
		ok(t, must(d.Create("a"))(t).Close())
		for _, name := range []string{"", ".", "..", "../a", "a/b", "/a", `..\a`, `a\b`, "C:a", "a:b", "a\x00b"} {
			_, createErr := d.Create(name)
			_, openErr := d.Open(name)
			_, lockErr := d.Lock(name, "me")
			for call, err := range map[string]error{
				"Create": createErr, "Open": openErr, "Lock": lockErr, "Remove": d.Remove(name),
				"Rename from": d.Rename(name, "b"), "Rename to": d.Rename("a", name),
			} {
				if !errors.Is(err, fs.ErrInvalid) {
					t.Errorf("%s %q: %v, want ErrInvalid", call, name, err)
				}
			}
		}
		names(t, d, "a")
	}},
	{"list is sorted", func(t *testing.T, d vfs.FS) {
		names(t, d)
		for _, name := range []string{"b", "c", "a", "B"} {
			ok(t, must(d.Create(name))(t).Close())
		}
		names(t, d, "B", "a", "b", "c")
		ok(t, d.Remove("b"))
		ok(t, d.Rename("c", "0"))
		ok(t, d.SyncDir())
		names(t, d, "0", "B", "a")
	}},
	{"reads see writes, and end with EOF", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		defer f.Close()
		write(t, f, "hello", 0)
		write(t, f, "LL", 2)
		content(t, f, "heLLo")
		for _, c := range []struct {
			off  int64
			size int
			want string
			err  error
		}{{0, 5, "heLLo", nil}, {0, 6, "heLLo", io.EOF}, {4, 1, "o", nil}, {4, 2, "o", io.EOF}, {5, 1, "", io.EOF}, {9, 1, "", io.EOF}, {5, 0, "", nil}, {1, 0, "", nil}} {
			b := make([]byte, c.size)
			n, err := f.ReadAt(b, c.off)
			// At the very end, io.ReaderAt lets an empty read give either.
			if string(b[:n]) != c.want || err != c.err && (c.size > 0 || err != io.EOF) {
				t.Errorf("ReadAt(%d bytes, %d) = %q, %v, want %q, %v", c.size, c.off, b[:n], err, c.want, c.err)
			}
		}
	}},
	{"a write beyond the end leaves zeros between", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		defer f.Close()
		write(t, f, "x", 1)
		write(t, f, "y", 9000)
		content(t, f, "\x00x"+strings.Repeat("\x00", 8998)+"y")
		if n, err := f.WriteAt(nil, 20000); n != 0 || err != nil {
			t.Errorf("empty write: %d, %v", n, err)
		}
		if size := must(f.Size())(t); size != 9001 {
			t.Errorf("size is %d after an empty write", size)
		}
	}},
	{"a write over several pages", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		defer f.Close()
		b := make([]byte, 3*4096)
		for i := range b {
			b[i] = byte(i % 251)
		}
		write(t, f, string(b), 4000)
		content(t, f, strings.Repeat("\x00", 4000)+string(b))
		write(t, f, strings.Repeat("\x00", 5000), 4100)
		clear(b[100:5100])
		content(t, f, strings.Repeat("\x00", 4000)+string(b))
	}},
	{"truncate cuts, and what grows back is zeros", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		defer f.Close()
		write(t, f, strings.Repeat("x", 9000), 0)
		ok(t, f.Truncate(3))
		content(t, f, "xxx")
		ok(t, f.Truncate(9000))
		content(t, f, "xxx"+strings.Repeat("\x00", 8997))
		ok(t, f.Truncate(5000))
		write(t, f, "y", 8191)
		content(t, f, "xxx"+strings.Repeat("\x00", 8188)+"y")
		ok(t, f.Truncate(0))
		content(t, f, "")
	}},
	{"what is reserved is zeros, and nothing is lost", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		defer f.Close()
		write(t, f, "hello", 0)
		switch err := f.Reserve(9000); {
		case errors.Is(err, errors.ErrUnsupported):
			content(t, f, "hello")
			return
		case err != nil:
			t.Fatal(err)
		}
		content(t, f, "hello"+strings.Repeat("\x00", 8995))
		write(t, f, "y", 8999)
		ok(t, f.Datasync())
		ok(t, f.Reserve(4000)) // it is longer already
		content(t, f, "hello"+strings.Repeat("\x00", 8994)+"y")
	}},
	{"negative offsets are refused", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		defer f.Close()
		if _, err := f.ReadAt(make([]byte, 1), -1); err == nil {
			t.Error("ReadAt: no error")
		}
		if _, err := f.WriteAt([]byte("x"), -1); err == nil {
			t.Error("WriteAt: no error")
		}
		if err := f.Truncate(-1); err == nil {
			t.Error("Truncate: no error")
		}
		content(t, f, "")
	}},
	{"the caller keeps its buffer", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		defer f.Close()
		b := []byte("hello")
		must(f.WriteAt(b, 0))(t)
		copy(b, "XXXXX")
		content(t, f, "hello")
	}},
	{"two openings are one file", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		g := must(d.Open("a"))(t)
		defer g.Close()
		write(t, f, "hello", 0)
		content(t, g, "hello")
		write(t, g, "J", 0)
		content(t, f, "Jello")
		ok(t, f.Sync())
		ok(t, g.Datasync())
		ok(t, f.Close())
		content(t, g, "Jello")
	}},
	{"content outlives closing", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		write(t, f, "hello", 0)
		ok(t, f.Close())
		f = must(d.Open("a"))(t)
		defer f.Close()
		content(t, f, "hello")
	}},
	{"a closed file is closed", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		ok(t, f.Close())
		_, readErr := f.ReadAt(make([]byte, 1), 0)
		_, writeErr := f.WriteAt([]byte("x"), 0)
		_, sizeErr := f.Size()
		for call, err := range map[string]error{
			"ReadAt": readErr, "WriteAt": writeErr, "Size": sizeErr, "Sync": f.Sync(),
			"Datasync": f.Datasync(), "Truncate": f.Truncate(0), "Close": f.Close(), "Reserve": f.Reserve(1),
		} {
			if call == "Reserve" && errors.Is(err, errors.ErrUnsupported) {
				continue
			}
			if !errors.Is(err, fs.ErrClosed) {
				t.Errorf("%s: %v, want ErrClosed", call, err)
			}
		}
	}},
	{"rename takes the place of a file", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		write(t, f, "new", 0)
		ok(t, f.Close())
		f = must(d.Create("b"))(t)
		write(t, f, "old", 0)
		ok(t, f.Close())
		ok(t, d.Rename("a", "b"))
		names(t, d, "b")
		f = must(d.Open("b"))(t)
		defer f.Close()
		content(t, f, "new")
		ok(t, d.Rename("b", "b"))
		names(t, d, "b")
	}},
	{"open files outlive rename and remove", func(t *testing.T, d vfs.FS) {
		if runtime.GOOS == "windows" {
			t.Skip("an open file has a fixed name on Windows")
		}
		f := must(d.Create("a"))(t)
		write(t, f, "hello", 0)
		ok(t, d.Rename("a", "b"))
		write(t, f, "J", 0)
		g := must(d.Open("b"))(t)
		content(t, g, "Jello")
		ok(t, d.Remove("b"))
		names(t, d)
		write(t, f, "H", 0)
		content(t, g, "Hello")
		ok(t, f.Sync())
		ok(t, f.Close())
		ok(t, g.Close())
		f = must(d.Create("b"))(t) // another file
		defer f.Close()
		content(t, f, "")
	}},
	{"a lock excludes and names its holder", func(t *testing.T, d vfs.FS) {
		l := must(d.Lock("lock", "me"))(t)
		_, err := d.Lock("lock", "you")
		if locked, is := errors.AsType[*vfs.LockedError](err); !is || locked.Holder != "me" && runtime.GOOS != "windows" {
			t.Errorf("second Lock: %v, want a LockedError that names me", err)
		}
		other := must(d.Lock("other", "you"))(t)
		ok(t, other.Close())
		ok(t, l.Close())
		if err := l.Close(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("second Close: %v, want ErrClosed", err)
		}
		names(t, d, "lock", "other") // the files stay
		ok(t, must(d.Lock("lock", "me again"))(t).Close())
	}},
	{"a lock file holds its holder", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("lock"))(t)
		write(t, f, "somebody with a long name", 0)
		ok(t, f.Close())
		l := must(d.Lock("lock", "me"))(t)
		defer l.Close()
		if runtime.GOOS == "windows" {
			return // it cannot be opened for writing
		}
		f = must(d.Open("lock"))(t)
		defer f.Close()
		content(t, f, "me")
	}},
	{"a closed lock is free, 1,000 times", func(t *testing.T, d vfs.FS) {
		for range 1000 {
			ok(t, must(d.Lock("lock", "me"))(t).Close())
		}
	}},
	{"one of many gets the lock", func(t *testing.T, d vfs.FS) {
		var wg sync.WaitGroup
		locks := make(chan io.Closer, 16) // room for each
		for range cap(locks) {
			wg.Go(func() {
				if l, err := d.Lock("lock", "me"); err == nil {
					locks <- l
				} else if _, is := errors.AsType[*vfs.LockedError](err); !is {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		close(locks)
		if len(locks) != 1 {
			t.Errorf("%d have the lock", len(locks))
		}
		for l := range locks {
			ok(t, l.Close())
		}
	}},
	{"files and locks outlive Close", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("a"))(t)
		l := must(d.Lock("lock", "me"))(t)
		ok(t, d.Close())
		write(t, f, "hello", 0)
		content(t, f, "hello")
		ok(t, f.Sync())
		ok(t, f.Close())
		ok(t, l.Close())
		_, createErr := d.Create("b")
		_, openErr := d.Open("a")
		_, lockErr := d.Lock("lock", "me")
		_, listErr := d.List()
		for call, err := range map[string]error{
			"Create": createErr, "Open": openErr, "Lock": lockErr, "List": listErr,
			"Rename": d.Rename("a", "b"), "Remove": d.Remove("a"), "SyncDir": d.SyncDir(),
		} {
			if err == nil && !(call == "SyncDir" && runtime.GOOS == "windows") {
				t.Errorf("%s after Close: no error", call)
			}
		}
		ok(t, d.Close())
	}},
	{"concurrent use", func(t *testing.T, d vfs.FS) {
		f := must(d.Create("shared"))(t)
		defer f.Close()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				own := string(rune('a' + i))
				for round := range 50 {
					g, err := d.Create(own)
					if err != nil {
						t.Error(err)
						return
					}
					b := bytes.Repeat([]byte(own), 100)
					off := int64(round*8+i) * 100
					_, err1 := f.WriteAt(b, off)
					got := make([]byte, 100)
					_, err2 := f.ReadAt(got, off)
					if !bytes.Equal(got, b) {
						t.Errorf("read %q, want %q", got, b)
					}
					_, err3 := g.WriteAt(b, 0)
					_, err4 := d.List()
					if err := errors.Join(err1, err2, err3, err4, g.Close(), d.SyncDir(), d.Remove(own)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if size := must(f.Size())(t); size != 8*50*100 {
			t.Errorf("size is %d", size)
		}
		names(t, d, "shared")
	}},
}

// must is for calls with a result: must(f())(t).
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, f vfs.File, s string, off int64) {
	t.Helper()
	if n := must(f.WriteAt([]byte(s), off))(t); n != len(s) {
		t.Fatalf("%d bytes written of %d", n, len(s))
	}
}

func content(t *testing.T, f vfs.File, want string) {
	t.Helper()
	b := make([]byte, must(f.Size())(t))
	if n, err := f.ReadAt(b, 0); n != len(b) || err != nil && err != io.EOF {
		t.Fatalf("read %d of %d bytes: %v", n, len(b), err)
	}
	if string(b) != want {
		t.Errorf("content is %q, want %q", b, want)
	}
}

func names(t *testing.T, d vfs.FS, want ...string) {
	t.Helper()
	if got := must(d.List())(t); !slices.Equal(got, want) {
		t.Errorf("files are %q, want %q", got, want)
	}
}
