package contender

import (
	"sync"
	"time"

	"github.com/weirstore/weir/engine"
)

// record is what a store in memory must know of an event at least. It has 56 bytes.
type record struct {
	data    any
	stream  string
	version uint64
	time    int64
	typ     uint64
}

func newRecord(stream string, version uint64, ev *Event, now int64) record {
	return record{ev, stream, version, now, 1}
}

func (r *record) event() Event { return *r.data.(*Event) }

var plainSlice = Entry{
	Name: "slice", Kind: Limit,
	Can:  Deliver | Keep | Reads,
	Note: "one goroutine, handlers called by it, no stream index",
	Open: func(c Config) (Bus, error) { return &sliceStore{config: c, began: time.Now()}, nil },
}

// sliceStore appends to one slice that grows.
type sliceStore struct {
	config  Config
	began   time.Time
	records []record
}

func (s *sliceStore) Producer() Producer { return s }

func (s *sliceStore) Append(stream int, events []Event) error {
	now := int64(time.Since(s.began))
	for i := range events {
		s.records = append(s.records, newRecord(s.config.Streams[stream], 0, &events[i], now))
	}
	call(s.config.Handlers, events)
	return nil
}

func (s *sliceStore) Read(fn func(Event)) error {
	for i := range s.records {
		fn(s.records[i].event())
	}
	return nil
}

func (s *sliceStore) Close() error { return nil }

var eventSlice = Entry{
	Name: "slice of events", Kind: Limit,
	Can:  Keep | Reads,
	Note: "the events that Weir yields, ready in a slice: 144 bytes each",
	Open: func(c Config) (Bus, error) { return &eventStore{config: c}, nil },
}

// eventStore has the events as Weir yields them, and no more.
type eventStore struct {
	config Config
	events []engine.Event
}

func (s *eventStore) Producer() Producer { return s }

func (s *eventStore) Append(stream int, events []Event) error {
	now := time.Now()
	for i := range events {
		s.events = append(s.events, engine.Event{
			Stream: s.config.Streams[stream], Position: engine.Position(len(s.events) + 1),
			Type: eventType, Time: now, Data: &events[i],
		})
	}
	return nil
}

func (s *eventStore) Read(fn func(Event)) error {
	for _, ev := range s.events {
		fn(weirEvent(ev))
	}
	return nil
}

func (s *eventStore) Close() error { return nil }

var chunkedSlice = Entry{
	Name: "chunked slice", Kind: Limit,
	Can:  Deliver | Keep | Grows | Reads,
	Note: "one goroutine, handlers called by it, no map of streams",
	Open: func(c Config) (Bus, error) { return &chunkStore{config: c, began: time.Now()}, nil },
}

// chunk is how many records lie together: nothing is copied when the store grows.
const chunk = 1024

// chunkStore keeps records and an index of them, as a store does that knows its streams.
type chunkStore struct {
	config  Config
	began   time.Time
	records []*[chunk]record
	index   []*[chunk]uint64
	n       int
}

func (s *chunkStore) Producer() Producer { return s }

func (s *chunkStore) Append(stream int, events []Event) error {
	now := int64(time.Since(s.began))
	for i := range events {
		if s.n%chunk == 0 {
			s.records = append(s.records, new([chunk]record))
			s.index = append(s.index, new([chunk]uint64))
		}
		s.records[s.n/chunk][s.n%chunk] = newRecord(s.config.Streams[stream], 0, &events[i], now)
		s.index[s.n/chunk][s.n%chunk] = uint64(s.n)
		s.n++
	}
	call(s.config.Handlers, events)
	return nil
}

func (s *chunkStore) Read(fn func(Event)) error {
	for i := range s.n {
		fn(s.records[i/chunk][i%chunk].event())
	}
	return nil
}

func (s *chunkStore) Close() error { return nil }

var mutexSlice = Entry{
	Name: "mutex + slice", Kind: Limit,
	Can:  Deliver | Keep | Concurrent | Grows | Reads,
	Note: "a slice and a map of streams behind a mutex; handlers called under it",
	Open: func(c Config) (Bus, error) {
		return &mutexStore{config: c, began: time.Now(), streams: make(map[string][]uint64)}, nil
	},
}

// mutexStore is the store that many programs write themselves.
type mutexStore struct {
	config Config
	began  time.Time

	mu      sync.Mutex // also serialises the handlers
	records []record
	streams map[string][]uint64
}

func (s *mutexStore) Producer() Producer { return s }

func (s *mutexStore) Append(stream int, events []Event) error {
	name := s.config.Streams[stream]
	s.mu.Lock()
	defer s.mu.Unlock()
	now := int64(time.Since(s.began))
	index := s.streams[name]
	for i := range events {
		index = append(index, uint64(len(s.records)))
		s.records = append(s.records, newRecord(name, uint64(len(index)), &events[i], now))
	}
	s.streams[name] = index
	call(s.config.Handlers, events)
	return nil
}

// Read takes the slice as it is now: what is in it never changes.
func (s *mutexStore) Read(fn func(Event)) error {
	s.mu.Lock()
	records := s.records
	s.mu.Unlock()
	for i := range records {
		fn(records[i].event())
	}
	return nil
}

func (s *mutexStore) Close() error { return nil }
