package engine

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// The types of the events in the stream of an instance of a [Process], beside its timers.
const (
	handledType = "$handled" // an event was handled
	timersType  = "$timers"  // and timers were set or cancelled
	dueType     = "$due"     // a timer is due: its event follows
)

// note is the payload of these three. In memory it is kept as it is; as bytes it is JSON, whatever
// codec the engine has. Immutable.
type note struct {
	Handled   Position `json:",omitempty"` // the event
	Set       []*timer `json:",omitempty"`
	Cancelled []string `json:",omitempty"` // before others were set

	// Of a timer that is due: its name, and the event that it was set for.
	Due   string   `json:",omitempty"`
	SetBy Position `json:",omitempty"`
}

// noteJSON is a note as bytes, on its way to the backend: by its type an append knows it.
type noteJSON []byte

// isNote reports whether a payload may have a type whose name begins with "$".
func isNote(data any) bool {
	switch data.(type) {
	case *note, noteJSON:
		return true
	}
	return false
}

// timer is a timer as it is stored: when it is due, and the event that is appended then.
type timer struct {
	Name string
	At   time.Time
	Type string
	Meta Metadata
	// Of backends that store bytes: the payload.
	Encoding string `json:",omitempty"`
	Schema   uint16 `json:",omitempty"`
	Bytes    []byte `json:",omitempty"`

	value any // of others
}

func (n *note) eventType() string {
	switch {
	case n.Due != "":
		return dueType
	case len(n.Set) > 0 || len(n.Cancelled) > 0:
		return timersType
	}
	return handledType
}

// event returns the note as an event to be appended.
func (n *note) event(e *Engine) NewEvent {
	if !e.caps.Encoded {
		return NewEvent{Type: n.eventType(), Data: n}
	}
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // it has nothing in it that JSON does not know
	}
	return NewEvent{Type: n.eventType(), Data: noteJSON(b)}
}

// noteOf returns the note that an event is, nil if it is none.
func noteOf(ev Event) (*note, error) {
	switch ev.Type {
	case handledType, timersType, dueType:
	default:
		return nil, nil
	}
	switch data := ev.Data.(type) {
	case *note:
		return data, nil
	case json.RawMessage:
		n := new(note)
		if err := json.Unmarshal(data, n); err != nil {
			return nil, decodeError(&ev, err)
		}
		return n, nil
	}
	return nil, decodeError(&ev, fmt.Errorf("it is a %T, which Weir has not stored", ev.Data))
}

// timerKey is the key in Metadata.Extra by which an event is known that a timer has appended: it
// holds the position of the event that it was set for, and the timer's name.
const timerKey = "$timer"

// timerOf returns which timer has appended an event.
func timerOf(ev *Event) (name string, by Position, ok bool) {
	if len(ev.Meta.Extra) == 0 {
		return "", 0, false
	}
	pos, name, ok := strings.Cut(ev.Meta.Extra[timerKey], " ")
	n, err := strconv.ParseUint(pos, 10, 64)
	return name, Position(n), ok && err == nil
}

// newTimer checks a timer's event as an append would, and returns what is to be stored of it.
func (e *Engine) newTimer(stream string, t newTimer) (*timer, error) {
	if t.ev.ID != "" { // a second timer with it would be a duplicate, and never be due
		return nil, invalid("", "event ID of timer "+quote(t.name), t.ev.ID, "none")
	}
	if year := t.at.UTC().Year(); year < 0 || year > 9999 { // JSON has no others
		return nil, invalid("", "year of timer "+quote(t.name), year, "0 to 9999")
	}
	if e.opts.MaxEvents < 2 {
		return nil, invalid("", "Options.MaxEvents", e.opts.MaxEvents, "at least 2 for timers: each is appended with a note that it is due")
	}
	// As it will be appended, at the greatest position.
	due := (&note{Due: t.name, SetBy: math.MaxUint64}).event(e)
	r := &request{op: opAppend}
	if err := e.fill(r, stream, []NewEvent{due, markTimer(t.ev, math.MaxUint64, t.name)}); err != nil {
		return nil, fmt.Errorf("engine: timer %s: %w", quote(t.name), err)
	}
	rec := &r.write.Events[1]
	stored := &timer{Name: t.name, At: t.at.UTC().Round(0), Type: rec.Type, Meta: t.ev.Meta}
	if p, ok := rec.Data.(*Payload); ok {
		stored.Encoding, stored.Schema, stored.Bytes = p.Encoding, p.Schema, p.Bytes
	} else {
		stored.value = rec.Data
	}
	return stored, nil
}

// event returns the event of a timer that was set for the one at position by.
func (t *timer) event(e *Engine, by Position) (NewEvent, error) {
	ev := NewEvent{Type: t.Type, Data: t.value, Meta: t.Meta}
	if e.caps.Encoded {
		stored := Event{Type: t.Type, Data: &Payload{Encoding: t.Encoding, Schema: t.Schema, Bytes: t.Bytes}}
		if err := e.decode(&stored, nil); err != nil {
			return NewEvent{}, err
		}
		ev.Data = stored.Data
	}
	return markTimer(ev, by, t.Name), nil
}

// markTimer makes an event known as a timer's.
func markTimer(ev NewEvent, by Position, timer string) NewEvent {
	return ev.WithExtra(timerKey, fmt.Sprintf("%d %s", by, timer))
}
