package engine_test

import (
	"testing"

	"github.com/weirstore/weir/engine"
)

// Values of any size get ascending numbers, from 1, and stay where they are.
func TestSlab(t *testing.T) {
	checkSlab[[8]byte](t)
	checkSlab[[64]byte](t)
	checkSlab[[200]byte](t)
	checkSlab[[4000]byte](t)
	checkSlab[[5000]byte](t)
	checkSlab[[9000]byte](t)
}

func checkSlab[T comparable](t *testing.T) {
	t.Helper()
	var slab engine.Slab[T]
	var zero T
	var numbers []uint32
	var values []*T
	for i := range 400 {
		number, v := slab.Add()
		if n := slab.Len(); n != i+1 || number == 0 || i > 0 && number <= numbers[i-1] || *v != zero {
			t.Fatalf("%T: value %d of %d has number %d, %v", zero, i+1, n, number, *v)
		}
		numbers, values = append(numbers, number), append(values, v)
	}
	seen := make(map[*T]bool)
	for i, number := range numbers {
		if v := slab.At(number); v != values[i] || seen[v] {
			t.Fatalf("%T: number %d is another value", zero, number)
		}
		seen[values[i]] = true
	}
}
