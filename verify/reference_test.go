package verify_test

import (
	"slices"

	"github.com/weirstore/weir/engine"
)

// reference is the engine as a page of slices: the log, and for each handler what it should
// have been called with.
type reference struct{ log []record }

type record struct {
	stream  string
	version engine.Version
	typ, id string
	data    trouble
}

// append is Engine.Append.
func (r *reference) append(stream string, expected engine.Expected, events []record) (out outcome) {
	var version engine.Version
	var stored []engine.Position
	for i, rec := range r.log {
		if rec.stream == stream {
			version++
			if rec.id != "" && slices.ContainsFunc(events, func(e record) bool { return e.id == rec.id }) {
				stored, out.stored = append(stored, engine.Position(i+1)), append(out.stored, rec.id)
			}
		}
	}
	switch {
	case len(stored) > 0 && len(stored) < len(events):
		out.kind = partial
	case len(stored) > 0:
		first, last := stored[0], stored[len(stored)-1]
		return outcome{first: r.log[first-1].version, last: r.log[last-1].version, position: last, duplicate: true}
	case !met(expected, version):
		return outcome{kind: conflict, actual: version}
	default:
		out.first = version + 1
		for _, e := range events {
			version++
			e.stream, e.version = stream, version
			r.log = append(r.log, e)
		}
		out.last, out.position = version, engine.Position(len(r.log))
	}
	return out
}

// positions returns where the records are that a filter wants, in order.
func (r *reference) positions(wants func(pos engine.Position, rec record) bool) (list []engine.Position) {
	for i, rec := range r.log {
		if wants(engine.Position(i+1), rec) {
			list = append(list, engine.Position(i+1))
		}
	}
	return list
}
