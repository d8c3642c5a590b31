package main

import (
	"context"
	"log"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also the child, which is the same binary.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		log.Fatal(child(context.Background(), dir))
	}
	goleak.VerifyTestMain(m)
}

// TestNumbers: nothing that was acknowledged is lost, nothing is there twice or in part, and
// the handler goes on where it was, not at the beginning. WEIR_SOAK asks for more rounds.
func TestNumbers(t *testing.T) {
	rounds, dir := 3, t.TempDir()
	if os.Getenv("WEIR_SOAK") != "" {
		rounds = 30
	}
	var out strings.Builder
	first, err := run(t.Context(), &out, dir, rounds)
	if err != nil {
		t.Fatal(err)
	}
	second, err := run(t.Context(), &out, dir, 1) // it goes on in the same folder
	if err != nil {
		t.Fatal(err)
	}
	if testing.Verbose() || t.Failed() {
		t.Log("\n" + out.String())
	}
	var sum figures
	for i, f := range append(first, second...) {
		if killed := i != rounds && i != rounds+2; killed && (f.acked == 0 || f.handled == 0 || f.found != f.acked+f.whole) {
			t.Errorf("line %d: %+v", i+1, f)
		}
		sum.found += f.found
		sum.handled += f.handled
		sum.again += f.again
		if f.lost+f.repeated+f.part != 0 || f.missed != 0 {
			t.Errorf("line %d: lost %d, repeated %d, in part %d, missed by the handler %d", i+1, f.lost, f.repeated, f.part, f.missed)
		}
	}
	if uint64(sum.handled) != uint64(sum.found) {
		t.Errorf("%d events, the handler has had %d", sum.found, sum.handled)
	}
	// Without checkpoints while it runs, it would begin at the first event in every round.
	if sum.again >= sum.handled {
		t.Errorf("the handler got %d events, and %d again: its checkpoint does not move", sum.handled, sum.again)
	}
}
