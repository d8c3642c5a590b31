// Crash: a process that appends from 64 goroutines is killed in the middle (SIGKILL), its
// store is opened again, and every event is accounted for; a few times over.
//
//	go run ./examples/crash [-rounds 5] [-dir FOLDER]
//
// The child is this same program. It tells of each acknowledged append, and of each event that its
// handler has handled, by a line on a pipe: when it is dead, what is in the pipe is what it has promised.
// An append that was under way may be there or not, but if so then with all of its events. The handler
// goes on at its stored checkpoint: it misses nothing, and what it gets again is what it has handled
// since the checkpoint was stored, which happens every 50 ms.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"text/tabwriter"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

const (
	appenders = 64
	window    = 50 * time.Millisecond // how long the handler's checkpoint may be behind, plus one save
)

// Deposited says of itself which one of its stream it is, from 1. So it shows what is
// missing, there twice or out of order.
type Deposited struct{ Number engine.Version }

func stream(appender int) string { return fmt.Sprintf("account-%d", appender) }

// batch is how many events an appender appends at once when its stream is at a version.
func batch(v engine.Version) engine.Version { return 1 + v%3 }

func main() {
	if dir := os.Getenv(childDir); dir != "" {
		log.Fatal(child(context.Background(), dir)) // it ends by being killed, or by an error
	}
	rounds := flag.Int("rounds", 5, "how often to kill")
	dir := flag.String("dir", "", "where the store is, and stays; a temporary one by default")
	flag.Parse()
	if _, err := run(context.Background(), os.Stdout, *dir, *rounds); err != nil {
		log.Fatal(err)
	}
}

// open opens the store, and an engine over it. Closing the engine closes the store too.
func open(dir string) (*filestore.Store, *engine.Engine, error) {
	store, err := filestore.Open(dir, filestore.Options{})
	if err != nil {
		return nil, nil, err
	}
	eng, err := engine.Open(engine.Options{Backend: store, CheckpointEvery: window})
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	// Reading comes before this process has appended or handled any: it has to be told the Go type.
	if err := engine.Register[Deposited](eng, "Deposited"); err != nil {
		return nil, nil, errors.Join(err, eng.Close())
	}
	return store, eng, nil
}

// run kills a child in each round, and returns what was found.
func run(ctx context.Context, w io.Writer, dir string, rounds int) (all []figures, err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "weir-crash-"); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	book := &ledger{heard: make(map[engine.Position]time.Time)}
	if _, err := book.settle(ctx, dir); err != nil { // with what an earlier run has left
		return nil, err
	}
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tab, "round\tacked\tfound\tnot acked, whole\tin part\tlost\trepeated\ttorn end\topened in\t|\thandled\tagain\tof the last\tmissed\t")
	for round := range rounds + 1 {
		name, step := fmt.Sprint(round+1), book.round
		if round == rounds { // nobody is killed any more
			name, step = "end", book.settle
		}
		f, err := step(ctx, dir)
		if err != nil {
			return nil, fmt.Errorf("round %s: %w", name, err)
		}
		all = append(all, f)
		fmt.Fprintf(tab, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%.1fms\t|\t%d\t%d\t%dms\t%d\t\n", name, f.acked, f.found, f.whole, f.part,
			f.lost, f.repeated, f.torn, f.opened.Seconds()*1000, f.handled, f.again, f.age.Milliseconds(), f.missed)
	}
	return all, tab.Flush()
}
