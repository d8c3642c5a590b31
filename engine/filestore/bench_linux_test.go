package filestore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// payload is 200 bytes of JSON, which the codec does not have to make.
var payload = &engine.Payload{Encoding: "json", Schema: 1, Bytes: []byte(`{"text":"` + strings.Repeat("x", 189) + `"}`)}

// BenchmarkCommit measures acknowledged events against the physical limit: a plain file of the
// same size, filled with zeros before, to which the same bytes are written in the same groups, with
// one fdatasync each. Read x-file: the rate, as a part of the file's.
func BenchmarkCommit(b *testing.B) {
	for _, bc := range []struct{ appenders, events int }{{1, 1}, {1, 100}, {64, 1}, {64, 100}} {
		b.Run(fmt.Sprintf("appenders=%d/events=%d", bc.appenders, bc.events), func(b *testing.B) {
			dir := b.TempDir()
			s, err := filestore.Open(dir, filestore.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			warm(b, s)
			before, groups := s.Head(), filestore.Groups(s)
			began := time.Now()
			each(bc.appenders, b.N, bc.events, func(g int) func() {
				w := newWrite(b, s, fmt.Sprintf("stream-%d", g), bc.events)
				return func() { commit(b, s, w) }
			})
			took := time.Since(began)
			n := int(s.Head() - before)
			groups = filestore.Groups(s) - groups
			b.StopTimer()
			raw := rawFile(b, groups, n, 44+8+5+200)
			b.ReportMetric(float64(n)/took.Seconds(), "events/s")
			b.ReportMetric(raw.Seconds()/took.Seconds(), "x-file")
			b.ReportMetric(float64(n)/float64(groups), "events/sync")
			b.ReportMetric(float64(took.Nanoseconds())/float64(n), "ns/event")
		})
	}
}

// warm makes the store leave its first, small segments.
func warm(b *testing.B, s *filestore.Store) {
	w := newWrite(b, s, "warm-1", 1000)
	for range 100 {
		commit(b, s, w)
	}
}

// each lets so many goroutines call what make returns until n events are done.
func each(goroutines, n, events int, make func(g int) func()) {
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for g := range goroutines {
		do := make(g)
		wg.Go(func() {
			for left.Add(-int64(events)) > -int64(events) {
				do()
			}
		})
	}
	wg.Wait()
}

func newWrite(b *testing.B, s *filestore.Store, stream string, n int) *engine.Write {
	state, err := s.Load(context.Background(), stream)
	if err != nil {
		b.Fatal(err)
	}
	typ, err := s.TypeID("Event")
	if err != nil {
		b.Fatal(err)
	}
	w := &engine.Write{Stream: &state, After: state.Version}
	for range n {
		w.Events = append(w.Events, engine.Record{Type: "Event", TypeID: typ, Data: payload})
	}
	return w
}

func commit(b *testing.B, s *filestore.Store, w *engine.Write) {
	if err := s.Commit(context.Background(), []*engine.Write{w}); err != nil {
		b.Error(err)
	}
	w.After += engine.Version(len(w.Events))
}

// rawFile writes n records of so many bytes in groups and returns how long that took.
func rawFile(b *testing.B, groups, n, size int) time.Duration {
	f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const file = 64 << 20
	zeros := make([]byte, 1<<20)
	for off := int64(0); off < file; off += int64(len(zeros)) {
		f.WriteAt(zeros, off)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, (n/groups+1)*size)
	for i := range buf {
		buf[i] = byte(i)
	}
	off := int64(0)
	began := time.Now()
	for g := range groups {
		k := (n*(g+1)/groups - n*g/groups) * size
		if off+int64(k) > file {
			off = 0
		}
		if _, err := f.WriteAt(buf[:k], off); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
		off += int64(k)
	}
	return time.Since(began)
}

// BenchmarkRead measures reading of a million events: warm, and cold, when they are on disk alone.
func BenchmarkRead(b *testing.B) {
	const n = 1_000_000
	dir := b.TempDir()
	fill(b, dir, n)
	s, err := filestore.Open(dir, filestore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { s.Close() }()
	var dst [128]engine.Event
	b.Run("sequential", func(b *testing.B) {
		for b.Loop() {
			for pos := engine.Position(1); pos <= n; {
				k, next, err := s.ReadAll(b.Context(), engine.Query{From: pos, To: n}, dst[:])
				if err != nil || k == 0 {
					b.Fatal(k, err)
				}
				pos = next
			}
		}
		b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mevents/s")
	})
	b.Run("stream", func(b *testing.B) {
		events := 0
		for i := 0; b.Loop(); i++ {
			events += readStream(b, s, fmt.Sprintf("stream-%d", i%1000), dst[:])
		}
		b.ReportMetric(float64(events)/b.Elapsed().Seconds()/1e6, "Mevents/s")
	})
	b.Run("sequential-cold", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			forget(b, dir)
			b.StartTimer()
			for pos := engine.Position(1); pos <= n; {
				k, next, err := s.ReadAll(b.Context(), engine.Query{From: pos, To: n}, dst[:])
				if err != nil || k == 0 {
					b.Fatal(k, err)
				}
				pos = next
			}
		}
		b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mevents/s")
	})
	b.Run("stream-cold", func(b *testing.B) {
		events := 0
		for i := 0; b.Loop(); i++ {
			if i%100 == 0 {
				b.StopTimer()
				forget(b, dir)
				s.Close()
				if s, err = filestore.Open(dir, filestore.Options{}); err != nil { // an empty cache
					b.Fatal(err)
				}
				forget(b, dir)
				b.StartTimer()
			}
			events += readStream(b, s, fmt.Sprintf("stream-%d", i*37%1000), dst[:])
		}
		b.ReportMetric(float64(events)/b.Elapsed().Seconds()/1e6, "Mevents/s")
	})
}

func readStream(b *testing.B, s *filestore.Store, name string, dst []engine.Event) (n int) {
	state, err := s.Load(b.Context(), name)
	if err != nil {
		b.Fatal(err)
	}
	for v := engine.Version(1); v <= state.Version; {
		k, next, err := s.ReadStream(b.Context(), state, engine.StreamQuery{From: v, To: state.Version}, dst)
		if err != nil {
			b.Fatal(err)
		}
		v = next
		n += k
	}
	return n
}

// forget makes the system forget what it has of the files of a store, as far as they are
// on disk.
func forget(b *testing.B, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		b.Fatal(err)
	}
	const dontNeed = 4 // POSIX_FADV_DONTNEED
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0); errno != 0 {
			b.Fatal(errno)
		}
		f.Close()
	}
}

// BenchmarkOpen measures how long opening and closing a store takes that was closed, and one
// that was not and has lost all its indexes; and the memory that it takes.
func BenchmarkOpen(b *testing.B) {
	sizes := []int{1_000_000}
	if os.Getenv("WEIR_SOAK") != "" {
		sizes = append(sizes, 10_000_000)
	}
	for _, n := range sizes {
		dir := b.TempDir()
		fill(b, dir, n)
		open := func(b *testing.B) *filestore.Store {
			s, err := filestore.Open(dir, filestore.Options{})
			if err != nil {
				b.Fatal(err)
			}
			return s
		}
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) {
			var took time.Duration
			for b.Loop() {
				began := time.Now()
				s := open(b)
				took += time.Since(began)
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(took.Seconds()*1e3/float64(b.N), "ms/open")
			b.StopTimer()
			before := heap()
			s := open(b)
			b.ReportMetric(float64(heap()-before)/float64(n), "B/event")
			s.Close()
		})
		b.Run(fmt.Sprintf("events=%d/without-index", n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				indexes, _ := filepath.Glob(filepath.Join(dir, "*.idx"))
				for _, name := range indexes {
					os.Remove(name)
				}
				b.StartTimer()
				open(b).Close()
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func fill(b *testing.B, dir string, n int) {
	s, err := filestore.Open(dir, filestore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	typ, err := s.TypeID("Event")
	if err != nil {
		b.Fatal(err)
	}
	states := make([]engine.StreamState, 1000)
	for i := range states {
		states[i].Name = fmt.Sprintf("stream-%d", i)
	}
	records := []engine.Record{{Type: "Event", TypeID: typ, Data: payload}}
	for range n / len(states) {
		var writes []*engine.Write
		for i := range states {
			writes = append(writes, &engine.Write{Stream: &states[i], After: states[i].Version, Events: records, Durability: engine.Written})
			states[i].Version++
		}
		if err := s.Commit(context.Background(), writes); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	var size int64
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if info, err := f.Info(); err == nil {
			size += info.Size()
		}
	}
	b.Logf("%d events: %d bytes on disk each", n, size/int64(n))
}
