package work

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/weirstore/weir/bench/contender"
)

// Work is something that every contender able to do it does in the same way.
type Work struct {
	Name  string
	Title string
	Needs contender.Ability
	Limit string // the name of the contender that it is compared to, in the same round
	// Against is set instead of Limit where a contender is compared to itself at another work.
	Against string

	Events    int // to be appended, or read
	Producers int
	Streams   int
	Batch     int // events an append
	Handlers  int
	Slow      time.Duration // how long the first handler takes for an event
	Size      int           // of an encoded event in bytes
	// Warm is how many events are stored before the clock starts, in large appends, so that files have their
	// usual size. Only for works without handlers.
	Warm int
	Read Reading
	// Least makes short works run again, with a contender opened anew, until so many events are done.
	Least int

	// Submit makes producers submit, with up to contender.Ahead appends under way.
	Submit bool

	Growth string  // the name of the series that this work is a point of
	X      float64 // where on it
}

// Reading says what of a work is reading.
type Reading uint8

const (
	NoRead     Reading = iota
	ReadOnly           // Events are stored before the clock starts, then read
	ReadBeside         // the same, while one producer appends
)

// Scale makes works smaller or larger.
type Scale struct {
	Factor float64 // of the number of events; 1 is what docs/bench shows
	Full   bool    // growth up to 10^7 events, 10^6 streams and 1,000 handlers, instead of a tenth
}

const (
	memory  = contender.Deliver
	many    = memory | contender.Concurrent
	durable = contender.Keep | contender.Durable | contender.Concurrent
)

// All returns the works in the order of the table.
func All(s Scale) []Work {
	works := []Work{
		{Name: "append", Title: "1 producer, synchronous append, 1 handler", Needs: memory, Limit: "channel round trip", Events: 500_000, Handlers: 1},
		{Name: "producers-10k", Title: "64 producers, 10,000 streams, 1 handler", Needs: many, Limit: "channel round trip", Events: 500_000, Producers: 64, Streams: 10_000, Handlers: 1},
		{Name: "producers-1", Title: "64 producers, one stream, 1 handler", Needs: many, Limit: "channel round trip", Events: 500_000, Producers: 64, Handlers: 1},
		{Name: "batch-100", Title: "1 producer, 100 events an append, 1 handler", Needs: memory, Limit: "chunked slice", Events: 2_000_000, Batch: 100, Handlers: 1},
		{Name: "submit", Title: "1 producer, submitted now and awaited later (1,024 under way), 1 handler", Needs: memory | contender.Submits, Limit: "channel hop", Events: 500_000, Handlers: 1, Submit: true},
		{Name: "handlers-7", Title: "1 producer, 7 handlers", Needs: memory, Limit: "channel hop", Events: 200_000, Handlers: 7},
		{Name: "handlers-8", Title: "1 producer, 8 handlers", Needs: memory, Limit: "channel hop", Events: 200_000, Handlers: 8},
		{Name: "slow-1-of-8", Title: "1 producer, 8 handlers of which one takes 100 µs an event: the other seven", Needs: memory | contender.Apart, Against: "handlers-7", Events: 20_000, Handlers: 8, Slow: 100 * time.Microsecond, Least: 100_000},
		{Name: "read-1M", Title: "reading 1M events", Needs: contender.Keep | contender.Reads, Limit: "slice of events", Events: 1_000_000, Streams: 10, Read: ReadOnly},
		{Name: "read-beside", Title: "reading 1M events while one producer appends", Needs: contender.Deliver | contender.Keep | contender.Concurrent, Limit: "mutex + slice", Events: 1_000_000, Streams: 10, Read: ReadBeside},
		{Name: "durable-1", Title: "1 producer, each append on disk, 200 bytes", Needs: durable, Limit: "file + fdatasync", Events: 2_000, Size: 200},
		{Name: "durable-64", Title: "64 producers, each append on disk, 200 bytes", Needs: durable, Limit: "file + fdatasync", Events: 64_000, Producers: 64, Streams: 64, Size: 200, Warm: 20_000},
		{Name: "durable-submit", Title: "1 producer, submitted now and awaited on disk later (1,024 under way), 200 bytes: beside 64 producers", Needs: durable | contender.Submits, Against: "durable-64", Events: 64_000, Size: 200, Warm: 20_000, Submit: true},
	}
	works = append(works, growth(s.Full)...)
	for i := range works {
		works[i].fill(s.Factor)
	}
	return works
}

// growth returns how cost grows: a point of each series for each power of ten.
func growth(full bool) []Work {
	top := 0
	if full {
		top = 1
	}
	var works []Work
	add := func(series string, n int, w Work) {
		w.Name = fmt.Sprintf("%s-%d", series, n)
		w.Title = fmt.Sprintf("growth: %d %s", n, series)
		w.Growth, w.X = series, float64(n)
		w.Needs |= memory | contender.Grows
		w.Limit = "mutex + slice"
		w.Least = 100_000
		works = append(works, w)
	}
	for e := 3; e <= 6+top; e++ {
		n := power(e)
		add("events", n, Work{Events: n, Handlers: 1})
	}
	for e := 0; e <= 5+top; e++ {
		n := power(e)
		add("streams", n, Work{Events: max(200_000, n), Streams: n, Handlers: 1})
	}
	for e := 0; e <= 2+top; e++ {
		n := power(e)
		add("handlers", n, Work{Events: 1_000_000 / (n + 9), Handlers: n})
	}
	return works
}

func power(e int) int { return int(math.Round(math.Pow10(e))) }

// fill puts defaults in, and makes the number of events a multiple of what producers append.
func (w *Work) fill(factor float64) {
	w.Producers, w.Streams, w.Batch = max(1, w.Producers), max(1, w.Streams), max(1, w.Batch)
	w.Size = max(16, w.Size)
	if factor != 1 {
		w.Events = int(float64(w.Events) * factor)
		w.Least = int(float64(w.Least) * factor)
		w.Warm = int(float64(w.Warm) * factor)
		w.Streams = max(1, min(w.Streams, w.Events))
	}
	unit := w.Producers * w.Batch
	w.Events = max(1, (w.Events+unit-1)/unit) * unit
	if factor < 1 {
		w.Least = min(w.Least, 2*w.Events) // a trial: no more than two turns
	}
}

// Find returns the work of that name.
func Find(name string, s Scale) (Work, bool) {
	all := All(s)
	i := slices.IndexFunc(all, func(w Work) bool { return w.Name == name })
	if i < 0 {
		return Work{}, false
	}
	return all[i], true
}
