package verify_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/anishathalye/porcupine"

	"github.com/weirstore/weir/engine"
)

// fact is a stored event as the model of a stream knows it. Every event that a history
// tries to append has a tag of its own, so that whatever goes wrong with it can be named.
type fact struct {
	tag int
	id  string
}

// MarshalJSON writes what a backend that stores bytes keeps: with a filling, so that sizes differ.
func (f fact) MarshalJSON() ([]byte, error) {
	return json.Marshal([]string{strconv.Itoa(f.tag), f.id, strings.Repeat("x", f.tag*7919%1500)})
}

func (f *fact) UnmarshalJSON(b []byte) (err error) {
	var parts [3]string
	if err := json.Unmarshal(b, &parts); err != nil {
		return err
	}
	f.id = parts[1]
	f.tag, err = strconv.Atoi(parts[0])
	return err
}

// call is what a client asked of one stream.
type call struct {
	stream   string
	read     bool
	expected engine.Expected
	events   []fact         // append
	after    engine.Version // read: those behind it; when backward, those at or before it
	backward bool
	limit    int // 0 for none
}

// kind of an outcome.
type kind int

const (
	okay     kind = iota
	conflict      // VersionConflictError
	partial       // PartialDuplicateError
	refused       // ErrClosed, the context's error, or the backend's: nothing was done
	unknown       // ErrOutcomeUnknown
)

// outcome is what the client was told.
type outcome struct {
	kind        kind
	first, last engine.Version
	position    engine.Position // not part of the model: the audit checks it
	duplicate   bool
	actual      engine.Version // conflict
	stored      []string       // partial
	events      []seen         // read
	resolved    bool           // the client was told unknown, the log told the rest
}

type seen struct {
	fact
	version engine.Version
}

// step returns the states that a stream may be in after a call with this outcome; none if
// the call could not have ended so. It is the whole specification of a stream.
func step(state []fact, in call, out outcome) [][]fact {
	version := engine.Version(len(state))
	same, grown := [][]fact{state}, append(slices.Clip(state), in.events...)
	if out.kind == refused {
		return same
	}
	if in.read {
		if slices.Equal(out.events, read(state, in)) {
			return same
		}
		return nil
	}
	var stored []string
	places := make([]engine.Version, len(in.events))
	for i, ev := range in.events {
		if at := slices.IndexFunc(state, func(f fact) bool { return f.id != "" && f.id == ev.id }); at >= 0 {
			stored, places[i] = append(stored, ev.id), engine.Version(at+1)
		}
	}
	fresh := len(stored) == 0 && met(in.expected, version)
	legal := false
	switch out.kind {
	case unknown:
		if fresh {
			return [][]fact{state, grown}
		}
		return same
	case partial:
		legal = len(stored) > 0 && len(stored) < len(in.events) && slices.Equal(stored, out.stored)
	case conflict:
		legal = len(stored) == 0 && !met(in.expected, version) && out.actual == version
	case okay:
		if !out.duplicate && fresh && out.first == version+1 && out.last == engine.Version(len(grown)) {
			return [][]fact{grown}
		}
		legal = out.duplicate && len(stored) == len(in.events) && out.first == slices.Min(places) && out.last == slices.Max(places)
	}
	if legal {
		return same
	}
	return nil
}

// read returns what a read of the stream should yield.
func read(state []fact, in call) []seen {
	var all []seen
	for i, f := range state {
		if v := engine.Version(i + 1); in.backward && (in.after == 0 || v <= in.after) || !in.backward && v > in.after {
			all = append(all, seen{f, v})
		}
	}
	if in.backward {
		slices.Reverse(all)
	}
	if in.limit > 0 {
		all = all[:min(len(all), in.limit)]
	}
	return all
}

// met is written anew, not borrowed from the engine.
func met(e engine.Expected, v engine.Version) bool {
	return e == engine.Any || e == engine.NoStream && v == 0 || e == engine.StreamExists && v > 0 || e == engine.Exactly(v)
}

// streamModel is step as porcupine wants it: each stream is checked by itself.
func streamModel() porcupine.Model {
	model := porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			at := make(map[string]int)
			var parts [][]porcupine.Operation
			for _, op := range history {
				stream := op.Input.(call).stream
				if _, ok := at[stream]; !ok {
					at[stream] = len(parts)
					parts = append(parts, nil)
				}
				parts[at[stream]] = append(parts[at[stream]], op)
			}
			return parts
		},
		Init: func() []any { return []any{[]fact(nil)} },
		Step: func(state, in, out any) []any {
			var next []any
			for _, s := range step(state.([]fact), in.(call), out.(outcome)) {
				next = append(next, s)
			}
			return next
		},
		Equal:             func(a, b any) bool { return slices.Equal(a.([]fact), b.([]fact)) },
		DescribeOperation: func(in, out any) string { return describe(in.(call), out.(outcome)) },
		DescribeState:     func(s any) string { return fmt.Sprintf("%v", s) },
	}
	return model.ToModel()
}

func (f fact) String() string { return strings.TrimSuffix(fmt.Sprintf("#%d/%s", f.tag, f.id), "/") }
func (s seen) String() string { return fmt.Sprintf("%d:%v", s.version, s.fact) }

func describe(in call, out outcome) string {
	result := "refused"
	switch out.kind {
	case conflict:
		result = fmt.Sprintf("conflict, at %d", out.actual)
	case partial:
		result = fmt.Sprintf("partial duplicate %v", out.stored)
	case unknown:
		result = "unknown"
	case okay:
		result = fmt.Sprintf("%d…%d", out.first, out.last)
		if out.duplicate {
			result += " duplicate"
		}
	}
	if !in.read {
		return fmt.Sprintf("%s: append %v expecting %v → %s", in.stream, in.events, in.expected, result)
	}
	if out.kind == okay {
		result = fmt.Sprint(out.events)
	}
	return fmt.Sprintf("%s: read after %d backward %v limit %d → %s", in.stream, in.after, in.backward, in.limit, result)
}
