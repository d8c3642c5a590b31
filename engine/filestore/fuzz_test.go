package filestore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// The fuzz targets put something else in the place of one file of a small store in memory, and
// then open, read, verify and repair it. Each comes in two forms.
//
// Plain, the input is the file. What opens has everything that was acknowledged, or, where no closing
// vouches for the end of the log, a beginning of it that ends with a batch; else the error is a typed one.
//
// With edits, the input says which bytes of the good file are to be others, and then every
// checksum, and the length that a small file has, is made right: the input stands behind them. What comes
// out then may be anything that a store could hold, so no content is compared: the errors must be
// typed, reading must come to an end, positions must ascend.
//
// In both nothing may panic or hang, and what all of it allocates must be bounded by allowance.

// allowance is how many bytes may be allocated to open, read, append to, verify and repair a
// store whose files have so many bytes: some of them are read a dozen times over. It is compared with
// the growth of the runtime's /gc/heap/allocs:bytes, which counts all that was ever allocated, freed or not,
// those of the simulated disk included. Nothing else runs meanwhile: fuzz targets run one after
// the other, when the other tests are done.
func allowance(files int) uint64 { return 16<<20 + 256*uint64(files) }

func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// victims are the stores that fuzz targets damage, by what is special about them.
func victims(f *testing.F) []*specimen {
	byName := specimens(f)
	var list []*specimen
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		list = append(list, byName[name])
	}
	return list
}

// fuzzFiles fuzzes files of one kind.
func fuzzFiles(f *testing.F, ours func(name string) bool, resum func(b []byte)) {
	type target struct {
		*specimen
		file string
		good []byte
	}
	var targets []target
	for _, sp := range victims(f) {
		for _, name := range sp.disk.Files() {
			if ours(name) {
				targets = append(targets, target{sp, name, sp.disk.Content(name)})
			}
		}
	}
	if len(targets) == 0 {
		f.Fatal("no store has such a file")
	}
	step := 1
	if underRace {
		step = 9
	}
	for i, tg := range targets {
		f.Add(uint8(i), false, tg.good)
		f.Add(uint8(i), false, targets[(i+1)%len(targets)].good) // of the same store or another
		f.Add(uint8(i), false, tg.good[:len(tg.good)/2])
		f.Add(uint8(i), true, []byte{})
		for at := 0; at < min(len(tg.good), 160); at += step { // one byte of what stands at the beginning
			f.Add(uint8(i), true, []byte{byte(at), 0, 1, tg.good[at] + 1})
		}
		for at := 64; at < len(tg.good); at += 97 * step {
			f.Add(uint8(i), true, []byte{byte(at), byte(at >> 8), 4, 0xff, 0xff, 0xff, 0x7f})
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, edits bool, input []byte) {
		tg := targets[int(which)%len(targets)]
		if len(input) > 64<<10 {
			t.Skip("larger than the stores are")
		}
		b := input
		if edits {
			b = edit(tg.good, input)
			resum(b)
		}
		disk := tg.disk.Clone()
		disk.Put(tg.file, b)
		hangs := time.AfterFunc(time.Minute, func() { panic("it hangs") })
		defer hangs.Stop()
		before := allocated()
		if edits {
			if err := survives(disk, tg.opts); err != nil {
				t.Fatalf("%s: %v", tg.file, err)
			}
		} else {
			tg.damaged.Store(6) // the next is a seventh, which is repaired
			if err := tg.judgeDamaged(disk, damage{"replaced", tg.file, 0, int64(max(len(b), len(tg.good)))}); err != nil {
				t.Fatalf("%s: %v", tg.file, err)
			}
		}
		if n := allocated() - before; n > allowance(size(disk)) {
			t.Errorf("%s: %d bytes allocated for a store of %d", tg.file, n, size(disk))
		}
	})
}

// edit returns a copy of b in which some bytes are others: each edit is an offset of 16
// bits, a length of 8, and so many bytes. An edit behind the end makes it longer.
func edit(b, edits []byte) []byte {
	b = slices.Clone(b)
	for len(edits) >= 3 {
		at, n := int(binary.LittleEndian.Uint16(edits)), int(edits[2])
		edits = edits[3:]
		n = min(n, len(edits))
		if end := at + n; end > len(b) {
			b = append(b, make([]byte, end-len(b))...)
		}
		copy(b[at:], edits[:n])
		edits = edits[n:]
	}
	return b
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// resumSegment makes the checksums right of a segment's header and of the records that
// follow it as far as their lengths lead.
func resumSegment(b []byte) {
	if len(b) < 64 {
		return
	}
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	seed := crc32.Checksum(slices.Concat(b[16:32], b[32:40]), castagnoli)
	for at := 64; at+44 <= len(b); {
		n := int(binary.LittleEndian.Uint32(b[at+4:]))
		if n < 44 || n > len(b)-at {
			return
		}
		binary.LittleEndian.PutUint32(b[at:], crc32.Update(seed, castagnoli, b[at+4:at+n]))
		at += n
	}
}

func resumIndex(b []byte) {
	if len(b) >= 64 {
		binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[16:], castagnoli))
	}
}

func resumSmall(b []byte) {
	if len(b) >= 40 {
		binary.LittleEndian.PutUint64(b[32:], uint64(len(b)-40))
		binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[16:], castagnoli))
	}
}

func FuzzSegment(f *testing.F) {
	fuzzFiles(f, func(name string) bool { return strings.HasSuffix(name, ".seg") }, resumSegment)
}

func FuzzIndex(f *testing.F) {
	fuzzFiles(f, func(name string) bool { return strings.HasSuffix(name, ".idx") }, resumIndex)
}

func FuzzManifest(f *testing.F) {
	fuzzFiles(f, func(name string) bool { return name == "manifest" }, resumSmall)
}

func FuzzHandlers(f *testing.F) {
	fuzzFiles(f, func(name string) bool { return name == "handlers" }, resumSmall)
}

// typed reports whether an error is one that names the damage.
func typed(err error) bool {
	_, corrupt := errors.AsType[*filestore.CorruptionError](err)
	_, format := errors.AsType[*filestore.FormatError](err)
	return corrupt || format
}

// survives does with a store whatever can be done, and returns what is no answer to damage.
func survives(disk *crashfs.Disk, opts filestore.Options) error {
	v, err := filestore.VerifyFS(disk.Clone())
	if err != nil {
		return fmt.Errorf("Verify: %w", err)
	}
	if err := opens(disk.Clone(), opts); err != nil && !typed(err) {
		return fmt.Errorf("open: %w", err)
	} else if err != nil && v.Err() == nil {
		// An index that is not of this log has been believed, which reads notice.
		bare := withoutIndexes(disk.Clone())
		if again := opens(bare, opts); again != nil {
			return fmt.Errorf("it fails with %w, without indexes with %w, and Verify finds nothing", err, again)
		}
	}
	repaired := disk.Clone()
	r, err := filestore.RepairFS(repaired)
	if err != nil {
		if !typed(err) && !strings.Contains(err.Error(), "nothing can be kept") {
			return fmt.Errorf("Repair: %w", err)
		}
		return nil
	}
	repaired.Reopen()
	if err := opens(withoutIndexes(repaired.Clone()), opts); err != nil {
		return fmt.Errorf("repaired, with %d damages, and then: %w", len(r.Damage), err)
	}
	return nil
}

func withoutIndexes(disk *crashfs.Disk) *crashfs.Disk {
	for _, name := range disk.Files() {
		if strings.HasSuffix(name, ".idx") {
			disk.Delete(name)
		}
	}
	return disk
}

// opens opens a store, reads it, and adds to it.
func opens(disk *crashfs.Disk, opts filestore.Options) error {
	s, err := filestore.OpenFS(disk, opts)
	if err != nil {
		return err
	}
	err = readsThrough(s)
	if err == nil {
		err = adds(s)
	}
	if closeErr := s.Close(); err == nil {
		err = closeErr
	}
	return err
}

// readsThrough reads all there is in every way.
func readsThrough(s *filestore.Store) error {
	ctx := context.Background()
	dst := make([]engine.Event, 16)
	names := make(map[string]bool)
	last := engine.Position(0)
	rounds := 0
	for pos := engine.Position(1); pos <= s.Head(); {
		n, next, err := s.ReadAll(ctx, engine.Query{From: pos, To: s.Head()}, dst)
		if err != nil {
			return err
		}
		if rounds++; next <= pos || rounds > 1000 {
			return fmt.Errorf("read from %d leads to %d, in %d rounds", pos, next, rounds)
		}
		for _, ev := range dst[:n] {
			if ev.Position <= last || ev.Position > s.Head() {
				return fmt.Errorf("position %d after %d, the head is %d", ev.Position, last, s.Head())
			}
			last = ev.Position
			names[ev.Stream] = true
		}
		pos = next
	}
	for pos := s.Head(); pos > 0; {
		_, next, err := s.ReadAll(ctx, engine.Query{From: pos, To: 1, Backward: true}, dst)
		if err != nil {
			return err
		}
		if next >= pos {
			return fmt.Errorf("read backward from %d leads to %d", pos, next)
		}
		pos = next
	}
	types := make([]engine.TypeID, 1024)
	for after, rounds := engine.Position(0), 0; after < s.Head() && rounds < 10; rounds++ {
		n, err := s.Types(after, types)
		if err != nil || n == 0 {
			return fmt.Errorf("types after %d: %d, %w", after, n, err)
		}
		after += engine.Position(n)
	}
	for name := range names {
		st, err := s.Load(ctx, name)
		if err != nil {
			return err
		}
		rounds := 0
		for v := engine.Version(1); v <= st.Version; {
			n, next, err := s.ReadStream(ctx, st, engine.StreamQuery{From: v, To: st.Version}, dst)
			if err != nil {
				return err
			}
			if rounds++; next <= v || rounds > 1000 {
				return fmt.Errorf("read of %q from %d leads to %d, in %d rounds", name, v, next, rounds)
			}
			for _, ev := range dst[:n] {
				if err := s.Find(ctx, st, []string{ev.ID}, make([]engine.Version, 1)); err != nil {
					return err
				}
			}
			if next == 0 {
				break // the version is the largest there is
			}
			v = next
		}
		if _, _, err := s.ReadStream(ctx, st, engine.StreamQuery{From: st.Version, To: 1, Backward: true}, dst); err != nil {
			return err
		}
	}
	for i := range 3 {
		if _, err := s.Parked(ctx, fmt.Sprint("h-", i)); err != nil {
			return err
		}
	}
	return nil
}

// adds commits an event, and compacts.
func adds(s *filestore.Store) error {
	st := engine.StreamState{Name: "one more"}
	f := fact{stream: st.Name, version: 1, typ: "A", data: []byte("after")}
	if err := s.Commit(context.Background(), []*engine.Write{{Stream: &st, Events: []engine.Record{f.record(s, "text")}}}); err != nil {
		return err
	}
	_, err := s.Compact(context.Background(), nil)
	return err
}
