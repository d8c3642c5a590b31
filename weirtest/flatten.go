package weirtest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// flatten prints a value, one line for each of its leaves: what pointers lead to is looked
// at now, and addresses do not matter.
func flatten(value any) []string { return flattened(value, false) }

// flattened adds the Go type of each leaf, if asked to.
func flattened(value any, types bool) []string {
	f := flattener{types: types, inside: make(map[uintptr]bool)}
	f.add("", reflect.ValueOf(value), 0)
	return f.lines
}

type flattener struct {
	lines  []string
	types  bool
	inside map[uintptr]bool // pointers that lead to where it is: a value may lead back to itself
}

// deepest is where a value ends that leads back to itself without a pointer: a map can.
const deepest = 32

func (f *flattener) leaf(path, format string, args ...any) {
	f.lines = append(f.lines, strings.TrimPrefix(path+": ", ": ")+fmt.Sprintf(format, args...))
}

func (f *flattener) add(path string, v reflect.Value, depth int) {
	if !v.IsValid() {
		f.leaf(path, "nil")
		return
	}
	if v.Type() == reflect.TypeFor[time.Time]() && v.CanInterface() {
		f.leaf(path, "%v", v.Interface().(time.Time).UTC().Format(time.RFC3339Nano))
		return
	}
	if f.types && v.Kind() != reflect.Interface {
		path += " " + v.Type().String()
	}
	if depth == deepest {
		f.leaf(path, "…")
		return
	}
	switch v.Kind() {
	case reflect.Interface:
		f.add(path, v.Elem(), depth+1)
	case reflect.Pointer:
		if at := v.Pointer(); f.inside[at] {
			f.leaf(path, "…")
		} else {
			f.inside[at] = true
			f.add(path, v.Elem(), depth+1)
			delete(f.inside, at)
		}
	case reflect.Struct:
		if v.NumField() == 0 {
			f.leaf(path, "%v{}", v.Type())
		}
		for i := range v.NumField() {
			f.add(path+"."+v.Type().Field(i).Name, v.Field(i), depth+1)
		}
	case reflect.Slice, reflect.Array:
		f.leaf(path, "%d elements", v.Len())
		for i := range v.Len() {
			f.add(fmt.Sprintf("%s[%d]", path, i), v.Index(i), depth+1)
		}
	case reflect.Map:
		f.leaf(path, "%d entries", v.Len())
		keys := make(map[string]reflect.Value, v.Len())
		for _, key := range v.MapKeys() {
			keys[fmt.Sprintf("%#v", key)] = key
		}
		names := make([]string, 0, len(keys))
		for name := range keys {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			f.add(fmt.Sprintf("%s[%s]", path, name), v.MapIndex(keys[name]), depth+1)
		}
	case reflect.Func, reflect.Chan, reflect.UnsafePointer:
		f.leaf(path, "%v", v.Type())
	case reflect.String:
		f.leaf(path, "%q", v.String())
	default: // numbers and booleans
		f.leaf(path, "%v", v)
	}
}

// lineDifference returns the lines that are in one of two lists alone, in their order.
func lineDifference(before, after []string) string {
	var b strings.Builder
	count := make(map[string]int)
	for _, line := range after {
		count[line]++
	}
	for _, line := range before {
		if count[line]--; count[line] < 0 {
			fmt.Fprintf(&b, "  - %s\n", line)
		}
	}
	for _, line := range after {
		if count[line] > 0 {
			count[line]--
			fmt.Fprintf(&b, "  + %s\n", line)
		}
	}
	return b.String()
}
