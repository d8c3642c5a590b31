//go:build plant

package filestore_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPlants compiles the package with each plant in it, with an overlay of the build, runs
// the tests that are to find it, and requires that one of them fails. Without a plant they pass.
func TestPlants(t *testing.T) {
	every := []string{}
	for _, p := range plants {
		every = append(every, p.tests)
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		if out, err := runPlanted(t, plant{file: "doc.go", tests: strings.Join(every, "|")}); err != nil {
			t.Fatalf("the tests fail without a plant: %v\n%s", err, out)
		}
	})
	for _, p := range plants {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			out, err := runPlanted(t, p)
			first := regexp.MustCompile(`(?m)^\s*--- FAIL: \S+|^panic: .*`).FindString(out)
			switch {
			case err == nil:
				t.Errorf("%s finds nothing", p.tests)
			case first == "":
				t.Errorf("it is no test that fails: %v\n%s", err, out)
			default:
				reason := regexp.MustCompile(`(?m)^ +\w+_test\.go:\d+: .*`).FindString(out)
				t.Logf("%s: %.300s", strings.TrimSpace(first), strings.TrimSpace(reason))
			}
		})
	}
}

func runPlanted(t *testing.T, p plant) (out string, err error) {
	text, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), p.old); p.old != "" && n != 1 {
		t.Fatalf("its text is %d times in %s", n, p.file)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	planted, overlay, binary := filepath.Join(dir, p.file), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "planted.test")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(here, p.file): planted}})
	if err == nil {
		err = os.WriteFile(overlay, list, 0o600)
	}
	if err == nil {
		err = os.WriteFile(planted, []byte(strings.Replace(string(text), p.old, p.new, 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if built, err := exec.Command("go", "test", "-overlay", overlay, "-c", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("it does not build: %v\n%s", err, built)
	}
	b, err := exec.Command(binary, "-test.run", "^("+p.tests+")$", "-test.timeout", "3m", "-test.failfast").CombinedOutput()
	return string(b), err
}
