package engine_test

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/weirstore/weir/engine"
)

// FuzzNames appends an event with any names: it is stored and comes back as it was, or
// nothing is stored and the error says what is wrong. Fuzz it with -fuzzminimizetime 1x: an
// engine has goroutines, so that no two runs cover the same code, and minimizing never ends.
func FuzzNames(f *testing.F) {
	for _, seed := range [][3]string{
		{"customer-1", "Created", "id-1"},
		{"", "A", ""},
		{"a-1", "", "id"},
		{"a-1\n", "A", ""},
		{"a\x7f", "\u0085", "\x00"},
		{"\xff", "\xc3\x28", "\xed\xa0\x80"},
		{"-", "日本語", "é"},
		{strings.Repeat("x", engine.MaxName), strings.Repeat("é", engine.MaxName/2), strings.Repeat("🦫", engine.MaxName/4)},
		{strings.Repeat("x", engine.MaxName+1), "A", strings.Repeat("x", engine.MaxName+1)},
		{"\ufeff", "\u2028", "\u202e"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	f.Fuzz(func(t *testing.T, stream, typ, id string) {
		e, err := engine.Open(engine.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		ctx := t.Context()
		res, err := e.Append(ctx, stream, engine.NoStream, engine.NewEvent{Type: typ, ID: id, Data: 1})
		if err != nil {
			bad, ok := errors.AsType[*engine.InvalidError](err)
			if !ok {
				t.Fatalf("append of %q, %q, %q: %v, which is no *InvalidError", stream, typ, id, err)
			}
			if text := bad.Error(); bad.What == "" || bad.Rule == "" || len(text) > 1000 || strings.ContainsAny(text, "\x00\n\r\x1b") {
				t.Errorf("the error is not fit to print: %q", text)
			}
			if e.Head() != 0 {
				t.Errorf("append of %q, %q, %q returns %v and has stored something", stream, typ, id, err)
			}
			for ev, err := range e.ReadAll(ctx) {
				t.Errorf("append returns an error, and %+v, %v is there", ev, err)
			}
			return
		}
		if res != (engine.Result{First: 1, Last: 1, Position: 1, Durability: engine.Volatile}) {
			t.Errorf("the first append of all returns %+v", res)
		}
		n := 0
		for _, seq := range []func(func(engine.Event, error) bool){
			e.Read(ctx, stream), e.ReadAll(ctx), e.ReadAll(ctx, engine.Types(typ)), e.ReadAll(ctx, engine.Categories(engine.Event{Stream: stream}.Category())),
		} {
			for ev, err := range seq {
				n++
				if err != nil || ev.Stream != stream || ev.Type != typ || ev.ID != id || ev.Data != 1 || ev.Version != 1 || ev.Position != 1 {
					t.Errorf("append of %q, %q, %q comes back as %+v, %v", stream, typ, id, ev, err)
				}
			}
		}
		if n != 4 {
			t.Errorf("four reads of the one event return %d", n)
		}
		again, err := e.Append(ctx, stream, engine.Any, engine.NewEvent{Type: typ, ID: id, Data: 1})
		if err != nil || again.Duplicate != (id != "") {
			t.Errorf("the same append again, with the ID %q, returns %+v, %v", id, again, err)
		}
		h, err := e.Handle(stream, nothing, engine.Types(typ))
		if err != nil || h.Name() != stream {
			t.Errorf("a good stream name is no good handler name: %v", err)
		}
	})
}
