package main

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/weirstore/weir/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOutput(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	const want = `100 events, a mailbox of 10

          |        while it is stuck         |       when it is going again
   policy | stored waiting lag fast saw | saw spared   state after Resume
    block |     10       1  10       10 | 100      0    live          100
 catch-up |    100       0 100      100 | 100      0    live          100
   latest |    100       0 100      100 |   2     98    live            2
     fail |    100       0 100      100 |   1      0 stopped          100
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

// TestNothingIsLostInSilence: whatever the policy, each event is seen by the slow handler
// or counted as spared, and the fast handler has seen all that was stored.
func TestNothingIsLostInSilence(t *testing.T) {
	for _, policy := range []engine.OverflowPolicy{engine.Block, engine.CatchUp, engine.Latest, engine.Fail} {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			f, err := measure(t.Context(), policy)
			if err != nil {
				t.Fatal(err)
			}
			if f.seenAfterResume+f.spared != events {
				t.Errorf("seen %d, spared %d, want %d in all", f.seenAfterResume, f.spared, events)
			}
			if f.seenByFast != int64(f.stored) {
				t.Errorf("the fast handler has seen %d of %d", f.seenByFast, f.stored)
			}
		})
	}
}
