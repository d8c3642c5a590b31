package engine_test

import (
	"context"
	"testing"

	"github.com/weirstore/weir/engine"
)

// TestWhoWaitsOwnsTheStream: a caller that waits for its append until it is stored, whatever happens, is
// the owner of an idle stream on any backend, and no goroutine is started. One that may leave before is not, where a
// commit can take long.
func TestWhoWaitsOwnsTheStream(t *testing.T) {
	for _, prompt := range []bool{true, false} {
		e := quietEngine(t, engine.Options{Backend: &wrapped{Memory: engine.NewMemory(), prompt: prompt}})
		defer e.Close()
		mayLeave, cancel := context.WithCancel(context.Background())
		defer cancel()
		for i, c := range []struct {
			ctx  context.Context
			want int
		}{{context.Background(), 0}, {context.WithoutCancel(mayLeave), 0}, {mayLeave, 1}} {
			if _, err := e.Append(c.ctx, "a-1", engine.Any, one); err != nil {
				t.Fatal(err)
			}
			if prompt {
				c.want = 0
			}
			if n := e.Stats().ActiveStreams; n != c.want {
				t.Errorf("prompt %v, append %d: %d streams have a goroutine, want %d", prompt, i+1, n, c.want)
			}
		}
	}
}
