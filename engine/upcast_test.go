package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/actor"
	"github.com/weirstore/weir/engine"
)

// The shapes that an event type has had.
type (
	movedV1 struct{ Address string }
	movedV2 struct{ Street, City string }
	moved   struct {
		Street, City, Country string
	}
)

func splitAddress(old movedV1) (movedV2, error) {
	street, city, ok := strings.Cut(old.Address, ", ")
	if !ok {
		return movedV2{}, fmt.Errorf("no city in %q", old.Address)
	}
	return movedV2{street, city}, nil
}

func addCountry(old movedV2) (moved, error) { return moved{old.Street, old.City, "UK"}, nil }

var baker = moved{"221B Baker St", "London", "UK"}

func TestUpcast(t *testing.T) {
	type steps = []func(e *engine.Engine) error
	registered := func(e *engine.Engine) error { return engine.Register[moved](e, "Moved") }
	typed := steps{
		func(e *engine.Engine) error { return engine.Upcast(e, "Moved", 1, splitAddress) },
		func(e *engine.Engine) error { return engine.Upcast(e, "Moved", 2, addCountry) },
	}
	for _, c := range []struct {
		name     string
		register steps
		stored   *engine.Payload
		want     any
	}{
		{"from the first", append(typed, registered), jsonPayload(1, `{"Address":"221B Baker St, London"}`), baker},
		{"registered before", append(steps{registered}, typed...), jsonPayload(1, `{"Address":"221B Baker St, London"}`), baker},
		{"from the second", append(typed, registered), jsonPayload(2, `{"Street":"221B Baker St","City":"London"}`), baker},
		{"the current one", append(typed, registered), jsonPayload(3, `{"Street":"a","City":"b","Country":"c"}`), moved{"a", "b", "c"}},
		{"no Go type", typed, jsonPayload(1, `{"Address":"221B Baker St, London"}`), baker},
		{"no Go type, the current one", typed, jsonPayload(3, `{"Street":"a","City":"b","Country":"c"}`), moved{"a", "b", "c"}},
		{"a map", steps{registered, func(e *engine.Engine) error {
			return engine.Upcast(e, "Moved", 1, func(m map[string]any) (map[string]any, error) {
				m["Street"], m["City"], _ = strings.Cut(m["Address"].(string), ", ")
				delete(m, "Address")
				m["Country"] = "UK"
				return m, nil
			})
		}}, jsonPayload(1, `{"Address":"221B Baker St, London"}`), baker},
		{"raw JSON", steps{registered, func(e *engine.Engine) error {
			return engine.Upcast(e, "Moved", 1, func(b json.RawMessage) (json.RawMessage, error) {
				copy(b, `{"City"`) // in place, although others may read the stored bytes
				return b, nil
			})
		}}, jsonPayload(1, `{"Town":"London"}`), moved{City: "London"}},
		{"raw JSON, no Go type", steps{func(e *engine.Engine) error {
			return engine.Upcast(e, "Moved", 1, func(b json.RawMessage) (json.RawMessage, error) {
				return bytes.ReplaceAll(b, []byte("Town"), []byte("City")), nil
			})
		}}, jsonPayload(1, `{ "Town":"London"}`), json.RawMessage(`{ "City":"London"}`)},
		{"another Old than the New before", steps{
			func(e *engine.Engine) error { return engine.Upcast(e, "Moved", 1, splitAddress) },
			func(e *engine.Engine) error {
				return engine.Upcast(e, "Moved", 2, func(m map[string]any) (json.RawMessage, error) {
					m["Country"] = "UK"
					return json.Marshal(m)
				})
			},
			func(e *engine.Engine) error {
				return engine.Upcast(e, "Moved", 3, func(m *moved) (*moved, error) { m.City += "!"; return m, nil })
			},
		}, jsonPayload(1, `{"Address":"221B Baker St, London"}`), &moved{"221B Baker St", "London!", "UK"}},
		{"anything", steps{func(e *engine.Engine) error {
			return engine.Upcast(e, "Moved", 1, func(v any) (any, error) { return fmt.Sprint(v), nil })
		}}, jsonPayload(1, `[1, "a"]`), "[1 a]"},
		{"null for anything", steps{func(e *engine.Engine) error {
			return engine.Upcast(e, "Moved", 1, func(v any) (any, error) { return v == nil, nil })
		}}, jsonPayload(1, `null`), true},
		{"text that becomes a struct", steps{registered, func(e *engine.Engine) error {
			return engine.Upcast(e, "Moved", 1, func(city string) (moved, error) { return moved{City: city}, nil })
		}}, &engine.Payload{Encoding: "text", Schema: 1, Bytes: []byte("London")}, moved{City: "London"}},
		{"bytes that become a map", steps{registered, func(e *engine.Engine) error {
			return engine.Upcast(e, "Moved", 1, func(b []byte) (map[string]any, error) { return map[string]any{"City": string(b)}, nil })
		}}, &engine.Payload{Encoding: "bytes", Schema: 1, Bytes: []byte("London")}, moved{City: "London"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newEncoded()
			b.put(t, "a-1", "Moved", c.stored)
			before := string(c.stored.Bytes)
			e := over(t, b)
			for _, step := range c.register {
				if err := step(e); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				all, err := readAll(e, engine.Types("Moved"))
				if err != nil || len(all) != 1 || !reflect.DeepEqual(all[0].Data, c.want) {
					t.Fatalf("the event read is %+v, %v\nwant %#v", all, err, c.want)
				}
			}
			if all, err := readAll(e, engine.Encoded()); err != nil || all[0].Data != c.stored || string(c.stored.Bytes) != before {
				t.Errorf("what is stored is now %+v, %v", all, err)
			}
		})
	}
}

// TestUpcastByAnotherCodec converts between steps with the codec that the payload was
// stored by, whatever new ones are stored by.
func TestUpcastByAnotherCodec(t *testing.T) {
	stored, err := gobs{}.Marshal(movedV1{"221B Baker St, London"})
	if err != nil {
		t.Fatal(err)
	}
	b := newEncoded()
	b.put(t, "a-1", "Moved", &engine.Payload{Encoding: "gob", Schema: 1, Bytes: stored})
	e := over(t, b, func(o *engine.Options) { o.ReadCodecs = []engine.Codec{gobs{"gob"}} })
	type place struct {
		City string `json:"-"` // not for another codec
	}
	type town struct{ City string }
	if err := errors.Join(
		engine.Upcast(e, "Moved", 1, func(v movedV1) (place, error) { return place{"London"}, nil }),
		engine.Upcast(e, "Moved", 2, func(t town) (town, error) { return t, nil }),
		engine.Upcast(e, "Moved", 3, func(b json.RawMessage) (json.RawMessage, error) { return b, nil }), // which is JSON all the same
		engine.Register[moved](e, "Moved"),
	); err != nil {
		t.Fatal(err)
	}
	if all, err := readAll(e); err != nil || all[0].Data != (moved{City: "London"}) {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestUpcastInHandlers: typed handlers get what the last step makes, once for all of them,
// and parked events show it.
func TestUpcastInHandlers(t *testing.T) {
	b := newEncoded()
	b.put(t, "a-1", "moved", jsonPayload(1, `{"Address":"221B Baker St, London"}`))
	b.put(t, "a-1", "other", jsonPayload(1, `{}`))
	e := over(t, b)
	var calls atomic.Int64
	if err := errors.Join(
		engine.Upcast(e, "moved", 1, func(v movedV1) (movedV2, error) { calls.Add(1); return splitAddress(v) }),
		engine.Upcast(e, "moved", 2, addCountry),
	); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		heard := make(chan any, 2)
		h, err := engine.Handle(e, fmt.Sprint("mover ", i), func(_ context.Context, ev engine.Of[moved]) error {
			heard <- ev.Data
			heard <- ev.Event.Data
			return errors.New("to be parked")
		}, engine.FromStart(), engine.Retry(0, 0), engine.KeyedBy(2, func(ev engine.Event) string { return ev.Data.(moved).City }))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Wait(t.Context(), 2, h.Name()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := <-heard; got != baker {
				t.Errorf("the handler gets %+v, want %+v", got, baker)
			}
		}
		if parked := h.Parked(); len(parked) != 1 || parked[0].Event.Data != baker || parked[0].Key != "London" {
			t.Errorf("parked: %+v", parked)
		}
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("upcast %d times, want 1", n)
	}
}

// TestUpcastSchemaStored: new events have the current version.
func TestUpcastSchemaStored(t *testing.T) {
	e := over(t, newEncoded())
	appendOne := func(data any) {
		t.Helper()
		if _, err := e.Append(t.Context(), "a-1", engine.Any, event("Moved", data)); err != nil {
			t.Fatal(err)
		}
	}
	appendOne(movedV1{"221B Baker St, London"})
	if err := engine.Upcast(e, "Moved", 1, splitAddress); err != nil {
		t.Fatal(err)
	}
	appendOne(movedV2{"221B Baker St", "London"})
	if err := engine.Upcast(e, "Moved", 2, addCountry); err != nil {
		t.Fatal(err)
	}
	appendOne(baker)
	appendOne(json.RawMessage(`{"Street":"221B Baker St","City":"London","Country":"UK"}`))
	if err := engine.Register[moved](e, "Moved"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Append(t.Context(), "a-1", engine.Any, engine.New(baker)); err != nil {
		t.Fatal(err)
	}
	all, err := readAll(e, engine.Encoded())
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []uint16{1, 2, 3, 3, 3} {
		if got := all[i].Data.(*engine.Payload).Schema; got != want {
			t.Errorf("event %d is stored with schema %d, want %d", i+1, got, want)
		}
	}
	all, err = readAll(e)
	if err != nil || len(all) != 5 {
		t.Fatalf("%d events, %v", len(all), err)
	}
	for i := range all {
		if all[i].Data != baker {
			t.Errorf("event %d is read as %#v", i+1, all[i].Data)
		}
	}
}

func TestUpcastRefused(t *testing.T) {
	noop := func(m moved) (moved, error) { return m, nil }
	for _, c := range []struct {
		name string
		typ  string
		from []uint16 // the last is refused
		fn   func(moved) (moved, error)
		text string
	}{
		{"version 0", "Moved", []uint16{0}, noop, `engine: upcast "Moved": schema version is 0, want 1, the next one`},
		{"a gap at the beginning", "Moved", []uint16{2}, noop, `engine: upcast "Moved": schema version is 2, want 1, the next one`},
		{"a gap", "Moved", []uint16{1, 2, 4}, noop, `engine: upcast "Moved": schema version is 4, want 3, the next one`},
		{"a repeat", "Moved", []uint16{1, 2, 2}, noop, `engine: upcast "Moved": schema version is 2, want 3, the next one`},
		{"backward", "Moved", []uint16{1, 2, 1}, noop, `engine: upcast "Moved": schema version is 1, want 3, the next one`},
		{"no function", "Moved", []uint16{1}, nil, `engine: upcast "Moved": the function is nil, want one`},
		{"no type", "", []uint16{1}, noop, `engine: upcast: event type is "", want 1 to 1024 bytes`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := over(t, newEncoded())
			var err error
			for i, from := range c.from {
				if err = engine.Upcast(e, c.typ, from, c.fn); err != nil && i < len(c.from)-1 {
					t.Fatal(err)
				}
			}
			if !isInvalid(err) || err.Error() != c.text {
				t.Errorf("Upcast: %v\nwant %s", err, c.text)
			}
		})
	}
}

func TestUpcastErrors(t *testing.T) {
	const head = `engine: payload of "a-1", version 1, position 1, of event type "Moved": `
	v1 := jsonPayload(1, `{"Address":"221B Baker St, London"}`)
	for _, c := range []struct {
		name     string
		stored   *engine.Payload
		register func(e *engine.Engine) error
		text     string
	}{
		{"an error", jsonPayload(1, `{"Address":"nowhere"}`), func(e *engine.Engine) error { return engine.Upcast(e, "Moved", 1, splitAddress) },
			`upcast from schema version 1: no city in "nowhere"`},
		{"a stored one that does not fit", jsonPayload(1, `{"Address":1}`), func(e *engine.Engine) error { return engine.Upcast(e, "Moved", 1, splitAddress) },
			`schema version 1: json: cannot unmarshal number into Go struct field movedV1.Address of type string`},
		{"newer", jsonPayload(4, `{}`), func(e *engine.Engine) error {
			return errors.Join(engine.Upcast(e, "Moved", 1, splitAddress), engine.Upcast(e, "Moved", 2, addCountry))
		}, "its schema version is 4, and the newest that this program knows is 3"},
		{"none", jsonPayload(0, `{}`), func(e *engine.Engine) error { return engine.Upcast(e, "Moved", 1, splitAddress) }, "its schema version is 0, and the first is 1"},
		{"a step that does not fit the next", v1, func(e *engine.Engine) error {
			return errors.Join(engine.Upcast(e, "Moved", 1, splitAddress), engine.Upcast(e, "Moved", 2, func(v []int) (moved, error) { return moved{}, nil }))
		}, "schema version 2 as []int: json: cannot unmarshal object into Go value of type []int"},
		{"the last does not fit", v1, func(e *engine.Engine) error {
			return errors.Join(engine.Register[moved](e, "Moved"), engine.Upcast(e, "Moved", 1, func(movedV1) (map[string]any, error) { return map[string]any{"City": 1}, nil }))
		}, "schema version 2 as engine_test.moved: json: cannot unmarshal number into Go struct field moved.City of type string"},
		{"a chain that is not finished", v1, func(e *engine.Engine) error {
			return errors.Join(engine.Register[moved](e, "Moved"), engine.Upcast(e, "Moved", 1, splitAddress))
		}, "its last upcaster, from schema version 1, makes engine_test.movedV2 of it, not engine_test.moved"},
		{"nil", v1, func(e *engine.Engine) error {
			return engine.Upcast(e, "Moved", 1, func(movedV1) (*moved, error) { return nil, nil })
		}, "upcast from schema version 1: the function has returned nil"},
		{"a nil interface", v1, func(e *engine.Engine) error {
			return engine.Upcast(e, "Moved", 1, func(movedV1) (any, error) { return nil, nil })
		}, "upcast from schema version 1: the function has returned nil"},
		{"an unknown codec", &engine.Payload{Encoding: "gob", Schema: 1}, func(e *engine.Engine) error { return engine.Upcast(e, "Moved", 1, splitAddress) },
			`schema version 1: codec "gob" is unknown: it is not among Options.ReadCodecs`},
		{"text is no JSON", &engine.Payload{Encoding: "text", Schema: 1}, func(e *engine.Engine) error {
			return engine.Upcast(e, "Moved", 1, func(json.RawMessage) (moved, error) { return moved{}, nil })
		}, "schema version 1: it is stored as text, which is no json.RawMessage"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newEncoded()
			b.put(t, "a-1", "Moved", c.stored)
			e := over(t, b)
			if err := c.register(e); err != nil {
				t.Fatal(err)
			}
			_, err := readAll(e)
			if _, ok := errors.AsType[*engine.DecodeError](err); !ok || err.Error() != head+c.text {
				t.Errorf("ReadAll: %v\nwant %s", err, head+c.text)
			}
		})
	}
	t.Run("a panic", func(t *testing.T) {
		b := newEncoded()
		b.put(t, "a-1", "Moved", v1)
		e := over(t, b)
		if err := engine.Upcast(e, "Moved", 1, func(movedV1) (moved, error) { panic("no") }); err != nil {
			t.Fatal(err)
		}
		_, err := readAll(e)
		_, isPanic := errors.AsType[*actor.PanicError](err)
		if _, ok := errors.AsType[*engine.DecodeError](err); !ok || !isPanic {
			t.Errorf("ReadAll: %v", err)
		}
	})
}

// TestUpcastUnfinished: what is appended while a step is missing would be stored with a
// schema version that is not its own.
func TestUpcastUnfinished(t *testing.T) {
	e := over(t, newEncoded())
	if err := errors.Join(engine.Register[moved](e, "Moved"), engine.Upcast(e, "Moved", 1, splitAddress)); err != nil {
		t.Fatal(err)
	}
	_, err := e.Append(t.Context(), "a-1", engine.Any, engine.New(baker))
	want := `engine: append "a-1": payload of event 1, of event type "Moved" and Go type engine_test.moved: its last upcaster, from schema version 1, makes engine_test.movedV2 of it, not engine_test.moved`
	if _, ok := errors.AsType[*engine.EncodeError](err); !ok || err.Error() != want || e.Head() != 0 {
		t.Errorf("Append: %v\nwant %s", err, want)
	}
	if err := engine.Upcast(e, "Moved", 2, addCountry); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Append(t.Context(), "a-1", engine.Any, engine.New(baker)); err != nil {
		t.Error(err)
	}
}

// TestUpcastInMemory: Go values are this program's own.
func TestUpcastInMemory(t *testing.T) {
	e := over(t, engine.NewMemory())
	if err := engine.Upcast(e, "moved", 1, func(moved) (moved, error) { return moved{}, errors.New("called") }); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Append(t.Context(), "a-1", engine.Any, engine.New(baker)); err != nil {
		t.Fatal(err)
	}
	if all, err := readAll(e); err != nil || all[0].Data != baker {
		t.Errorf("%+v, %v", all, err)
	}
}
