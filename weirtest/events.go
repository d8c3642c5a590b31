package weirtest

import (
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/weirstore/weir/engine"
)

// Stream is a stream's name with some of its events: see [In].
type Stream struct {
	name   string
	events []any
}

// In says which events belong to a stream.
func In(stream string, events ...any) Stream { return Stream{stream, events} }

// newEvents returns events as they are to be appended.
func newEvents(t testing.TB, events []any) []engine.NewEvent {
	t.Helper()
	list := make([]engine.NewEvent, len(events))
	for i, ev := range events {
		switch ev := ev.(type) {
		case engine.NewEvent:
			list[i] = ev
		case nil:
			t.Fatalf("weirtest: event %d is nil: want a payload or an engine.NewEvent", i+1)
		default:
			list[i] = engine.New(ev)
		}
	}
	return list
}

// named returns the event with the type name that an engine gives it in which no types
// are registered.
func named(ev engine.NewEvent) engine.NewEvent {
	if ev.Type != "" || ev.Data == nil {
		return ev
	}
	goes := reflect.TypeOf(ev.Data)
	if goes.Kind() == reflect.Pointer {
		goes = goes.Elem()
	}
	ev.Type = goes.Name()
	if n, ok := reflect.New(goes).Interface().(interface{ EventType() string }); ok {
		ev.Type = n.EventType()
	}
	return ev
}

func namedAll(events []engine.NewEvent) []engine.NewEvent {
	for i := range events {
		events[i] = named(events[i])
	}
	return events
}

// stored returns a stored event as it would be appended.
func stored(ev engine.Event) engine.NewEvent {
	return engine.NewEvent{Type: ev.Type, ID: ev.ID, Data: ev.Data, Meta: ev.Meta}
}

// meets reports whether got is what is wanted. Both have their names.
func meets(want, got engine.NewEvent) bool {
	return want.Type == got.Type && reflect.DeepEqual(want.Data, got.Data) &&
		(want.ID == "" || want.ID == got.ID) &&
		(want.Meta.CorrelationID == "" || want.Meta.CorrelationID == got.Meta.CorrelationID) &&
		(want.Meta.CausationID == "" || want.Meta.CausationID == got.Meta.CausationID) &&
		(len(want.Meta.Extra) == 0 || maps.Equal(want.Meta.Extra, got.Meta.Extra))
}

// show prints an event. In detail it has Go types, too, for values that look alike.
func show(ev engine.NewEvent, detail bool) string {
	text := fmt.Sprintf("%s %+v", ev.Type, ev.Data)
	if detail {
		text = fmt.Sprintf("%s {%s}", ev.Type, strings.TrimSpace(strings.Join(flattened(ev.Data, true), ", ")))
	}
	if ev.ID != "" {
		text += " ID " + ev.ID
	}
	if detail && ev.Meta.CausationID != "" {
		text += " because of " + ev.Meta.CausationID
	}
	if detail && ev.Meta.CorrelationID != "" {
		text += " in the chain of " + ev.Meta.CorrelationID
	}
	if len(ev.Meta.Extra) > 0 {
		text += fmt.Sprintf(" %v", ev.Meta.Extra)
	}
	return text
}

// difference returns what is different between two lists of events, line by line, or an
// empty text if all that is wanted is met, in its order, and there is nothing else.
func difference(want, got []engine.NewEvent) string {
	// longest[i][j] is how many of want[i:] and got[j:] can be paired.
	longest := make([][]int, len(want)+1)
	for i := range longest {
		longest[i] = make([]int, len(got)+1)
	}
	for i := len(want) - 1; i >= 0; i-- {
		for j := len(got) - 1; j >= 0; j-- {
			if meets(want[i], got[j]) {
				longest[i][j] = longest[i+1][j+1] + 1
			} else {
				longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			}
		}
	}
	if n := longest[0][0]; n == len(want) && n == len(got) {
		return ""
	}
	text, alike := lines(longest, want, got, false)
	if alike {
		text, _ = lines(longest, want, got, true)
	}
	return text
}

// lines walks along the pairs. Alike says that something which differs looks the same.
func lines(longest [][]int, want, got []engine.NewEvent, detail bool) (text string, alike bool) {
	var b strings.Builder
	var missing, extra []engine.NewEvent
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		switch {
		case i < len(want) && j < len(got) && meets(want[i], got[j]):
			fmt.Fprintf(&b, "    %s\n", show(got[j], detail))
			i, j = i+1, j+1
		case j == len(got) || i < len(want) && longest[i+1][j] >= longest[i][j+1]:
			fmt.Fprintf(&b, "  - %s\n", show(want[i], detail))
			missing = append(missing, want[i])
			i++
		default:
			fmt.Fprintf(&b, "  + %s\n", show(got[j], detail))
			extra = append(extra, got[j])
			j++
		}
	}
	for _, m := range missing {
		for _, e := range extra {
			alike = alike || show(m, detail) == show(e, detail) && !meets(m, e)
		}
	}
	return b.String(), alike
}

// list prints events below each other.
func list(prefix string, events []engine.NewEvent) string {
	var b strings.Builder
	for _, ev := range events {
		fmt.Fprintf(&b, "%s%s\n", prefix, show(ev, false))
	}
	return b.String()
}
