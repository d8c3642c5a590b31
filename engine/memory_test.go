package engine_test

import (
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/backendtest"
)

func TestMemory(t *testing.T) {
	backendtest.Run(t, func(*testing.T) engine.Backend { return engine.NewMemory() })
}
