package filestore_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weirstore/weir/engine/filestore"
)

// TestDocumentedNumbers compares the numbers of docs/filestore-format.md with the code.
func TestDocumentedNumbers(t *testing.T) {
	doc := readDoc(t, "filestore-format.md")
	for name, n := range filestore.Numbers {
		if row := fmt.Sprintf("\n| %s | %d |\n", name, n); !strings.Contains(doc, row) {
			t.Errorf("there is no row %q", row)
		}
	}
	_, record, _ := strings.Cut(doc, "\n## Record\n")
	record, _, _ = strings.Cut(record, "\n## ")
	for name, at := range filestore.Fields {
		found := false
		for row := range strings.Lines(record) {
			cells := strings.Split(row, " | ")
			found = found || len(cells) == 3 && cells[0] == fmt.Sprint("| ", at) && strings.HasPrefix(cells[2], name)
		}
		if !found {
			t.Errorf("no row of the record's table has %q at byte %d", name, at)
		}
	}
}
