package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/weirstore/weir/bench/contender"
	"github.com/weirstore/weir/bench/work"
)

// Options of [Run].
type Options struct {
	Works      []work.Work
	Scale      work.Scale // that the works were made with: the child makes its own again
	Contenders []contender.Entry
	Rounds     int
	Timeout    time.Duration // of one run
	Dir        string        // where the runs have their files
	Progress   io.Writer
	// Profile is a kind of profile, see [work.Profile], which is then written of each run, into Profiles.
	Profile, Profiles string
	// Command returns the command that does what a spec says, and prints the result: this
	// program, called in another way.
	Command func(ctx context.Context, spec string) *exec.Cmd
}

// spec is what a child is told.
type spec struct {
	Work, Contender, Dir string
	Scale                work.Scale
	Timeout              time.Duration
	Profile              work.Profile
}

// grace is what a child has beyond its timeout to say itself what was not done in time.
const grace = 5 * time.Second

// Run runs everything and returns one result for each round, work and contender. Where a
// run fails, its result says why; an error is for what keeps Run from going on.
func Run(ctx context.Context, o Options) ([]work.Result, error) {
	var results []work.Result
	for round := range o.Rounds {
		for _, w := range o.Works {
			fit := fitting(o.Contenders, w)
			for i := range fit {
				e := fit[(i+round)%len(fit)] // each is first, and last, in some round
				res := o.runChild(ctx, w, e, round)
				res.Work, res.Contender, res.Round = w.Name, e.Name, round
				if ctx.Err() != nil {
					return results, ctx.Err()
				}
				results = append(results, res)
				fmt.Fprintf(o.Progress, "round %d/%d  %-16s %-22s %s\n", round+1, o.Rounds, w.Name, e.Name, said(res))
			}
		}
	}
	return results, nil
}

func fitting(all []contender.Entry, w work.Work) []contender.Entry {
	var fit []contender.Entry
	for _, e := range all {
		if e.Fits(w.Needs) {
			fit = append(fit, e)
		}
	}
	return fit
}

func said(r work.Result) string {
	if r.Failure != "" {
		return "FAILED: " + r.Failure
	}
	return fmt.Sprintf("%.0f events/s", r.Rate())
}

func (o Options) runChild(ctx context.Context, w work.Work, e contender.Entry, round int) (res work.Result) {
	dir, err := os.MkdirTemp(o.Dir, "bench-")
	if err != nil {
		return work.Result{Failure: err.Error()}
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil && res.Failure == "" {
			res.Failure = err.Error()
		}
	}()
	var profile work.Profile
	if o.Profile != "" {
		name := fmt.Sprintf("%s %s %d.%s", w.Name, e.Name, round+1, o.Profile)
		profile = work.Profile{Kind: o.Profile, Path: filepath.Join(o.Profiles, strings.NewReplacer(" ", "-", "/", "-").Replace(name))}
	}
	told, err := json.Marshal(spec{w.Name, e.Name, dir, o.Scale, o.Timeout, profile})
	if err != nil {
		return work.Result{Failure: err.Error()}
	}
	bounded, cancel := context.WithTimeout(ctx, o.Timeout+grace)
	defer cancel()
	cmd := o.Command(bounded, string(told))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = grace
	err = cmd.Run()
	if bounded.Err() != nil {
		return work.Result{Failure: fmt.Sprintf("no result after %v", o.Timeout+grace)}
	}
	if err != nil {
		return work.Result{Failure: fmt.Sprintf("%v: %s", err, firstLine(stderr.String()))}
	}
	if err := json.Unmarshal(stdout.Bytes(), &res); err != nil {
		return work.Result{Failure: fmt.Sprintf("no result: %v", err)}
	}
	return res
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// Child does what a spec says and writes the result, which may say that it has failed.
func Child(told string, all []contender.Entry, stdout io.Writer) error {
	var s spec
	if err := json.Unmarshal([]byte(told), &s); err != nil {
		return fmt.Errorf("driver: what to do: %w", err)
	}
	e, ok := contender.Find(all, s.Contender)
	if !ok {
		return fmt.Errorf("driver: there is no contender %q", s.Contender)
	}
	if e.Share > 0 {
		s.Scale.Factor *= e.Share
	}
	w, ok := work.Find(s.Work, s.Scale)
	if !ok {
		return fmt.Errorf("driver: there is no work %q", s.Work)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), s.Timeout, errors.New("time is up"))
	defer cancel()
	// A contender that is stuck cannot be closed: the result must not wait for that.
	done := make(chan work.Result, 1)
	go func() {
		res, err := work.Run(ctx, w, e, s.Dir, s.Profile)
		if err != nil {
			res.Failure = firstLine(strings.ReplaceAll(err.Error(), s.Dir, "DIR"))
		}
		done <- res
	}()
	var res work.Result
	select {
	case res = <-done:
	case <-ctx.Done():
		select {
		case res = <-done:
		case <-time.After(grace / 2):
			res.Failure = fmt.Sprintf("stuck after %v", s.Timeout)
		}
	}
	return json.NewEncoder(stdout).Encode(res)
}
