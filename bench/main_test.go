package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bench "github.com/weirstore/weir/bench"
	"github.com/weirstore/weir/bench/work"
)

// TestMain is also the child processes: the command starts itself again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-child" {
		if err := bench.Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	files := filepath.Join(dir, "files")
	if err := os.Mkdir(files, 0o700); err != nil {
		t.Fatal(err)
	}
	var progress bytes.Buffer
	err := bench.Run(t.Context(), []string{"-rounds", "2", "-factor", "0.001", "-works", "append,submit,handlers-1", "-contenders", "weir,round trip,mutex,EventBus",
		"-out", filepath.Join(dir, "out"), "-dir", files}, io.Discard, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, "out", name))
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	table := read("comparison.md")
	for _, want := range []string{"| weir |", "| channel round trip |", "| asaskevich/EventBus |", "![rates](rates.svg)", "![growth](growth.svg)", "submitted now and awaited later", "hallgren"} {
		if !strings.Contains(table, want) {
			t.Errorf("the table lacks %q:\n%s", want, table)
		}
	}
	if strings.Contains(table, "failed") {
		t.Errorf("something failed:\n%s", table)
	}
	if strings.Contains(table, dir) {
		t.Error("the table names a folder of this machine")
	}
	for _, chart := range []string{"rates.svg", "growth.svg"} {
		if !strings.Contains(read(chart), "<svg") {
			t.Errorf("%s is no SVG", chart)
		}
	}
	var results []work.Result
	if err := json.Unmarshal([]byte(read("results.json")), &results); err != nil {
		t.Error(err)
	}
	// append: weir, round trip, mutex + slice, EventBus; submit: weir; handlers-1, -10 and -100: weir, mutex + slice; in two rounds.
	if len(results) != 22 {
		t.Errorf("%d results, want 22", len(results))
	}
	if left, err := os.ReadDir(files); err != nil || len(left) > 0 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
	for _, args := range [][]string{{"-rounds", "0"}, {"-works", "nothing"}, {"-child", "{"}, {"-profile", "heat"}} {
		if err := bench.Run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q is no error", args)
		}
	}
}

// TestProfiles: each kind of profile is written of each run.
func TestProfiles(t *testing.T) {
	for _, kind := range work.ProfileKinds {
		dir := t.TempDir()
		if err := bench.Run(t.Context(), []string{"-rounds", "1", "-factor", "0.001", "-works", "append,read-1M", "-contenders", "weir,mutex",
			"-out", dir, "-dir", t.TempDir(), "-profile", kind}, io.Discard, io.Discard); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"append-weir-1.", "append-mutex-+-slice-1.", "read-1M-weir-1.", "read-1M-mutex-+-slice-1."} {
			if info, err := os.Stat(filepath.Join(dir, "profiles", name+kind)); err != nil || info.Size() == 0 {
				t.Errorf("%s: %v", name+kind, err)
			}
		}
	}
}
