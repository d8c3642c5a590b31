package weir_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/weirstore/weir"

// The packages of the core, in the order in which they may import each other: each
// only those before it.
var layers = []string{"internal/stack", "actor", "dispatch", "engine", "engine/backendtest",
	"engine/filestore", "engine/filestore/internal/vfs", "engine/filestore/internal/vfs/vfstest", "engine/filestore/internal/crashfs",
	"weirtest", "examples"}

// TestImports holds the direction of imports, and that a program which imports Weir links
// nothing but the standard library and golang.org/x/sync.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg := strings.TrimPrefix(strings.TrimPrefix(fields[0], module), "/")
		for _, imported := range fields[1:] {
			first, _, _ := strings.Cut(imported, "/")
			switch {
			case strings.HasPrefix(imported, module):
				imported = strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
				if layer(imported) >= layer(pkg) && !strings.HasPrefix(imported, pkg+"/internal") {
					t.Errorf("%s imports %s: only what comes before it in %q", pkg, imported, layers)
				}
			case strings.HasPrefix(imported, "golang.org/x/sync/"):
			case strings.Contains(first, "."):
				t.Errorf("%s imports %s, which every user of the core would link", pkg, imported)
			}
		}
	}
}

func layer(pkg string) int {
	for i := len(layers) - 1; i >= 0; i-- {
		if pkg == layers[i] || strings.HasPrefix(pkg, layers[i]+"/") {
			return i
		}
	}
	return len(layers) // the root
}

// TestModules holds what each go.mod must say.
func TestModules(t *testing.T) {
	mods, err := filepath.Glob("*/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(mods, "go.mod") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "\ngo 1.26.0\n") {
			t.Errorf("%s: want the line %q", path, "go 1.26.0")
		}
		if strings.Contains(string(text), module+" v") && !strings.Contains(string(text), "replace "+module+" => ../") {
			t.Errorf("%s: want a replace of %s", path, module)
		}
	}
	if _, err := os.Stat("go.work"); err == nil {
		t.Error("go.work is here: it hides version drift between the modules")
	}
	core, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(core)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "require ")
		if strings.Contains(line, " v") && !strings.Contains(line, "// indirect") &&
			!strings.HasPrefix(line, "golang.org/x/sync ") && !strings.HasPrefix(line, "go.uber.org/goleak ") {
			t.Errorf("go.mod requires %q: the core needs golang.org/x/sync, and goleak in tests", line)
		}
	}
}
