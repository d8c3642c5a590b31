package dispatch_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirstore/weir/actor"
	"github.com/weirstore/weir/dispatch"
)

// endless is a Log whose events cost nothing: all are alike but for their position.
type endless struct{ head atomic.Uint64 }

func (l *endless) Head() uint64 { return l.head.Load() }

func (l *endless) Kinds(after uint64, dst []dispatch.Kind) (int, error) {
	n := min(len(dst), int(l.head.Load()-after))
	for i := range dst[:n] {
		dst[i] = 1
	}
	return n, nil
}

func (l *endless) Read(_ context.Context, after, to uint64, _ *dispatch.KindSet, dst []event) (int, uint64, error) {
	n := min(len(dst), int(to-after))
	for i := range dst[:n] {
		dst[i].pos = after + 1 + uint64(i)
	}
	return n, after + uint64(n), nil
}

func (l *endless) Position(ev *event) uint64 { return ev.pos }
func (l *endless) Time(ev *event) time.Time  { return ev.time }

// BenchmarkFanOut gives the price of an event that goes to all of so many handlers, beside
// that of sending it to a buffered channel of each of them. Nobody is ever more than 1024
// events behind, and the last event has been handled when the clock stops.
func BenchmarkFanOut(b *testing.B) {
	for _, handlers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("handlers=%d/dispatch", handlers), func(b *testing.B) {
			group, log := actor.NewGroup(), new(endless)
			d := dispatch.New[event](log, dispatch.Options{Group: group})
			all := make([]*handler, handlers)
			for i := range all {
				var err error
				sum := uint64(0)
				all[i], err = d.Add(config{Name: fmt.Sprint(i), Window: 1024, Handle: func(_ context.Context, ev event) error {
					sum += ev.pos
					return nil
				}}, 0)
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N { // not b.Loop, which would not count what follows
				if err := d.Admit(ctxBg); err != nil {
					b.Fatal(err)
				}
				log.head.Add(1)
				d.Notify()
			}
			for _, h := range all {
				if err := h.Wait(ctxBg, log.Head()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/event")
			if err := d.End(ctxBg); err != nil {
				b.Fatal(err)
			}
			if err := group.Wait(ctxBg); err != nil {
				b.Fatal(err)
			}
		})
		b.Run(fmt.Sprintf("handlers=%d/channels", handlers), func(b *testing.B) {
			chans := make([]chan event, handlers)
			var wg sync.WaitGroup
			for i := range chans {
				ch := make(chan event, 1024)
				chans[i] = ch
				wg.Go(func() {
					sum := uint64(0)
					for ev := range ch {
						sum += ev.pos
					}
				})
			}
			ev := event{kind: 1}
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				ev.pos++
				for _, ch := range chans {
					ch <- ev
				}
			}
			for _, ch := range chans {
				close(ch)
			}
			wg.Wait()
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/event")
		})
	}
}
