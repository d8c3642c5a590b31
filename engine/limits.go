package engine

import (
	"encoding/json"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/weirstore/weir/dispatch"
)

// MaxName is the greatest length of a stream's, an event type's, an event ID's or a
// handler's name, in bytes.
const MaxName = 1024

func newTypeSet(ids ...TypeID) *TypeSet { return dispatch.NewKindSet(ids...) }

// checkName accepts valid UTF-8 of 1 to MaxName bytes without control characters.
func checkName(op, what, name string) error {
	switch {
	case name == "":
		return invalid(op, what, name, fmt.Sprintf("1 to %d bytes", MaxName))
	case len(name) > MaxName:
		return invalid(op, what, name, fmt.Sprintf("at most %d bytes", MaxName))
	}
	ascii := true
	for i := range len(name) {
		c := name[i]
		if c < ' ' || c == 0x7f {
			return invalid(op, what, name, "no control characters")
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	if ascii {
		return nil
	}
	if !utf8.ValidString(name) {
		return invalid(op, what, name, "valid UTF-8")
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return invalid(op, what, name, "no control characters")
		}
	}
	return nil
}

// size is what an event counts against Options.MaxBytes: names, metadata, and the payload
// if it is measured. Others are Go values in memory, which cannot be without being encoded.
func (e *NewEvent) size() int {
	n := len(e.Type) + len(e.ID) + e.Meta.size()
	switch d := e.Data.(type) {
	case []byte:
		n += len(d)
	case string:
		n += len(d)
	case json.RawMessage:
		n += len(d)
	}
	return n
}

// measured reports whether size counts a payload: one that is stored as it is.
func measured(data any) bool {
	switch data.(type) {
	case []byte, string, json.RawMessage:
		return true
	}
	return false
}
