package filestore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// TestOpenRemovesNothingOfOthers opens stores in a directory that others use, too.
func TestOpenRemovesNothingOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	names := []string{"letter.tmp", ".tmp", "notes.idx", "00000000000000000001.seg.tmp", "a.idx.tmp"}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		s := mustOpen(t, dir, small)
		if _, err := appendOne(s, engine.Synced, 10); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := filestore.Repair(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != "mine" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}
