package engine_test

import (
	"math/rand/v2"
	"testing"

	"github.com/weirstore/weir/engine"
)

// The index gives back what was added and not removed, at every size, and up to every head. The position
// of version v is 10v here.
func TestStreamIndex(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 3))
		x := new(engine.StreamIndex)
		n, cut, dropped := engine.Version(0), engine.Version(1), 0
		check := func(head engine.Position) {
			t.Helper()
			last := min(n, engine.Version(head/10))
			first, list := x.Read(head)
			if cut <= last && (first != cut || first+engine.Version(len(list))-1 != last) || cut > last && len(list) > 0 {
				t.Fatalf("seed %d: %d positions from %d, want %d to %d", seed, len(list), first, cut, last)
			}
			for i, pos := range list {
				if v := first + engine.Version(i); pos != engine.Position(10*v) {
					t.Fatalf("seed %d: version %d of %d at %d", seed, v, n, pos)
				}
			}
		}
		for range 40 {
			if r.IntN(3) < 2 {
				list := make([]engine.Position, 1+r.IntN([]int{1, 3, 100, 2500}[r.IntN(4)]))
				for i := range list {
					n++
					list[i] = engine.Position(10 * n)
				}
				x.Add(list...)
			} else {
				before := 1 + r.Uint64N(uint64(n)+1)
				dropped += x.Cut(engine.Version(before))
				cut = max(cut, engine.Version(before))
			}
			if dropped >= int(max(cut, 2)) || dropped < int(cut)-1-2*1024 {
				t.Fatalf("seed %d: %d of %d dropped of %d", seed, dropped, cut-1, n)
			}
			check(engine.Position(10 * n))
			check(engine.Position(10*n) - engine.Position(r.IntN(min(int(n)*10, 300)+1)))
		}
		if dropped += x.Delete(); dropped != int(n) {
			t.Fatalf("seed %d: %d of %d dropped", seed, dropped, n)
		}
		if _, list := x.Read(engine.Position(10 * n)); list != nil {
			t.Fatalf("seed %d: %d positions of a deleted stream", seed, len(list))
		}
	}
}

// Who reads while a stream grows and is truncated sees its positions without a gap.
func TestStreamIndexStorm(t *testing.T) {
	const size = 20_000
	x := new(engine.StreamIndex)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := rand.New(rand.NewPCG(4, 4))
		for n := 0; n < size; {
			list := make([]engine.Position, 1+r.IntN(40))
			for i := range list {
				n++
				list[i] = engine.Position(10 * n)
			}
			x.Add(list...)
			if r.IntN(40) == 0 {
				x.Cut(engine.Version(1 + r.IntN(n)))
			}
		}
	}()
	var last engine.Version
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		first, list := x.Read(10 * (size + 100))
		if end := first + engine.Version(len(list)) - 1; end < last {
			t.Fatalf("ended at %d, now at %d", last, end)
		} else {
			last = end
		}
		for i, pos := range list {
			if v := first + engine.Version(i); pos != engine.Position(10*v) {
				t.Fatalf("version %d at %d", v, pos)
			}
		}
	}
	if last < size {
		t.Errorf("ended at %d", last)
	}
}

// Truncated at, before and behind each end of a block, an index has what is left, and grows on.
func TestStreamIndexBlocks(t *testing.T) {
	edges := []engine.Version{1, 2, 3, 1024, 1025, 1026, 1027, 2048, 2049, 2050, 2051, 3073, 3074}
	for _, size := range edges {
		for _, gone := range edges {
			if gone > size {
				break
			}
			x, n := new(engine.StreamIndex), engine.Version(0)
			for _, more := range []engine.Version{size, 1, 1, 1100} {
				for range more {
					n++
					x.Add(engine.Position(10 * n))
				}
				x.Cut(gone + 1)
				first, list := x.Read(engine.Position(10 * n))
				if engine.Version(len(list)) != n-gone || len(list) > 0 && first != gone+1 {
					t.Fatalf("%d of %d gone: %d left from %d", gone, n, len(list), first)
				}
				for i, pos := range list {
					if v := first + engine.Version(i); pos != engine.Position(10*v) {
						t.Fatalf("%d of %d gone: version %d at %d", gone, n, v, pos)
					}
				}
			}
		}
	}
}

// What a reader has of an index stays as it was, whatever is added and let go of meanwhile.
func TestStreamIndexSnapshots(t *testing.T) {
	for _, size := range []engine.Version{1, 2, 3, 1025, 1026, 2049, 2050, 5000} {
		x := new(engine.StreamIndex)
		n := engine.Version(0)
		add := func(count engine.Version) {
			for range count {
				n++
				x.Add(engine.Position(10 * n))
			}
		}
		snaps := make(map[engine.Version]func(engine.Version) engine.Position) // by the last version
		for _, step := range []func(){
			func() { add(size); snaps[n] = x.Snapshot() },
			func() { add(3000); snaps[n] = x.Snapshot() },
			func() { x.Cut(size + 1) },
			func() { add(1) },
			func() { x.Cut(n + 1) },
			func() { x.Delete() },
		} {
			step()
			for last, at := range snaps {
				for v := engine.Version(1); v <= last; v++ {
					if pos := at(v); pos != engine.Position(10*v) {
						t.Fatalf("version %d of %d at %d", v, last, pos)
					}
				}
			}
		}
	}
}

// A stream is a cache line: see docs/bench/NOTES.md.
func TestMemStreamSize(t *testing.T) {
	if engine.MemStreamSize != 64 {
		t.Errorf("%d bytes", engine.MemStreamSize)
	}
}
