package engine

import (
	"fmt"
	"maps"
	"strconv"
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
	// Data is the value that was appended. In memory it is the very same. A backend that stores bytes
	// gives one that is equal, as far as the codec keeps it: of the Go type that the event type
	// stands for ([Register]), brought to its current schema version ([Upcast]). A []byte and a string
	// come back as they were. A type that stands for no Go type is not decoded: JSON is then a
	// json.RawMessage, and what another codec has made a [*Payload].
	Data any
	Meta Metadata
}

// Identity returns what names the event: its ID, which is unique in its stream, or, if it was given
// none, its stream and version as in "customer-1@3". Causation and correlation hold identities.
func (e Event) Identity() string {
	if e.ID != "" {
		return e.ID
	}
	return e.Stream + "@" + strconv.FormatUint(uint64(e.Version), 10)
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
	// Extra is the application's own: a tenant, a user, a trace. Read-only once appended. Keys that begin
	// with "$" are Weir's.
	Extra map[string]string
}

// tagsKey is the key in Extra that holds an event's tags, one a line: few events have any,
// and so the others do not grow by a field.
const tagsKey = "$tags"

// MaxTags is how many tags an event may have.
const MaxTags = 16

// Tags returns the event's tags, in the order in which they were given to [NewEvent.WithTags].
func (m *Metadata) Tags() []string {
	if len(m.Extra) == 0 {
		return nil // as most events
	}
	return m.splitTags()
}

func (m *Metadata) splitTags() []string {
	if tags := m.Extra[tagsKey]; tags != "" {
		return strings.Split(tags, "\n")
	}
	return nil
}

// checkTags says what is wrong with the tags of an event to be appended.
func (m *Metadata) checkTags() error {
	joined, ok := m.Extra[tagsKey]
	if !ok {
		return nil
	}
	tags := strings.Split(joined, "\n")
	if len(tags) > MaxTags {
		return invalid("", "number of tags", len(tags), fmt.Sprintf("at most %d", MaxTags))
	}
	for _, tag := range tags {
		if err := checkName("", "tag", tag); err != nil {
			return err
		}
	}
	if tag, twice := repeated(tags); twice {
		return invalid("", "tag", tag, "different tags")
	}
	return nil
}

func (m *Metadata) empty() bool {
	return m.CorrelationID == "" && m.CausationID == "" && len(m.Extra) == 0
}

func (m *Metadata) size() int {
	n := len(m.CorrelationID) + len(m.CausationID)
	if len(m.Extra) > 0 { // to begin a range over no map costs 5 ns
		for k, v := range m.Extra {
			n += len(k) + len(v)
		}
	}
	return n
}

// NewEvent is an event to be appended.
type NewEvent struct {
	// Type is the event's type name. Empty means the name of Data's Go type: the one it
	// was registered under ([Register]), or that its EventType() string method returns for
	// the zero value, or its Go name. A name given here is no registration: one Go type may be
	// stored under many, and a handler of the Go type ([Handle]) gets those that it names with Types.
	Type string
	// ID makes the append idempotent: an event whose ID its stream has already is not
	// stored again. Empty means none.
	ID string
	// Data is the payload: any value but nil, and no [Payload]. It is kept, not copied, and must not be
	// changed; a backend that stores bytes keeps none of it, once Append has returned. Then it must be a
	// []byte, a string, a json.RawMessage that is valid JSON, or what Options.Codec can encode.
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

// WithTags returns the event with tags: names of what it concerns beside its stream, such as
// "student-7". A [Condition] and [Engine.Matching] find events by them. They take the place of others that it had.
func (e NewEvent) WithTags(tags ...string) NewEvent {
	return e.WithExtra(tagsKey, strings.Join(tags, "\n"))
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
type Expected struct {
	kind    expectation
	version Version // of exactly
}

type expectation uint8

const (
	anyVersion expectation = iota + 1
	noStream
	streamExists
	exactly
)

var (
	// Any appends whatever the version.
	Any = Expected{kind: anyVersion}
	// NoStream expects a stream that nobody wrote to: as Exactly(0).
	NoStream = Expected{kind: noStream}
	// StreamExists expects at least one event.
	StreamExists = Expected{kind: streamExists}
)

// Exactly expects the stream to be at version v: the version of the last event that the
// caller has seen.
func Exactly(v Version) Expected { return Expected{exactly, v} }

// met reports whether a stream at v is what is expected.
func (e Expected) met(v Version) bool {
	switch e.kind {
	case anyVersion:
		return true
	case noStream:
		return v == 0
	case streamExists:
		return v > 0
	case exactly:
		return v == e.version
	}
	return false
}

func (e Expected) valid() bool { return e.kind >= anyVersion && e.kind <= exactly }

func (e Expected) String() string {
	switch e.kind {
	case anyVersion:
		return "any version"
	case noStream:
		return "no stream"
	case streamExists:
		return "an existing stream"
	case exactly:
		return fmt.Sprint(uint64(e.version))
	}
	return "the zero value"
}

// Result tells where an append stored its events.
type Result struct {
	First    Version  // of the first event
	Last     Version  // of the last
	Position Position // of the last
	// Duplicate says that the stream had these event IDs already: nothing was stored
	// now, and the other fields tell where the earliest and the latest of them stand.
	Duplicate bool
	// Durability is what was reached. A duplicate's is 0: nobody knows how its events were stored.
	Durability Durability
}
