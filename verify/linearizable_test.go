package verify_test

import (
	"math/rand/v2"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/weirstore/weir/engine"
)

// opsPerHistory over a handful of clients and streams keeps most calls concurrent with
// others of their stream, and the search short.
const opsPerHistory = 200

func randomWorkload(rng *rand.Rand) workload {
	return workload{
		clients:  4 + rng.IntN(5),
		streams:  1 + rng.IntN(4),
		ops:      opsPerHistory,
		ids:      rng.IntN(3) > 0,
		cancels:  rng.IntN(2) == 0,
		shutdown: rng.IntN(3) == 0,
	}
}

func honest(eng *engine.Engine) store { return eng }

// TestStreamsAreLinearizable: what clients of a stream were told is explained by an order of
// their calls in which each takes effect at one moment between its beginning and its end.
func TestStreamsAreLinearizable(t *testing.T) {
	histories, calls, tally := 0, 0, make(map[string]int)
	forSeeds(t, 300, func(t *testing.T, seed uint64, rng *rand.Rand) {
		log := newKeeper()
		h := recordHistory(t, rng, randomWorkload(rng), log, log.again, honest)
		mustBeLinearizable(t, &h)
		histories++
		calls += len(h.ops)
		h.tally(tally)
	})
	t.Logf("%d histories, %d calls: %v", histories, calls, tally)
	atLeastOne(t, tally, "stored", "batch", "duplicate", "partial duplicate", "conflict", "refused", "read")
}

// TestStreamsAreLinearizableInFiles: the same over the file backend, where appends wait for the disk; the log is
// read when the store was closed and opened again.
func TestStreamsAreLinearizableInFiles(t *testing.T) {
	tally := make(map[string]int)
	forSeeds(t, 10, func(t *testing.T, seed uint64, rng *rand.Rand) {
		dir := t.TempDir()
		h := recordHistory(t, rng, randomWorkload(rng), openFiles(t, dir), func() engine.Backend { return openFiles(t, dir) }, honest)
		mustBeLinearizable(t, &h)
		h.tally(tally)
	})
	t.Log(tally)
	atLeastOne(t, tally, "stored", "batch", "conflict", "read")
}

// TestStreamsAreLinearizableWhenOutcomesAreUnknown: the same over a backend of which some commits end
// with ErrOutcomeUnknown, having stored their events or not.
func TestStreamsAreLinearizableWhenOutcomesAreUnknown(t *testing.T) {
	tally := make(map[string]int)
	forSeeds(t, 100, func(t *testing.T, seed uint64, rng *rand.Rand) {
		log := newKeeper()
		w := randomWorkload(rng)
		w.shutdown = false
		h := recordHistory(t, rng, w, &doubtful{Backend: log, rng: rng}, log.again, honest)
		mustBeLinearizable(t, &h)
		h.tally(tally)
	})
	t.Log(tally)
	atLeastOne(t, tally, "unknown, stored", "unknown, not stored", "stored", "conflict")
}

func mustBeLinearizable(t *testing.T, h *history) {
	t.Helper()
	if err := h.audit(); err != nil {
		t.Errorf("audit: %v", err)
	}
	if res := h.check(); res != porcupine.Ok {
		t.Errorf("the history is %s", res)
	}
	if t.Failed() {
		h.draw(t)
	}
}

// tally counts outcomes: a history in which nothing happens proves nothing.
func (h *history) tally(n map[string]int) {
	for _, op := range h.ops {
		in, out := op.Input.(call), op.Output.(outcome)
		what := map[kind]string{conflict: "conflict", partial: "partial duplicate", refused: "refused"}[out.kind]
		if out.resolved {
			what = map[kind]string{okay: "unknown, stored", refused: "unknown, not stored"}[out.kind]
		}
		switch {
		case what != "":
		case in.read:
			what = "read"
		case out.duplicate:
			what = "duplicate"
		case len(in.events) > 1:
			what = "batch"
		default:
			what = "stored"
		}
		n[what]++
	}
}

func atLeastOne(t *testing.T, tally map[string]int, what ...string) {
	t.Helper()
	for _, w := range what {
		if tally[w] == 0 && !t.Failed() {
			t.Errorf("no call ended with %q: the workload is too tame", w)
		}
	}
}
