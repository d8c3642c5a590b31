package weir_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadme runs the program that README shows, and compares what it prints with what
// README says that it prints.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```go\n")
	program, rest, ok := strings.Cut(rest, "```\n")
	_, rest, _ = strings.Cut(rest, "```\n")
	want, _, ok2 := strings.Cut(rest, "```\n")
	if !ok || !ok2 {
		t.Fatal("README.md has no program, or nothing that it prints")
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := exec.CommandContext(t.Context(), "go", "run", file).CombinedOutput()
	if err != nil || string(got) != want {
		t.Errorf("it prints %q (%v), README says %q", got, err, want)
	}
}

// TestArchitectureNamesTests holds that every test and test file that docs/ARCHITECTURE.md
// names is there.
func TestArchitectureNamesTests(t *testing.T) {
	text, err := os.ReadFile("docs/ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	var sources strings.Builder
	files := map[string]bool{}
	err = filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		files[filepath.Base(path)] = true
		source, err := os.ReadFile(path)
		sources.Write(source)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(text), -1) {
		if !strings.Contains(sources.String(), "func "+name) { // or the beginning of several
			t.Errorf("no test is called %s…", name)
		}
	}
	for _, name := range regexp.MustCompile(`\b\w+_test\.go`).FindAllString(string(text), -1) {
		if !files[name] {
			t.Errorf("no file is called %s", name)
		}
	}
	for _, sentence := range regexp.MustCompile(`"[a-z][^"]{20,}"`).FindAllString(string(text), -1) {
		if !strings.Contains(sources.String(), sentence) {
			t.Errorf("no scenario says %s", sentence)
		}
	}
}
