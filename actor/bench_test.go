package actor_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/weirstore/weir/actor"
)

// request is a message with a pooled waiter, the way an engine sends one.
type request struct {
	n     int
	reply chan int // cap 1
}

// BenchmarkActor gives the price of a message beside that of the means that it replaces:
// a plain channel, and a mutex around the state. All have room for 64 messages.
func BenchmarkActor(b *testing.B) {
	ctx := context.Background()
	sum := 0
	b.Run("send+receive/actor", func(b *testing.B) {
		a := newSystem(b, actor.Config[int]{}).New("x", receiverFunc[int](func(batch []int) {
			for _, n := range batch {
				sum += n
			}
		}))
		b.ReportAllocs()
		for b.Loop() {
			_ = a.Send(ctx, 1)
		}
		<-a.Drain()
	})
	b.Run("send+receive/channel", func(b *testing.B) {
		ch, done := make(chan int, 64), make(chan struct{})
		go func() {
			for n := range ch {
				sum += n
			}
			close(done)
		}()
		b.ReportAllocs()
		for b.Loop() {
			ch <- 1
		}
		close(ch)
		<-done
	})
	b.Run("round trip/actor", func(b *testing.B) {
		a := newSystem(b, actor.Config[*request]{}).New("x", receiverFunc[*request](func(batch []*request) {
			for _, r := range batch {
				sum += r.n
				r.reply <- sum
			}
		}))
		r := &request{1, make(chan int, 1)}
		b.ReportAllocs()
		for b.Loop() {
			_ = a.Send(ctx, r)
			<-r.reply
		}
	})
	b.Run("round trip/channel", func(b *testing.B) {
		ch := make(chan *request, 64)
		defer close(ch)
		go func() {
			for r := range ch {
				sum += r.n
				r.reply <- sum
			}
		}()
		r := &request{1, make(chan int, 1)}
		b.ReportAllocs()
		for b.Loop() {
			ch <- r
			<-r.reply
		}
	})
	b.Run("round trip/mutex", func(b *testing.B) {
		var mu sync.Mutex
		b.ReportAllocs()
		for b.Loop() {
			mu.Lock()
			sum++
			mu.Unlock()
		}
	})
	b.Run("activate+retire/actor", func(b *testing.B) {
		sys := newSystem(b, actor.Config[*request]{Linger: 1, Idle: time.Hour})
		keep := sys.New("keep", receiverFunc[*request](func([]*request) {}))
		_ = keep.Send(ctx, nil) // with two active, the other one retires after each turn
		for keep.Len() > 0 {
			runtime.Gosched()
		}
		a := sys.New("x", receiverFunc[*request](func(batch []*request) {
			for _, r := range batch {
				r.reply <- r.n
			}
		}))
		r := &request{1, make(chan int, 1)}
		b.ReportAllocs()
		for b.Loop() {
			_ = a.Send(ctx, r)
			<-r.reply
		}
	})
}
