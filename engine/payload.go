package engine

import (
	"context"
	"fmt"
	"reflect"
	"sync/atomic"
)

// Payload is an event's payload as a backend keeps it that stores bytes: see [Caps].
// It is immutable, and used by its pointer only.
type Payload struct {
	// Encoding names the form of Bytes: [EncodingBytes], [EncodingText], or a codec's name.
	// At most 32 bytes of ASCII without control characters.
	Encoding string
	// Schema is the version of the event type's shape; the first is 1.
	Schema uint16
	Bytes  []byte

	// decoded is what a reader has made of it last: the others of the same kind share the
	// value, as they share the values of a memory backend.
	decoded atomic.Pointer[decoded]
}

const (
	// EncodingBytes is a payload of type []byte as it is.
	EncodingBytes = "bytes"
	// EncodingText is a payload of type string as it is.
	EncodingText = "text"
	// EncodingJSON is JSON: the codec that every engine has.
	EncodingJSON = "json"
)

// decoded is a payload's value, and what it depends on: a type that is registered anew, or
// gets another upcaster, is another *eventType.
type decoded struct {
	of    *eventType
	as    reflect.Type
	value any
}

// encode returns the payload of the i-th event of an append as it is stored.
func (e *Engine) encode(stream string, i int, t *eventType, data any) (*Payload, error) {
	err := t.unfinished()
	if err == nil {
		p := &Payload{Schema: t.schema()}
		if p.Encoding, p.Bytes, err = e.codecs.encode(data); err == nil {
			return p, nil
		}
	}
	return nil, &EncodeError{stream, i + 1, t.name, reflect.TypeOf(data), err}
}

// decode turns the payload that a backend of bytes has returned into what readers get.
// A type that stands for no Go type is decoded as hint, if that is not nil. REQUIRES: Caps.Encoded.
func (e *Engine) decode(ev *Event, hint reflect.Type) error {
	p, ok := ev.Data.(*Payload)
	if !ok || p == nil {
		return decodeError(ev, fmt.Errorf("the backend has returned %T instead of a *Payload", ev.Data))
	}
	t := e.types.now.Load().byName[ev.Type]
	as := t.target()
	if as == nil {
		if as = hint; hint == nil || p.Encoding == EncodingBytes || p.Encoding == EncodingText {
			if v := raw(p.Encoding, p.Bytes); v != nil {
				ev.Data = v
			}
			return nil
		}
	}
	if d := p.decoded.Load(); d != nil && d.of == t && d.as == as {
		ev.Data = d.value
		return nil
	}
	v, err := e.codecs.current(t, p, as)
	if err != nil {
		return decodeError(ev, err)
	}
	p.decoded.Store(&decoded{t, as, v})
	ev.Data = v
	return nil
}

func decodeError(ev *Event, err error) *DecodeError {
	return &DecodeError{ev.Stream, ev.Version, ev.Position, ev.Type, err}
}

// decodeFor makes a handler's functions get events whose payloads are decoded. Goes is
// the Go type of a typed handler.
func (e *Engine) decodeFor(c *handlerConfig, goes reflect.Type) {
	var hint reflect.Type
	if goes != nil && goes.Kind() != reflect.Interface {
		switch goes {
		case bytesType, textType, jsonType, reflect.PointerTo(payloadType): // what needs no codec is that already
		default:
			hint = goes
		}
	}
	handle, key := c.Handle, c.Key
	c.Handle = func(ctx context.Context, ev Event) error {
		if err := e.decode(&ev, hint); err != nil {
			return err
		}
		return handle(ctx, ev)
	}
	if key != nil && c.keyReads {
		c.Key = func(ev *Event) string {
			whole := *ev
			if err := e.decode(&whole, hint); err != nil {
				panic(err) // without a key there is no order to keep: the handler stops
			}
			return key(&whole)
		}
	}
}
