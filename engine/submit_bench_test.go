package engine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// hop is the price of giving something to another goroutine without a reply.
func hop(n int) time.Duration {
	ch, done := make(chan any, 64), make(chan struct{})
	go func() {
		for range ch { // what a handler that does nothing does
		}
		close(done)
	}()
	began := time.Now()
	for range n {
		ch <- boxed
	}
	close(ch)
	<-done
	return time.Since(began)
}

// BenchmarkSubmit: one producer and one handler; the oldest append is awaited once so many are
// in flight. With 0 in flight it is Append.
func BenchmarkSubmit(b *testing.B) {
	for _, inFlight := range []int{0, 64, 1024} {
		b.Run(fmt.Sprintf("memory/inflight=%d", inFlight), func(b *testing.B) {
			submitAll(b, open(b, 1), inFlight, boxed)
			report(b, b.N, hop, "x-hop")
		})
	}
	for _, inFlight := range []int{0, 64} {
		b.Run(fmt.Sprintf("files/inflight=%d", inFlight), func(b *testing.B) {
			store, err := filestore.Open(b.TempDir(), filestore.Options{})
			if err != nil {
				b.Fatal(err)
			}
			e, err := engine.Open(engine.Options{Backend: store})
			if err != nil {
				b.Fatal(err)
			}
			submitAll(b, e, inFlight, make([]byte, 200))
			if err := e.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}

func submitAll(b *testing.B, e *engine.Engine, inFlight int, data any) {
	ctx := context.Background()
	ev := engine.NewEvent{Type: "payload", Data: data}
	ring := make([]*engine.Pending, max(1, inFlight))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if inFlight == 0 {
			if _, err := e.Append(ctx, "s-1", engine.Any, ev); err != nil {
				b.Fatal(err)
			}
			continue
		}
		oldest := &ring[i%inFlight]
		if *oldest != nil {
			if _, err := (*oldest).Wait(ctx); err != nil {
				b.Fatal(err)
			}
		}
		var err error
		if *oldest, err = e.Submit(ctx, "s-1", engine.Any, ev); err != nil {
			b.Fatal(err)
		}
	}
	for _, p := range ring {
		if p == nil {
			continue
		}
		if _, err := p.Wait(ctx); err != nil {
			b.Fatal(err)
		}
	}
	wait(b, e)
	b.StopTimer()
}
