package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weirstore/weir/engine"
)

// childDir is the environment variable that makes this program the child: the store's folder.
const childDir = "WEIR_EXAMPLE_CRASH_DIR"

// child appends and handles for as long as it lives.
func child(ctx context.Context, dir string) error {
	_, eng, err := open(dir)
	if err != nil {
		return err
	}
	defer eng.Close() // which stores the checkpoint: it is not to be reached
	// A line is one write: none is in the pipe in part.
	if err := audit(eng, func(pos engine.Position) { fmt.Printf("handled %d\n", pos) }); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for a := range appenders {
		group.Go(func() error {
			var at engine.Version
			for ev, err := range eng.Read(ctx, stream(a), engine.Backward(), engine.Limit(1)) {
				if err != nil {
					return err
				}
				at = ev.Version
			}
			for {
				var events []engine.NewEvent
				for i := range batch(at) {
					events = append(events, engine.New(Deposited{at + i + 1}))
				}
				res, err := eng.Append(ctx, stream(a), engine.Exactly(at), events...)
				if err != nil {
					return err
				}
				at = res.Last
				fmt.Printf("acked %d %d\n", a, at)
			}
		})
	}
	return group.Wait()
}

// audit registers the handler that has a checkpoint.
func audit(eng *engine.Engine, handled func(engine.Position)) error {
	_, err := engine.Handle(eng, "audit", func(_ context.Context, ev engine.Of[Deposited]) error {
		handled(ev.Position)
		return nil
	}, engine.FromStart()) // or rather, from its checkpoint
	return err
}

// kill starts a child, kills it when it has appended for so long, and hands over its lines.
func kill(ctx context.Context, dir string, life time.Duration, line func(string) error) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var timer *time.Timer
	var errs []error
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if timer == nil { // the first line: it is at work
			timer = time.AfterFunc(life, func() { cmd.Process.Kill() })
			defer timer.Stop()
		}
		errs = append(errs, line(lines.Text()))
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() >= 0 { // no signal
		errs = append(errs, fmt.Errorf("the child was not killed: %w", err))
	}
	return errors.Join(errs...)
}
