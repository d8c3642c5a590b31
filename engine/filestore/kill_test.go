package filestore_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// childDir is the environment variable that makes the test binary a child of TestKill.
const childDir = "WEIR_TEST_KILL_DIR"

// appenders is how many goroutines of the child append, each to a stream of its own.
const appenders = 64

func killOptions() filestore.Options {
	return filestore.Options{SegmentSize: 256 << 10, Logger: quiet} // a roll every 1,500 events
}

// child appends for as long as it lives, and tells of each acknowledgement on its standard
// output. Every third append holds three events.
func child(dir string) {
	s, err := filestore.Open(dir, killOptions())
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	typ, err := s.TypeID("Event")
	if err != nil {
		panic(err)
	}
	var out sync.Mutex
	ctx := context.Background()
	for g := range appenders {
		go func() {
			state, err := s.Load(ctx, fmt.Sprintf("stream-%d", g))
			for n := 0; err == nil; n++ {
				w := &engine.Write{Stream: &state, After: state.Version}
				for range 1 + n%3/2*2 {
					state.Version++
					data := fmt.Appendf(nil, "%d.%d %0*d", g, state.Version, 100+g, 0)
					w.Events = append(w.Events, engine.Record{Type: "Event", TypeID: typ, ID: fmt.Sprint(state.Version), Data: &engine.Payload{Encoding: "text", Schema: 1, Bytes: data}})
				}
				if err = s.Commit(ctx, []*engine.Write{w}); err == nil {
					out.Lock() // one write a line: what the pipe holds was acknowledged
					os.Stdout.Write(fmt.Appendf(nil, "%d %d %d\n", g, state.Version, w.Position))
					out.Unlock()
				}
			}
			fmt.Println("error:", err)
			os.Exit(1)
		}()
	}
	select {}
}

// TestKill kills a process that appends from 64 goroutines, again and again, and accounts
// for every event: what was acknowledged is there, once, whole, in order. WEIR_CRASH sets how many times.
func TestKill(t *testing.T) {
	rounds := 20
	if n, err := strconv.Atoi(os.Getenv("WEIR_CRASH")); err == nil {
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	acked := make([]engine.Version, appenders)
	at := make(map[string]engine.Position) // of acknowledged batches, by stream@version
	cuts, events := 0, 0
	for round := range rounds {
		if round%100 == 99 { // or the stores grow so large that reading them is what takes the time
			dir, acked, at = t.TempDir(), make([]engine.Version, appenders), make(map[string]engine.Position)
		}
		events += runChild(t, dir, time.Duration(rng.IntN(60))*time.Millisecond, acked, at)
		s, err := filestore.Open(dir, killOptions())
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if s.Recovery().Cut != nil {
			cuts++
		}
		account(t, s, acked, at)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d rounds: %d events acknowledged, 0 lost, 0 repeated; %d torn ends", rounds, events, cuts)
}

// runChild lets a child append until it is killed, and notes what it has acknowledged.
func runChild(t *testing.T, dir string, life time.Duration, acked []engine.Version, at map[string]engine.Position) (n int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var timer *time.Timer
	for lines.Scan() {
		if timer == nil { // it appends
			timer = time.AfterFunc(life, func() { cmd.Process.Kill() })
			defer timer.Stop()
		}
		var g int
		var v engine.Version
		var pos engine.Position
		if _, err := fmt.Sscanf(lines.Text(), "%d %d %d", &g, &v, &pos); err != nil {
			t.Fatalf("child says %q", lines.Text())
		}
		n += int(v - acked[g])
		acked[g] = v
		at[fmt.Sprintf("stream-%d@%d", g, v)] = pos
	}
	cmd.Wait() // killed: an error
	return n
}

// account compares what is in the store with what was acknowledged. What was not
// acknowledged may be there, whole: at most one batch a stream, which it then counts as acknowledged.
func account(t *testing.T, s *filestore.Store, acked []engine.Version, at map[string]engine.Position) {
	t.Helper()
	versions := make(map[string]engine.Version)
	var dst [100]engine.Event
	for pos := engine.Position(1); pos <= s.Head(); {
		n, next, err := s.ReadAll(t.Context(), engine.Query{From: pos, To: s.Head()}, dst[:])
		if err != nil || n == 0 {
			t.Fatalf("read at %d: %d, %v", pos, n, err)
		}
		for i, ev := range dst[:n] {
			versions[ev.Stream]++
			var g int
			fmt.Sscanf(ev.Stream, "stream-%d", &g)
			want := fmt.Sprintf("%d.%d %0*d", g, ev.Version, 100+g, 0)
			if ev.Position != pos+engine.Position(i) || ev.Version != versions[ev.Stream] || string(ev.Data.(*engine.Payload).Bytes) != want {
				t.Fatalf("position %d holds %s@%d at %d: %q", pos+engine.Position(i), ev.Stream, ev.Version, ev.Position, ev.Data.(*engine.Payload).Bytes)
			}
		}
		pos = next
	}
	for g := range acked {
		name := fmt.Sprintf("stream-%d", g)
		if v := versions[name]; v < acked[g] || v > acked[g]+3 {
			t.Fatalf("%s has %d events, %d were acknowledged", name, v, acked[g])
		}
		acked[g] = versions[name]
	}
	for name, first := range at {
		var stream string
		var v engine.Version
		for i := range name {
			if name[i] == '@' {
				stream = name[:i]
				fmt.Sscan(name[i+1:], &v)
			}
		}
		state, err := s.Load(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if n, _, err := s.ReadStream(t.Context(), state, engine.StreamQuery{From: v, To: v}, dst[:1]); n != 1 || err != nil || dst[0].Position < first || dst[0].Position > first+2 {
			t.Fatalf("%s was acknowledged from position %d on; now %d, %v, position %d", name, first, n, err, dst[0].Position)
		}
		delete(at, name) // compared once
	}
}
