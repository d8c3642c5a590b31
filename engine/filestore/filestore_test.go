package filestore_test

import (
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/backendtest"
	"github.com/weirstore/weir/engine/filestore"
)

func open(t testing.TB, dir string) *filestore.Store {
	s, err := filestore.Open(dir, filestore.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	backendtest.Harness{
		Open:   func(t *testing.T) engine.Backend { return open(t, t.TempDir()) },
		Reopen: func(t *testing.T, old engine.Backend) engine.Backend { return open(t, old.(*filestore.Store).Dir()) },
	}.Run(t)
}
