package engine_test

import (
	"context"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
)

// BenchmarkGuard: append and delivery to one handler, with the guard on, and as a ratio to the same with it off.
func BenchmarkGuard(b *testing.B) {
	for _, c := range []struct {
		name string
		data any
	}{
		{"no pointers", payload{1, 2}},
		{"small", newCart()},
		{"1000 values", make([]int, 1000)},
		{"64 KiB", make([]byte, 64<<10)},
	} {
		b.Run(c.name, func(b *testing.B) {
			run := func(mode engine.PayloadGuard, n int) time.Duration {
				e, err := engine.Open(engine.Options{GuardPayloads: mode})
				if err != nil {
					b.Fatal(err)
				}
				defer e.Close()
				if _, err := e.On("E", func(context.Context, engine.Event) error { return nil }); err != nil {
					b.Fatal(err)
				}
				began := time.Now()
				for range n {
					if _, err := e.Append(context.Background(), "a-1", engine.Any, event("E", c.data)); err != nil {
						b.Fatal(err)
					}
				}
				wait(b, e)
				return time.Since(began)
			}
			off := run(engine.GuardOff, b.N)
			b.ResetTimer()
			on := run(engine.GuardOn, b.N)
			b.ReportMetric(float64(on)/float64(off), "×off")
		})
	}
}
