package verify_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// TestMain is also the process that TestStreamsAreLinearizableAcrossCrashes kills.
func TestMain(m *testing.M) {
	if spec := os.Getenv(crashLife); spec != "" {
		live(spec)
		return
	}
	flag.Parse()
	// rapid has its own flags; these make it follow WEIR_SEED and leave no files behind.
	_ = flag.Set("rapid.nofailfile", "true")
	if seed, ok := fixedSeed(); ok {
		_ = flag.Set("rapid.seed", strconv.FormatUint(seed, 10))
	}
	goleak.VerifyTestMain(m)
}

// scale returns how many cases a test runs: n in the short form, WEIR_SOAK times as many
// in the long one. WEIR_SOAK may be a fraction, but one case is always run.
func scale(n int) int {
	factor, err := strconv.ParseFloat(os.Getenv("WEIR_SOAK"), 64)
	if err != nil || factor <= 0 {
		factor = 1
	}
	return max(1, int(math.Round(float64(n)*factor)))
}

func fixedSeed() (uint64, bool) {
	seed, err := strconv.ParseUint(os.Getenv("WEIR_SEED"), 10, 64)
	return seed, err == nil
}

// forSeeds runs scale(n) cases, each with a seed of its own, until one fails; it then says
// how to run that one again.
func forSeeds(t *testing.T, n int, run func(t *testing.T, seed uint64, rng *rand.Rand)) {
	t.Helper()
	seed, fixed := fixedSeed()
	if !fixed {
		seed = rand.Uint64() >> 16 // short enough to be read aloud
	}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d; again: cd verify && WEIR_SEED=%d go test -race -run '^%s$' .", seed, seed, t.Name())
		}
	}()
	for i := range scale(n) {
		if !fixed && i > 0 {
			seed++
		}
		run(t, seed, rand.New(rand.NewPCG(seed, 0)))
		if t.Failed() {
			return
		}
	}
}

// quiet is a logger for engines whose handlers fail on purpose.
var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// open returns an engine over b that the test must shut down itself.
func open(t testing.TB, opts engine.Options) *engine.Engine {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = quiet
	}
	eng, err := engine.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Register[fact](eng, "fact"); err != nil { // or a backend that stores bytes would not decode it
		t.Fatal(err)
	}
	return eng
}

// deadline is what bounds everything that could hang: far more than anything takes.
const deadline = time.Minute

// bounded returns a context that ends with the deadline, and then shows where everybody
// is; and the function that ends it with the case it is for.
func bounded(t testing.TB) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), deadline, errHung)
	stop := context.AfterFunc(ctx, func() {
		buf := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%s hangs:\n%s\n", t.Name(), buf[:runtime.Stack(buf, true)])
	})
	return ctx, func() {
		stop()
		cancel()
	}
}

var errHung = fmt.Errorf("verify: nothing happened for %v", deadline)

// keeper is a memory backend that outlives its engine: what is in the log after a shutdown
// can be read with the next engine.
type keeper struct{ engine.Backend }

func newKeeper() keeper { return keeper{engine.NewMemory()} }

func (keeper) Close() error { return nil }

// again is the same log, for the next engine.
func (k keeper) again() engine.Backend { return k }

// openFiles opens the file backend, with segments so small that some are left within a test.
func openFiles(t testing.TB, dir string) engine.Backend {
	t.Helper()
	store, err := filestore.Open(dir, fileOptions)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

var fileOptions = filestore.Options{SegmentSize: 64 << 10, Logger: quiet}

// logOf returns everything that is in b, which no engine uses any more.
func logOf(t testing.TB, b engine.Backend) []engine.Event {
	t.Helper()
	eng := open(t, engine.Options{Backend: b})
	defer eng.Close()
	return readAll(t, eng)
}

func readAll(t testing.TB, eng *engine.Engine, opts ...engine.ReadOption) []engine.Event {
	t.Helper()
	var all []engine.Event
	for ev, err := range eng.ReadAll(context.Background(), opts...) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ev)
	}
	return all
}
