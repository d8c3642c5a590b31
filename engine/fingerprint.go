package engine

import (
	"fmt"
	"hash/maphash"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// The bounds of one fingerprint. What lies behind them, in the order of a walk that is the same each time,
// is not looked at.
const (
	maxFingerprintValues = 10_000
	maxFingerprintBytes  = 1 << 20 // of strings and []byte
)

// fingerprint is the state of everything that an event's payload and Meta.Extra lead to: for
// each place, known by a hash of the way to it, a hash of what is there. Values are only read, and what may
// be changed legally is not: see typeFacts.
type fingerprint struct {
	sum    uint64 // over all leaves
	leaves []leaf

	values, bytes int                  // what is left of the bounds
	seen          map[reference]uint64 // what was walked, and as which one
	path          []step               // of the value at hand
	// In the walk that looks for a difference: what was before, and the first difference.
	before map[uint64]uint64
	diff   string
}

type leaf struct{ place, value uint64 }

// reference is what several ways may lead to.
type reference struct {
	addr uintptr
	len  int
	typ  reflect.Type
}

// step is one step of the way to a value: a field of a struct, an element, an entry.
type step struct {
	owner reflect.Type
	i     int
}

var fingerprints = sync.Pool{New: func() any { return &fingerprint{seen: make(map[reference]uint64)} }}

// fingerprintOf walks an event.
func fingerprintOf(ev *Event) *fingerprint {
	f := fingerprints.Get().(*fingerprint)
	f.walkEvent(ev)
	return f
}

// free lets another call have f's memory.
func (f *fingerprint) free() {
	f.sum, f.leaves, f.before, f.diff = 0, f.leaves[:0], nil, ""
	fingerprints.Put(f)
}

// compare reports whether f is the same as what was found after, and else where the first
// difference is. The event is then walked once more.
func (f *fingerprint) compare(after *fingerprint, ev *Event) (path string, same bool) {
	if f.sum == after.sum && len(f.leaves) == len(after.leaves) {
		return "", true
	}
	find := &fingerprint{seen: make(map[reference]uint64), before: make(map[uint64]uint64, len(f.leaves))}
	for _, l := range f.leaves {
		find.before[l.place] = l.value
	}
	defer func() {
		if recover() != nil || path == "" { // it is being changed right now, or was changed back
			path = "a place that cannot be told"
		}
	}()
	find.walkEvent(ev)
	return find.diff, false
}

const (
	fromData  = 1 // places where the two walks begin
	fromExtra = 2
)

func (f *fingerprint) walkEvent(ev *Event) {
	f.values, f.bytes = maxFingerprintValues, maxFingerprintBytes
	f.path = append(f.path[:0], step{i: fromData})
	f.walk(reflect.ValueOf(ev.Data), fromData)
	if len(ev.Meta.Extra) > 0 {
		f.path[0].i = fromExtra
		f.walk(reflect.ValueOf(ev.Meta.Extra), fromExtra)
	}
	clear(f.seen)
}

// leaf notes what is at a place.
func (f *fingerprint) leaf(place, value uint64) {
	f.sum += mix(place, value)
	if f.before == nil {
		f.leaves = append(f.leaves, leaf{place, value})
	} else if was, there := f.before[place]; f.diff == "" && (!there || was != value) {
		f.diff = f.where()
	}
}

// where returns the present path as text.
func (f *fingerprint) where() string {
	var b strings.Builder
	for _, s := range f.path {
		switch {
		case s.owner == nil && s.i == fromData:
			b.WriteString("Data")
		case s.owner == nil:
			b.WriteString("Meta.Extra")
		case s.owner.Kind() == reflect.Struct:
			b.WriteString("." + s.owner.Field(s.i).Name)
		case s.owner.Kind() == reflect.Map:
			b.WriteString("[…]")
		default:
			fmt.Fprintf(&b, "[%d]", s.i)
		}
	}
	return b.String()
}

// child walks a value that is part of another.
func (f *fingerprint) child(v reflect.Value, place uint64, owner reflect.Type, i int, key uint64) {
	f.path = append(f.path, step{owner, i})
	f.walk(v, mix(place, key))
	f.path = f.path[:len(f.path)-1]
}

// first reports whether a reference is met for the first time. Another time it is a leaf: that
// ends circles.
func (f *fingerprint) first(v reflect.Value, n int, place uint64) bool {
	ref := reference{v.Pointer(), n, v.Type()}
	nth, met := f.seen[ref]
	if met {
		f.leaf(place, nth)
		return false
	}
	f.seen[ref] = uint64(len(f.seen)) + 1
	return true
}

// walk notes everything that a value leads to. Place stands for the way to it.
func (f *fingerprint) walk(v reflect.Value, place uint64) {
	if f.values--; f.values < 0 {
		return
	}
	switch v.Kind() {
	case reflect.Invalid:
		f.leaf(place, 0)
	case reflect.Pointer:
		if v.IsNil() {
			f.leaf(place, 0)
		} else if t := v.Type(); factsOf(t).opaque || factsOf(t.Elem()).opaque {
			f.leaf(place, uint64(v.Pointer()))
		} else if f.first(v, 0, place) {
			f.leaf(place, 1)
			f.walk(v.Elem(), mix(place, 1))
		}
	case reflect.Interface:
		if v.IsNil() {
			f.leaf(place, 0)
			return
		}
		v = v.Elem()
		f.leaf(place, uint64(reflect.ValueOf(v.Type()).Pointer()))
		f.walk(v, mix(place, 1))
	case reflect.Struct:
		facts := factsOf(v.Type())
		for _, i := range facts.fields { // none if it is opaque
			f.child(v.Field(i), place, v.Type(), i, uint64(i))
		}
	case reflect.Array:
		f.elements(v, place)
	case reflect.Slice:
		if v.IsNil() {
			f.leaf(place, 0)
		} else if n := v.Len(); n == 0 {
			f.leaf(place, 1)
		} else if f.first(v, n, place) {
			f.leaf(place, uint64(n)+1)
			f.elements(v, place)
		}
	case reflect.Map:
		if v.IsNil() {
			f.leaf(place, 0)
		} else if f.first(v, 0, place) {
			f.leaf(place, uint64(v.Len())+1)
			f.entries(v, place)
		}
	case reflect.String:
		f.leaf(place, f.text(v.String()))
	case reflect.Chan, reflect.Func, reflect.UnsafePointer: // by identity
		f.leaf(place, uint64(v.Pointer()))
	default:
		f.leaf(place, scalar(v))
	}
}

// elements walks those of an array or a slice.
func (f *fingerprint) elements(v reflect.Value, place uint64) {
	t := v.Type()
	if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 && v.Len() > fewBytes {
		f.blocks(v.Bytes(), t, place)
		return
	}
	for i := 0; i < v.Len() && f.values > 0; i++ {
		f.child(v.Index(i), place, t, i, uint64(i))
	}
}

// Up to fewBytes bytes are a leaf each, of more each blockSize.
const (
	fewBytes  = 64
	blockSize = 1024
)

func (f *fingerprint) blocks(b []byte, t reflect.Type, place uint64) {
	b = b[:min(len(b), f.bytes)] // f.bytes is never below 0
	f.bytes -= len(b)
	for i := 0; i < len(b); i += blockSize {
		f.path = append(f.path, step{t, i})
		f.leaf(mix(place, uint64(i)), maphash.Bytes(seed, b[i:min(i+blockSize, len(b))]))
		f.path = f.path[:len(f.path)-1]
	}
}

// entries walks those of a map in the order of their keys' hashes, so that a walk which meets a bound
// meets it at the same place each time. A map that is larger than what may still be walked is its length.
func (f *fingerprint) entries(v reflect.Value, place uint64) {
	type entry struct {
		key   uint64
		value reflect.Value
	}
	if v.Len() > f.values {
		f.values = 0
		return
	}
	entries := make([]entry, 0, v.Len())
	for it := v.MapRange(); it.Next(); {
		entries = append(entries, entry{hashKey(it.Key()), it.Value()})
	}
	slices.SortFunc(entries, func(a, b entry) int {
		if a.key < b.key {
			return -1
		} else if a.key > b.key {
			return 1
		}
		return 0
	})
	for i, e := range entries {
		if i > 0 && entries[i-1].key == e.key || i+1 < len(entries) && entries[i+1].key == e.key {
			continue // as of two NaNs, which nobody can tell apart
		}
		f.child(e.value, place, v.Type(), 0, e.key)
	}
}

// maxKeyBytes is how much of a text in a key counts.
const maxKeyBytes = 256

// hashKey returns the hash of a map's key: two that are equal have the same. What a pointer
// in it points to is not looked at.
func hashKey(v reflect.Value) uint64 {
	switch v.Kind() {
	case reflect.Invalid:
		return 0
	case reflect.String:
		s := v.String()
		return mix(uint64(len(s)), maphash.String(seed, s[:min(len(s), maxKeyBytes)]))
	case reflect.Interface:
		if v.IsNil() {
			return 0
		}
		v = v.Elem()
		return mix(uint64(reflect.ValueOf(v.Type()).Pointer()), hashKey(v))
	case reflect.Pointer, reflect.Chan, reflect.UnsafePointer:
		return uint64(v.Pointer())
	case reflect.Struct:
		var h uint64
		for i := range v.NumField() {
			h = mix(h, hashKey(v.Field(i)))
		}
		return h
	case reflect.Array:
		var h uint64
		for i := range v.Len() {
			h = mix(h, hashKey(v.Index(i)))
		}
		return h
	}
	return scalar(v)
}

// text hashes a string. One that is longer than what may still be looked at is its length.
func (f *fingerprint) text(s string) uint64 {
	if len(s) > f.bytes {
		return uint64(len(s))
	}
	f.bytes -= len(s)
	return maphash.String(seed, s)
}

// scalar returns the bits of a boolean or a number.
func scalar(v reflect.Value) uint64 {
	switch {
	case v.Kind() == reflect.Bool:
		if v.Bool() {
			return 1
		}
		return 0
	case v.CanInt():
		return uint64(v.Int())
	case v.CanUint():
		return v.Uint()
	case v.CanFloat():
		return math.Float64bits(v.Float())
	}
	c := v.Complex()
	return mix(math.Float64bits(real(c)), math.Float64bits(imag(c)))
}

var seed = maphash.MakeSeed()

// mix makes one hash of two numbers, whose order matters.
func mix(a, b uint64) uint64 {
	h := (a ^ 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9
	h ^= h >> 29
	h = (h ^ b) * 0x94d049bb133111eb
	return h ^ h>>32
}
