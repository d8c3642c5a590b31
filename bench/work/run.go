package work

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/weirstore/weir/bench/contender"
)

// Result is what one run has measured. Its figures mean nothing if Failure is set.
type Result struct {
	Work, Contender string
	Round           int
	Failure         string `json:",omitempty"`

	Events    int     // that the clock covers
	Seconds   float64 // from the first append to the last call of a handler, or of the read
	P50       float64 // of an append, in nanoseconds; 0 where nothing is appended
	P99       float64
	P999      float64
	Allocs    float64 // an event, of the whole process
	Bytes     float64 // allocated an event, likewise
	Kept      float64 // bytes of heap an event when all is done: of stores in memory
	AppendsBy float64 `json:",omitempty"` // appends a second beside a read
}

// Rate returns events a second.
func (r Result) Rate() float64 { return float64(r.Events) / r.Seconds }

// Run runs a work with a contender in a directory, which is left empty. It gives up when ctx
// ends; then goroutines may be left, and the process should end.
func Run(ctx context.Context, w Work, e contender.Entry, dir string, p Profile) (Result, error) {
	if !e.Fits(w.Needs) {
		return Result{}, fmt.Errorf("work: %s cannot do %s", e.Name, w.Name)
	}
	r := &run{ctx: ctx, work: w, entry: e, profile: p, latency: newHistogram()}
	for again := true; again; again = r.result.Events < w.Least {
		if err := r.once(dir); err != nil {
			return Result{}, err
		}
	}
	res := r.result
	res.Work, res.Contender = w.Name, e.Name
	n := float64(res.Events)
	res.Allocs, res.Bytes, res.Kept = res.Allocs/n, res.Bytes/n, res.Kept/n
	if r.latency.TotalCount() > 0 {
		res.P50 = float64(r.latency.ValueAtQuantile(50))
		res.P99 = float64(r.latency.ValueAtQuantile(99))
		res.P999 = float64(r.latency.ValueAtQuantile(99.9))
	}
	return res, nil
}

// run collects what the turns of a short work have measured.
type run struct {
	ctx     context.Context
	work    Work
	entry   contender.Entry
	profile Profile
	result  Result // sums
	latency *hdrhistogram.Histogram
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(10*time.Minute), 3)
}

// once opens the contender, does the work, and verifies it.
func (r *run) once(root string) (err error) {
	dir := filepath.Join(root, "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	plan := newPlan(r.work, r.work.Events)
	checkers := make([]*checker, r.work.Handlers)
	release := make(chan struct{}) // closed when the slow handler need be slow no more
	config := contender.Config{
		Streams: plan.streams, Producers: r.work.Producers, SlowFirst: r.work.Slow > 0,
		Events: r.work.Events + r.work.Warm, Size: r.work.Size, Dir: dir,
	}
	for i := range checkers {
		checkers[i] = newChecker(plan.keys, r.work.Events)
		handler := contender.Handler(checkers[i].see)
		if i == 0 && r.work.Slow > 0 {
			handler = slowed(handler, r.work.Slow, release)
		}
		config.Handlers = append(config.Handlers, handler)
	}
	before := heap(true)
	bus, err := r.entry.Open(config)
	if err != nil {
		return err
	}
	if r.work.Read == NoRead {
		err = r.appendAll(bus, plan, checkers)
	} else {
		err = r.readAll(bus, plan)
	}
	close(release)
	if err != nil {
		bus.Close()
		return err
	}
	for i, c := range checkers {
		if err := r.await(c, fmt.Sprintf("handler %d", i+1)); err != nil {
			bus.Close()
			return err
		}
	}
	if _, ok := bus.(contender.Store); ok && r.work.Needs&contender.Durable == 0 {
		after := heap(true)
		r.result.Kept += max(0, float64(after.HeapAlloc)-float64(before.HeapAlloc))
	}
	if store, ok := bus.(contender.Store); ok && r.work.Read == NoRead {
		stored := newChecker(plan.keys, r.work.Events+r.work.Warm)
		if err := errors.Join(store.Read(stored.see), stored.verify("stored")); err != nil {
			bus.Close()
			return err
		}
	}
	if err := bus.Close(); err != nil {
		return err
	}
	for i, c := range checkers { // again: nothing may have come after the last one
		if err := c.verify(fmt.Sprintf("handler %d", i+1)); err != nil {
			return err
		}
	}
	runtime.KeepAlive(plan)
	return nil
}

// slowed makes a handler take a time of its own for each event, until release is closed.
func slowed(handler contender.Handler, each time.Duration, release <-chan struct{}) contender.Handler {
	timer := time.NewTimer(each)
	return func(ev contender.Event) {
		timer.Reset(each)
		select {
		case <-timer.C:
		case <-release:
		}
		handler(ev)
	}
}

func (r *run) await(c *checker, who string) error {
	select {
	case <-c.done:
		return nil
	case <-r.ctx.Done():
		return fmt.Errorf("%s: had about %d of %d events when time was up", who, c.progress.Load(), c.total)
	}
}

// appendAll lets the producers append what is planned, and waits for the handlers, but not
// for one that is slow.
func (r *run) appendAll(bus contender.Bus, p *plan, checkers []*checker) error {
	if err := store(r.ctx, bus.Producer(), 0, p.warm); err != nil {
		return err
	}
	latencies := make([]*hdrhistogram.Histogram, len(p.parts))
	errs := make([]error, len(p.parts))
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range p.parts {
		latencies[i] = newHistogram()
		producer := bus.Producer()
		wg.Go(func() {
			<-start
			errs[i] = r.produce(producer, &p.parts[i], latencies[i])
		})
	}
	before := heap(true)
	profiled, err := r.profile.begin()
	if err != nil {
		return err
	}
	began := time.Now()
	close(start)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if r.work.Slow > 0 {
		checkers = checkers[1:]
	}
	for i, c := range checkers {
		if err := r.await(c, fmt.Sprintf("handler %d", i+1)); err != nil {
			return err
		}
	}
	r.clock(r.work.Events, began, before)
	for _, l := range latencies {
		r.latency.Merge(l)
	}
	return profiled()
}

// sampled is how many appends there are for each that is timed: two looks at the clock cost as
// much as a fast append. Appends to disk are all timed.
const sampled = 16

func (r *run) produce(producer contender.Producer, p *part, latency *hdrhistogram.Histogram) error {
	every := sampled
	if r.work.Needs&contender.Durable != 0 || r.work.Batch > 1 {
		every = 1
	}
	put, flush := producer.Append, func() error { return nil }
	if r.work.Submit {
		s, ok := producer.(contender.Submitter)
		if !ok {
			return fmt.Errorf("work: %s cannot submit", r.entry.Name)
		}
		put, flush = s.Submit, s.Flush
	}
	for i, stream := range p.streams {
		events := p.events[i*r.work.Batch : (i+1)*r.work.Batch]
		if i%every != 0 {
			if err := put(int(stream), events); err != nil {
				return err
			}
			continue
		}
		if err := r.ctx.Err(); err != nil {
			return fmt.Errorf("append %d of %d: time was up", i+1, len(p.streams))
		}
		began := time.Now()
		if err := put(int(stream), events); err != nil {
			return err
		}
		if err := latency.RecordValue(max(1, int64(time.Since(began)))); err != nil {
			return err
		}
	}
	return flush()
}

// readAll stores the events, and then reads them, alone or beside a producer.
func (r *run) readAll(bus contender.Bus, p *plan) error {
	store, ok := bus.(contender.Store)
	if !ok {
		return fmt.Errorf("work: %s is no store", r.entry.Name)
	}
	if err := fill(r.ctx, bus.Producer(), p); err != nil {
		return err
	}
	stop := make(chan struct{})
	appended := make(chan appends, 1)
	before := heap(true)
	profiled, err := r.profile.begin()
	if err != nil {
		return err
	}
	began := time.Now()
	if r.work.Read == ReadBeside {
		producer := bus.Producer()
		go func() { appended <- appendUntil(stop, producer, p) }()
	}
	read := newChecker(p.keys, r.work.Events)
	err = store.Read(func(ev contender.Event) {
		if read.n < read.total { // what comes after was appended beside the read
			read.see(ev)
		}
	})
	r.clock(r.work.Events, began, before)
	err = errors.Join(err, profiled())
	close(stop)
	if r.work.Read == ReadBeside {
		a := <-appended
		r.result.AppendsBy = a.rate
		err = errors.Join(err, a.err)
	}
	return errors.Join(err, read.verify("read"))
}

// fill appends the events of a plan in large batches, a stream at a time: those of each key in order.
func fill(ctx context.Context, producer contender.Producer, p *plan) error {
	byStream := make([][]contender.Event, len(p.streams))
	for _, part := range p.parts {
		batch := len(part.events) / len(part.streams)
		for b, stream := range part.streams {
			byStream[stream] = append(byStream[stream], part.events[b*batch:(b+1)*batch]...)
		}
	}
	for stream, events := range byStream {
		if err := store(ctx, producer, stream, events); err != nil {
			return err
		}
	}
	return nil
}

// store appends events to a stream, as many at a time as any contender takes.
func store(ctx context.Context, producer contender.Producer, stream int, events []contender.Event) error {
	for len(events) > 0 {
		if ctx.Err() != nil {
			return errors.New("time was up before all was stored")
		}
		n := min(len(events), 500)
		if err := producer.Append(stream, events[:n:n]); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

type appends struct {
	rate float64
	err  error
}

// appendUntil goes on where the plan has ended, until stop is closed.
func appendUntil(stop <-chan struct{}, producer contender.Producer, p *plan) appends {
	seq := p.perKey[0]
	began := time.Now()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return appends{rate: float64(n) / time.Since(began).Seconds()}
		default: // not a loss: nothing is received here but the end
		}
		seq++
		if err := producer.Append(0, []contender.Event{{Key: 0, Seq: seq}}); err != nil {
			return appends{err: err}
		}
	}
}

// clock adds what was measured since.
func (r *run) clock(events int, began time.Time, before runtime.MemStats) {
	r.result.Seconds += time.Since(began).Seconds()
	after := heap(false)
	r.result.Events += events
	r.result.Allocs += float64(after.Mallocs - before.Mallocs)
	r.result.Bytes += float64(after.TotalAlloc - before.TotalAlloc)
}

// heap reads the statistics of the heap, after a collection if asked for.
func heap(collected bool) (m runtime.MemStats) {
	if collected {
		runtime.GC()
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m
}
