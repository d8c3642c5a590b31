package verify_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// crashLife is the environment variable that makes the test binary a process which lives one life
// of a history and is killed in it: a session as JSON.
const crashLife = "WEIR_VERIFY_CRASH_LIFE"

// session is the life of one process. Both sides make the same plans of it.
type session struct {
	Dir    string
	Seed   uint64
	Number int // which one of its history
}

func (s session) workload() workload {
	rng := rand.New(rand.NewPCG(s.Seed, 1))
	return workload{clients: 3 + rng.IntN(5), streams: 1 + rng.IntN(3), ops: 100, ids: rng.IntN(3) > 0}
}

func (s session) plans() []plan {
	rng, w := rand.New(rand.NewPCG(s.Seed, uint64(s.Number)+2)), s.workload()
	plans := make([]plan, w.clients)
	for i := range plans {
		plans[i] = makePlan(rng, w, s.client(i)) // whose number is in the tags
	}
	return plans
}

// client numbers the clients of all lives.
func (s session) client(i int) int { return s.Number*s.workload().clients + i }

// said is a line on the pipe: a call begins, or with Out has ended.
type said struct {
	Client, Op int
	Known      engine.Version // what an append's expectation is made of
	Out        *saidOutcome   `json:",omitempty"`
}

// saidOutcome is an outcome as JSON.
type saidOutcome struct {
	Kind        kind
	First, Last engine.Version
	Position    engine.Position
	Duplicate   bool
	Actual      engine.Version
	Stored      []string
	Facts       []fact
	Versions    []engine.Version
}

func say(o outcome) *saidOutcome {
	s := &saidOutcome{Kind: o.kind, First: o.first, Last: o.last, Position: o.position, Duplicate: o.duplicate, Actual: o.actual, Stored: o.stored}
	for _, ev := range o.events {
		s.Facts, s.Versions = append(s.Facts, ev.fact), append(s.Versions, ev.version)
	}
	return s
}

func (s *saidOutcome) outcome() outcome {
	o := outcome{kind: s.Kind, first: s.First, last: s.Last, position: s.Position, duplicate: s.Duplicate, actual: s.Actual, stored: s.Stored}
	for i, f := range s.Facts {
		o.events = append(o.events, seen{f, s.Versions[i]})
	}
	return o
}

// live is the process that is killed. Half of its appends are content with Written.
func live(spec string) {
	var l session
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(json.Unmarshal([]byte(spec), &l))
	store, err := filestore.Open(l.Dir, fileOptions)
	must(err)
	eng, err := engine.Open(engine.Options{Backend: store, Logger: quiet, StreamMailbox: 1 + l.Number})
	must(err)
	must(engine.Register[fact](eng, "fact"))

	var pipe sync.Mutex // one write a line
	out := json.NewEncoder(os.Stdout)
	tell := func(line said) {
		pipe.Lock()
		defer pipe.Unlock()
		must(out.Encode(line))
	}
	for i, p := range l.plans() {
		go func() {
			known := make(map[string]engine.Version)
			for k, c := range p.calls {
				if !c.read {
					c.expected = p.beliefs[k].expected(known[c.stream])
				}
				tell(said{Client: i, Op: k, Known: known[c.stream]})
				ctx := engine.WithDurability(context.Background(), []engine.Durability{engine.Written, engine.Synced}[(i+k)%2])
				o := perform(ctx, eng, c, false)
				tell(said{Client: i, Op: k, Out: say(o)})
				if v := o.version(c); v > 0 {
					known[c.stream] = v
				}
			}
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed, or nobody is there to do it
}

// recordCrashes lets one process after the other append and read, kills each at a random moment, and
// reads what it has left. The clock counts lines of the pipe: a call's first line is written before it
// begins and its last after it has ended. An append under way may have happened until the crash, and not later.
func recordCrashes(t *testing.T, rng *rand.Rand, seed uint64, lives int, spoil func(log []engine.Event) []engine.Event) (h history) {
	t.Helper()
	now := int64(0)
	dir := t.TempDir()
	for n := range lives {
		l := session{dir, seed, n}
		w, plans := l.workload(), l.plans()
		begun := make(map[int]porcupine.Operation) // by client: calls that have not returned
		killAt := now + 1 + int64(rng.IntN(2*w.clients*(w.ops/w.clients)))
		l.run(t, func(line said, kill func()) {
			now++
			if line.Out == nil {
				c := plans[line.Client].calls[line.Op]
				if !c.read {
					c.expected = plans[line.Client].beliefs[line.Op].expected(line.Known)
				}
				begun[line.Client] = porcupine.Operation{ClientId: l.client(line.Client), Input: c, Call: now}
			} else {
				op := begun[line.Client]
				delete(begun, line.Client)
				op.Output, op.Return = line.Out.outcome(), now
				h.ops = append(h.ops, op)
			}
			if now == killAt {
				kill()
			}
		})
		now++
		for _, op := range begun {
			if !op.Input.(call).read {
				op.Output, op.Return = outcome{kind: unknown}, now
				h.ops = append(h.ops, op)
			}
		}
		if spoil != nil {
			dir = rewrite(t, spoil(logOf(t, openFiles(t, dir))))
		}
		before := h.log
		h.log = logOf(t, openFiles(t, dir))
		if err := (&view{name: "the opening before", events: before}).samePrefix(h.log); err != nil && spoil == nil {
			t.Error(err)
		}
		h.resolve()
		now = h.readStreams(w.streams, l.client(w.clients), now)
	}
	return h
}

// run starts the process and hands over its lines, until it was killed.
func (s session) run(t *testing.T, heard func(line said, kill func())) {
	t.Helper()
	spec, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := bounded(t)
	defer end()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), crashLife+"="+string(spec))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	for lines := bufio.NewReader(stdout); ; {
		text, err := lines.ReadBytes('\n')
		if err != nil { // a last line that is cut off was not said
			break
		}
		var line said
		if err := json.Unmarshal(text, &line); err != nil {
			t.Errorf("the process says %q: %v", text, err)
		}
		heard(line, func() {
			killed = true
			_ = cmd.Process.Kill()
		})
	}
	if err := cmd.Wait(); !killed {
		t.Fatalf("the process has ended by itself: %v", err)
	}
}

// TestStreamsAreLinearizableAcrossCrashes: clients append and read in a process that is killed, then in the
// next one over the same files, and so on; one order of all their calls explains what they were told, and what
// is in the files. An acknowledged append is there; one without an answer may be, whole, and took effect before the crash.
func TestStreamsAreLinearizableAcrossCrashes(t *testing.T) {
	const lives = 4
	histories, calls, tally := 0, 0, make(map[string]int)
	forSeeds(t, 4, func(t *testing.T, seed uint64, rng *rand.Rand) {
		h := recordCrashes(t, rng, seed, lives, nil)
		mustBeLinearizable(t, &h)
		histories++
		calls += len(h.ops)
		h.tally(tally)
	})
	t.Logf("%d histories, %d crashes, %d calls: %v", histories, histories*lives, calls, tally)
	atLeastOne(t, tally, "stored", "batch", "conflict", "read", "unknown, stored")
}

// TestPlantedCrashBugsAreCaught is its control: between a crash and the next life, somebody changes what is stored.
func TestPlantedCrashBugsAreCaught(t *testing.T) {
	var held []engine.Event
	for name, spoil := range map[string]func(log []engine.Event) []engine.Event{
		"recovery drops the last batch":       func(log []engine.Event) []engine.Event { return log[:lastBatch(log)] },
		"recovery repeats the last batch":     func(log []engine.Event) []engine.Event { return append(log, log[lastBatch(log):]...) },
		"recovery drops the last event":       func(log []engine.Event) []engine.Event { return log[:max(len(log), 1)-1] },
		"recovery swaps the last two batches": swapBatches,
		"the last batch comes one crash later": func(log []engine.Event) []engine.Event {
			at := lastBatch(log)
			late := held
			held = slices.Clone(log[at:])
			return append(log[:at:at], late...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			const tries = 12
			held = nil
			for i := range uint64(tries) {
				h := recordCrashes(t, rand.New(rand.NewPCG(i, 3)), i, 2, spoil)
				if err := h.audit(); err != nil || h.check() == porcupine.Illegal {
					t.Logf("rejected history %d, by the audit: %v", i+1, err)
					return
				}
			}
			t.Errorf("nothing was noticed in %d histories: the check proves nothing", tries)
		})
	}
}

// lastBatch returns the index of the last batch's first event.
func lastBatch(log []engine.Event) int {
	at := max(len(log)-1, 0)
	for at > 0 && log[at-1].Data.(fact).tag/100 == log[at].Data.(fact).tag/100 {
		at--
	}
	return at
}

func swapBatches(log []engine.Event) []engine.Event {
	last := lastBatch(log)
	before := lastBatch(log[:last])
	return slices.Concat(log[:before], log[last:], log[before:last])
}

// rewrite makes a store of these events in another folder, each appended by itself.
func rewrite(t *testing.T, log []engine.Event) (dir string) {
	t.Helper()
	dir = t.TempDir()
	eng := open(t, engine.Options{Backend: openFiles(t, dir), Durability: engine.Written})
	for _, ev := range log {
		if _, err := eng.Append(context.Background(), ev.Stream, engine.Any, engine.NewEvent{Type: ev.Type, ID: ev.ID, Data: ev.Data}); err != nil {
			t.Fatal(err)
		}
	}
	if err := eng.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}
