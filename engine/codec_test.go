package engine_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/quick"
	"time"

	"github.com/weirstore/weir/actor"
	"github.com/weirstore/weir/engine"
)

type (
	coded struct {
		N    int
		Text string            `json:",omitempty"`
		When time.Time         `json:",omitzero"`
		More map[string]*coded `json:",omitempty"`
		List []float64         `json:",omitempty"`
	}
	byPointer struct{ N int }
	panics    struct{ N int }
	hidden    struct{ Text string }
)

func (panics) MarshalJSON() ([]byte, error)  { panic("no JSON of me") }
func (*panics) UnmarshalJSON([]byte) error   { panic("no JSON into me") }
func (hidden) MarshalText() ([]byte, error)  { return []byte("\xff"), nil }
func (*hidden) UnmarshalText(b []byte) error { return nil }

// gobs is a codec that is not JSON.
type gobs struct{ name string }

func (c gobs) Name() string { return c.name }

func (gobs) Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func (gobs) Unmarshal(data []byte, v any) error {
	return gob.NewDecoder(bytes.NewReader(data)).Decode(v)
}

func withGob(o *engine.Options) { o.Codec = gobs{"gob"} }

func TestCodecsRefused(t *testing.T) {
	rule := func(name, rule string) string {
		return fmt.Sprintf("engine: open: name of Options.Codec is %q, want %s", name, rule)
	}
	for _, c := range []struct {
		name string
		opts engine.Options
		text string
	}{
		{"no name", engine.Options{Codec: gobs{""}}, rule("", "1 to 32 bytes")},
		{"long name", engine.Options{Codec: gobs{strings.Repeat("x", 33)}}, rule(strings.Repeat("x", 33), "1 to 32 bytes")},
		{"control character", engine.Options{Codec: gobs{"a\n"}}, rule("a\n", "printable ASCII")},
		{"not ASCII", engine.Options{Codec: gobs{"é"}}, rule("é", "printable ASCII")},
		{"bytes", engine.Options{Codec: gobs{"bytes"}}, rule("bytes", "another: that is how payloads are kept as they are")},
		{"text", engine.Options{Codec: gobs{"text"}}, rule("text", "another: that is how payloads are kept as they are")},
		{"nil", engine.Options{ReadCodecs: []engine.Codec{nil}}, "engine: open: Options.ReadCodecs[0] is nil, want a codec"},
		{"twice", engine.Options{ReadCodecs: []engine.Codec{gobs{"a"}, gobs{"a"}}}, `engine: open: Options.ReadCodecs[1] is "a", want one codec of that name`},
		{"in both", engine.Options{Codec: gobs{"a"}, ReadCodecs: []engine.Codec{gobs{"a"}}}, `engine: open: Options.ReadCodecs[0] is "a", want one codec of that name`},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opts.Backend = newEncoded()
			e, err := engine.Open(c.opts)
			if err == nil {
				e.Close()
				t.Fatal("Open returns no error")
			}
			if _, ok := errors.AsType[*engine.InvalidError](err); !ok || err.Error() != c.text {
				t.Errorf("Open: %v\nwant %s", err, c.text)
			}
		})
	}
	e := over(t, newEncoded(), func(o *engine.Options) {
		o.Codec, o.ReadCodecs = gobs{"json"}, []engine.Codec{gobs{strings.Repeat("~", 32)}, gobs{" "}}
	})
	if _, err := e.Append(t.Context(), "a-1", engine.Any, engine.New(coded{N: 1})); err != nil {
		t.Errorf("append by a codec that has the place of JSON: %v", err)
	}
}

// TestPayloads: what is appended is read back: by a read of the program that appended it, by
// one of another program, which has registered the types or not, and by a handler.
func TestPayloads(t *testing.T) {
	everything := coded{N: -1, Text: "naïve 🦫 <&>\x00\u2028\ufffd", When: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		More: map[string]*coded{"a": {N: 2}, "": {List: []float64{0.1, math.MaxFloat64}}}}
	gobOf := func(v any) []byte {
		b, err := gobs{}.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name     string
		event    engine.NewEvent
		codec    func(*engine.Options)
		encoding string
		bytes    string // unless empty
		unknown  any    // what who has not registered the type gets
	}{
		{"bytes", event("A", []byte("a\x00\xff")), nil, "bytes", "a\x00\xff", []byte("a\x00\xff")},
		{"no bytes", event("A", []byte{}), nil, "bytes", "", []byte{}},
		{"text", event("A", "a\x00\xff"), nil, "text", "a\x00\xff", "a\x00\xff"},
		{"no text", event("A", ""), nil, "text", "", ""},
		{"raw JSON", event("A", json.RawMessage(" {\"b\" : 1,\n\"b\":2, \"a\":\"<\"} ")), nil, "json", " {\"b\" : 1,\n\"b\":2, \"a\":\"<\"} ", json.RawMessage(" {\"b\" : 1,\n\"b\":2, \"a\":\"<\"} ")},
		{"raw JSON of its own type", engine.New(json.RawMessage(" 1 ")), nil, "json", " 1 ", json.RawMessage(" 1 ")},
		{"raw JSON beside another codec", event("A", json.RawMessage("1")), withGob, "json", "1", json.RawMessage("1")},
		{"a struct", engine.New(coded{N: 7}), nil, "json", `{"N":7}`, json.RawMessage(`{"N":7}`)},
		{"a large struct", engine.New(everything), nil, "json", "", nil},
		{"a pointer", engine.New(&byPointer{7}), nil, "json", `{"N":7}`, json.RawMessage(`{"N":7}`)},
		{"gob", engine.New(coded{N: 7}), withGob, "gob", string(gobOf(coded{N: 7})), &engine.Payload{Encoding: "gob", Schema: 1, Bytes: gobOf(coded{N: 7})}},
		{"bytes beside gob", event("A", []byte("a")), withGob, "bytes", "a", []byte("a")},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newEncoded()
			b.outlive = true
			var change []func(*engine.Options)
			if c.codec != nil {
				change = append(change, c.codec)
			}
			e := over(t, b, change...)
			heard := make(chan any, 1)
			if _, err := e.Handle("all", func(_ context.Context, ev engine.Event) error {
				heard <- ev.Data
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if _, err := e.Append(t.Context(), "a-1", engine.NoStream, c.event); err != nil {
				t.Fatal(err)
			}
			check := func(who string, got, want any) {
				t.Helper()
				if want != nil && !reflect.DeepEqual(got, want) {
					t.Errorf("%s gets %#v, want %#v", who, got, want)
				}
			}
			check("a handler", <-heard, c.event.Data)
			b.fresh = true // nobody has decoded what another program reads
			other := over(t, b)
			for _, p := range []struct {
				who  string
				e    *engine.Engine
				want any
			}{{"a read", e, c.event.Data}, {"the next read", e, c.event.Data}, {"another program", other, c.unknown}} {
				all, err := readAll(p.e)
				if err != nil || len(all) != 1 {
					t.Fatalf("%s: %d events, %v", p.who, len(all), err)
				}
				check(p.who, all[0].Data, p.want)
				for ev, err := range p.e.Read(t.Context(), "a-1", engine.Backward()) {
					if err != nil {
						t.Fatal(err)
					}
					check(p.who+" of the stream", ev.Data, p.want)
				}
			}
			all, err := readAll(other, engine.Encoded())
			if err != nil {
				t.Fatal(err)
			}
			stored, ok := all[0].Data.(*engine.Payload)
			if !ok || stored.Encoding != c.encoding || stored.Schema != 1 {
				t.Fatalf("it is stored as %#v, want encoding %q and schema 1", all[0].Data, c.encoding)
			}
			if c.bytes != "" && string(stored.Bytes) != c.bytes {
				t.Errorf("it is stored as %q, want %q", stored.Bytes, c.bytes)
			}
		})
	}
}

// TestRegisterAfterRead: a value that was decoded for who knew less is not kept for who
// knows more.
func TestRegisterAfterRead(t *testing.T) {
	b := newEncoded()
	b.put(t, "a-1", "Coded", jsonPayload(1, `{"N":3}`))
	e := over(t, b)
	first := func() any {
		t.Helper()
		all, err := readAll(e)
		if err != nil {
			t.Fatal(err)
		}
		return all[0].Data
	}
	if got := first(); !reflect.DeepEqual(got, json.RawMessage(`{"N":3}`)) {
		t.Errorf("before the registration it is %#v", got)
	}
	if err := engine.Register[*coded](e, "Coded"); err != nil {
		t.Fatal(err)
	}
	one, two := first(), first()
	if c, ok := one.(*coded); !ok || c.N != 3 {
		t.Errorf("after it %#v", one)
	}
	if one != two {
		t.Error("it was decoded twice")
	}
	if err := engine.Upcast(e, "Coded", 1, func(c *coded) (*coded, error) { c.N++; return c, nil }); err != nil {
		t.Fatal(err)
	}
	if c, ok := first().(*coded); !ok || c.N != 4 {
		t.Errorf("with an upcaster it is %#v", c)
	}
}

// TestDecodedForEach: handlers that want other types share nothing.
func TestDecodedForEach(t *testing.T) {
	b := newEncoded()
	b.put(t, "a-1", "Coded", jsonPayload(1, `{"N":3}`))
	b.put(t, "a-1", "Sealed", &engine.Payload{Encoding: "sealed", Schema: 1})
	e := over(t, b)
	heard := make(chan string, 1)
	for name, handle := range map[string]func() (*engine.Handler, error){
		"engine_test.coded": func() (*engine.Handler, error) {
			return engine.Handle(e, "a", func(_ context.Context, ev engine.Of[coded]) error { heard <- fmt.Sprintf("%T", ev.Data); return nil }, engine.Types("Coded"), engine.FromStart())
		},
		"*engine_test.coded": func() (*engine.Handler, error) {
			return engine.Handle(e, "b", func(_ context.Context, ev engine.Of[*coded]) error { heard <- fmt.Sprintf("%T", ev.Data); return nil }, engine.Types("Coded"), engine.FromStart())
		},
		"*engine.Payload": func() (*engine.Handler, error) {
			return engine.Handle(e, "c", func(_ context.Context, ev engine.Of[*engine.Payload]) error {
				heard <- fmt.Sprintf("%T", ev.Data)
				return nil
			}, engine.Types("Sealed"), engine.FromStart())
		},
	} {
		h, err := handle()
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Wait(t.Context(), 2, h.Name()); err != nil {
			t.Fatal(err)
		}
		if parked := h.Parked(); len(parked) > 0 {
			t.Fatalf("%s: %v", name, parked[0].Err)
		}
		if got := <-heard; got != name {
			t.Errorf("a handler of %s gets %s", name, got)
		}
	}
}

// counting is JSON that counts what it decodes.
type counting struct{ decoded atomic.Int64 }

func (c *counting) Name() string                  { return "json" }
func (c *counting) Marshal(v any) ([]byte, error) { return json.Marshal(v) }
func (c *counting) Unmarshal(b []byte, v any) error {
	c.decoded.Add(1)
	return json.Unmarshal(b, v)
}

// TestDecodedOnce: handlers that are called with one and the same payload share its value.
func TestDecodedOnce(t *testing.T) {
	codec := new(counting)
	e := over(t, newEncoded(), func(o *engine.Options) { o.Codec = codec })
	const handlers, events = 5, 50
	var mu sync.Mutex
	var calls int
	for i := range handlers {
		key := func(ev engine.Event) string { return fmt.Sprint(ev.Data.(coded).N) }
		h, err := engine.Handle(e, fmt.Sprint("handler ", i), func(_ context.Context, ev engine.Of[coded]) error {
			mu.Lock()
			defer mu.Unlock()
			calls++
			return nil
		}, engine.KeyedBy(2, key))
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 { // one after the other, or they may decode at once
			if err := h.Pause(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range events {
		if _, err := e.Append(t.Context(), "a-1", engine.Any, engine.New(coded{N: i})); err != nil {
			t.Fatal(err)
		}
	}
	for i := range handlers {
		name := fmt.Sprint("handler ", i)
		h, _ := e.Handler(name)
		if i > 0 {
			if err := h.Resume(); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Wait(t.Context(), e.Head(), name); err != nil {
			t.Fatal(err)
		}
	}
	if n := codec.decoded.Load(); calls != handlers*events || n != events {
		t.Errorf("%d calls, %d payloads decoded; want %d and %d", calls, n, handlers*events, events)
	}
}

// TestCallersMemory: with a backend that stores bytes the caller may use its memory for
// something else once Append has returned.
func TestCallersMemory(t *testing.T) {
	e := over(t, newEncoded())
	raw, text, value := json.RawMessage(`{"N":1}`), []byte("one"), &coded{N: 1}
	if _, err := e.Append(t.Context(), "a-1", engine.NoStream, event("A", raw), event("B", text), engine.New(value)); err != nil {
		t.Fatal(err)
	}
	copy(raw, `{"X":2}`)
	copy(text, "two")
	value.N = 2
	all, err := readAll(e)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []any{json.RawMessage(`{"N":1}`), []byte("one"), &coded{N: 1}} {
		if !reflect.DeepEqual(all[i].Data, want) {
			t.Errorf("event %d is %s, want %s", i+1, all[i].Data, want)
		}
	}
}

func TestEncodeRefused(t *testing.T) {
	bad := func(n int, typ, goes, text string) string {
		return fmt.Sprintf(`engine: append "a-1": payload of event %d, of event type %q and Go type %s: %s`, n, typ, goes, text)
	}
	type deep struct {
		In  map[string][]any
		Out string `json:"-"`
	}
	for _, c := range []struct {
		name   string
		events []engine.NewEvent
		text   string
	}{
		{"a channel", []engine.NewEvent{one, event("B", make(chan int))}, bad(2, "B", "chan int", "json: unsupported type: chan int")},
		{"a function", []engine.NewEvent{event("B", func() {})}, bad(1, "B", "func()", "json: unsupported type: func()")},
		{"not a number", []engine.NewEvent{event("B", math.NaN())}, bad(1, "B", "float64", "json: unsupported value: NaN")},
		{"invalid raw JSON", []engine.NewEvent{event("B", json.RawMessage(`{"a":`))}, bad(1, "B", "json.RawMessage", "unexpected end of JSON input")},
		{"empty raw JSON", []engine.NewEvent{event("B", json.RawMessage(nil))}, bad(1, "B", "json.RawMessage", "unexpected end of JSON input")},
		{"two values of raw JSON", []engine.NewEvent{event("B", json.RawMessage(`1 2`))}, bad(1, "B", "json.RawMessage", "invalid character '2' after top-level value")},
		{"not UTF-8", []engine.NewEvent{one, one, engine.New(coded{Text: "a\xff"})}, bad(3, "coded", "engine_test.coded", "json: a string is not UTF-8")},
		{"not UTF-8 deep inside", []engine.NewEvent{event("B", deep{In: map[string][]any{"a": {1, "b", &[]string{"c", "\xc3"}}}})}, bad(1, "B", "engine_test.deep", "json: a string is not UTF-8")},
		{"a key that is not UTF-8", []engine.NewEvent{event("B", map[string]int{"\xff": 1})}, bad(1, "B", "map[string]int", "json: a string is not UTF-8")},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := over(t, newEncoded())
			_, err := e.Append(t.Context(), "a-1", engine.Any, c.events...)
			if _, ok := errors.AsType[*engine.EncodeError](err); !ok || err.Error() != c.text {
				t.Errorf("Append: %v\nwant %s", err, c.text)
			}
			if all, err := readAll(e); e.Head() != 0 || len(all) != 0 || err != nil {
				t.Errorf("%d events are there, %v", len(all), err)
			}
		})
	}
	t.Run("a panic", func(t *testing.T) {
		e := over(t, newEncoded())
		_, err := e.Append(t.Context(), "a-1", engine.Any, one, engine.New(panics{}))
		_, isPanic := errors.AsType[*actor.PanicError](err)
		if bad, ok := errors.AsType[*engine.EncodeError](err); !ok || !isPanic || bad.Event != 2 || bad.Go != reflect.TypeFor[panics]() {
			t.Errorf("Append: %v", err)
		}
		if _, err := e.Append(t.Context(), "a-1", engine.NoStream, one); err != nil {
			t.Errorf("the next append: %v", err)
		}
	})
	t.Run("accepted", func(t *testing.T) {
		e := over(t, newEncoded())
		for i, data := range []any{
			coded{Text: "\ufffd"}, coded{Text: `\ufffd`}, map[string]json.RawMessage{"a": json.RawMessage(`"\ufffd"`)},
			deep{Out: "\xff", In: map[string][]any{`\ufffd`: nil}}, hidden{}, nilInside{},
		} {
			if _, err := e.Append(t.Context(), "a-1", engine.Any, event(fmt.Sprint("T", i), data)); err != nil {
				t.Errorf("%#v: %v", data, err)
			}
		}
	})
}

type nilInside struct {
	A any
	B *coded
	C string
}

// TestPayloadRefused: who appends a Payload would read something else.
func TestPayloadRefused(t *testing.T) {
	type named = engine.Payload
	for name, b := range map[string]engine.Backend{"memory": engine.NewMemory(), "encoded": newEncoded()} {
		e := over(t, b)
		for _, ev := range []engine.NewEvent{
			engine.New(&engine.Payload{}), event("A", &engine.Payload{}), event("A", &named{}), event("A", reflect.ValueOf(&engine.Payload{}).Elem().Interface()),
		} {
			if _, err := e.Append(t.Context(), "a-1", engine.Any, ev); !isInvalid(err) {
				t.Errorf("%s: append of a %T: %v, want an *InvalidError", name, ev.Data, err)
			}
		}
		if err := engine.Register[*engine.Payload](e, "P"); !isInvalid(err) {
			t.Errorf("%s: Register: %v, want an *InvalidError", name, err)
		}
		if e.Head() != 0 {
			t.Errorf("%s: something was stored", name)
		}
	}
	_, err := over(t, newEncoded()).Append(t.Context(), "a-1", engine.Any, one, event("A", &engine.Payload{}))
	if want := `engine: append "a-1": payload of event 2 is *engine.Payload, want what the bytes stand for: a Payload is made by the engine`; err == nil || err.Error() != want {
		t.Errorf("Append: %v, want %s", err, want)
	}
}

func isInvalid(err error) bool {
	_, ok := errors.AsType[*engine.InvalidError](err)
	return ok
}

// TestMaxBytesOfEncoded: what counts is what is stored.
func TestMaxBytesOfEncoded(t *testing.T) {
	limit := func(o *engine.Options) { o.MaxBytes = 100 }
	large := coded{Text: strings.Repeat("x", 50)}
	for _, c := range []struct {
		name   string
		events []engine.NewEvent
		text   string // of the error, or none
	}{
		{"fits", []engine.NewEvent{engine.New(large)}, ""},
		{"the second is too much", []engine.NewEvent{engine.New(large), engine.New(large)}, `engine: append "a-1": size in bytes up to event 2 is 134, want at most 100`},
		{"bytes are counted once", []engine.NewEvent{event("A", make([]byte, 99))}, ""},
		{"text is counted once", []engine.NewEvent{event("A", strings.Repeat("x", 99))}, ""},
		{"raw JSON is counted once", []engine.NewEvent{event("A", json.RawMessage(`"`+strings.Repeat("x", 97)+`"`))}, ""},
		{"too many bytes", []engine.NewEvent{event("A", make([]byte, 100))}, `engine: append "a-1": size in bytes up to event 1 is 101, want at most 100`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := over(t, newEncoded(), limit)
			_, err := e.Append(t.Context(), "a-1", engine.Any, c.events...)
			if c.text == "" && err != nil || c.text != "" && (!isInvalid(err) || err.Error() != c.text) {
				t.Errorf("Append: %v, want %s", err, c.text)
			}
		})
	}
	e := over(t, engine.NewMemory(), limit)
	if _, err := e.Append(t.Context(), "a-1", engine.Any, engine.New(large), engine.New(large)); err != nil {
		t.Errorf("in memory, where the size is not known: %v", err)
	}
}

func TestDecodeErrors(t *testing.T) {
	const head = `engine: payload of "a-1", version 1, position 1, of event type "Coded": `
	registered := func(e *engine.Engine) error { return engine.Register[coded](e, "Coded") }
	for _, c := range []struct {
		name     string
		stored   any
		register func(*engine.Engine) error
		text     string
	}{
		{"no JSON", jsonPayload(1, `{"N":`), registered, "unexpected end of JSON input"},
		{"other JSON", jsonPayload(1, `{"N":"seven"}`), registered, "json: cannot unmarshal string into Go struct field coded.N of type int"},
		{"text", &engine.Payload{Encoding: "text", Schema: 1}, registered, "it is stored as text, which is no engine_test.coded"},
		{"bytes", &engine.Payload{Encoding: "bytes", Schema: 1}, registered, "it is stored as bytes, which is no engine_test.coded"},
		{"unknown codec", &engine.Payload{Encoding: "cbor", Schema: 1}, registered, `codec "cbor" is unknown: it is not among Options.ReadCodecs`},
		{"no encoding", &engine.Payload{Schema: 1}, registered, `codec "" is unknown: it is not among Options.ReadCodecs`},
		{"newer schema", jsonPayload(3, `{}`), registered, "its schema version is 3, and the newest that this program knows is 1"},
		{"no schema", jsonPayload(0, `{}`), registered, "its schema version is 0, and the first is 1"},
		{"codec is not JSON", &engine.Payload{Encoding: "cbor", Schema: 1}, func(e *engine.Engine) error { return engine.Register[json.RawMessage](e, "Coded") }, `it is stored by codec "cbor", not as JSON`},
		{"no payload", "a string", nil, "the backend has returned string instead of a *Payload"},
		{"nil", nil, nil, "the backend has returned <nil> instead of a *Payload"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newEncoded()
			b.put(t, "a-1", "Coded", c.stored)
			b.put(t, "a-1", "Other", jsonPayload(1, `1`))
			e := over(t, b)
			if c.register != nil {
				if err := c.register(e); err != nil {
					t.Fatal(err)
				}
			}
			want := head + c.text
			n := 0
			for _, seq := range []func(func(engine.Event, error) bool){e.Read(t.Context(), "a-1"), e.ReadAll(t.Context()), e.ReadAll(t.Context(), engine.Follow())} {
				for ev, err := range seq {
					n++
					bad, ok := errors.AsType[*engine.DecodeError](err)
					if !ok || err.Error() != want || bad.Stream != "a-1" || bad.Version != 1 || bad.Position != 1 || bad.Type != "Coded" {
						t.Errorf("the read returns %+v, %v\nwant %s", ev, err, want)
					}
				}
			}
			if n != 3 {
				t.Errorf("three reads return %d times: an error ends a read", n)
			}
			if all, err := readAll(e, engine.Types("Other")); err != nil || len(all) != 1 {
				t.Errorf("a read of others: %d events, %v", len(all), err)
			}
			if all, err := readAll(e, engine.Encoded()); err != nil || len(all) != 2 || all[0].Data != c.stored {
				t.Errorf("a read without decoding: %+v, %v", all, err)
			}
		})
	}
	t.Run("a panic", func(t *testing.T) {
		b := newEncoded()
		b.put(t, "a-1", "Coded", jsonPayload(1, `{}`))
		e := over(t, b)
		if err := engine.Register[panics](e, "Coded"); err != nil {
			t.Fatal(err)
		}
		_, err := readAll(e)
		_, isPanic := errors.AsType[*actor.PanicError](err)
		if _, ok := errors.AsType[*engine.DecodeError](err); !ok || !isPanic {
			t.Errorf("ReadAll: %v", err)
		}
	})
}

// TestDecodeErrorInHandler: it goes through the failure policy, and what is parked can be
// redriven once the reason is gone.
func TestDecodeErrorInHandler(t *testing.T) {
	b := newEncoded()
	b.put(t, "a-1", "Coded", jsonPayload(2, `{"N":1}`))
	b.put(t, "a-1", "Coded", jsonPayload(1, `{"N":2}`))
	e := over(t, b)
	var got []int
	h, err := engine.Handle(e, "coded", func(_ context.Context, ev engine.Of[coded]) error {
		got = append(got, ev.Data.N)
		return nil
	}, engine.Types("Coded"), engine.FromStart(), engine.Retry(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Wait(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if parked := h.Parked(); len(parked) != 1 || parked[0].Event.Version != 1 {
		t.Fatalf("parked: %+v", parked)
	} else if _, ok := errors.AsType[*engine.DecodeError](parked[0].Err); !ok {
		t.Errorf("parked with %v, want a *DecodeError", parked[0].Err)
	}
	if err := engine.Upcast(e, "Coded", 1, func(c coded) (coded, error) { return c, nil }); err != nil {
		t.Fatal(err)
	}
	if parked := h.Parked(); parked[0].Event.Data != (any)(nil) && fmt.Sprintf("%T", parked[0].Event.Data) != "engine_test.coded" {
		t.Errorf("what is parked is a %T", parked[0].Event.Data)
	}
	if n, err := h.Redrive(t.Context()); n != 1 || err != nil {
		t.Errorf("Redrive returns %d, %v", n, err)
	}
	if !reflect.DeepEqual(got, []int{2, 1}) {
		t.Errorf("handled %v", got)
	}
}

// TestKeyOfUndecodable: without a key there is no order to keep, so the handler stops; one
// that goes by streams needs no payload for that.
func TestKeyOfUndecodable(t *testing.T) {
	b := newEncoded()
	b.put(t, "a-1", "coded", jsonPayload(1, `[]`))
	e := over(t, b)
	handle := func(context.Context, engine.Of[coded]) error { return nil }
	byKey, err := engine.Handle(e, "by key", handle, engine.FromStart(), engine.Retry(0, 0), engine.KeyedBy(2, func(ev engine.Event) string { return fmt.Sprint(ev.Data) }))
	if err != nil {
		t.Fatal(err)
	}
	byStream, err := engine.Handle(e, "by stream", handle, engine.FromStart(), engine.Retry(0, 0), engine.Keyed(2))
	if err != nil {
		t.Fatal(err)
	}
	stopped, ok := errors.AsType[*engine.StoppedError](e.Wait(t.Context(), 1, byKey.Name()))
	if !ok || !strings.Contains(stopped.Error(), "cannot unmarshal array") {
		t.Errorf("the handler with a key: %v", stopped)
	}
	if err := e.Wait(t.Context(), 1, byStream.Name()); err != nil || len(byStream.Parked()) != 1 {
		t.Errorf("the handler by streams: %v, %d parked", err, len(byStream.Parked()))
	}
}

// TestTypedHandlerOfNamedTypes: names that stand for no Go type are decoded into what the
// handler is typed with, as in memory they are that.
func TestTypedHandlerOfNamedTypes(t *testing.T) {
	for name, b := range map[string]engine.Backend{"memory": engine.NewMemory(), "encoded": newEncoded()} {
		t.Run(name, func(t *testing.T) {
			e := over(t, b)
			var got []string
			hear := func(typ, text string) { got = append(got, typ+" "+text) }
			for _, handle := range []func() (*engine.Handler, error){
				func() (*engine.Handler, error) {
					return engine.Handle(e, "coded", func(_ context.Context, ev engine.Of[coded]) error {
						hear(ev.Type, fmt.Sprint(ev.Data.N, ev.Event.Data.(coded).N))
						return nil
					}, engine.Types("Opened", "Closed"), engine.KeyedBy(1, func(ev engine.Event) string { return fmt.Sprint(ev.Data.(coded).N) }))
				},
				func() (*engine.Handler, error) {
					return engine.Handle(e, "pointer", func(_ context.Context, ev engine.Of[*byPointer]) error {
						hear(ev.Type, fmt.Sprint(ev.Data.N))
						return nil
					}, engine.Types("Pointed"))
				},
				func() (*engine.Handler, error) {
					return engine.Handle(e, "text", func(_ context.Context, ev engine.Of[string]) error {
						hear(ev.Type, ev.Data)
						return nil
					}, engine.Types("Noted"))
				},
				func() (*engine.Handler, error) {
					return engine.Handle(e, "raw", func(_ context.Context, ev engine.Of[json.RawMessage]) error {
						hear(ev.Type, string(ev.Data))
						return nil
					}, engine.Types("Raw"))
				},
				func() (*engine.Handler, error) {
					return engine.Handle(e, "any", func(_ context.Context, ev engine.Of[any]) error {
						hear("any", fmt.Sprint(ev.Data))
						return nil
					}, engine.Types("Noted"))
				},
			} {
				h, err := handle()
				if err != nil {
					t.Fatal(err)
				}
				for _, ev := range []engine.NewEvent{event("Opened", coded{N: 1}), event("Closed", coded{N: 2}), event("Noted", "a note"), event("Raw", json.RawMessage(`{}`)), event("Pointed", &byPointer{3})} {
					if _, err := e.Append(t.Context(), "a-1", engine.Any, ev); err != nil {
						t.Fatal(err)
					}
				}
				if err := e.Wait(t.Context(), e.Head()); err != nil {
					t.Fatal(err)
				}
				if parked := h.Parked(); len(parked) > 0 {
					t.Fatalf("parked: %v", parked[0].Err)
				}
				if err := h.Remove(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			want := []string{"Opened 1 1", "Closed 2 2", "Pointed 3", "Noted a note", "Raw {}", "any a note"}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("heard %q\nwant %q", got, want)
			}
		})
	}
}

// TestTypedHandlerOfAnother: text for a handler of a struct, or a struct for one of text, is
// another payload and no decoding error.
func TestTypedHandlerOfAnother(t *testing.T) {
	for name, b := range map[string]engine.Backend{"memory": engine.NewMemory(), "encoded": newEncoded()} {
		e := over(t, b)
		h, err := engine.Handle(e, "coded", func(context.Context, engine.Of[coded]) error { return nil }, engine.Types("Noted"), engine.Retry(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Append(t.Context(), "a-1", engine.Any, event("Noted", "text")); err != nil {
			t.Fatal(err)
		}
		if err := e.Wait(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		parked := h.Parked()
		if len(parked) != 1 {
			t.Fatalf("%s: %d parked", name, len(parked))
		}
		if _, ok := errors.AsType[*engine.PayloadError](parked[0].Err); !ok || parked[0].Event.Data != "text" {
			t.Errorf("%s: parked %v with %v, want a *PayloadError", name, parked[0].Event.Data, parked[0].Err)
		}
		h, err = engine.Handle(e, "text", func(context.Context, engine.Of[string]) error { return nil }, engine.Types("Opened"), engine.Retry(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Append(t.Context(), "a-1", engine.Any, event("Opened", coded{})); err != nil {
			t.Fatal(err)
		}
		if err := e.Wait(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		if parked = h.Parked(); len(parked) != 1 {
			t.Fatalf("%s: %d parked", name, len(parked))
		}
		if _, ok := errors.AsType[*engine.PayloadError](parked[0].Err); !ok {
			t.Errorf("%s: parked with %v, want a *PayloadError", name, parked[0].Err)
		}
	}
}

func TestEncodedOfValues(t *testing.T) {
	e := over(t, engine.NewMemory())
	_, err := readAll(e, engine.Encoded())
	if want := `engine: read all: Encoded with backend is "memory", want one that stores bytes`; !isInvalid(err) || err.Error() != want {
		t.Errorf("ReadAll: %v, want %s", err, want)
	}
	if _, err := e.On("A", func(context.Context, engine.Event) error { return nil }, nil); err == nil {
		t.Error("a nil option")
	}
}

// TestCorrelationOfEncoded: a handler's appends are correlated whatever their payloads.
func TestCorrelationOfEncoded(t *testing.T) {
	e := over(t, newEncoded())
	if _, err := e.On("coded", func(ctx context.Context, ev engine.Event) error {
		_, err := e.Append(ctx, "b-1", engine.Any, event("B", "text"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Append(t.Context(), "a-1", engine.Any, engine.New(coded{})); err != nil {
		t.Fatal(err)
	}
	if err := e.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	all, err := readAll(e)
	if err != nil || len(all) != 2 || all[1].Meta.CausationID != "a-1@1" {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestRoundTrip: whatever Append accepts is read back equal, or as equal as the codec says.
func TestRoundTrip(t *testing.T) {
	type leaf struct {
		Bool  bool
		Int   int64
		Uint  uint64
		Float float32
		Text  string
		Bytes []byte
		Array [3]int8
	}
	type tree struct {
		Leaf  leaf
		Map   map[string]leaf
		By    map[int]string
		Next  *tree
		Leafs []leaf
	}
	b := newEncoded()
	e := over(t, b)
	rnd := rand.New(rand.NewPCG(1, 2))
	if err := engine.Register[tree](e, "Tree"); err != nil {
		t.Fatal(err)
	}
	refused := 0
	roundTrip := func(v tree, text string, data []byte) bool {
		if rnd.IntN(2) == 0 {
			v.Leaf.Text += string(rune(rnd.IntN(0x11ffff))) + "\xff"[:rnd.IntN(2)]
		}
		_, err := e.Append(t.Context(), "a-1", engine.Any, event("Tree", v), event("Text", text), event("Bytes", data))
		if err != nil {
			refused++
			return strings.Contains(err.Error(), "not UTF-8")
		}
		var got []any
		for ev, err := range e.ReadAll(t.Context(), engine.From(e.Head()-2)) {
			if err != nil {
				t.Error(err)
			}
			got = append(got, ev.Data)
		}
		if data == nil {
			data = []byte{}
		}
		// The codec's own idea of equality: what it makes nil of is nil.
		want, _ := json.Marshal(v)
		again, _ := json.Marshal(got[0])
		return bytes.Equal(want, again) && reflect.TypeOf(got[0]) == reflect.TypeFor[tree]() && got[1] == text && bytes.Equal(got[2].([]byte), data)
	}
	if err := quick.Check(roundTrip, &quick.Config{MaxCount: 200}); err != nil {
		t.Error(err)
	}
	if refused == 0 || e.Head() == 0 {
		t.Errorf("%d refused, %d stored: the property was not tried", refused, e.Head())
	}
}

// FuzzDecode reads any payload as what is known of it: whatever it holds, there is a value or
// a DecodeError, and no panic.
func FuzzDecode(f *testing.F) {
	for _, seed := range []struct {
		encoding string
		schema   uint16
		data     string
	}{
		{"json", 1, `{"N":1,"Text":"a","More":{"b":{"N":2}}}`}, {"json", 2, `{"N":1}`}, {"json", 0, `{}`}, {"json", 65535, `null`}, {"json", 1, `null`},
		{"text", 1, "\xff"}, {"bytes", 3, ""}, {"", 1, ""}, {"gob", 2, "\x01\x02"}, {"panics", 1, "x"}, {"json", 1, `{"N":1e400}`}, {"json", 1, strings.Repeat("[", 100)},
	} {
		f.Add(seed.encoding, seed.schema, []byte(seed.data))
	}
	f.Fuzz(func(t *testing.T, encoding string, schema uint16, data []byte) {
		b := newEncoded()
		types := []string{"Unknown", "Value", "Pointer", "Panics", "Raw", "Text", "Bytes", "Upcast", "Any", "Map"}
		for _, typ := range types {
			b.put(t, "a-1", typ, &engine.Payload{Encoding: encoding, Schema: schema, Bytes: data})
		}
		e := over(t, b, func(o *engine.Options) { o.ReadCodecs = []engine.Codec{gobs{"gob"}, panicking{}} })
		fail := errors.Join(
			engine.Register[coded](e, "Value"), engine.Register[*byPointer](e, "Pointer"), engine.Register[panics](e, "Panics"),
			engine.Register[json.RawMessage](e, "Raw"), engine.Register[string](e, "Text"), engine.Register[[]byte](e, "Bytes"),
			engine.Upcast(e, "Upcast", 1, func(m map[string]any) (coded, error) { return coded{N: len(m)}, nil }),
			engine.Upcast(e, "Upcast", 2, func(c map[string]int) (*coded, error) { return &coded{N: c["N"]}, nil }),
			engine.Upcast(e, "Any", 1, func(v any) (any, error) { return v, nil }),
			engine.Upcast(e, "Map", 1, func(v json.RawMessage) (map[string]any, error) { return map[string]any{"N": len(v)}, nil }),
			engine.Register[hidden](e, "Map"),
		)
		if fail != nil {
			t.Fatal(fail)
		}
		for _, typ := range types {
			for range 2 { // the second may find it decoded
				for ev, err := range e.ReadAll(t.Context(), engine.Types(typ)) {
					if _, ok := errors.AsType[*engine.DecodeError](err); err != nil && !ok {
						t.Errorf("%s: %v", typ, err)
					}
					if err == nil && ev.Data == nil && typ != "Any" {
						t.Errorf("%s: no payload", typ)
					}
					if err != nil && typ == "Unknown" {
						t.Errorf("a type that is not registered: %v", err)
					}
				}
			}
		}
		h, err := e.Handle("all", func(context.Context, engine.Event) error { return nil }, engine.FromStart(), engine.Retry(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Wait(t.Context(), e.Head(), "all"); err != nil {
			t.Fatal(err)
		}
		h.Parked()
		runtime.KeepAlive(h)
	})
}

// panicking is a codec that panics.
type panicking struct{}

func (panicking) Name() string                { return "panics" }
func (panicking) Marshal(any) ([]byte, error) { panic("Marshal") }
func (panicking) Unmarshal([]byte, any) error { panic("Unmarshal") }
