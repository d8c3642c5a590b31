package engine

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
)

// Upcast says how a payload of an event type's schema version from becomes one of
// version from+1. It is applied when an event is read, in a chain up to the current version, which is
// 1 without upcasters, and with them one more than the highest from. New events are stored
// with the current version. What is stored never changes.
//
// The versions of a type are registered in ascending order from 1, before anything of it is
// appended or read. Old is what the payload is decoded into: a Go type of that time, or
// map[string]any or json.RawMessage. If it is not the New of the step before, the value is converted
// through the codec. The last New is the Go type that the event type stands for, if it stands for
// one ([Register]), or json.RawMessage or map[string]any, which are then converted; if it stands for
// none, New is what readers get. The function may run once for many readers, and many times for one
// event: it must depend on nothing but its argument, which it may change.
//
// An error or a panic of fn makes a read end, or a handler fail, with a [*DecodeError]; so does a
// stored version that is newer than what this program knows. Upcast returns an [*InvalidError] for
// a version that is not the next one.
//
// With a backend that keeps Go values, such as the one in memory, all events are this
// program's own, and nothing is upcast.
func Upcast[Old, New any](e *Engine, eventType string, from uint16, fn func(Old) (New, error)) error {
	op := "upcast " + quote(eventType)
	if err := checkName("upcast", "event type", eventType); err != nil {
		return err
	}
	if fn == nil {
		return invalid(op, "the function", nil, "one")
	}
	u := upcaster{old: reflect.TypeFor[Old](), new: reflect.TypeFor[New]()}
	u.call = func(old any) (any, error) {
		o, _ := old.(Old) // a nil interface is the zero value
		return fn(o)
	}
	return e.types.upcast(op, eventType, from, u)
}

// upcaster is one step of a type's chain.
type upcaster struct {
	old, new reflect.Type
	call     func(old any) (any, error)
}

func (u *upcaster) apply(old any) (v any, err error) {
	defer recovered(&err, "upcast")
	if v, err = u.call(old); err != nil {
		return nil, err
	}
	if r := reflect.ValueOf(v); !r.IsValid() || r.Kind() == reflect.Pointer && r.IsNil() {
		return nil, errors.New("the function has returned nil")
	}
	return v, nil
}

// upcast adds a step to a type's chain.
func (r *typeRegistry) upcast(op, name string, from uint16, u upcaster) error {
	if _, err := r.add(name, nil); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := *r.now.Load().byName[name]
	if next := t.schema(); from != next {
		return invalid(op, "schema version", from, fmt.Sprintf("%d, the next one", next))
	}
	t.ups = append(slices.Clip(t.ups), u)
	r.putLocked(&t)
	return nil
}

// schema returns the version of the type's shape that is stored now. A nil type is one
// that nobody has named yet.
func (t *eventType) schema() uint16 {
	if t == nil {
		return 1
	}
	return uint16(len(t.ups)) + 1
}

// target returns the Go type that payloads are decoded into: nil if nothing is known of them.
func (t *eventType) target() reflect.Type {
	switch {
	case t == nil:
		return nil
	case t.goes == nil && len(t.ups) > 0:
		return t.ups[len(t.ups)-1].new
	}
	return t.goes
}

// unfinished returns an error if the type's chain ends with a Go type that is not the
// event type's: a step must be missing, and the version that is current one too low.
func (t *eventType) unfinished() error {
	if len(t.ups) == 0 || t.goes == nil {
		return nil
	}
	last := t.ups[len(t.ups)-1].new
	if last == t.goes || last == jsonType || last == mapType || last.Kind() == reflect.Interface {
		return nil
	}
	return fmt.Errorf("its last upcaster, from schema version %d, makes %v of it, not %v", len(t.ups), last, t.goes)
}

// current decodes a payload, and brings it to the type's current schema version.
func (c *codecs) current(t *eventType, p *Payload, as reflect.Type) (any, error) {
	now := t.schema()
	switch {
	case p.Schema == now:
		return c.decode(p.Encoding, p.Bytes, as)
	case p.Schema > now:
		return nil, fmt.Errorf("its schema version is %d, and the newest that this program knows is %d", p.Schema, now)
	case p.Schema == 0:
		return nil, errors.New("its schema version is 0, and the first is 1")
	}
	if err := t.unfinished(); err != nil {
		return nil, err
	}
	if c.byName[p.Encoding] != nil {
		c = c.with(p.Encoding)
	}
	steps := t.ups[p.Schema-1:]
	v, err := c.decode(p.Encoding, bytes.Clone(p.Bytes), steps[0].old) // a step may change what it is given
	if err != nil {
		return nil, fmt.Errorf("schema version %d: %w", p.Schema, err)
	}
	for i := range steps {
		from := int(p.Schema) + i
		if v, err = c.convert(v, steps[i].old); err != nil {
			return nil, fmt.Errorf("schema version %d as %v: %w", from, steps[i].old, err)
		}
		if v, err = steps[i].apply(v); err != nil {
			return nil, fmt.Errorf("upcast from schema version %d: %w", from, err)
		}
	}
	if v, err = c.convert(v, as); err != nil {
		return nil, fmt.Errorf("schema version %d as %v: %w", now, as, err)
	}
	return v, nil
}
