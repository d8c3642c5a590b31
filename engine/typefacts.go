package engine

import (
	"reflect"
	"strings"
	"sync"
)

// typeFacts is what a fingerprint needs to know of a Go type.
type typeFacts struct {
	// opaque says that the type is not looked into, because its values may change legally while others
	// use them, or are none of the payload's: they are known by their address.
	opaque bool
	// shares says that copies of a value may share memory that can be changed.
	shares bool
	fields []int // of a struct: those that are looked at
}

var allFacts sync.Map // reflect.Type to *typeFacts; as bounded as the program's types

// mutable reports whether anything that an event holds can be changed by who gets a copy.
func mutable(ev *Event) bool {
	return len(ev.Meta.Extra) > 0 || ev.Data != nil && factsOf(reflect.TypeOf(ev.Data)).shares
}

func factsOf(t reflect.Type) *typeFacts {
	if facts, ok := allFacts.Load(t); ok {
		return facts.(*typeFacts)
	}
	facts := &typeFacts{opaque: opaque(t)}
	switch t.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Interface:
		facts.shares = !facts.opaque && !(t.Kind() == reflect.Pointer && opaque(t.Elem()))
	case reflect.Array: // which, like a struct, cannot hold itself but behind a reference
		facts.shares = t.Len() > 0 && factsOf(t.Elem()).shares
	case reflect.Struct:
		if facts.opaque {
			break
		}
		message := isProtobuf(t)
		for i := range t.NumField() {
			field := t.Field(i)
			// A protobuf message notes its size and its type in itself when it is read.
			if message && !field.IsExported() || strings.HasPrefix(field.Name, "XXX_") {
				continue
			}
			facts.fields = append(facts.fields, i)
			facts.shares = facts.shares || factsOf(field.Type).shares
		}
	}
	now, _ := allFacts.LoadOrStore(t, facts)
	return now.(*typeFacts)
}

// opaque reports whether values of the type are not looked into. A struct that has a lock, a
// sync.Once or an atomic value looks after itself: it may fill a cache when it is read.
func opaque(t reflect.Type) bool {
	pkg := t.PkgPath()
	switch pkg {
	case "sync", "sync/atomic", "reflect", "runtime", "os":
		return true
	case "time":
		return t.Name() == "Location" // Local is filled when it is first used
	}
	return strings.HasPrefix(pkg, "internal/") || hasLock(t)
}

// hasLock reports whether a type is a lock or the like, or has one as a part. An array without
// elements, which keeps vet from letting a struct be copied, is none.
func hasLock(t reflect.Type) bool {
	if t.PkgPath() == "sync" || t.PkgPath() == "sync/atomic" {
		return true
	}
	switch t.Kind() {
	case reflect.Array:
		return t.Len() > 0 && hasLock(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			field := t.Field(i).Type
			if field.Kind() == reflect.Pointer {
				field = field.Elem()
				if field.PkgPath() != "sync" && field.PkgPath() != "sync/atomic" {
					continue // which may have locks of its own
				}
			}
			if hasLock(field) {
				return true
			}
		}
	}
	return false
}

func isProtobuf(t reflect.Type) bool {
	for i := range t.NumField() {
		if strings.HasPrefix(t.Field(i).Type.PkgPath(), "google.golang.org/protobuf/") && !t.Field(i).IsExported() {
			return true
		}
	}
	return false
}
