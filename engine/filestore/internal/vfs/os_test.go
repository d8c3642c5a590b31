package vfs_test

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weirstore/weir/engine/filestore/internal/vfs"
	"github.com/weirstore/weir/engine/filestore/internal/vfs/vfstest"
)

const lockIn = "WEIR_VFS_TEST_LOCK_IN" // names a directory: the test binary takes its lock and says how it went

func TestMain(m *testing.M) {
	if dir := os.Getenv(lockIn); dir != "" {
		lockAndWait(dir)
		return
	}
	os.Exit(m.Run())
}

func TestDirConforms(t *testing.T) {
	vfstest.Run(t, func(t *testing.T) vfs.FS { return openDir(t, t.TempDir()) })
}

func openDir(t *testing.T, path string) *vfs.Dir {
	t.Helper()
	d, err := vfs.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestOpenDir(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a", "b")
	if _, err := vfs.OpenExistingDir(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenExistingDir: %v, want ErrNotExist", err)
	}
	openDir(t, path)
	if d, err := vfs.OpenExistingDir(path); err != nil {
		t.Error(err)
	} else if err := d.Close(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := vfs.OpenDir(file); err == nil {
		t.Error("a file was opened as a directory")
	}
}

// What is stored is for the owner alone.
func TestModes(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no such modes")
	}
	path := filepath.Join(t.TempDir(), "a", "b")
	d := openDir(t, path)
	f, err := d.Create("file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := d.Lock("lock", "me")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, want := range map[string]fs.FileMode{
		path: fs.ModeDir | 0o700, filepath.Dir(path): fs.ModeDir | 0o700,
		filepath.Join(path, "file"): 0o600, filepath.Join(path, "lock"): 0o600,
	} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
}

func TestListHasNoDirs(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	for _, name := range []string{"b", "z"} {
		if err := os.Mkdir(filepath.Join(path, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"c", "a"} {
		if err := os.WriteFile(filepath.Join(path, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := openDir(t, path).List()
	if err != nil || !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("List() = %q, %v", got, err)
	}
}

// A symbolic link must not make the store read or write a file elsewhere.
func TestLinksOutAreRefused(t *testing.T) {
	t.Parallel()
	outside, path := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	rel, err := filepath.Rel(path, outside)
	if err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"absolute": secret, "relative": filepath.Join(rel, "secret"),
		"dangling": filepath.Join(outside, "new"), "dir": outside,
	} {
		if err := os.Symlink(target, filepath.Join(path, name)); err != nil {
			t.Skip(err)
		}
	}
	d := openDir(t, path)
	for _, name := range []string{"absolute", "relative", "dangling", "dir"} {
		if f, err := d.Open(name); err == nil {
			f.Close()
			t.Errorf("Open %s: no error", name)
		}
		if f, err := d.Create(name); err == nil {
			f.Close()
			t.Errorf("Create %s: no error", name)
		}
		if runtime.GOOS == "windows" {
			continue // there Lock is not under os.Root
		}
		if l, err := d.Lock(name, "me"); err == nil {
			l.Close()
			t.Errorf("Lock %s: no error", name)
		}
	}
	for _, name := range []string{"absolute", "dangling"} {
		if err := d.Remove(name); err != nil { // the link goes, not the file
			t.Error(err)
		}
	}
	if b, err := os.ReadFile(secret); string(b) != "secret" {
		t.Errorf("the file outside has %q, %v", b, err)
	}
	if entries, err := os.ReadDir(outside); len(entries) != 1 {
		t.Errorf("outside there are %v, %v", entries, err)
	}
}

func lockAndWait(dir string) {
	d, err := vfs.OpenExistingDir(dir)
	if err == nil {
		_, err = d.Lock("lock", "the child")
	}
	if err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		return
	}
	os.Stdout.WriteString("locked\n")
	os.Stdin.Read(make([]byte, 1)) // until the parent lets go
}

// child starts a process that takes the lock, and returns what it says of it. Stop kills it.
func child(t *testing.T, dir string) (said string, stop func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), lockIn+"="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(said), func() {
		cmd.Process.Kill()
		cmd.Wait() // with the error that it was killed
		in.Close()
	}
}

func TestLockBetweenProcesses(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	l, err := d.Lock("lock", "the parent")
	if err != nil {
		t.Fatal(err)
	}
	said, stop := child(t, path)
	stop()
	if want := "locked by the parent"; !strings.Contains(said, want) && runtime.GOOS != "windows" || said == "locked" {
		t.Errorf("the child says %q, want %q", said, want)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	said, stop = child(t, path)
	if said != "locked" {
		t.Fatalf("the child says %q of a free lock", said)
	}
	_, err = d.Lock("lock", "the parent")
	if locked, is := errors.AsType[*vfs.LockedError](err); !is || locked.Holder != "the child" && runtime.GOOS != "windows" {
		t.Errorf("Lock: %v, want a LockedError that names the child", err)
	}
	stop()
	l, err = d.Lock("lock", "the parent") // whoever is killed lets go
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// Another goroutine may be starting a process at that moment: until it runs its program it
// has the lock's descriptor too.
func TestLockIsFreeWhileProcessesStart(t *testing.T) {
	d := openDir(t, t.TempDir())
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				exec.Command(os.Args[0], "-test.run=^$").Run()
			}
		}
	})
	for i := range 3000 {
		l, err := d.Lock("lock", "me")
		if err != nil {
			t.Errorf("lock %d: %v", i, err)
			break
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	wg.Wait()
}

func TestLockedError(t *testing.T) {
	t.Parallel()
	if got := (&vfs.LockedError{}).Error(); got != "locked by another process" {
		t.Error(got)
	}
	if got := (&vfs.LockedError{Holder: "me"}).Error(); got != "locked by me" {
		t.Error(got)
	}
}
