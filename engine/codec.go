package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Codec turns payloads into bytes, for a backend that stores bytes ([Caps].Encoded), and
// back. Its methods are called from many goroutines at once. A panic of theirs is an error of
// the append or of the read that has called them.
//
// The codec that every engine has is JSON, by package encoding/json: what that leaves out
// of a value, such as unexported fields, is not stored. Strings that are not UTF-8 it refuses.
type Codec interface {
	// Name names the form of the bytes. It is stored with them and must never change. It has
	// 1 to 32 bytes of printable ASCII and is neither [EncodingBytes] nor [EncodingText].
	Name() string
	// Marshal returns a value as bytes, which are the engine's from then on. It does not append
	// to a buffer, since each payload has to be memory of its own.
	Marshal(v any) ([]byte, error)
	// Unmarshal stores what data holds in the value that v points to. It must not change data.
	Unmarshal(data []byte, v any) error
}

// maxEncoding is the greatest length of a codec's name, in bytes.
const maxEncoding = 32

// codecs are those of one engine. It never changes.
type codecs struct {
	writes string // the name of the one for new events
	byName map[string]Codec
}

// newCodecs returns JSON and the codecs of [Options], or all that is wrong with them.
func newCodecs(write Codec, read []Codec) (*codecs, error) {
	var errs []error
	c := &codecs{EncodingJSON, make(map[string]Codec, len(read)+2)}
	add := func(field string, codec Codec) (name string) {
		name, err := checkCodec(field, codec)
		if err == nil && c.byName[name] != nil {
			err = invalid("open", field, name, "one codec of that name")
		}
		if err != nil {
			errs = append(errs, err)
			return ""
		}
		c.byName[name] = codec
		return name
	}
	if write != nil {
		c.writes = add("Options.Codec", write)
	}
	for i, codec := range read {
		add(fmt.Sprintf("Options.ReadCodecs[%d]", i), codec)
	}
	if c.byName[EncodingJSON] == nil {
		c.byName[EncodingJSON] = jsonCodec{}
	}
	return c, errors.Join(errs...)
}

// checkCodec returns a codec's name.
func checkCodec(field string, c Codec) (name string, err error) {
	if c == nil {
		return "", invalid("open", field, nil, "a codec")
	}
	defer recovered(&err, "Name of "+field)
	name = c.Name()
	switch {
	case name == EncodingBytes || name == EncodingText:
		return "", invalid("open", "name of "+field, name, "another: that is how payloads are kept as they are")
	case name == "" || len(name) > maxEncoding:
		return "", invalid("open", "name of "+field, name, fmt.Sprintf("1 to %d bytes", maxEncoding))
	}
	for i := range len(name) {
		if name[i] < ' ' || name[i] > '~' {
			return "", invalid("open", "name of "+field, name, "printable ASCII")
		}
	}
	return name, nil
}

// with returns the same codecs, of which another one writes.
func (c *codecs) with(name string) *codecs { return &codecs{name, c.byName} }

var (
	bytesType   = reflect.TypeFor[[]byte]()
	textType    = reflect.TypeFor[string]()
	jsonType    = reflect.TypeFor[json.RawMessage]()
	mapType     = reflect.TypeFor[map[string]any]()
	payloadType = reflect.TypeFor[Payload]()
)

// encode returns a value's bytes, which share no memory with it.
func (c *codecs) encode(v any) (encoding string, b []byte, err error) {
	defer recovered(&err, "encode")
	switch v := v.(type) {
	case []byte:
		return EncodingBytes, append([]byte{}, v...), nil
	case string:
		return EncodingText, []byte(v), nil
	case noteJSON:
		return EncodingJSON, v, nil
	case json.RawMessage:
		if !json.Valid(v) {
			return "", nil, json.Unmarshal(v, new(json.RawMessage)) // says what is wrong with it
		}
		return EncodingJSON, bytes.Clone(v), nil
	}
	b, err = c.byName[c.writes].Marshal(v)
	return c.writes, b, err
}

// decode returns a payload's bytes as a value of a Go type.
func (c *codecs) decode(encoding string, b []byte, as reflect.Type) (v any, err error) {
	defer recovered(&err, "decode")
	switch {
	case encoding == EncodingBytes || encoding == EncodingText || encoding == EncodingJSON && as == jsonType:
		if v = raw(encoding, b); fits(v, as) {
			return v, nil
		}
		return nil, fmt.Errorf("it is stored as %s, which is no %v", encoding, as)
	case as == jsonType:
		return nil, fmt.Errorf("it is stored by codec %s, not as JSON", quote(encoding))
	}
	codec := c.byName[encoding]
	if codec == nil {
		return nil, fmt.Errorf("codec %s is unknown: it is not among Options.ReadCodecs", quote(encoding))
	}
	if as.Kind() == reflect.Pointer {
		p := reflect.New(as.Elem())
		err = codec.Unmarshal(b, p.Interface())
		return p.Interface(), err
	}
	p := reflect.New(as)
	err = codec.Unmarshal(b, p.Interface())
	return p.Elem().Interface(), err
}

// convert makes a value one of another Go type, as if it were stored by the codec that writes and read back.
func (c *codecs) convert(v any, as reflect.Type) (any, error) {
	if fits(v, as) {
		return v, nil
	}
	if as == jsonType {
		c = c.with(EncodingJSON)
	}
	encoding, b, err := c.encode(v)
	if err != nil {
		return nil, err
	}
	return c.decode(encoding, b, as)
}

// fits reports whether a value can be used as one of a Go type without conversion.
func fits(v any, as reflect.Type) bool {
	t := reflect.TypeOf(v)
	return t == as || as.Kind() == reflect.Interface && t != nil && t.Implements(as)
}

// raw returns bytes as what needs no codec, or nil if there is no such thing.
func raw(encoding string, b []byte) any {
	switch encoding {
	case EncodingBytes:
		if b == nil {
			return []byte{}
		}
		return b
	case EncodingText:
		return string(b)
	case EncodingJSON:
		return json.RawMessage(b)
	}
	return nil
}
