// Package stack tells whether a call is made from inside another one, by marks on the goroutine's stack. It is
// for misuse that nothing else shows: a callback that has lost its context and calls who called it.
//
// A mark is the address to which a certain call returns. A function that is not inlined, and in which nothing but that
// call is made, has one; [Return], called by what it calls, finds it out.
package stack

import (
	"runtime"
	"slices"
)

// Return returns the address to which the function that calls it returns.
func Return() uintptr {
	var pcs [1]uintptr
	runtime.Callers(3, pcs[:])
	return pcs[0]
}

// Has reports whether an address is among those to which the calls of this goroutine return. It takes
// some hundred nanoseconds, and no lock.
func Has(pc uintptr) bool {
	var pcs [64]uintptr
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs[:])
		if slices.Contains(pcs[:n], pc) {
			return true
		}
		if n < len(pcs) {
			return false
		}
	}
}
