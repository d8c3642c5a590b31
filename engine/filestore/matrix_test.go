package filestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// specimen is a small store at rest, for the matrix.
type specimen struct {
	*run
	disk *crashfs.Disk
	// last is the file that is written to of a store that was not closed, else empty. What is
	// behind torn, its last batch, a crash may have torn, as far as anybody can tell.
	last    string
	torn    int64
	batches []batchEnd // of last, without the last batch

	damaged, refused, found, cut atomic.Int64
}

// batchEnd is what was promised when the file had so many bytes.
type batchEnd struct {
	file string
	end  int64
	promise
}

// damage is what was done to a file, from one byte to another.
type damage struct {
	what     string
	file     string
	from, to int64
}

// owed returns what must be there after damage. Behind a store that was not closed there is
// no end: damage that reaches it takes with it what vouched for the batches before.
func (sp *specimen) owed(dm damage) promise {
	if sp.last == "" || dm.file != sp.last {
		return sp.now
	}
	_, end := (&run{disk: sp.disk}).active()
	first := dm.from
	if dm.from > sp.torn || dm.to < end {
		first = sp.torn
	}
	for i := len(sp.batches) - 1; i >= 0; i-- {
		if b := sp.batches[i]; b.file == sp.last && b.end <= first {
			return b.promise
		}
	}
	return promise{maybe: sp.now.maybe, handlers: sp.now.handlers}
}

func newSpecimen(t testing.TB, seed uint64, steps func(r *run) error) *specimen {
	r := newRun(crashfs.New(), filestore.Options{SegmentSize: 2 << 10, Logger: quiet, SyncEvery: 1 << 40, TailEvents: 1}, seed)
	r.payload = 40
	err := r.open()
	if err == nil {
		err = steps(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &specimen{run: r, disk: r.disk.Clone()}
}

// unclosed adds a last batch and leaves the store as the death of the process does.
func (sp *specimen) unclosed(t testing.TB) *specimen {
	r := sp.run
	sp.last, sp.torn = r.active()
	if err := r.put(engine.Synced); err != nil {
		t.Fatal(err)
	}
	if name, _ := r.active(); name != sp.last {
		t.Fatal("the last batch is in a segment of its own: choose another seed")
	}
	sp.batches = r.batches[:len(r.batches)-1]
	sp.disk = r.disk.Clone()
	r.s.Close()
	return sp
}

// active returns the file that is written to, and where what is in it ends.
func (r *run) active() (name string, end int64) {
	for _, f := range r.disk.Files() {
		if strings.HasSuffix(f, ".seg") {
			name = f
		}
	}
	return name, int64(len(bytes.TrimRight(r.disk.Content(name), "\x00")))
}

// closed closes the store.
func (sp *specimen) closed(t testing.TB) *specimen {
	if err := sp.run.close(); err != nil {
		t.Fatal(err)
	}
	sp.disk = sp.run.disk.Clone()
	return sp
}

func several(n int, step func() error) error {
	for range n {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func put(r *run) func() error { return func() error { return r.put(engine.Synced) } }

func specimens(t testing.TB) map[string]*specimen {
	full := func(r *run) error {
		return errors.Join(several(14, put(r)), several(3, r.truncate), r.delete(), r.compact(), several(3, func() error { r.park(); return nil }),
			r.save(), several(3, put(r)), r.truncate(), put(r)())
	}
	return map[string]*specimen{
		"unclosed":            newSpecimen(t, 1, func(r *run) error { return several(3, put(r)) }).unclosed(t),
		"closed":              newSpecimen(t, 2, func(r *run) error { return errors.Join(several(4, put(r)), r.save()) }).closed(t),
		"compacted, unclosed": newSpecimen(t, 3, full).unclosed(t),
		"compacted, closed":   newSpecimen(t, 4, full).closed(t),
	}
}

// TestSmallLogMatrix damages small stores in every way there is: each file truncated at every
// byte, each bit flipped, each sector of 512 bytes zeroed, each two files exchanged, each copied over
// another, each deleted. The store opens with everything that was acknowledged, or it or the reading of it
// fails with an error that names the damage: never fewer events in silence. Without WEIR_SOAK it takes
// every bit of what is near the ends of files and of the log, and samples between.
func TestSmallLogMatrix(t *testing.T) {
	t.Parallel()
	stride := int64(211)
	switch {
	case os.Getenv("WEIR_SOAK") != "":
		stride = 1
	case underRace:
		stride = 4001
	}
	for name, sp := range specimens(t) {
		t.Run(name, func(t *testing.T) {
			if err := sp.judgeDamaged(sp.disk.Clone(), damage{}); err != nil {
				t.Fatal(err)
			}
			if n := sp.refused.Load() + sp.cut.Load(); n > 0 {
				t.Fatal("the specimen itself is damaged")
			}
			t.Run("files", func(t *testing.T) {
				files := sp.disk.Files()
				for _, file := range files {
					t.Run(file, func(t *testing.T) {
						t.Parallel()
						sp.everyByte(t, file, stride)
					})
				}
				t.Run("exchanged", func(t *testing.T) {
					t.Parallel()
					sp.exchange(t, files)
				})
			})
			t.Logf("%d files of %d bytes: damaged %d times; %d times refused with a typed error, %d with everything there, %d of the torn last batch",
				len(sp.disk.Files()), size(sp.disk), sp.damaged.Load(), sp.refused.Load(), sp.found.Load(), sp.cut.Load())
		})
	}
}

func size(d *crashfs.Disk) (n int) {
	d = d.Clone() // an index may be about to get its name
	for _, f := range d.Files() {
		n += len(d.Content(f))
	}
	return n
}

func (sp *specimen) everyByte(t *testing.T, file string, stride int64) {
	b := sp.disk.Content(file)
	try := func(what string, from, to int64, do func(d *crashfs.Disk)) {
		d := sp.disk.Clone()
		do(d)
		if err := sp.judgeDamaged(d, damage{what, file, from, to}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	n := int64(len(b))
	end := int64(len(bytes.TrimRight(b, "\x00")))
	wanted := func(i int64) bool {
		return i < 64 && stride == 1 || i%stride < 2 || stride < 1000 && end-i < 50 && i-end < 4 || n-i < 2
	}
	for i := range n {
		if !wanted(i) {
			continue
		}
		try(fmt.Sprintf("truncated to %d of %d bytes", i, n), i, n, func(d *crashfs.Disk) { d.TruncateTo(file, i) })
		for bit := range int64(8) {
			try(fmt.Sprintf("bit %d of byte %d flipped", bit, i), i, i+1, func(d *crashfs.Disk) { d.FlipBit(file, 8*i+bit) })
		}
		if t.Failed() {
			return
		}
	}
	for i := range (n + 511) / 512 {
		try(fmt.Sprintf("sector %d zeroed", i), 512*i, 512*(i+1), func(d *crashfs.Disk) { d.ZeroSector(file, i) })
	}
	try("longer", n, n+1, func(d *crashfs.Disk) { d.TruncateTo(file, n+1) })
	try("deleted", 0, n, func(d *crashfs.Disk) { d.Delete(file) })
	try("a copy beside it", n, n, func(d *crashfs.Disk) { d.Copy(file, "copy-of-"+file) })
}

func (sp *specimen) exchange(t *testing.T, files []string) {
	for _, a := range files {
		for _, b := range files {
			if a == b {
				continue
			}
			d := sp.disk.Clone()
			d.Copy(a, b)
			if err := sp.judgeDamaged(d, damage{file: b}); err != nil {
				t.Errorf("%s over %s: %v", a, b, err)
			}
			if a < b {
				d := sp.disk.Clone()
				d.Swap(a, b)
				if err := sp.judgeDamaged(d, damage{file: b}); err != nil {
					t.Errorf("%s exchanged with %s: %v", a, b, err)
				}
			}
		}
	}
}

// judgeDamaged opens and reads what is left after damage.
func (sp *specimen) judgeDamaged(d *crashfs.Disk, dm damage) error {
	sp.damaged.Add(1)
	verified, repaired := d.Clone(), d.Clone()
	s, err := filestore.OpenFS(d, sp.opts)
	if err == nil {
		lost := s.Head() < engine.Position(len(sp.log))
		err = sp.judge(s, sp.owed(dm))
		if closeErr := s.Close(); err == nil {
			err = closeErr
		}
		if err == nil {
			if lost {
				sp.cut.Add(1)
			} else {
				sp.found.Add(1)
			}
			return nil
		}
	}
	_, corrupt := errors.AsType[*filestore.CorruptionError](err)
	_, format := errors.AsType[*filestore.FormatError](err)
	if !corrupt && !format {
		return err
	}
	sp.refused.Add(1)
	return sp.mend(verified, repaired, err)
}

// mend lets Verify find what was refused, and Repair cut it.
func (sp *specimen) mend(verified, repaired *crashfs.Disk, refused error) error {
	v, err := filestore.VerifyFS(verified)
	if err != nil || v.Err() == nil {
		return fmt.Errorf("refused (%w), but Verify finds %+v, %w", refused, v, err)
	}
	if sp.damaged.Load()%7 != 0 && sp.opts.SegmentSize > 0 {
		return nil
	}
	r, err := filestore.RepairFS(repaired)
	if err != nil {
		if r == nil || strings.Contains(err.Error(), "nothing can be kept") {
			return nil // Repair says that there is nothing to begin with
		}
		return fmt.Errorf("refused (%w), and Repair: %w", refused, err)
	}
	repaired.Reopen()
	s, err := filestore.OpenFS(repaired, sp.opts)
	if err != nil {
		return fmt.Errorf("refused (%w), repaired, and then: %w", refused, err)
	}
	defer s.Close()
	if s.Head() != r.Head {
		return fmt.Errorf("repaired to position %d, open at %d", r.Head, s.Head())
	}
	if err := sp.judgeLog(s, promise{maybe: sp.now.maybe}); err != nil {
		return fmt.Errorf("refused (%w), repaired: %w", refused, err)
	}
	for name := range sp.states { // and it can be written to
		st, err := s.Load(context.Background(), name)
		if err != nil {
			return err
		}
		if st.Deleted {
			continue
		}
		f := fact{stream: name, version: st.Version + 1, typ: "A", data: []byte("after")}
		w := &engine.Write{Stream: &st, After: st.Version, Events: []engine.Record{f.record(s, "text")}}
		if err := s.Commit(context.Background(), []*engine.Write{w}); err != nil {
			return fmt.Errorf("repaired, and then: %w", err)
		}
		break
	}
	return nil
}
