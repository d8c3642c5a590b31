package engine

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"reflect"
	"unicode/utf8"
)

// jsonCodec is the codec that every engine has.
type jsonCodec struct{}

func (jsonCodec) Name() string { return EncodingJSON }

// Marshal refuses strings that are not UTF-8, in which package json puts U+FFFD in the
// place of the bytes that are not: what Append has accepted would be read back as something else.
func (jsonCodec) Marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err == nil && bytes.Contains(b, []byte(`\ufffd`)) && garbled(reflect.ValueOf(v)) {
		return nil, errors.New("json: a string is not UTF-8")
	}
	return b, err
}

func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// garbled reports whether a value that json.Marshal has accepted, and which therefore has no
// cycles, contains a string that is not UTF-8. What marshals itself is left to itself.
func garbled(v reflect.Value) bool {
	if !v.IsValid() {
		return false
	}
	switch t := v.Type(); {
	case t.Implements(jsonMarshaler) || t.Implements(textMarshaler):
		return false
	case t.Kind() != reflect.Interface && (reflect.PointerTo(t).Implements(jsonMarshaler) || reflect.PointerTo(t).Implements(textMarshaler)):
		return false
	}
	switch v.Kind() {
	case reflect.String:
		return !utf8.ValidString(v.String())
	case reflect.Pointer, reflect.Interface:
		return garbled(v.Elem())
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if garbled(v.Index(i)) {
				return true
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if garbled(it.Key()) || garbled(it.Value()) {
				return true
			}
		}
	case reflect.Struct:
		for i, n := 0, v.NumField(); i < n; i++ {
			f := v.Type().Field(i)
			if (f.IsExported() || f.Anonymous) && f.Tag.Get("json") != "-" && garbled(v.Field(i)) {
				return true
			}
		}
	}
	return false
}
