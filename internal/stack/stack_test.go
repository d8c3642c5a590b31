package stack_test

import (
	"testing"

	"github.com/weirstore/weir/internal/stack"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

//go:noinline
func marked(fn func()) {
	fn()
	calls++
}

var calls int

// deep calls fn with so many more calls on the stack.
func deep(depth int, fn func()) {
	if depth == 0 {
		fn()
		return
	}
	deep(depth-1, fn)
}

func TestHas(t *testing.T) {
	var mark uintptr
	marked(func() { mark = stack.Return() })
	for _, depth := range []int{0, 1, 30, 60, 61, 62, 63, 64, 65, 66, 127, 128, 129, 500} {
		marked(func() {
			deep(depth, func() {
				if !stack.Has(mark) {
					t.Errorf("not found under %d calls", depth)
				}
			})
		})
		deep(depth, func() {
			if stack.Has(mark) {
				t.Errorf("found under %d calls, outside", depth)
			}
		})
		done := make(chan bool)
		marked(func() {
			go func() { done <- stack.Has(mark) }()
			if <-done {
				t.Error("found in another goroutine")
			}
		})
	}
}
