package crashfs_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

const sector = 512

// show says what is on a disk: names with their sectors. A sector is its byte, a dot for zero;
// several runs of bytes are in parentheses; +n are bytes of a last sector that is not whole.
func show(d *crashfs.Disk) string {
	var files []string
	for _, name := range d.Files() {
		files = append(files, name+"="+showBytes(d.Content(name)))
	}
	return strings.Join(files, " ")
}

func showBytes(b []byte) string {
	var s strings.Builder
	for part := range slices.Chunk(b, sector) {
		if len(part) < sector {
			fmt.Fprintf(&s, "+%d", len(part))
		}
		runs := slices.Compact(slices.Clone(part))
		text := string(bytes.ReplaceAll(runs, []byte{0}, []byte(".")))
		if len(runs) > 1 {
			text = "(" + text + ")"
		}
		s.WriteString(text)
	}
	return s.String()
}

// script does simple things to a disk, and fails the test when they do not work.
type script struct {
	*testing.T
	*crashfs.Disk
	files map[string]vfs.File
}

func newScript(t *testing.T, d *crashfs.Disk) *script {
	return &script{t, d, map[string]vfs.File{}}
}

func (s *script) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *script) file(name string) vfs.File {
	s.Helper()
	if s.files[name] == nil {
		f, err := s.Open(name)
		s.check(err)
		s.files[name] = f
	}
	return s.files[name]
}

func (s *script) create(name string) {
	s.Helper()
	f, err := s.Create(name)
	s.check(err)
	s.files[name] = f
}

// write fills one sector for each byte of sectors, a dot for zeros, from the i-th on.
func (s *script) write(name string, i int, sectors string) {
	s.Helper()
	_, err := s.file(name).WriteAt(fill(sectors), int64(i)*sector)
	s.check(err)
}

func fill(sectors string) []byte {
	var b []byte
	for _, c := range []byte(sectors) {
		if c == '.' {
			c = 0
		}
		b = append(b, bytes.Repeat([]byte{c}, sector)...)
	}
	return b
}

func (s *script) sync(name string)     { s.Helper(); s.check(s.file(name).Sync()) }
func (s *script) datasync(name string) { s.Helper(); s.check(s.file(name).Datasync()) }
func (s *script) truncate(name string, size int) {
	s.Helper()
	s.check(s.file(name).Truncate(int64(size)))
}
func (s *script) rename(from, to string) {
	s.Helper()
	s.check(s.Rename(from, to))
	delete(s.files, from)
	delete(s.files, to)
}
func (s *script) remove(name string) { s.Helper(); s.check(s.Remove(name)); delete(s.files, name) }
func (s *script) syncDir()           { s.Helper(); s.check(s.SyncDir()) }

func replayTo(d *crashfs.Disk, n int) *crashfs.Cursor {
	at := d.Replay()
	for at.N() < n && at.Next() {
	}
	return at
}

// durable makes a file with that content, for sure.
func (s *script) durable(name, sectors string) {
	s.Helper()
	s.create(name)
	s.write(name, 0, sectors)
	s.sync(name)
	s.syncDir()
}

// failing does something that must fail with EIO.
func (s *script) failing(kind crashfs.Kind, do func() error) {
	s.Helper()
	s.FailNth(kind, 1, syscall.EIO)
	if err := do(); err == nil {
		s.Fatalf("%v did not fail", kind)
	}
	s.Fail(nil)
}

// TestPowerCut has one case for each rule of the package comment. What is cut is the moment after
// the run; each outcome in want must occur, and each that occurs must match.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		run   func(*script)
		want  []string
		match string // a pattern for further outcomes
	}{
		{"synced content and synced name are there", func(s *script) {
			s.durable("a", "AB")
		}, []string{"a=AB"}, ""},
		{"datasync makes content and size durable", func(s *script) {
			s.durable("a", "A")
			s.write("a", 0, "CB")
			s.datasync("a")
		}, []string{"a=CB"}, ""},
		{"sync does not make the name durable", func(s *script) {
			s.create("a")
			s.write("a", 0, "A")
			s.sync("a")
		}, []string{"", "a=A"}, ""},
		{"a durable name says nothing of the content", func(s *script) {
			s.create("a")
			s.write("a", 0, "AB")
			s.syncDir()
		}, []string{"a=", "a=A", "a=.", "a=A.", "a=.B", "a=..", "a=AB", "a=(A.)"}, `a=([A.]|\(A\.\))?([B.]|\(B\.\))?`},
		{"nothing synced at all", func(s *script) {
			s.create("a")
			s.write("a", 0, "A")
		}, []string{"", "a=", "a=A", "a=.", "a=(A.)"}, ""},
		{"each sector of an overwrite is old, new or torn", func(s *script) {
			s.durable("a", "AB")
			s.write("a", 0, "CD")
		}, []string{"a=AB", "a=CB", "a=AD", "a=CD", "a=(CA)B", "a=A(DB)", "a=(CA)D", "a=C(DB)"}, `a=(A|C|\(CA\))(B|D|\(DB\))`},
		{"the later write can be there without the earlier one", func(s *script) {
			s.durable("a", "AB")
			s.write("a", 0, "C")
			s.write("a", 1, "D")
		}, []string{"a=AB", "a=CB", "a=AD", "a=CD"}, `a=(A|C|\(CA\))(B|D|\(DB\))`},
		{"also in another file", func(s *script) {
			s.durable("a", "A")
			s.durable("b", "B")
			s.write("a", 0, "C")
			s.write("b", 0, "D")
		}, []string{"a=A b=B", "a=C b=B", "a=A b=D", "a=C b=D"}, `a=(A|C|\(CA\)) b=(B|D|\(DB\))`},
		{"all of one file and nothing of another", func(s *script) {
			s.durable("a", "AAAAAAAAA")
			s.durable("b", "BBBBBBBBB")
			s.write("a", 0, "XXXXXXXXX")
			s.write("b", 0, "YYYYYYYYY")
		}, []string{"a=XXXXXXXXX b=BBBBBBBBB", "a=AAAAAAAAA b=YYYYYYYYY"}, `a=([AX]|\(XA\)){9} b=([BY]|\(YB\)){9}`},
		{"zeros over a hole and more", func(s *script) {
			s.durable("a", "")
			s.write("a", 8, "AB")
			s.sync("a")
			s.write("a", 0, "..........")
		}, []string{"a=........AB", "a=.........B", "a=........A.", "a=.........."}, `a=\.{8}(A|\.|\(\.A\))(B|\.|\(\.B\))`},
		{"any version of a sector, and torn between two at most", func(s *script) {
			s.durable("a", "A")
			s.write("a", 0, "B")
			s.write("a", 0, "C")
		}, []string{"a=A", "a=B", "a=C", "a=(BA)", "a=(CA)", "a=(CB)"}, ""},
		{"within a sector a later write does not come without an earlier one", func(s *script) {
			// The system writes back the sector as it is in its cache.
			s.durable("a", "A")
			_, err := s.file("a").WriteAt(bytes.Repeat([]byte("B"), 256), 0)
			s.check(err)
			_, err = s.file("a").WriteAt(bytes.Repeat([]byte("C"), 256), 256)
			s.check(err)
		}, []string{"a=A", "a=(BA)", "a=(BC)", "a=(BCA)"}, ""},
		{"a write into a sector does not harm what is synced there", func(s *script) {
			s.create("a")
			_, err := s.file("a").WriteAt(bytes.Repeat([]byte("A"), 256), 0)
			s.check(err)
			s.syncDir()
			s.sync("a")
			_, err = s.file("a").WriteAt(bytes.Repeat([]byte("B"), 256), 256)
			s.check(err)
		}, []string{"a=+256A", "a=(AB)", "a=(A.)", "a=(AB.)"}, ""},
		{"growth is there or not, whatever the content", func(s *script) {
			s.durable("a", "A")
			s.write("a", 1, "B")
		}, []string{"a=A", "a=AB", "a=A.", "a=A(B.)"}, ""},
		{"a long append gets part of the way", func(s *script) {
			s.durable("a", "A")
			s.write("a", 1, "BCD")
		}, []string{"a=A", "a=AB", "a=ABC", "a=ABCD", "a=A..D", "a=AB.D"}, `a=A.*`},
		{"sizes change in order", func(s *script) {
			s.durable("a", "")
			s.truncate("a", 3*sector)
			s.truncate("a", sector)
			s.truncate("a", 2*sector)
		}, []string{"a=", "a=...", "a=.", "a=.."}, ""},
		{"a hole is zeros", func(s *script) {
			s.durable("a", "A")
			s.write("a", 2, "B")
		}, []string{"a=A", "a=A.B", "a=A..", "a=A.(B.)"}, `a=A\.`},
		{"a truncation is there or not", func(s *script) {
			s.durable("a", "AB")
			s.truncate("a", 0)
		}, []string{"a=AB", "a="}, ""},
		{"a truncation may have zeroed the rest of its block", func(s *script) {
			s.durable("a", "AB")
			s.truncate("a", sector)
		}, []string{"a=AB", "a=A", "a=A.", "a=A(.B)"}, ""},
		{"what was cut off does not come back", func(s *script) {
			s.durable("a", "AB")
			s.truncate("a", 0)
			s.truncate("a", 2*sector)
			s.sync("a")
		}, []string{"a=.."}, ""},
		{"what is written after a truncation comes with it or not at all", func(s *script) {
			s.durable("a", "AB")
			s.truncate("a", 0)
			s.write("a", 0, "C")
		}, []string{"a=AB", "a=", "a=C", "a=.", "a=(C.)"}, ""},
		{"what is far beyond a truncation that is not there stays", func(s *script) {
			s.durable("a", "ABCDEFGHIJ") // two blocks of 4 KiB
			s.truncate("a", 7*sector)
			s.write("a", 9, "X")
		}, []string{"a=ABCDEFGHIJ", "a=ABCDEFG", "a=ABCDEFG.IJ", "a=ABCDEFG..X", "a=ABCDEFG..."},
			`a=ABCDEFG(H|\.|\(\.H\))IJ|a=ABCDEFG(\.(\.([X.]|\(X\.\))?)?)?`},
		{"zeros over zeros are zeros", func(s *script) {
			s.durable("a", "..")
			s.write("a", 0, ".A")
			s.write("a", 0, "..")
		}, []string{"a=..", "a=.A", "a=.(A.)", "a=.(.A)"}, ""},

		{"a remove is there or not", func(s *script) {
			s.durable("a", "A")
			s.remove("a")
		}, []string{"a=A", ""}, ""},
		{"a synced remove is there", func(s *script) {
			s.durable("a", "A")
			s.remove("a")
			s.syncDir()
		}, []string{""}, ""},
		{"creates are independent", func(s *script) {
			for _, name := range []string{"a", "b"} {
				s.create(name)
				s.write(name, 0, "A")
				s.sync(name)
			}
		}, []string{"", "a=A", "b=A", "a=A b=A"}, ""},
		{"a remove can overtake a create", func(s *script) {
			s.durable("a", "A")
			s.create("b")
			s.remove("a")
		}, []string{"", "a=A", "b=", "a=A b="}, ""},
		{"a rename is atomic", func(s *script) {
			s.durable("a", "A")
			s.durable("b", "B")
			s.rename("a", "b")
		}, []string{"a=A b=B", "b=A"}, ""},
		{"renamed before its first name was durable", func(s *script) {
			s.create("a")
			s.write("a", 0, "A")
			s.sync("a")
			s.rename("a", "b")
		}, []string{"", "a=A", "b=A"}, ""},
		{"renamed before its content was durable", func(s *script) {
			s.durable("b", "B")
			s.create("a")
			s.write("a", 0, "A")
			s.syncDir()
			s.rename("a", "b")
			s.syncDir()
		}, []string{"b=A", "b=", "b=.", "b=(A.)"}, ""},
		{"a name taken again does not hide the file that had it", func(s *script) {
			s.durable("a", "A")
			s.rename("a", "b")
			s.create("a")
			s.write("a", 0, "C")
			s.sync("a")
		}, []string{"a=A", "b=A", "a=C b=A"}, ""},
		{"nor when a rename takes it", func(s *script) {
			s.durable("a", "A")
			s.durable("b", "B")
			s.rename("a", "c")
			s.rename("b", "a")
		}, []string{"a=A b=B", "b=B c=A", "a=B c=A"}, ""},
		{"a file has one name", func(s *script) {
			s.durable("a", "A")
			s.rename("a", "b")
			s.rename("b", "c")
		}, []string{"a=A", "b=A", "c=A"}, ""},
		{"renamed and removed", func(s *script) {
			s.durable("a", "A")
			s.rename("a", "b")
			s.remove("b")
		}, []string{"a=A", "b=A", ""}, ""},
		{"a synced rename does not make content durable", func(s *script) {
			s.durable("a", "A")
			s.write("a", 0, "B")
			s.rename("a", "b")
			s.syncDir()
		}, []string{"b=A", "b=B", "b=(BA)"}, ""},

		{"a failed sync is not made good by the next", func(s *script) {
			s.durable("a", "A")
			s.write("a", 0, "B")
			s.failing(crashfs.Sync, s.file("a").Sync)
			if got := show(s.Disk); got != "a=B" {
				s.Errorf("reads see %s after the failed sync", got)
			}
			s.sync("a")
			s.datasync("a")
		}, []string{"a=A", "a=B", "a=(BA)"}, ""},
		{"a failed datasync neither", func(s *script) {
			s.durable("a", "A")
			s.write("a", 1, "B")
			s.failing(crashfs.Datasync, s.file("a").Datasync)
			s.datasync("a")
		}, []string{"a=A", "a=AB", "a=A.", "a=A(B.)"}, ""},
		{"what is written again after a failed sync can be synced", func(s *script) {
			s.durable("a", "AA")
			s.write("a", 0, "BB")
			s.failing(crashfs.Sync, s.file("a").Sync)
			s.write("a", 0, "C")
			s.sync("a")
		}, []string{"a=CA", "a=CB", "a=C(BA)"}, ""},
		{"a sector is written back with what was lost in it", func(s *script) {
			s.durable("a", "A")
			s.write("a", 0, "B")
			s.failing(crashfs.Sync, s.file("a").Sync)
			_, err := s.file("a").WriteAt([]byte("C"), 511)
			s.check(err)
			s.sync("a")
		}, []string{"a=(BC)"}, ""},
		{"an append after a lost one makes the size durable, not the lost content", func(s *script) {
			s.durable("a", "A")
			s.write("a", 1, "B")
			s.failing(crashfs.Sync, s.file("a").Sync)
			s.write("a", 2, "C")
			s.sync("a")
		}, []string{"a=A.C", "a=ABC", "a=A(B.)C"}, ""},
		{"a write beyond a size that was lost makes the size durable", func(s *script) {
			s.durable("a", "A")
			s.write("a", 1, "BC")
			s.failing(crashfs.Sync, s.file("a").Sync)
			s.write("a", 2, "D")
			s.sync("a")
		}, []string{"a=A.D", "a=ABD", "a=A(B.)D"}, ""},
		{"a write beyond a truncation that was lost makes it durable", func(s *script) {
			s.durable("a", "ABCD")
			s.truncate("a", 0)
			s.truncate("a", 4*sector)
			s.failing(crashfs.Sync, s.file("a").Sync)
			s.write("a", 2, "X")
			s.sync("a")
		}, []string{"a=..X."}, ""},
		{"a lost truncation", func(s *script) {
			s.durable("a", "ABCDEFGHIJ")
			s.truncate("a", 8*sector)
			s.failing(crashfs.Sync, s.file("a").Sync)
			s.sync("a")
		}, []string{"a=ABCDEFGHIJ", "a=ABCDEFGH"}, ""},
		{"a lost truncation, and growth", func(s *script) {
			s.durable("a", "ABCD")
			s.truncate("a", 0)
			s.truncate("a", 4*sector)
			s.failing(crashfs.Sync, s.file("a").Sync)
		}, []string{"a=ABCD", "a=...."}, ""},
		{"no size without the truncation before it, lost or not", func(s *script) {
			s.durable("a", "ABCD")
			s.truncate("a", sector)
			s.failing(crashfs.Sync, s.file("a").Sync)
			s.truncate("a", 2*sector)
		}, []string{"a=ABCD", "a=A", "a=A."}, `a=A(B|\.|\(\.B\))(C|\.|\(\.C\))(D|\.|\(\.D\))`},
		{"a lost truncation, a size that is synced", func(s *script) {
			s.durable("a", "ABCDEFGHIJ")
			s.truncate("a", 8*sector)
			s.failing(crashfs.Sync, s.file("a").Sync)
			s.truncate("a", 10*sector)
			s.sync("a")
		}, []string{"a=ABCDEFGH.."}, ""},
		{"lost twice", func(s *script) {
			s.durable("a", "AA")
			s.write("a", 0, "B")
			s.failing(crashfs.Sync, s.file("a").Sync)
			s.write("a", 1, "C")
			s.failing(crashfs.Sync, s.file("a").Sync)
			s.sync("a")
		}, []string{"a=AA", "a=BA", "a=AC", "a=BC"}, `a=(A|B|\(BA\))(A|C|\(CA\))`},
		{"lost, and something unsynced", func(s *script) {
			s.durable("a", "AA")
			s.write("a", 0, "B")
			s.failing(crashfs.Sync, s.file("a").Sync)
			s.write("a", 1, "C")
		}, []string{"a=AA", "a=BA", "a=AC", "a=BC"}, `a=(A|B|\(BA\))(A|C|\(CA\))`},
		{"lost, and written again, unsynced", func(s *script) {
			s.durable("a", "A")
			s.write("a", 0, "B")
			s.failing(crashfs.Sync, s.file("a").Sync)
			s.write("a", 0, "C")
		}, []string{"a=A", "a=B", "a=C", "a=(BA)", "a=(CA)", "a=(CB)"}, ""},
		{"a failed sync of one file is not that of another", func(s *script) {
			s.durable("a", "A")
			s.durable("b", "A")
			s.write("a", 0, "B")
			s.write("b", 0, "B")
			s.failing(crashfs.Sync, s.file("a").Sync)
			s.sync("b")
		}, []string{"a=A b=B", "a=B b=B", "a=(BA) b=B"}, ""},
		{"a failed syncdir is not made good by the next", func(s *script) {
			s.create("a")
			s.failing(crashfs.SyncDir, s.SyncDir)
			s.create("b")
			s.syncDir()
		}, []string{"b=", "a= b="}, ""},
		{"a synced rename of a file whose create was lost", func(s *script) {
			s.create("a")
			s.failing(crashfs.SyncDir, s.SyncDir)
			s.rename("a", "b")
			s.syncDir()
		}, []string{"b="}, ""},
		{"a synced remove of a file whose rename was lost", func(s *script) {
			s.durable("a", "A")
			s.rename("a", "b")
			s.failing(crashfs.SyncDir, s.SyncDir)
			s.remove("b")
			s.syncDir()
		}, []string{""}, ""},
		{"failed calls change nothing", func(s *script) {
			s.durable("a", "A")
			s.failing(crashfs.Truncate, func() error { return s.file("a").Truncate(0) })
			s.failing(crashfs.Rename, func() error { return s.Rename("a", "b") })
			s.failing(crashfs.Remove, func() error { return s.Remove("a") })
			s.failing(crashfs.Create, func() error { _, err := s.Create("b"); return err })
			s.failing(crashfs.Lock, func() error { _, err := s.Lock("b", "me"); return err })
			if got := show(s.Disk); got != "a=A" {
				s.Errorf("reads see %s", got)
			}
		}, []string{"a=A"}, ""},
		{"a lock file is a file like others", func(s *script) {
			_, err := s.Lock("lock", "A")
			s.check(err)
		}, []string{"", "lock=", "lock=+1A", "lock=+1."}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := crashfs.New()
			c.run(newScript(t, d))
			seen := map[string]int{}
			rng := rand.New(rand.NewPCG(1, 2))
			at := replayTo(d, d.Len())
			for range 5000 {
				seen[show(at.PowerCut(rng))]++
			}
			match := regexp.MustCompile("^(" + c.match + ")$")
			for outcome, n := range seen {
				if !slices.Contains(c.want, outcome) && (c.match == "" || !match.MatchString(outcome)) {
					t.Errorf("%q occurs %d times, and cannot be", outcome, n)
				}
			}
			for _, outcome := range c.want {
				if seen[outcome] == 0 {
					t.Errorf("%q never occurs", outcome)
				}
			}
			if t.Failed() {
				t.Log(slices.Sorted(maps.Keys(seen)))
			}
			// The extremes are one outcome each.
			if got := show(at.PowerCutKeeping(1, rng)); got != show(d) {
				t.Errorf("with all kept: %q, want %q", got, show(d))
			}
			least := show(at.PowerCutKeeping(0, rng))
			for range 100 {
				if got := show(at.PowerCutKeeping(0, rng)); got != least {
					t.Errorf("with nothing kept: %q and %q", got, least)
				}
			}
		})
	}
}

// The operation under way: a write is torn at any byte, others are done or not.
func TestUnderWay(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	s := newScript(t, d)
	s.create("a")
	s.syncDir()
	before := d.Len()
	if _, err := s.file("a").WriteAt(bytes.Repeat([]byte("A"), 100), 0); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for name, crash := range map[string]func() *crashfs.Disk{
		"power cut": func() *crashfs.Disk { return d.PowerCut(before, rng) },
		"kill":      func() *crashfs.Disk { return d.KillTorn(before, rng) },
	} {
		seen := map[int]bool{}
		for range 20000 {
			b := crash().Content("a")
			if n := len(bytes.TrimRight(b, "\x00")); !bytes.Equal(b[:n], bytes.Repeat([]byte("A"), n)) {
				t.Fatalf("%s: %q", name, b)
			} else {
				seen[n] = true
			}
		}
		if len(seen) != 101 {
			t.Errorf("%s: %d lengths of 0 to 100 occur", name, len(seen))
		}
	}
	if got := d.Kill(before).Content("a"); len(got) != 0 {
		t.Errorf("Kill shows the write to come: %q", got)
	}

	s.sync("a")
	for range 20 { // a sync under way is one that need not have begun
		if got := show(replayTo(d, d.Len()-1).PowerCutKeeping(0, rng)); got != "a=" {
			t.Errorf("before the sync %q is durable", got)
		}
	}
	s.rename("a", "b")
	seen := map[string]bool{}
	for range 1000 {
		seen[d.KillTorn(d.Len()-1, rng).Files()[0]] = true
		seen["cut "+d.PowerCut(d.Len()-1, rng).Files()[0]] = true
	}
	if len(seen) != 4 {
		t.Errorf("of a rename under way: %v", seen)
	}
}

// The system survives its process, and with it what was written. That is not durable.
func TestKill(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	s := newScript(t, d)
	s.durable("a", "A")
	s.write("a", 0, "B")
	s.create("b")
	s.write("b", 0, "C")
	if _, err := s.Lock("lock", "me"); err != nil {
		t.Fatal(err)
	}
	killed := d.Kill(d.Len())
	if want := "a=B b=C lock=+2(me)"; show(killed) != want {
		t.Errorf("after Kill: %q, want %q", show(killed), want)
	}
	if l, err := killed.Lock("lock", "you"); err != nil {
		t.Errorf("the lock outlives its process: %v", err)
	} else if err := l.Close(); err != nil {
		t.Error(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	if got := show(killed.Replay().PowerCutKeeping(0, rng)); got != "a=A" {
		t.Errorf("after Kill and a power cut: %q, want what was durable", got)
	}
	after := newScript(t, killed)
	after.sync("a") // of what another process has written
	after.sync("b")
	after.syncDir()
	if got := show(killed.PowerCut(killed.Len(), rng)); !strings.HasPrefix(got, "a=B b=C") {
		t.Errorf("after Kill, Sync and a power cut: %q", got)
	}
	if got := show(d); got != "a=B b=C lock=+2(me)" {
		t.Errorf("the first disk has changed: %q", got)
	}
	for range 100 {
		cut := d.PowerCut(d.Len(), rng)
		if l, err := cut.Lock("lock", "you"); err != nil {
			t.Fatalf("the lock outlives the power: %v", err)
		} else if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What a power cut leaves is at rest: cutting again changes nothing.
func TestSurvivorIsDurable(t *testing.T) {
	t.Parallel()
	d := crashfs.New()
	s := newScript(t, d)
	s.durable("a", "ABC")
	s.write("a", 0, "XYZ")
	s.create("b")
	rng := rand.New(rand.NewPCG(1, 2))
	for at := range d.Crashes() {
		for range 100 {
			cut := at.PowerCut(rng)
			if again := cut.PowerCut(0, rng); show(again) != show(cut) {
				t.Fatalf("%q became %q", show(cut), show(again))
			}
		}
	}
}
