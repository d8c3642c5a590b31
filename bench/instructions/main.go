package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/weirstore/weir/engine"
)

type payload struct{ N int }

// work is something that is done with events, n of them.
type work struct {
	name string
	does string
	do   func(ctx context.Context, n int) error
}

var works = []work{
	{"append", "one event an append, no handler", appending(1, 1, 0)},
	{"append-handler", "the same, with a handler", appending(1, 1, 1)},
	{"append-10k", "the same on 10,000 streams, no handler", appending(1, 10_000, 0)},
	{"batch-100", "100 events an append, no handler", appending(100, 1, 0)},
	{"batch-100-handler", "the same, with a handler", appending(100, 1, 1)},
	{"submit", "one event a Submit, no handler", submitting},
	{"execute", "one command an event", executing},
	{"read", "reading all events, after 100 an append", reading},
}

func appending(batch, streams, handlers int) func(context.Context, int) error {
	return func(ctx context.Context, n int) error {
		return within(handlers, func(e *engine.Engine) error {
			names := make([]string, streams)
			for i := range names {
				names[i] = fmt.Sprintf("stream-%d", i)
				if _, err := e.Append(ctx, names[i], engine.Any, engine.New(payload{})); err != nil {
					return err
				}
			}
			events := slices.Repeat([]engine.NewEvent{engine.New(payload{1})}, batch)
			for i := range n / batch {
				if _, err := e.Append(ctx, names[i%streams], engine.Any, events...); err != nil {
					return err
				}
			}
			return e.Wait(ctx, e.Head())
		})
	}
}

func submitting(ctx context.Context, n int) error {
	return within(0, func(e *engine.Engine) error {
		event := engine.New(payload{1})
		for range n {
			p, err := e.Submit(ctx, "stream-1", engine.Any, event)
			if err != nil {
				return err
			}
			if _, err := p.Wait(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

func executing(ctx context.Context, n int) error {
	return within(0, func(e *engine.Engine) error {
		add := []engine.NewEvent{engine.New(payload{1})}
		d := &engine.Decider[int, struct{}]{
			Evolve: func(sum int, ev engine.Event) int { return sum + ev.Data.(payload).N },
			Decide: func(int, struct{}) ([]engine.NewEvent, error) { return add, nil },
		}
		for range n {
			if _, err := engine.Execute(ctx, e, d, "stream-1", struct{}{}); err != nil {
				return err
			}
		}
		return nil
	})
}

func reading(ctx context.Context, n int) error {
	const stored = 1000
	return within(0, func(e *engine.Engine) error {
		events := slices.Repeat([]engine.NewEvent{engine.New(payload{1})}, 100)
		for range stored / len(events) {
			if _, err := e.Append(ctx, "stream-1", engine.Any, events...); err != nil {
				return err
			}
		}
		sum := 0
		for range n / stored {
			for ev, err := range e.ReadAll(ctx) {
				if err != nil {
					return err
				}
				sum += ev.Data.(payload).N
			}
		}
		if sum != n {
			return fmt.Errorf("read %d events instead of %d", sum, n)
		}
		return nil
	})
}

// within calls fn with an engine that has so many handlers.
func within(handlers int, fn func(*engine.Engine) error) error {
	e, err := engine.Open(engine.Options{})
	if err != nil {
		return err
	}
	defer e.Close()
	for range handlers {
		if _, err := e.On("payload", func(context.Context, engine.Event) error { return nil }); err != nil {
			return err
		}
	}
	return fn(e)
}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "instructions:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("instructions", flag.ContinueOnError)
	var (
		name   = flags.String("work", "", "only this work")
		top    = flags.Int("top", 0, "also list so many functions that have the most")
		events = flags.Int("events", 100_000, "by how many events the two runs differ")
		child  = flags.Int("child", 0, "for the program itself: how many events to do")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen := slices.DeleteFunc(slices.Clone(works), func(w work) bool { return *name != "" && w.name != *name })
	if len(chosen) == 0 {
		return fmt.Errorf("there is no work %q", *name)
	}
	if *child > 0 {
		return chosen[0].do(ctx, *child)
	}
	for _, tool := range []string{"valgrind", "callgrind_annotate"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not here: %w", tool, err)
		}
	}
	fmt.Fprintln(stdout, "| work | instructions an event | |\n|---|--:|---|")
	for _, w := range chosen {
		few, err := count(ctx, w, 20_000)
		if err != nil {
			return err
		}
		many, err := count(ctx, w, 20_000+*events)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "| %s | %.0f | %s |\n", w.name, float64(many.total-few.total)/float64(*events), w.does)
		for _, f := range many.most(few, *top) {
			fmt.Fprintf(stdout, "| | %.1f | %s |\n", float64(many.by[f]-few.by[f])/float64(*events), f)
		}
	}
	return nil
}

// counts are those of one run: in all, and of each function itself.
type counts struct {
	total int
	by    map[string]int
}

// most returns the functions for which c has the most more than d.
func (c counts) most(d counts, n int) []string {
	var names []string
	for f := range c.by {
		names = append(names, f)
	}
	slices.SortFunc(names, func(a, b string) int { return c.by[b] - d.by[b] - (c.by[a] - d.by[a]) })
	return names[:min(n, len(names))]
}

// count runs a work under valgrind.
func count(ctx context.Context, w work, events int) (counts, error) {
	self, err := os.Executable()
	if err != nil {
		return counts{}, err
	}
	dir, err := os.MkdirTemp("", "instructions-")
	if err != nil {
		return counts{}, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "callgrind")
	cmd := exec.CommandContext(ctx, "valgrind", "--tool=callgrind", "--callgrind-out-file="+out, self, "-work", w.name, "-child", strconv.Itoa(events))
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1") // callgrind cannot do with such signals
	if text, err := cmd.CombinedOutput(); err != nil {
		return counts{}, fmt.Errorf("%s: %w: %s", w.name, err, text)
	}
	text, err := exec.CommandContext(ctx, "callgrind_annotate", "--threshold=100", "--auto=no", out).Output()
	if err != nil {
		return counts{}, fmt.Errorf("%s: callgrind_annotate: %w", w.name, err)
	}
	return parse(text)
}

var (
	line   = regexp.MustCompile(`^ *([0-9,]+) \([^)]*\)  (.*)$`)
	shaped = regexp.MustCompile(`\[go\.shape\..*\]`)
)

// parse reads what callgrind_annotate writes. The instructions of a function that was inlined are those of where it is.
func parse(text []byte) (counts, error) {
	c := counts{by: make(map[string]int)}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m := line.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		n, err := strconv.Atoi(strings.ReplaceAll(m[1], ",", ""))
		if err != nil {
			return counts{}, err
		}
		if strings.Contains(m[2], "PROGRAM TOTALS") {
			c.total = n
			continue
		}
		f, _, _ := strings.Cut(m[2], " [/") // the binary
		if _, after, ok := strings.Cut(f, ":"); ok {
			f = after // of the file
		}
		if at, err := strconv.ParseUint(f, 0, 64); err == nil { // go run leaves no symbols for valgrind in the program
			if fn := runtime.FuncForPC(uintptr(at)); fn != nil {
				f = fn.Name()
			}
		}
		f = strings.TrimSuffix(shaped.ReplaceAllString(f, "[…]"), "'2")
		c.by[strings.TrimPrefix(f, "github.com/weirstore/weir/")] += n
	}
	if c.total == 0 {
		return counts{}, fmt.Errorf("callgrind_annotate says nothing: %.200s", text)
	}
	return c, lines.Err()
}
