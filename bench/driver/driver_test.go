package driver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirstore/weir/bench/contender"
	"github.com/weirstore/weir/bench/driver"
	"github.com/weirstore/weir/bench/work"
)

// childSpec is the environment variable by which this test program knows that it is a child.
const childSpec = "WEIR_BENCH_CHILD"

func TestMain(m *testing.M) {
	if told := os.Getenv(childSpec); told != "" {
		if err := driver.Child(told, entries(), os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

const does = contender.Deliver

// entries are a limit of the benchmark, and contenders of which each fails in its own way.
func entries() []contender.Entry {
	good, _ := contender.Find(contender.All(), "mutex + slice")
	return []contender.Entry{
		good,
		{Name: "cannot open", Can: does, Open: func(contender.Config) (contender.Bus, error) { return nil, errors.New("no disk") }},
		{Name: "drops", Can: does, Open: func(contender.Config) (contender.Bus, error) { return &faulty{}, nil }},
		{Name: "stuck", Can: does, Open: func(contender.Config) (contender.Bus, error) { return &faulty{append: func() { select {} }}, nil }},
		{Name: "crashes", Can: does, Open: func(contender.Config) (contender.Bus, error) {
			return &faulty{append: func() { panic("at the disco") }}, nil
		}},
		{Name: "exits", Can: does, Open: func(contender.Config) (contender.Bus, error) {
			return &faulty{append: func() { os.Exit(0) }}, nil
		}},
	}
}

// faulty calls no handler.
type faulty struct{ append func() }

func (f *faulty) Producer() contender.Producer { return f }
func (f *faulty) Close() error                 { return nil }

func (f *faulty) Append(int, []contender.Event) error {
	if f.append != nil {
		f.append()
	}
	return nil
}

func command(ctx context.Context, spec string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childSpec+"="+spec)
	return cmd
}

func TestRun(t *testing.T) {
	for _, tc := range []struct {
		contender string
		timeout   time.Duration
		want      string // the failure
	}{
		{"mutex + slice", time.Minute, ""},
		{"cannot open", time.Minute, "no disk"},
		{"crashes", time.Minute, "panic: at the disco"},
		{"exits", time.Minute, "no result"},
		{"drops", 100 * time.Millisecond, "handler 1: had about 0 of 500 events when time was up"},
		{"stuck", 100 * time.Millisecond, "stuck after 100ms"},
	} {
		t.Run(tc.contender, func(t *testing.T) {
			t.Parallel()
			e, _ := contender.Find(entries(), tc.contender)
			scale := work.Scale{Factor: 0.001}
			w, _ := work.Find("append", scale)
			dir := t.TempDir()
			var progress bytes.Buffer
			results, err := driver.Run(t.Context(), driver.Options{
				Works: []work.Work{w}, Scale: scale, Contenders: []contender.Entry{e}, Rounds: 1,
				Timeout: tc.timeout, Dir: dir, Progress: &progress, Command: command,
			})
			if err != nil || len(results) != 1 {
				t.Fatalf("%d results, %v", len(results), err)
			}
			r := results[0]
			if r.Work != "append" || r.Contender != tc.contender || (r.Failure == "") != (tc.want == "") || !strings.Contains(r.Failure, tc.want) {
				t.Errorf("%+v; want the failure %q", r, tc.want)
			}
			if tc.want == "" && (r.Events != w.Events || r.Rate() <= 0 || r.P50 <= 0) {
				t.Errorf("%+v", r)
			}
			if failed := strings.Contains(progress.String(), "FAILED"); failed != (tc.want != "") {
				t.Errorf("it tells: %s", progress.String())
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left in the folder: %v, %v", left, err)
			}
		})
	}
}

func TestRoundsInterleave(t *testing.T) {
	scale := work.Scale{Factor: 0.001}
	w, _ := work.Find("append", scale)
	all := entries()[:2]
	results, err := driver.Run(t.Context(), driver.Options{
		Works: []work.Work{w}, Scale: scale, Contenders: all, Rounds: 2, Timeout: time.Minute,
		Dir: t.TempDir(), Progress: io.Discard, Command: command,
	})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, r := range results {
		order = append(order, fmt.Sprint(r.Round, " ", r.Contender))
	}
	want := []string{"0 " + all[0].Name, "0 " + all[1].Name, "1 " + all[1].Name, "1 " + all[0].Name}
	if !slices.Equal(order, want) {
		t.Errorf("the order is %q, want %q", order, want)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	scale := work.Scale{Factor: 0.001}
	w, _ := work.Find("append", scale)
	ctx, cancel := context.WithCancel(t.Context())
	results, err := driver.Run(ctx, driver.Options{
		Works: []work.Work{w}, Scale: scale, Contenders: entries()[:1], Rounds: 3, Timeout: time.Minute, Dir: t.TempDir(), Progress: io.Discard,
		Command: func(ctx context.Context, spec string) *exec.Cmd {
			cancel()
			return command(ctx, spec)
		},
	})
	if !errors.Is(err, context.Canceled) || len(results) > 0 {
		t.Errorf("%d results, %v", len(results), err)
	}
}

func TestChildRefusesWhatItDoesNotKnow(t *testing.T) {
	for told, want := range map[string]string{
		"{":                                    "what to do",
		`{"Contender":"nobody"}`:               `no contender "nobody"`,
		`{"Contender":"drops","Work":"sleep"}`: `no work "sleep"`,
	} {
		if err := driver.Child(told, entries(), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", told, err, want)
		}
	}
}

func TestMachineNamesNoHostAndNoPath(t *testing.T) {
	dir := t.TempDir()
	m := driver.Machine(dir)
	host, _ := os.Hostname()
	if strings.Contains(m, dir) || host != "" && strings.Contains(m, host) {
		t.Errorf("%q names the host or the folder", m)
	}
	for _, want := range []string{" cores", "GiB", "Linux ", "go1.", "files on "} {
		if !strings.Contains(m, want) {
			t.Errorf("%q lacks %q", m, want)
		}
	}
}
