package engine

import (
	"fmt"
	"maps"
	"strings"
	"time"
)

// Version is an event's place in its stream. It has no gaps: the first event is 1, and
// a stream that nobody wrote to is at 0.
type Version uint64

// Position is an event's place in the whole store: strictly increasing, the first is 1.
type Position uint64

// Event is one stored fact. Events are immutable: what Data and Meta.Extra point to is
// shared with every reader and must not be changed.
type Event struct {
	Stream   string
	Version  Version
	Position Position
	Type     string
	ID       string    // as given by who appended it; empty if none was, see Identity
	Time     time.Time // when it was stored, UTC; never goes back from one position to the next
	Data     any       // the value that was appended; in memory the very same
	Meta     Metadata
}

// Identity returns what names the event in the whole store: its ID, or, if it was given
// none, its stream and version as in "customer-1@3". Causation and correlation hold identities.
func (e Event) Identity() string {
	if e.ID != "" {
		return e.ID
	}
	return fmt.Sprintf("%s@%d", e.Stream, e.Version)
}

// Correlation returns the identity of the event that began the chain which this event
// belongs to: its own if it began one.
func (e Event) Correlation() string {
	if e.Meta.CorrelationID != "" {
		return e.Meta.CorrelationID
	}
	return e.Identity()
}

// Category returns the part of the stream's name before the first "-".
func (e Event) Category() string { return category(e.Stream) }

func category(stream string) string {
	name, _, _ := strings.Cut(stream, "-")
	return name
}

// Of is an Event whose Data has the type E: what the functions given to [Handle] get.
type Of[E any] struct {
	Event
	Data E
}

// Metadata says where an event comes from.
type Metadata struct {
	// CorrelationID names the chain of events that this one belongs to, and CausationID
	// the event that caused it. An append made with a handler's context fills them in;
	// what the caller has set is kept.
	CorrelationID string
	CausationID   string
	// Extra is the application's own: a tenant, a user, a trace. Read-only once appended.
	Extra map[string]string
}

func (m *Metadata) empty() bool {
	return m.CorrelationID == "" && m.CausationID == "" && len(m.Extra) == 0
}

func (m *Metadata) size() int {
	n := len(m.CorrelationID) + len(m.CausationID)
	for k, v := range m.Extra {
		n += len(k) + len(v)
	}
	return n
}

// NewEvent is an event to be appended.
type NewEvent struct {
	// Type is the event's type name. Empty means the name of Data's Go type: the one it
	// was registered under ([Register]), or that its EventType() string method returns, or its Go name.
	Type string
	// ID makes the append idempotent: an event whose ID its stream has already is not
	// stored again. Empty means none.
	ID string
	// Data is the payload: any value but nil. It is kept, not copied.
	Data any
	Meta Metadata
}

// New returns an event with the given payload.
func New(data any) NewEvent { return NewEvent{Data: data} }

// WithID returns the event with an ID.
func (e NewEvent) WithID(id string) NewEvent {
	e.ID = id
	return e
}

// WithExtra returns the event with one more entry in Meta.Extra.
func (e NewEvent) WithExtra(key, value string) NewEvent {
	extra := make(map[string]string, len(e.Meta.Extra)+1)
	maps.Copy(extra, e.Meta.Extra)
	extra[key] = value
	e.Meta.Extra = extra
	return e
}

// Expected says at which version an append expects its stream to be. The zero value
// is refused: whoever does not want a check says [Any].
type Expected uint64

const (
	// Any appends whatever the version.
	Any Expected = 1<<63 + iota
	// NoStream expects a stream that nobody wrote to: Exactly(0).
	NoStream
	// StreamExists expects at least one event.
	StreamExists
)

// Exactly expects the stream to be at version v: v is the version of the last event
// that the caller has seen.
func Exactly(v Version) Expected { return Expected(min(v, 1<<62) + 1) }

// met reports whether a stream at v is what is expected.
func (e Expected) met(v Version) bool {
	switch e {
	case Any:
		return true
	case NoStream:
		return v == 0
	case StreamExists:
		return v > 0
	}
	return v == Version(e-1)
}

func (e Expected) valid() bool { return e >= 1 && e <= 1<<62+1 || e >= Any && e <= StreamExists }

func (e Expected) String() string {
	switch {
	case e == Any:
		return "any version"
	case e == NoStream:
		return "no stream"
	case e == StreamExists:
		return "an existing stream"
	case e.valid():
		return fmt.Sprint(uint64(e - 1))
	}
	return fmt.Sprintf("invalid(%#x)", uint64(e))
}

// Result tells where an append stored its events.
type Result struct {
	First    Version  // of the first event
	Last     Version  // of the last
	Position Position // of the last
	// Duplicate says that the stream had these event IDs already: nothing was stored
	// now, and the other fields tell where they stand.
	Duplicate bool
}
