package engine_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/weirstore/weir/engine"
)

// A table does what a map of lists does, whatever the hashes are: spread, all near the end of the
// table, or a handful.
func TestHashTable(t *testing.T) {
	for _, tc := range []struct {
		name string
		hash func(r *rand.Rand) uint32
	}{
		{"spread", (*rand.Rand).Uint32},
		{"at the end", func(r *rand.Rand) uint32 { return ^uint32(0) - r.Uint32N(32) }},
		{"at the beginning", func(r *rand.Rand) uint32 { return r.Uint32N(32) }},
		{"one", func(*rand.Rand) uint32 { return 0 }},
		{"a handful", func(r *rand.Rand) uint32 { return r.Uint32N(4) << 30 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for seed := range uint64(20) {
				checkHashTable(t, rand.New(rand.NewPCG(seed, 1)), tc.hash)
			}
		})
	}
}

func checkHashTable(t *testing.T, r *rand.Rand, random func(*rand.Rand) uint32) {
	t.Helper()
	table := engine.NewHashTable()
	model := make(map[uint32][]uint32) // the lowest bit of a hash does not count
	var hashes []uint32
	live, number, removing := 0, uint32(0), false
	for range 600 {
		if r.IntN(100) == 0 {
			removing = !removing
		}
		if r.IntN(200) == 0 {
			table.Shrink()
		}
		if live > 0 && r.IntN(4) < 3 == removing {
			hash := hashes[r.IntN(len(hashes))]
			list := model[hash|1]
			gone := number + 1 // is not there
			if len(list) > 0 {
				i := r.IntN(len(list))
				gone = list[i]
				model[hash|1] = slices.Delete(list, i, i+1)
				live--
			}
			table.Remove(hash, gone)
		} else {
			hash := random(r)
			number++
			table.Put(hash, number)
			model[hash|1] = append(model[hash|1], number)
			hashes = append(hashes, hash)
			live++
		}
		if n, places := table.Size(); n != live || places%8 != 0 || n > places/8*7 {
			t.Fatalf("%d numbers in %d places, want %d", n, places, live)
		}
	}
	for _, hash := range append(hashes, random(r)) {
		got, want := table.Find(hash), model[hash|1]
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("hash %#x: %v, want %v", hash, got, want)
		}
	}
}

// The lowest bit of a hash does not count: by which of two hashes that differ in it alone something
// is put makes no difference, also if one place of the table ends and the next begins between them.
func TestHashTableLowestBit(t *testing.T) {
	for fill := uint32(1); fill < 200; fill += 7 { // there is room for one more
		table := engine.NewHashTable()
		for number := range fill {
			table.Put(1<<31, number) // they take the places behind the middle
		}
		_, places := table.Size()
		for place := range uint64(places) {
			odd := uint32((place<<32+uint64(places)-1)/uint64(places)) | 1 // at the beginning of the place
			for _, pair := range [][2]uint32{{odd, odd - 1}, {odd - 1, odd}, {odd - 1, odd - 1}} {
				table.Put(pair[0], 1000)
				if got := table.Find(pair[1]); len(got) == 0 || got[len(got)-1] != 1000 {
					t.Fatalf("put by %#x into %d places, looked for by %#x: %v", pair[0], places, pair[1], got)
				}
				table.Remove(pair[1], 1000)
				if n, _ := table.Size(); n != int(fill) {
					t.Fatalf("put by %#x into %d places, removed by %#x: %d numbers, want %d", pair[0], places, pair[1], n, fill)
				}
			}
		}
	}
}
