package contender

import (
	"encoding/binary"
	"io"
	"log/slog"
	"slices"
)

// Event is one event of a work. Contenders that keep Go values are given pointers to events
// which were made before the clock started; the others encode them.
type Event struct {
	Key uint64 // of the counter that Seq belongs to: one producer's, in one stream
	Seq uint64 // 1, 2, 3, … within the key
}

// EventSize is the size of an encoded event in bytes, without filler.
const EventSize = 16

// AppendTo appends the event to b as size bytes, at least 16; what is beyond is zeros.
func (e Event) AppendTo(b []byte, size int) []byte {
	b = binary.LittleEndian.AppendUint64(b, e.Key)
	b = binary.LittleEndian.AppendUint64(b, e.Seq)
	for range size - EventSize {
		b = append(b, 0)
	}
	return b
}

// Decode reads what AppendTo has written.
func Decode(b []byte) Event {
	return Event{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}
}

// Handler is called with every event. A contender calls a handler from one goroutine at a
// time.
type Handler func(Event)

// Config is what a contender is opened for.
type Config struct {
	Streams   []string  // the names of all streams
	Producers int       // how many goroutines append at the same time
	Handlers  []Handler // none for a log
	// SlowFirst says that the first handler is slow, and that appends had better not wait for it.
	SlowFirst bool
	Events    int    // how many will be appended: a bound for files that are made before
	Size      int    // of an encoded event in bytes
	Dir       string // an empty directory of the contender's own
}

// Producer appends events. It belongs to one goroutine.
type Producer interface {
	// Append appends events to the stream whose name is Config.Streams[stream]. It returns when
	// they are stored (a store), on disk (a log), or given away (a bus). The events are not changed
	// until the contender is closed; the slice itself may be used again.
	Append(stream int, events []Event) error
}

// Submitter is a Producer that need not wait for one append before the next.
type Submitter interface {
	Producer
	// Submit is Append that may return before it is done. At most Ahead are under way: then it first
	// waits for the oldest. The slice itself may be used again. An error may be that of an earlier one.
	Submit(stream int, events []Event) error
	// Flush waits for all that are under way.
	Flush() error
}

// Ahead is how many appends a Submitter may have under way.
const Ahead = 1024

// Window is what a Submitter has under way, in order.
type Window[P any] struct {
	Await func(P) error // waits for the end of one
	ring  [Ahead]P
	first int
	n     int
}

// Room waits until there is room for another.
func (w *Window[P]) Room() error {
	if w.n < Ahead {
		return nil
	}
	return w.oldest()
}

// Add adds the newest, for which there is room.
func (w *Window[P]) Add(p P) {
	w.ring[(w.first+w.n)%Ahead] = p
	w.n++
}

// Flush waits for all.
func (w *Window[P]) Flush() error {
	for w.n > 0 {
		if err := w.oldest(); err != nil {
			return err
		}
	}
	return nil
}

func (w *Window[P]) oldest() error {
	p := w.ring[w.first]
	w.ring[w.first] = *new(P)
	w.first, w.n = (w.first+1)%Ahead, w.n-1
	return w.Await(p)
}

// Bus calls handlers.
type Bus interface {
	Producer() Producer
	// Close ends the contender once all handlers have had all events. No goroutine of it is left.
	Close() error
}

// Store keeps events as well.
type Store interface {
	Bus
	// Read calls fn with every event that was appended before, in order.
	Read(fn func(Event)) error
}

// Kind says what a contender is.
type Kind string

// The kinds. A limit is a Bus, a Store or a log too, but nobody would call it a product.
const (
	Weir  Kind = "weir"
	Peer  Kind = "store"
	Buses Kind = "bus"
	Logs  Kind = "log"
	Limit Kind = "limit"
)

// Ability is what a work needs of a contender.
type Ability uint8

const (
	Deliver    Ability = 1 << iota // calls handlers
	Keep                           // is a Store
	Concurrent                     // many producers, and readers during appends
	Durable                        // an append that returned is on disk
	Apart                          // a slow handler has a queue or a place of its own
	Grows                          // takes part in the works that show how cost grows
	Submits                        // its producers are Submitters
	Reads                          // takes part in reads of all that is in memory
)

// Entry is a contender as the benchmark knows it.
type Entry struct {
	Name string
	Kind Kind
	Can  Ability
	Note string // what it does less, or how it is used; shown in the table
	// Share makes a slow contender do only this part of the events, so that a round takes
	// minutes and not hours. 0 means all. Rates and figures an event are comparable all the same.
	Share float64
	Open  func(Config) (Bus, error)
}

// Fits reports whether the contender can do what a work needs.
func (e Entry) Fits(needs Ability) bool { return e.Can&needs == needs }

// All returns Weir and the limits; package peers has the others.
func All() []Entry {
	return []Entry{
		weirMemory, weirFile,
		roundTrip, hop, mutexSlice, plainSlice, chunkedSlice, eventSlice, rawFile,
	}
}

// Find returns the contender of that name.
func Find(all []Entry, name string) (Entry, bool) {
	i := slices.IndexFunc(all, func(e Entry) bool { return e.Name == name })
	if i < 0 {
		return Entry{}, false
	}
	return all[i], true
}

// quiet is for contenders that would write their own log into the output.
var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))
