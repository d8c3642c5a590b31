package main

import (
	"bytes"
	"os/exec"
	"regexp"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestWorks does each work once, without valgrind.
func TestWorks(t *testing.T) {
	for _, w := range works {
		if err := run(t.Context(), []string{"-work", w.name, "-child", "2000"}, nil); err != nil {
			t.Errorf("%s: %v", w.name, err)
		}
	}
	if err := run(t.Context(), []string{"-work", "none"}, nil); err == nil {
		t.Error("a work that is not there is no error")
	}
}

func TestParse(t *testing.T) {
	c, err := parse([]byte(`
28,000 (100.0%)  PROGRAM TOTALS

 4,803,756 ( 1.88%)  /go/src/a.go:github.com/weirstore/weir/engine.(*Engine).fill'2 [/tmp/x]
        10 ( 0.00%)  /go/src/b.go:github.com/weirstore/weir/engine.(*Engine).fill [/tmp/x]
         1 ( 0.00%)  ???:github.com/weirstore/weir/actor.(*Actor[go.shape.*uint8]).Borrow [/tmp/x]
`))
	if err != nil || c.total != 28000 || c.by["engine.(*Engine).fill"] != 4803766 || c.by["actor.(*Actor[…]).Borrow"] != 1 || len(c.by) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	if most := c.most(counts{}, 5); len(most) != 2 || most[0] != "engine.(*Engine).fill" {
		t.Errorf("most: %q", most)
	}
	if _, err := parse(nil); err == nil {
		t.Error("nothing is no error")
	}
}

// TestCount counts under valgrind, where it is: an append takes some thousand instructions.
func TestCount(t *testing.T) {
	if _, err := exec.LookPath("callgrind_annotate"); err != nil {
		t.Skip("valgrind is not here")
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "go", "run", ".", "-work", "append", "-events", "20000", "-top", "3")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if !regexp.MustCompile(`(?m)^\| append \| [1-9][0-9]{2,3} \| one event an append`).Match(out.Bytes()) {
		t.Errorf("the table is\n%s", out.String())
	}
}
