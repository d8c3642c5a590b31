package work

import (
	"fmt"

	"github.com/weirstore/weir/bench/contender"
)

// plan is what the producers of a work append: made before the clock starts, so that no
// contender pays for it.
type plan struct {
	streams []string
	keys    int // how many counters of events there are
	perKey  []uint64
	parts   []part            // of the producers
	warm    []contender.Event // of the last key, in the first stream
}

// part is one producer's: batches of events, and the stream of each.
type part struct {
	events  []contender.Event
	streams []int32 // by batch
}

// newPlan shares the streams out among the producers, if there are enough, so that each stream has one
// writer: the key is the stream. Else all write to all streams, and the key is the producer and the
// stream.
func newPlan(w Work, events int) *plan {
	p := &plan{streams: make([]string, w.Streams), parts: make([]part, w.Producers)}
	for i := range p.streams {
		p.streams[i] = fmt.Sprintf("stream-%d", i)
	}
	shared := w.Streams < w.Producers
	p.keys = w.Streams
	if shared {
		p.keys = w.Streams * w.Producers
	}
	p.perKey = make([]uint64, p.keys)
	if w.Warm > 0 {
		for i := range w.Warm {
			p.warm = append(p.warm, contender.Event{Key: uint64(p.keys), Seq: uint64(i + 1)})
		}
		p.keys++
	}
	each := events / w.Producers
	for producer := range p.parts {
		part := &p.parts[producer]
		part.events = make([]contender.Event, each)
		part.streams = make([]int32, each/w.Batch)
		for b := range part.streams {
			stream := b % w.Streams
			key := producer*w.Streams + stream
			if !shared {
				own := (w.Streams - producer + w.Producers - 1) / w.Producers
				stream = producer + b%own*w.Producers
				key = stream
			}
			part.streams[b] = int32(stream)
			for i := range w.Batch {
				p.perKey[key]++
				part.events[b*w.Batch+i] = contender.Event{Key: uint64(key), Seq: p.perKey[key]}
			}
		}
	}
	return p
}
