// Package backendtest is the conformance suite of [engine.Backend]: what passes it can
// stand under an engine. It is to backends what testing/slogtest is to slog handlers.
//
// A backend's test is one line:
//
//	func TestConformance(t *testing.T) {
//		backendtest.Run(t, func(t *testing.T) engine.Backend { return mystore.New(t.TempDir()) })
//	}
//
// A backend that outlives its Close, that others write to as well, or that keeps only some
// Go values as payloads says how with a [Harness]:
//
//	backendtest.Harness{
//		Open:   func(t *testing.T) engine.Backend { return open(t, t.TempDir()) },
//		Reopen: func(t *testing.T, old engine.Backend) engine.Backend { return open(t, old.(*Store).Dir()) },
//	}.Run(t)
//
// Each case is a small subtest for one rule of the contract, and says on failure why there is
// such a rule: often because a store like ours has broken it in production. A case that needs
// a capability which the backend's [engine.Caps] do not claim is skipped, and says which. A
// capability that is claimed and cannot be tested, because the Harness lacks a function, fails.
//
// If Caps say Encoded, cases that call the backend themselves give it payloads of bytes, of all
// encodings and schema versions, and those that open an engine over it give that strings and
// []byte, which must come back equal.
//
// Run the suite with -race and with -cpu 1,2,4: half of it is about what happens at the
// same time. It commits about 3,500 times, so that a backend that syncs a device takes seconds,
// and needs only package testing. After each case no goroutine may be left that the
// backend has started.
//
// The suite itself is tested with backends that each have one planted defect, which it must
// find (TestTeeth), and with some that do things differently and right (TestAllowed).
package backendtest
