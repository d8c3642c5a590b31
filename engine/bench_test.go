package engine_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/engine"
)

type payload struct{ A, B int }

func BenchmarkAppend1(b *testing.B) {
	for _, n := range []int{0, 1, 8, 64} {
		b.Run(fmt.Sprint("handlers=", n), func(b *testing.B) {
			e, _ := engine.Open(engine.Options{})
			defer e.Close()
			var c atomic.Int64
			for range n {
				e.On("payload", func(ctx context.Context, ev engine.Event) error { c.Add(1); return nil })
			}
			var p any = payload{1, 2}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Append(context.Background(), "s-1", engine.Any, engine.New(p)); err != nil {
					b.Fatal(err)
				}
			}
			e.Wait(context.Background(), e.Head())
		})
	}
}
func BenchmarkAppend100(b *testing.B) {
	for _, n := range []int{0, 1, 8} {
		b.Run(fmt.Sprint("handlers=", n), func(b *testing.B) {
			e, _ := engine.Open(engine.Options{})
			defer e.Close()
			var c atomic.Int64
			for range n {
				e.On("payload", func(ctx context.Context, ev engine.Event) error { return nil })
			}
			_ = c
			evs := make([]engine.NewEvent, 100)
			for i := range evs {
				evs[i] = engine.New(payload{i, 2})
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Append(context.Background(), "s-1", engine.Any, evs...); err != nil {
					b.Fatal(err)
				}
			}
			e.Wait(context.Background(), e.Head())
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*100), "ns/event")
		})
	}
}
func BenchmarkRead(b *testing.B) {
	e, _ := engine.Open(engine.Options{})
	defer e.Close()
	evs := make([]engine.NewEvent, 1000)
	for i := range evs {
		evs[i] = engine.New(payload{i, 2})
	}
	for range 1000 {
		e.Append(context.Background(), "s-1", engine.Any, evs...)
	}
	for b.Loop() {
		n := 0
		for _, err := range e.ReadAll(context.Background()) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 1000000 {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*1000000), "ns/event")
}
func BenchmarkParallel(b *testing.B) {
	for _, streams := range []int{1, 10000} {
		b.Run(fmt.Sprint("streams=", streams), func(b *testing.B) {
			e, _ := engine.Open(engine.Options{})
			defer e.Close()
			names := make([]string, streams)
			for i := range names {
				names[i] = fmt.Sprint("s-", i)
			}
			var p any = payload{1, 2}
			var g atomic.Int64
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				i := int(g.Add(1)) * 7919
				for pb.Next() {
					i++
					if _, err := e.Append(context.Background(), names[i%streams], engine.Any, engine.New(p)); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
