package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
)

// The benchmarks report, beside ns and allocations, the ratio to a baseline measured just
// before in the same process: this is the figure to read, on any machine. See docs/bench.

// payload is 16 bytes, put into an interface once: the engine keeps what it is given.
type payload struct{ A, B int }

var boxed any = payload{1, 2}

// roundTrip is the price of a synchronous call of another goroutine: a request on a
// buffered channel, and a reply on the caller's own.
func roundTrip(n int) time.Duration {
	type request struct{ done chan struct{} }
	ch := make(chan *request, 64)
	go func() {
		for r := range ch {
			r.done <- struct{}{}
		}
	}()
	defer close(ch)
	r := &request{make(chan struct{}, 1)}
	began := time.Now()
	for range n {
		ch <- r
		<-r.done
	}
	return time.Since(began)
}

// record has the size of what the engine stores for an event.
type record [7]uint64

// chunkedSlice is the price of storing an event at all: a record and its index entry, in
// fresh memory.
func chunkedSlice(n int) time.Duration {
	var records []*[1024]record
	var index []*[1024]uint64
	began := time.Now()
	for i := range n {
		if i%1024 == 0 {
			records = append(records, new([1024]record))
			index = append(index, new([1024]uint64))
		}
		records[i/1024][i%1024] = record{uint64(i)}
		index[i/1024][i%1024] = uint64(i)
	}
	took := time.Since(began)
	runtime.KeepAlive(records)
	runtime.KeepAlive(index)
	return took
}

// report adds ns/event, and the ratio to a baseline of as many operations, up to five
// million: those that allocate must pay for fresh memory as well.
func report(b *testing.B, events int, baseline func(n int) time.Duration, unit string) {
	b.Helper()
	b.StopTimer()
	perEvent := float64(b.Elapsed()) / float64(events)
	b.ReportMetric(perEvent, "ns/event")
	n := min(max(events, 100_000), 5_000_000)
	b.ReportMetric(perEvent/(float64(baseline(n))/float64(n)), unit)
}

func open(b *testing.B, handlers int, opts ...engine.HandlerOption) *engine.Engine {
	b.Helper()
	e, err := engine.Open(engine.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for range handlers {
		if _, err := e.On("payload", func(context.Context, engine.Event) error { return nil }, opts...); err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() {
		if err := e.Close(); err != nil {
			b.Error(err)
		}
	})
	return e
}

func wait(b *testing.B, e *engine.Engine) {
	b.Helper()
	if err := e.Wait(context.Background(), e.Head()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAppend: one producer, one event an append, delivered to the handlers.
func BenchmarkAppend(b *testing.B) {
	for _, handlers := range []int{0, 1, 8} {
		b.Run(fmt.Sprintf("handlers=%d", handlers), func(b *testing.B) {
			e := open(b, handlers)
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Append(ctx, "s-1", engine.Any, engine.New(boxed)); err != nil {
					b.Fatal(err)
				}
			}
			wait(b, e)
			report(b, b.N, roundTrip, "x-roundtrip")
		})
	}
}

// usualActor is an append as actors are usually written: a reply channel a call, and a
// select at both ends, so that neither waits for one that is gone.
func usualActor(n int) time.Duration {
	type request struct {
		stream string
		event  engine.NewEvent
		reply  chan int
	}
	ch, quit := make(chan request), make(chan struct{})
	defer close(quit)
	go func() {
		streams := make(map[string][]engine.NewEvent)
		for {
			select {
			case r := <-ch:
				streams[r.stream] = append(streams[r.stream], r.event)
				r.reply <- len(streams[r.stream])
			case <-quit:
				return
			}
		}
	}()
	ctx := context.Background()
	began := time.Now()
	for range n {
		r := request{"s-1", engine.New(boxed), make(chan int, 1)}
		select {
		case ch <- r:
		case <-ctx.Done():
		}
		select {
		case <-r.reply:
		case <-ctx.Done():
		}
	}
	return time.Since(began)
}

// BenchmarkAgainstActor: the same append beside the usual actor, of interest under -race.
func BenchmarkAgainstActor(b *testing.B) {
	e := open(b, 0)
	ctx := context.Background()
	for b.Loop() {
		if _, err := e.Append(ctx, "s-1", engine.Any, engine.New(boxed)); err != nil {
			b.Fatal(err)
		}
	}
	report(b, b.N, usualActor, "x-actor")
}

// BenchmarkProducers: 64 producers, one event an append.
func BenchmarkProducers(b *testing.B) {
	for _, streams := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			e := open(b, 1)
			names := make([]string, streams)
			for i := range names {
				names[i] = fmt.Sprintf("s-%d", i)
			}
			ctx := context.Background()
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			b.ReportAllocs()
			var producer atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for i := int(producer.Add(1)) * 7919; pb.Next(); i++ {
					if _, err := e.Append(ctx, names[i%streams], engine.Any, engine.New(boxed)); err != nil {
						b.Fatal(err)
					}
				}
			})
			wait(b, e)
			report(b, b.N, roundTrip, "x-roundtrip")
		})
	}
}

// BenchmarkAppend100: a hundred events an append.
func BenchmarkAppend100(b *testing.B) {
	e := open(b, 1)
	events := make([]engine.NewEvent, 100)
	for i := range events {
		events[i] = engine.New(boxed)
	}
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Append(ctx, "s-1", engine.Any, events...); err != nil {
			b.Fatal(err)
		}
	}
	wait(b, e)
	report(b, b.N*len(events), chunkedSlice, "x-slice")
}

// BenchmarkFanOut: how long n handlers take for a log that grows by 100 events an append,
// from the first append to the last call.
func BenchmarkFanOut(b *testing.B) {
	for _, handlers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("handlers=%d", handlers), func(b *testing.B) {
			e := open(b, handlers)
			events := make([]engine.NewEvent, 100)
			for i := range events {
				events[i] = engine.New(boxed)
			}
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Append(ctx, "s-1", engine.Any, events...); err != nil {
					b.Fatal(err)
				}
			}
			wait(b, e)
			b.StopTimer()
			perEvent := float64(b.Elapsed()) / float64(b.N*len(events))
			b.ReportMetric(perEvent, "ns/event")
			b.ReportMetric(perEvent/float64(handlers), "ns/call")
			const n = 100_000
			b.ReportMetric(perEvent/(float64(channelFanOut(n, handlers))/n), "x-channels")
		})
	}
}

// channelFanOut is the usual way: one buffered channel a handler, one send an event.
func channelFanOut(n, handlers int) time.Duration {
	var wg sync.WaitGroup
	chans := make([]chan engine.Event, handlers)
	for i := range chans {
		chans[i] = make(chan engine.Event, 1024)
		wg.Go(func() {
			for range chans[i] {
			}
		})
	}
	began := time.Now()
	for range n {
		for _, ch := range chans {
			ch <- engine.Event{}
		}
	}
	for _, ch := range chans {
		close(ch)
	}
	wg.Wait()
	return time.Since(began)
}

// BenchmarkRead: a million events, in order.
func BenchmarkRead(b *testing.B) {
	const million = 1_000_000
	e := open(b, 0)
	ctx := context.Background()
	events := make([]engine.NewEvent, 1000)
	for i := range events {
		events[i] = engine.New(boxed)
	}
	for i := range million / len(events) {
		if _, err := e.Append(ctx, fmt.Sprintf("s-%d", i%10), engine.Any, events...); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			n := 0
			for _, err := range e.ReadAll(ctx) {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
			if n != million {
				b.Fatal(n)
			}
		}
		report(b, b.N*million, rangeSlice(million), "x-slice")
	})
	b.Run("stream", func(b *testing.B) {
		for b.Loop() {
			n := 0
			for _, err := range e.Read(ctx, "s-3") {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
			if n != million/10 {
				b.Fatal(n)
			}
		}
		report(b, b.N*million/10, rangeSlice(million/10), "x-slice")
	})
}

// rangeSlice is the price of looking at events that lie ready in a slice.
func rangeSlice(size int) func(int) time.Duration {
	slice := make([]engine.Event, size)
	return func(n int) time.Duration {
		var sum engine.Version
		began := time.Now()
		for i := 0; i < n; i += size {
			for _, ev := range slice[:min(size, n-i)] {
				sum += ev.Version
			}
		}
		took := time.Since(began)
		runtime.KeepAlive(sum)
		return took
	}
}

// BenchmarkIdleStreams: the memory of a million streams with one event each, once idle.
func BenchmarkIdleStreams(b *testing.B) {
	const million = 1_000_000
	for b.Loop() {
		e, err := engine.Open(engine.Options{})
		if err != nil {
			b.Fatal(err)
		}
		before := heap()
		var peak uint64
		for i := range million {
			if _, err := e.Append(context.Background(), fmt.Sprintf("stream-%07d", i), engine.NoStream, engine.New(boxed)); err != nil {
				b.Fatal(err)
			}
			if i%100_000 == 0 {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.Sys)
			}
		}
		for e.Stats().ActiveStreams > 0 {
			time.Sleep(100 * time.Millisecond) // the passivator works by the clock
		}
		after := heap()
		b.ReportMetric(float64(after-before)/million, "B/stream")
		b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
		b.ReportMetric(float64(e.Stats().Goroutines), "goroutines")
		if err := e.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// heap returns the bytes in use after a collection, stacks included.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// BenchmarkClock: why the memory backend counts on with the monotonic clock.
func BenchmarkClock(b *testing.B) {
	b.Run("time.Now", func(b *testing.B) {
		for b.Loop() {
			_ = time.Now().UnixNano()
		}
	})
	b.Run("time.Since", func(b *testing.B) {
		base := time.Now()
		for b.Loop() {
			_ = int64(time.Since(base))
		}
	})
}

// BenchmarkEncoded: what it costs that a backend stores bytes: one event an append, as JSON;
// reads that find each payload decoded, and reads that decode each. The baseline is the codec alone.
func BenchmarkEncoded(b *testing.B) {
	value := any(coded{N: 7, Text: "some text of a usual length"})
	stored, err := json.Marshal(value)
	if err != nil {
		b.Fatal(err)
	}
	marshal := func(n int) time.Duration {
		began := time.Now()
		for range n {
			if _, err := json.Marshal(value); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(began)
	}
	unmarshal := func(n int) time.Duration {
		began := time.Now()
		for range n {
			if err := json.Unmarshal(stored, new(coded)); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(began)
	}
	b.Run("append", func(b *testing.B) {
		e := over(b, newEncoded())
		b.ReportAllocs()
		for b.Loop() {
			if _, err := e.Append(context.Background(), "s-1", engine.Any, engine.New(value)); err != nil {
				b.Fatal(err)
			}
		}
		report(b, b.N, marshal, "x-marshal")
	})
	for _, fresh := range []bool{false, true} {
		b.Run(fmt.Sprintf("read/fresh=%v", fresh), func(b *testing.B) {
			const events = 10_000
			backend := newEncoded()
			backend.fresh = fresh
			e := over(b, backend)
			for range events {
				if _, err := e.Append(context.Background(), "s-1", engine.Any, engine.New(value)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				for _, err := range e.ReadAll(context.Background()) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
			report(b, b.N*events, unmarshal, "x-unmarshal")
		})
	}
}

// BenchmarkExecute measures commands to one stream of 1,000 events, each of which adds one,
// against the way that needs no decider: read the stream, decide, append with the version that was
// read, and again if somebody was faster. Read x-retry: the time, as a part of that way's.
func BenchmarkExecute(b *testing.B) {
	d := &engine.Decider[int, int]{
		Evolve: func(n int, ev engine.Event) int { return n + ev.Data.(int) },
		Decide: func(_ int, n int) ([]engine.NewEvent, error) {
			return []engine.NewEvent{{Type: "Added", Data: n}}, nil
		},
	}
	const events = 1000
	fill := func(b *testing.B) *engine.Engine {
		e := open(b, 0)
		for range events {
			if _, err := e.Append(b.Context(), "sum-1", engine.Any, engine.NewEvent{Type: "Added", Data: 1}); err != nil {
				b.Fatal(err)
			}
		}
		return e
	}
	for _, callers := range []int{1, 64} {
		run := func(b *testing.B, n int, do func() error) time.Duration {
			var left atomic.Int64
			left.Store(int64(n))
			began := time.Now()
			var all sync.WaitGroup
			for range callers {
				all.Go(func() {
					for left.Add(-1) >= 0 {
						if err := do(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			return time.Since(began)
		}
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			e := fill(b)
			defer e.Close()
			b.ReportAllocs()
			b.ResetTimer()
			took := run(b, b.N, func() error {
				_, err := engine.Execute(b.Context(), e, d, "sum-1", 1)
				return err
			})
			b.StopTimer()
			tries := min(b.N, 2000) // each makes the stream longer
			other := fill(b)
			defer other.Close()
			var retries atomic.Int64
			plain := run(b, tries, func() error {
				for {
					n, at, err := engine.Load(b.Context(), other, d, "sum-1")
					if err != nil {
						return err
					}
					events, _ := d.Decide(n, 1)
					_, err = other.Append(b.Context(), "sum-1", engine.Exactly(at), events...)
					if _, conflict := errors.AsType[*engine.VersionConflictError](err); !conflict {
						return err
					}
					retries.Add(1)
				}
			})
			b.ReportMetric(took.Seconds()/float64(b.N)/(plain.Seconds()/float64(tries)), "x-retry")
			b.ReportMetric(float64(retries.Load())/float64(tries), "retries/op")
		})
	}
}

// BenchmarkProcess compares a process, which appends one reply for each event and notes that it has, with a
// handler that appends the reply, which does so twice if it is called twice.
func BenchmarkProcess(b *testing.B) {
	for _, instances := range []int{1, 1000} {
		b.Run(fmt.Sprintf("instances=%d", instances), func(b *testing.B) {
			load := func(n int, register func(*engine.Engine) error) time.Duration {
				e := open(b, 0)
				defer e.Close()
				if err := register(e); err != nil {
					b.Fatal(err)
				}
				began := time.Now()
				for i := range n {
					if _, err := e.Append(b.Context(), "cues-1", engine.Any, engine.New(cue{Key: fmt.Sprint(i % instances), To: "out-1"})); err != nil {
						b.Fatal(err)
					}
				}
				wait(b, e)
				return time.Since(began)
			}
			p := puppet(nil)
			p.Evolve = func(s tape, ev engine.Event) tape { return s }
			p.React = func(_ tape, ev engine.Event) (r engine.Reaction, err error) {
				r.Append("out-1", engine.New(reply{1}))
				return r, nil
			}
			process := func(n int) time.Duration {
				return load(n, func(e *engine.Engine) error { return errOf(engine.Manage(e, p)) })
			}
			plain := func(n int) time.Duration {
				return load(n, func(e *engine.Engine) error {
					return errOf(engine.Handle(e, "plain", func(ctx context.Context, ev engine.Of[cue]) error {
						_, err := e.Append(ctx, ev.Data.To, engine.Any, engine.New(reply{1}))
						return err
					}))
				})
			}
			n := min(max(b.N, 1000), 200_000)
			b.ResetTimer()
			took := process(n)
			b.StopTimer()
			b.ReportMetric(float64(took)/float64(n), "ns/event")
			b.ReportMetric(float64(took)/float64(plain(n)), "x-plain-handler")
		})
	}
}
