package crashfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// toy is a small write-ahead log of records 1, 2, 3…, with a bug if asked for. Power cuts must
// find each bug and none in the one that has none.
//
// Its files are segments of zeros, each with the number of its first record:
//
//	first 8 | crc 4 | length 4 | number 8 | payload | crc 4 | …
type toy struct {
	fs   vfs.FS
	bug  bug
	ack  func(uint64)
	f    vfs.File // the segment that is written, nil before the first append
	seg  int
	off  int64
	next uint64
	err  error // latched
}

type bug string

const (
	noBug            bug = "no bug"
	noSync           bug = "no sync"
	ackBeforeSync    bug = "acknowledged before the sync"
	noDirSync        bug = "no sync of the directory after create and rename"
	sizeAfterSync    bug = "the size is set after the sync"
	retriesSync      bug = "a failed sync is tried again"
	trustsCache      bug = "what is read on opening is not synced"
	appendsAfterTear bug = "appends after a damaged tail"
)

const (
	segmentSize = 16 << 10
	headerSize  = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var pattern = func() []byte {
	b := make([]byte, 2000)
	for i := range b {
		b[i] = byte(i*7 + i/251)
	}
	return b
}()

// payload is what the record of that number holds.
func payload(number uint64, n int) []byte { return pattern[number%997:][:n] }

func openToy(fs vfs.FS, bug bug, ack func(uint64)) (*toy, error) {
	t := &toy{fs: fs, bug: bug, ack: ack, next: 1}
	names, err := fs.List()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "wal-") {
			if err := fs.Remove(name); err != nil {
				return nil, err
			}
			continue
		}
		if err := t.recover(name); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if bug != trustsCache {
		err = fs.SyncDir()
	}
	return t, err
}

func (t *toy) recover(name string) error {
	if _, err := fmt.Sscanf(name, "wal-%d", &t.seg); err != nil {
		return err
	}
	f, err := t.fs.Open(name)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return err
	}
	if size < 8 || binary.LittleEndian.Uint64(b) != t.next {
		return fmt.Errorf("does not begin with record %d", t.next)
	}
	t.off = 8
	for {
		rest := b[t.off:]
		if len(rest) < headerSize {
			break
		}
		n := int(binary.LittleEndian.Uint32(rest[4:]))
		if n > len(rest)-headerSize || crc32.Checksum(rest[4:headerSize+n], castagnoli) != binary.LittleEndian.Uint32(rest) ||
			binary.LittleEndian.Uint64(rest[8:]) != t.next {
			break
		}
		if t.bug == sizeAfterSync && len(rest) < padded(headerSize+n) {
			break
		}
		if !bytes.Equal(rest[headerSize:headerSize+n], payload(t.next, n)) {
			return fmt.Errorf("record %d is of the wrong content", t.next)
		}
		t.off += int64(headerSize + n)
		if t.bug == sizeAfterSync {
			t.off = 8 + int64(padded(int(t.off-8)))
		}
		t.next++
	}
	if t.bug != trustsCache {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if t.bug == appendsAfterTear {
		t.f = f // it goes on here: old records further on may show up behind the new one
		return nil
	}
	return f.Close()
}

func padded(n int) int { return (n + 63) / 64 * 64 }

// append writes records with payloads of those lengths, and syncs once.
func (t *toy) append(lengths ...int) error {
	if t.err != nil {
		return t.err
	}
	var b []byte
	next := t.next
	for _, n := range lengths {
		at := len(b)
		b = append(b, make([]byte, headerSize)...)
		binary.LittleEndian.PutUint32(b[at+4:], uint32(n))
		binary.LittleEndian.PutUint64(b[at+8:], next)
		b = append(b, payload(next, n)...)
		binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b[at+4:], castagnoli))
		next++
	}
	if t.f == nil || t.off+int64(len(b)) > segmentSize {
		if t.err = t.roll(); t.err != nil {
			return t.err
		}
	}
	if _, t.err = t.f.WriteAt(b, t.off); t.err != nil {
		return t.err
	}
	if t.bug == ackBeforeSync {
		t.ack(next - 1)
	}
	if t.bug != noSync {
		t.err = t.f.Datasync()
		if t.err != nil && t.bug == retriesSync {
			t.err = t.f.Datasync()
		}
	}
	if t.err != nil {
		return t.err
	}
	t.off += int64(len(b))
	if t.bug == sizeAfterSync {
		t.off = 8 + int64(padded(int(t.off-8)))
		if t.err = t.f.Truncate(t.off); t.err != nil {
			return t.err
		}
	}
	t.ack(next - 1)
	t.next = next
	return nil
}

func (t *toy) roll() error {
	if t.f != nil {
		if err := t.f.Close(); err != nil {
			return err
		}
		t.f = nil
	}
	t.seg++
	t.off = 8
	f, err := t.fs.Create("tmp")
	if err != nil {
		return err
	}
	head := make([]byte, segmentSize)
	if t.bug == sizeAfterSync {
		head = head[:8]
	}
	binary.LittleEndian.PutUint64(head, t.next)
	if _, err := f.WriteAt(head, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := t.fs.Rename("tmp", fmt.Sprintf("wal-%04d", t.seg)); err != nil {
		return err
	}
	if t.bug != noDirSync {
		if err := t.fs.SyncDir(); err != nil {
			return err
		}
	}
	t.f = f
	return nil
}

// runToy appends until there are ops operations. Each acknowledgement is a mark.
func runToy(d *crashfs.Disk, bug bug, ops int, rng *rand.Rand) error {
	t, err := openToy(d, bug, func(number uint64) { d.Mark(number) })
	if err != nil {
		return err
	}
	for d.Len() < ops {
		lengths := []int{100 * rng.IntN(10)}
		if bug != sizeAfterSync { // which pads each record on its own
			for rng.IntN(3) == 0 {
				lengths = append(lengths, 100*rng.IntN(10))
			}
		}
		if err := t.append(lengths...); err != nil {
			return err
		}
	}
	return nil
}

// checkToy opens what a crash left: everything acknowledged must be there, also after one more
// append and another opening.
func checkToy(d *crashfs.Disk, bug bug, marks []any) error {
	var acked uint64
	for _, m := range marks {
		acked = max(acked, m.(uint64))
	}
	t, err := openToy(d, bug, func(uint64) {})
	if err != nil {
		return err
	}
	if t.next <= acked {
		return fmt.Errorf("record %d was acknowledged, and they end with %d", acked, t.next-1)
	}
	if err := t.append(500); err != nil {
		return err
	}
	again, err := openToy(d, bug, func(uint64) {})
	if err != nil {
		return err
	}
	if again.next != t.next {
		return fmt.Errorf("there were %d records, and after opening again %d", t.next-1, again.next-1)
	}
	return nil
}

// cutToy runs the toy and cuts it at every operation. It returns the number of cuts, and of
// those that lost something.
func cutToy(t *testing.T, bug bug, seed uint64, perOp int) (cuts, lost int) {
	rng := rand.New(rand.NewPCG(seed, 0))
	d := crashfs.New()
	if bug == retriesSync {
		d.FailNth(crashfs.Datasync, 1+rng.IntN(50), syscall.EIO)
	}
	if err := runToy(d, bug, 300, rng); err != nil {
		t.Fatal(err)
	}
	d.Fail(nil)
	for at := range d.Crashes() {
		for range perOp {
			cuts++
			cut := at.PowerCut(rng)
			if err := checkToy(cut, bug, at.Marks()); err != nil {
				if lost++; bug == noBug {
					op, _ := at.Op()
					t.Fatalf("seed %d, power cut in %v: %v", seed, op, err)
				}
			}
		}
	}
	return cuts, lost
}

func TestToySurvives(t *testing.T) {
	t.Parallel()
	cuts, start := 0, time.Now()
	for seed := uint64(0); cuts < 20000; seed++ {
		n, _ := cutToy(t, noBug, seed, 10)
		cuts += n
	}
	t.Logf("%d power cuts, each opened twice, in %v", cuts, time.Since(start))
}

func TestPowerCutFindsBugs(t *testing.T) {
	t.Parallel()
	for _, bug := range []bug{noSync, ackBeforeSync, noDirSync, sizeAfterSync, retriesSync, appendsAfterTear} {
		t.Run(string(bug), func(t *testing.T) {
			t.Parallel()
			cuts, lost := 0, 0
			for seed := range uint64(5) {
				n, l := cutToy(t, bug, seed, 5)
				cuts, lost = cuts+n, lost+l
			}
			t.Logf("found by %d of %d power cuts", lost, cuts)
			if lost == 0 {
				t.Error("not found")
			}
		})
	}
}

// The process is killed, another one opens the log, and then the power goes: what the
// second one has read it has promised.
func TestKillThenPowerCut(t *testing.T) {
	t.Parallel()
	for _, bug := range []bug{noBug, trustsCache} {
		t.Run(string(bug), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(3, 0))
			d := crashfs.New()
			if err := runToy(d, bug, 200, rng); err != nil {
				t.Fatal(err)
			}
			cuts, lost := 0, 0
			for at := range d.Crashes() {
				for range 4 {
					second := at.KillTorn(rng)
					w, err := openToy(second, bug, func(uint64) {})
					if err != nil {
						t.Fatal(err)
					}
					if w.next > 1 {
						second.Mark(w.next - 1)
					}
					for range 5 {
						cuts++
						if err := checkToy(second.PowerCut(second.Len(), rng), bug, second.Marks(second.Len())); err != nil {
							if lost++; bug == noBug {
								t.Fatal(err)
							}
						}
					}
				}
			}
			t.Logf("%d of %d power cuts lost something", lost, cuts)
			if bug != noBug && lost == 0 {
				t.Error("not found")
			}
		})
	}
}

// Each call of a run fails once, in turn. A log that latches the error loses nothing.
func TestToySurvivesFaults(t *testing.T) {
	t.Parallel()
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		for n := range 120 {
			rng := rand.New(rand.NewPCG(uint64(n), 0))
			d := crashfs.New()
			d.Seed(uint64(n))
			d.Fail(func(op crashfs.Op) error {
				if op.N == n {
					return errno
				}
				return nil
			})
			if err := runToy(d, noBug, 120, rng); !errors.Is(err, errno) {
				t.Fatalf("operation %d: %v, want %v", n, err, errno)
			}
			d.Fail(nil)
			for range 20 {
				if err := checkToy(d.PowerCut(d.Len(), rng), noBug, d.Marks(d.Len())); err != nil {
					t.Fatalf("operation %d fails: %v", n, err)
				}
			}
		}
	}
}

func TestToySurvivesFullDisk(t *testing.T) {
	t.Parallel()
	for capacity := int64(0); capacity < 4*segmentSize; capacity += 1000 {
		rng := rand.New(rand.NewPCG(uint64(capacity), 0))
		d := crashfs.New()
		d.Capacity(capacity)
		if err := runToy(d, noBug, 1000, rng); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%d bytes: %v, want ENOSPC", capacity, err)
		}
		for range 5 {
			if err := checkToy(d.PowerCut(d.Len(), rng), noBug, d.Marks(d.Len())); err != nil {
				t.Fatalf("%d bytes: %v", capacity, err)
			}
		}
	}
}

// TestSpeed cuts without opening anything.
func TestSpeed(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	d := crashfs.New()
	if err := runToy(d, noBug, 300, rng); err != nil {
		t.Fatal(err)
	}
	cuts, start := 0, time.Now()
	for at := range d.Crashes() {
		for range 67 {
			at.PowerCut(rng)
			cuts++
		}
	}
	t.Logf("%d power cuts of a run of %d operations in %v", cuts, d.Len(), time.Since(start))
}

func BenchmarkPowerCut(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 0))
	d := crashfs.New()
	if err := runToy(d, noBug, 300, rng); err != nil {
		b.Fatal(err)
	}
	at := d.Replay()
	b.ReportAllocs()
	for b.Loop() {
		if !at.Next() {
			at = d.Replay()
		}
		at.PowerCut(rng)
	}
}
