package engine_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/engine"
)

// Goroutines that put the same names at once, and look them up while the tables and the slab grow, agree about each.
func TestNames(t *testing.T) {
	const workers, count = 8, 3000
	names := engine.NewNames()
	if names.Get("0") != nil || names.Len() != 0 {
		t.Error("not empty")
	}
	var got [workers][count]*engine.Named
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 2))
			for _, i := range r.Perm(count) {
				name := fmt.Sprint(i)
				v := names.GetOrPut(name)
				if v.Name != name || names.At(v.Number) != v {
					t.Errorf("%q: %q, number %d", name, v.Name, v.Number)
				}
				got[w][i] = v
				other := fmt.Sprint(r.IntN(2 * count))
				if v := names.Get(other); v != nil && v.Name != other {
					t.Errorf("%q: %q", other, v.Name)
				}
			}
		})
	}
	wg.Wait()
	for w := range got {
		if got[w] != got[0] {
			t.Errorf("worker %d has others", w)
		}
	}
	if n := names.Len(); n != count {
		t.Errorf("%d names, want %d", n, count)
	}
	seen := make(map[uint32]bool)
	if err := names.Each(func(v *engine.Named) error {
		if v.Number == 0 || seen[v.Number] || names.Get(v.Name) != v {
			t.Errorf("%q: number %d", v.Name, v.Number)
		}
		seen[v.Number] = true
		return nil
	}); err != nil || len(seen) != count {
		t.Errorf("each: %d, %v", len(seen), err)
	}
	if names.Get(fmt.Sprint(count)) != nil {
		t.Error("found what is not there")
	}
}

// Two goroutines that ask for each new name at the same moment get one value.
func TestNamesAtOnce(t *testing.T) {
	count := 20_000
	if engine.RaceDetector { // it is slow, and needs to see it once
		count = 1000
	}
	names := engine.NewNames()
	got := [2][]*engine.Named{make([]*engine.Named, count), make([]*engine.Named, count)}
	var arrived atomic.Int64
	var wg sync.WaitGroup
	for w := range got {
		wg.Go(func() {
			for i := range count {
				name := fmt.Sprint(i)
				arrived.Add(1)
				for n := 0; arrived.Load() < int64(2*i+2); n++ {
					if n > 200 { // there may be one processor
						runtime.Gosched()
					}
				}
				got[w][i] = names.GetOrPut(name)
			}
		})
	}
	wg.Wait()
	if !slices.Equal(got[0], got[1]) || names.Len() != count {
		t.Errorf("%d names, want %d", names.Len(), count)
	}
}
