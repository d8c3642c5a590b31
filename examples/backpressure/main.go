// Backpressure: what one slow handler does to everybody else, under each overflow policy.
//
// For every policy the same happens. A slow handler gets stuck in its first call; meanwhile
// a producer appends, and a fast handler looks on. Then the slow one gets going again. The table
// shows how things stood while it was stuck, and what it got to see in the end.
//
// The slow handler does not sleep: it waits at a gate, which the program opens when it has
// taken its figures. So they are the same on every machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weirstore/weir/engine"
)

type Measured struct{ Celsius int }

const (
	events  = 100
	mailbox = 10 // of the slow handler
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "%d events, a mailbox of %d\n\n", events, mailbox)
	fmt.Fprintln(w, "          |        while it is stuck         |       when it is going again")
	table := tabwriter.NewWriter(w, 0, 0, 1, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "policy\t|\tstored\twaiting\tlag\tfast saw\t|\tsaw\tspared\tstate\tafter Resume\t")
	for _, policy := range []engine.OverflowPolicy{engine.Block, engine.CatchUp, engine.Latest, engine.Fail} {
		f, err := measure(ctx, policy)
		if err != nil {
			return fmt.Errorf("%v: %w", policy, err)
		}
		fmt.Fprintf(table, "%v\t|\t%d\t%d\t%d\t%d\t|\t%d\t%d\t%v\t%d\t\n", policy,
			f.stored, f.waiting, f.lag, f.seenByFast, f.seen, f.spared, f.state, f.seenAfterResume)
	}
	return table.Flush()
}

// figures are a line of the table.
type figures struct {
	// While the slow handler is stuck:
	stored     int    // events in the log
	waiting    uint64 // appends that wait for the slow handler
	lag        uint64 // events before the slow handler
	seenByFast int64  // events that the fast handler has seen

	// When it is going again, and has seen all that it will:
	seen            int64 // events that the slow handler has seen
	spared          int64 // events that it was told it will not see
	state           engine.State
	seenAfterResume int64 // as seen, after Resume if it had stopped
}

func measure(ctx context.Context, policy engine.OverflowPolicy) (f figures, err error) {
	// The table tells what would be logged.
	eng, err := engine.Open(engine.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, eng.Close()) }()

	var seen, spared, seenByFast atomic.Int64
	stuck, gate := make(chan struct{}), make(chan struct{})
	openGate := sync.OnceFunc(func() { close(gate) })
	defer openGate() // or a return on an error would leave the handler stuck, and Close waiting for it

	slow, err := engine.Handle(eng, "slow", func(context.Context, engine.Of[Measured]) error {
		if seen.Add(1) == 1 {
			close(stuck)
		}
		<-gate
		return nil
	}, engine.Mailbox(mailbox), engine.Overflow(policy), engine.OnLagged(func(_ context.Context, n uint64) {
		spared.Add(int64(n))
	}))
	if err != nil {
		return f, err
	}
	_, err = engine.Handle(eng, "fast", func(context.Context, engine.Of[Measured]) error {
		seenByFast.Add(1)
		return nil
	})
	if err != nil {
		return f, err
	}

	// The first event alone, so that the slow handler is stuck before the others come.
	if _, err := eng.Append(ctx, "sensor-1", engine.NoStream, engine.New(Measured{20})); err != nil {
		return f, err
	}
	<-stuck
	var producer errgroup.Group
	var produced atomic.Bool
	producer.Go(func() error {
		defer produced.Store(true)
		for i := 1; i < events; i++ {
			// Under Block it waits in here, no longer than ctx allows.
			if _, err := eng.Append(ctx, "sensor-1", engine.Any, engine.New(Measured{20 + i%5})); err != nil {
				return err
			}
		}
		return nil
	})

	// The producer gets to its end, or no further.
	if err := until(ctx, func() bool { return produced.Load() || eng.Stats().Waited > 0 }); err != nil {
		return f, err
	}
	head := eng.Head()
	if err := until(ctx, func() bool { return eng.Stats().Dispatched == head }); err != nil {
		return f, err
	}
	if err := eng.Wait(ctx, head, "fast"); err != nil {
		return f, err
	}
	f.stored, f.waiting, f.lag, f.seenByFast = int(head), eng.Stats().Waited, slow.Stats().Lag, seenByFast.Load()

	openGate()
	if err := producer.Wait(); err != nil {
		return f, err
	}
	err = eng.Wait(ctx, eng.Head(), "slow")
	f.seen, f.spared, f.state = seen.Load(), spared.Load(), slow.Stats().State
	if stopped, ok := errors.AsType[*engine.StoppedError](err); ok && errors.Is(stopped, engine.ErrOverflow) {
		// Nothing is lost: it goes on where it stood.
		if err := slow.Resume(); err != nil {
			return f, err
		}
		err = eng.Wait(ctx, eng.Head(), "slow")
	}
	f.seenAfterResume = seen.Load()
	return f, err
}

// until polls: there is nothing to wait on for "somebody waits", only figures to look at.
func until(ctx context.Context, condition func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
