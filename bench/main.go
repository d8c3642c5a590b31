package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weirstore/weir/bench/contender"
	"github.com/weirstore/weir/bench/driver"
	"github.com/weirstore/weir/bench/peers"
	"github.com/weirstore/weir/bench/report"
	"github.com/weirstore/weir/bench/work"
)

// notHere names the products that belong here and could not be had.
const notHere = "hallgren/eventsourcing, looplab/eventhorizon and modernice/goes (stores), kelindar/event, mustafaturan/bus and anthdm/hollywood (buses): " +
	"the Go module proxy that this was built with does not serve them. bench/README.md says how to add a contender."

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var (
		rounds     = flags.Int("rounds", 9, "how often each work is done with each contender")
		factor     = flags.Float64("factor", 1, "the number of events, as a multiple of the usual")
		full       = flags.Bool("full", false, "growth up to 10^7 events, 10^6 streams and 1,000 handlers instead of a tenth")
		works      = flags.String("works", "", "only works whose name begins with one of these, separated by commas")
		contenders = flags.String("contenders", "", "only contenders whose name contains one of these, separated by commas")
		timeout    = flags.Duration("timeout", time.Minute, "how long one run may take")
		out        = flags.String("out", "../docs/bench", "the folder for comparison.md, rates.svg, growth.svg and results.json")
		dir        = flags.String("dir", os.TempDir(), "the folder in which contenders have their files: it should be on a real disk")
		profile    = flags.String("profile", "", "write profiles of this kind, of each run, into profiles in the folder -out: one of "+strings.Join(work.ProfileKinds, ", ")+"; runs are slower then")
		list       = flags.Bool("list", false, "list works and contenders, and do nothing")
		child      = flags.String("child", "", "for the program itself: what one run is to do")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	all := append(contender.All(), peers.All()...)
	if *child != "" {
		return driver.Child(*child, all, stdout)
	}
	if *rounds < 1 || *factor <= 0 || *timeout <= 0 {
		return fmt.Errorf("rounds %d, factor %v, timeout %v: all must be positive", *rounds, *factor, *timeout)
	}
	scale := work.Scale{Factor: *factor, Full: *full}
	chosen := choose(work.All(scale), *works, func(w work.Work, s string) bool { return strings.HasPrefix(w.Name, s) })
	who := choose(all, *contenders, func(e contender.Entry, s string) bool { return strings.Contains(e.Name, s) })
	if *list {
		for _, w := range chosen {
			fmt.Fprintf(stdout, "work       %-18s %s\n", w.Name, w.Title)
		}
		for _, e := range who {
			fmt.Fprintf(stdout, "contender  %-22s %-6s %s\n", e.Name, e.Kind, e.Note)
		}
		return nil
	}
	if len(chosen) == 0 || len(who) == 0 {
		return errors.New("no work, or no contender, has such a name: see -list")
	}
	profiles, err := filepath.Abs(filepath.Join(*out, "profiles"))
	if err != nil {
		return err
	}
	if *profile != "" {
		if !slices.Contains(work.ProfileKinds, *profile) {
			return fmt.Errorf("profile %q: want one of %q", *profile, work.ProfileKinds)
		}
		if err := os.MkdirAll(profiles, 0o755); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	results, err := driver.Run(ctx, driver.Options{
		Works: chosen, Scale: scale, Contenders: who, Rounds: *rounds, Timeout: *timeout, Dir: *dir, Progress: stderr,
		Profile: *profile, Profiles: profiles,
		Command: func(ctx context.Context, spec string) *exec.Cmd {
			return exec.CommandContext(ctx, self, "-child", spec)
		},
	})
	if err != nil {
		return err
	}
	return write(*out, report.Head{
		Date: time.Now().Format(time.DateOnly), Machine: driver.Machine(*dir), Rounds: *rounds, NotHere: notHere,
	}, report.Summarise(chosen, who, results), results)
}

// choose returns those that are meant by a list of names; all of them if it is empty.
func choose[T any](all []T, names string, is func(T, string) bool) []T {
	if names == "" {
		return all
	}
	var chosen []T
	for _, one := range all {
		for name := range strings.SplitSeq(names, ",") {
			if is(one, name) {
				chosen = append(chosen, one)
				break
			}
		}
	}
	return chosen
}

// write writes all files. A chart without anything in it is not made.
func write(dir string, h report.Head, tables []report.Table, results []work.Result) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, chart := range []struct {
		name string
		draw func(io.Writer, []report.Table) error
	}{{"rates.svg", report.Rates}, {"growth.svg", report.Growth}} {
		var b strings.Builder
		if err := chart.draw(&b, tables); err != nil {
			return fmt.Errorf("%s: %w", chart.name, err)
		}
		if b.Len() == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, chart.name), []byte(b.String()), 0o644); err != nil {
			return err
		}
		h.Charts = append(h.Charts, chart.name)
	}
	var table strings.Builder
	if err := report.Markdown(&table, h, tables); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "comparison.md"), []byte(table.String()), 0o644); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(results, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "results.json"), raw, 0o644)
}
