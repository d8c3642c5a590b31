package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
)

// The texts in this file are those that users see. A change of one of them is a change
// that somebody has to want.

type (
	validated struct{ N int }
	elsewhere struct{ N int }
	tooLong   struct{ N int }
	noName    struct{ N int }
	shape     interface{ Area() int }
)

func (tooLong) EventType() string { return long }
func (noName) EventType() string  { return "" }

var long = strings.Repeat("x", engine.MaxName+1)

// bad is a call that is refused, and how.
type bad struct {
	name string
	call func(e *engine.Engine) error
	text string
	as   func(error) error // returns nil if the error is of the right type
}

// invalid wants an InvalidError about a thing and its value.
func invalid(what string, value any) func(error) error {
	return func(err error) error {
		e, ok := errors.AsType[*engine.InvalidError](err)
		if !ok {
			return fmt.Errorf("want an *InvalidError, got %T", err)
		}
		if e.What != what || fmt.Sprint(e.Value) != fmt.Sprint(value) {
			return fmt.Errorf("want an *InvalidError of %s, %v; got %s, %v", what, value, e.What, e.Value)
		}
		return nil
	}
}

func is(target error) func(error) error {
	return func(err error) error {
		if !errors.Is(err, target) {
			return fmt.Errorf("want errors.Is(err, %q)", target)
		}
		return nil
	}
}

func typeConflict(err error) error {
	if _, ok := errors.AsType[*engine.TypeConflictError](err); !ok {
		return fmt.Errorf("want a *TypeConflictError, got %T", err)
	}
	return nil
}

// anEngine returns an engine with low limits and one event, which t closes.
func anEngine(t testing.TB) *engine.Engine {
	t.Helper()
	e, err := engine.Open(engine.Options{MaxEvents: 3, MaxBytes: 2000, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	if _, err := e.Append(t.Context(), "seed-1", engine.NoStream, engine.NewEvent{Type: "Seeded", ID: "seed", Data: 1}); err != nil {
		t.Fatal(err)
	}
	return e
}

// refuses runs the calls, each with an engine of its own, and checks what they return
// and that nothing has come of them.
func refuses(t *testing.T, calls []bad) {
	for _, c := range calls {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := anEngine(t)
			err := c.call(e)
			if err == nil {
				t.Fatalf("no error, want %s", c.text)
			}
			if err.Error() != c.text {
				t.Errorf("the error says\n\t%s\nwant\n\t%s", err, c.text)
			}
			if problem := c.as(err); problem != nil {
				t.Error(problem)
			}
			checkUntouched(t, e)
			if err := e.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

// checkUntouched checks that an engine holds what anEngine has stored, and nobody else.
func checkUntouched(t testing.TB, e *engine.Engine) {
	t.Helper()
	if head := e.Head(); head != 1 {
		t.Errorf("Head is %d, want 1: something was stored", head)
	}
	n := 0
	for ev, err := range e.ReadAll(t.Context()) {
		if n++; err != nil || ev.Stream != "seed-1" {
			t.Errorf("ReadAll returns an event of %q, %v", ev.Stream, err)
		}
	}
	if n != 1 {
		t.Errorf("ReadAll returns %d events, want 1", n)
	}
	for range e.Read(t.Context(), "a-1") {
		t.Error("stream a-1 is not empty")
	}
	if s := e.Stats(); s.Appended != 1 || len(s.Handlers) != 0 || s.InFlight != 0 {
		t.Errorf("%d events appended, %d handlers, %d calls in flight; want 1, 0, 0", s.Appended, len(s.Handlers), s.InFlight)
	}
}

func appending(stream string, expected engine.Expected, events ...engine.NewEvent) func(*engine.Engine) error {
	return func(e *engine.Engine) error {
		_, err := e.Append(context.Background(), stream, expected, events...)
		return err
	}
}

func event(typ string, data any) engine.NewEvent { return engine.NewEvent{Type: typ, Data: data} }

// one is a good event.
var one = event("A", 1)

func TestAppendRefuses(t *testing.T) {
	cut := strings.Repeat("x", 64)
	refuses(t, []bad{
		// names
		{
			"empty stream name", appending("", engine.Any, one),
			`engine: append: stream name is "", want 1 to 1024 bytes`,
			invalid("stream name", ""),
		},
		{
			"long stream name", appending(long, engine.Any, one),
			`engine: append: stream name is "` + cut + `"… (1025 bytes), want at most 1024 bytes`,
			invalid("stream name", long),
		},
		{
			"stream name that is not UTF-8", appending("a-\xff", engine.Any, one),
			`engine: append: stream name is "a-\xff", want valid UTF-8`,
			invalid("stream name", "a-\xff"),
		},
		{
			"stream name with a line feed", appending("a-1\n", engine.Any, one),
			`engine: append: stream name is "a-1\n", want no control characters`,
			invalid("stream name", "a-1\n"),
		},
		{
			"stream name with a zero byte", appending("a\x00", engine.Any, one),
			`engine: append: stream name is "a\x00", want no control characters`,
			invalid("stream name", "a\x00"),
		},
		{
			"stream name with DEL", appending("a\x7f", engine.Any, one),
			`engine: append: stream name is "a\x7f", want no control characters`,
			invalid("stream name", "a\x7f"),
		},
		{
			"stream name with a C1 control character", appending("é\u0085", engine.Any, one),
			`engine: append: stream name is "é\u0085", want no control characters`,
			invalid("stream name", "é\u0085"),
		},
		{
			"long event type", appending("a-1", engine.Any, event(long, 1)),
			`engine: append "a-1": type of event 1 is "` + cut + `"… (1025 bytes), want at most 1024 bytes`,
			invalid("type of event 1", long),
		},
		{
			"event type that is not UTF-8", appending("a-1", engine.Any, one, event("\xc3", 1)),
			`engine: append "a-1": type of event 2 is "\xc3", want valid UTF-8`,
			invalid("type of event 2", "\xc3"),
		},
		{
			"event type with a tab", appending("a-1", engine.Any, event("A\tB", 1)),
			`engine: append "a-1": type of event 1 is "A\tB", want no control characters`,
			invalid("type of event 1", "A\tB"),
		},
		{
			"long event ID", appending("a-1", engine.Any, one, one.WithID(long)),
			`engine: append "a-1": ID of event 2 is "` + cut + `"… (1025 bytes), want at most 1024 bytes`,
			invalid("ID of event 2", long),
		},
		{
			"event ID that is not UTF-8", appending("a-1", engine.Any, one.WithID("\x80")),
			`engine: append "a-1": ID of event 1 is "\x80", want valid UTF-8`,
			invalid("ID of event 1", "\x80"),
		},
		{
			"event ID with an escape character", appending("a-1", engine.Any, one.WithID("\x1b[31m")),
			`engine: append "a-1": ID of event 1 is "\x1b[31m", want no control characters`,
			invalid("ID of event 1", "\x1b[31m"),
		},
		{
			"an ID twice", appending("a-1", engine.Any, one.WithID("x"), one.WithID("y"), one.WithID("x")),
			`engine: append "a-1": event ID is "x", want different IDs within one append`,
			invalid("event ID", "x"),
		},

		// types
		{
			"Go type without a name", appending("a-1", engine.Any, engine.New(struct{ N int }{1})),
			`engine: event type of Go type struct { N int }: its name is "struct { N int }", want a named type of a package, or NewEvent.Type, or Register`,
			invalid("its name", "struct { N int }"),
		},
		{
			"Go type of no package", appending("a-1", engine.Any, engine.New(map[string]int{})),
			`engine: event type of Go type map[string]int: its name is "map[string]int", want a named type of a package, or NewEvent.Type, or Register`,
			invalid("its name", "map[string]int"),
		},
		{
			"built-in Go type", appending("a-1", engine.Any, engine.New("text")),
			`engine: event type of Go type string: its name is "string", want a named type of a package, or NewEvent.Type, or Register`,
			invalid("its name", "string"),
		},
		{
			"EventType that is too long", appending("a-1", engine.Any, engine.New(tooLong{})),
			`engine: event type of Go type engine_test.tooLong: its name is "` + cut + `"… (1025 bytes), want at most 1024 bytes`,
			invalid("its name", long),
		},
		{
			"EventType that is empty", appending("a-1", engine.Any, engine.New(noName{})),
			`engine: event type of Go type engine_test.noName: its name is "engine_test.noName", want a named type of a package, or NewEvent.Type, or Register`,
			invalid("its name", "engine_test.noName"),
		},
		{
			"Go type that is another event type", func(e *engine.Engine) error {
				if err := engine.Register[validated](e, "Validated"); err != nil {
					return err
				}
				return appending("a-1", engine.Any, event("Validated", elsewhere{1}))(e)
			},
			`engine: event type "Validated" cannot be Go type engine_test.elsewhere: it is engine_test.validated`,
			typeConflict,
		},

		// events
		{
			"no events", appending("a-1", engine.Any),
			`engine: append "a-1": number of events is 0, want 1 to 3`,
			invalid("number of events", 0),
		},
		{
			"too many events", appending("a-1", engine.Any, one, one, one, one),
			`engine: append "a-1": number of events is 4, want at most 3`,
			invalid("number of events", 4),
		},
		{
			"too many bytes in one", appending("a-1", engine.Any, event("A", make([]byte, 2000))),
			`engine: append "a-1": size in bytes up to event 1 is 2001, want at most 2000`,
			invalid("size in bytes up to event 1", 2001),
		},
		{
			"too many bytes together", appending("a-1", engine.Any, event("A", strings.Repeat("x", 999)), event("A", make([]byte, 999)).WithExtra("k", "v"), one),
			`engine: append "a-1": size in bytes up to event 2 is 2002, want at most 2000`,
			invalid("size in bytes up to event 2", 2002),
		},
		{
			"nil payload", appending("a-1", engine.Any, one, event("A", nil)),
			`engine: append "a-1": payload of event 2 is nil, want a value`,
			invalid("payload of event 2", nil),
		},
		{
			"nil payload without a type", appending("a-1", engine.Any, engine.New(nil)),
			`engine: append "a-1": payload of event 1 is nil, want a value`,
			invalid("payload of event 1", nil),
		},

		// expected versions
		{
			"zero expected version", appending("a-1", engine.Expected{}, one),
			`engine: append "a-1": expected version is the zero value, want Any, NoStream, StreamExists or Exactly(n)`,
			invalid("expected version", engine.Expected{}),
		},
		{
			"a version that cannot be", appending("seed-1", engine.Exactly(math.MaxUint64), one),
			`engine: append "seed-1": version conflict: expected 18446744073709551615, stream is at 1`,
			func(err error) error {
				e, ok := errors.AsType[*engine.VersionConflictError](err)
				if !ok || e.Stream != "seed-1" || e.Actual != 1 {
					return fmt.Errorf("want a *VersionConflictError of seed-1 at 1, got %#v", err)
				}
				return nil
			},
		},
		{
			"one that is stored and one that is not", appending("seed-1", engine.Any, one.WithID("new"), one.WithID("seed")),
			`engine: append "seed-1": the stream has event IDs ["seed"] already, but not every event of this append`,
			func(err error) error {
				e, ok := errors.AsType[*engine.PartialDuplicateError](err)
				if !ok || e.Stream != "seed-1" || len(e.Stored) != 1 {
					return fmt.Errorf("want a *PartialDuplicateError of seed-1, got %#v", err)
				}
				return nil
			},
		},

		// contexts
		{
			"context that has ended", func(e *engine.Engine) error {
				_, err := e.Append(gone(), "a-1", engine.Any, one)
				return err
			},
			`engine: append "a-1": the caller has gone away`, is(errGone),
		},
	})
}

var errGone = errors.New("the caller has gone away")

// gone returns a context that has ended.
func gone() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errGone)
	return ctx
}

// first returns the error of a read, which must come instead of any event.
func first(seq func(func(engine.Event, error) bool)) (err error) {
	n := 0
	for ev, e := range seq {
		n++
		err = e
		if e != nil && ev.Position != 0 {
			err = fmt.Errorf("an event and an error: %w", e)
		}
	}
	if err != nil && n > 1 {
		err = fmt.Errorf("%d events before: %w", n-1, err)
	}
	return err
}

func reading(stream string, opts ...engine.ReadOption) func(*engine.Engine) error {
	return func(e *engine.Engine) error { return first(e.Read(context.Background(), stream, opts...)) }
}

func readingAll(opts ...engine.ReadOption) func(*engine.Engine) error {
	return func(e *engine.Engine) error { return first(e.ReadAll(context.Background(), opts...)) }
}

func TestReadRefuses(t *testing.T) {
	cut := strings.Repeat("x", 64)
	refuses(t, []bad{
		// names
		{"empty stream name", reading(""), `engine: read: stream name is "", want 1 to 1024 bytes`, invalid("stream name", "")},
		{"long stream name", reading(long), `engine: read: stream name is "` + cut + `"… (1025 bytes), want at most 1024 bytes`, invalid("stream name", long)},
		{"stream name that is not UTF-8", reading("\xff"), `engine: read: stream name is "\xff", want valid UTF-8`, invalid("stream name", "\xff")},
		{"stream name with a line feed", reading("\n"), `engine: read: stream name is "\n", want no control characters`, invalid("stream name", "\n")},
		{"long stream name and a bad option", reading(long, engine.Limit(0)), `engine: read "` + cut + `"… (1025 bytes): Limit is 0, want more than 0`, invalid("Limit", 0)},
		{"empty type", readingAll(engine.Types("A", "")), `engine: read all: event type is "", want 1 to 1024 bytes`, invalid("event type", "")},
		{"type with a line feed", reading("seed-1", engine.Types("\n")), `engine: read "seed-1": event type is "\n", want no control characters`, invalid("event type", "\n")},

		// limits
		{"Limit(0)", reading("seed-1", engine.Limit(0)), `engine: read "seed-1": Limit is 0, want more than 0`, invalid("Limit", 0)},
		{"Limit(-1)", readingAll(engine.Limit(-1)), `engine: read all: Limit is -1, want more than 0`, invalid("Limit", -1)},
		{"no types", readingAll(engine.Types()), `engine: read all: number of Types is 0, want at least 1`, invalid("number of Types", 0)},
		{"no categories", readingAll(engine.Categories()), `engine: read all: number of Categories is 0, want at least 1`, invalid("number of Categories", 0)},
		{"After the last position", readingAll(engine.After(math.MaxUint64)), `engine: read all: After is 18446744073709551615, want less: nothing comes after it`, invalid("After", uint64(math.MaxUint64))},
		{"AfterVersion the last version", reading("seed-1", engine.AfterVersion(math.MaxUint64)), `engine: read "seed-1": AfterVersion is 18446744073709551615, want less: nothing comes after it`, invalid("AfterVersion", uint64(math.MaxUint64))},

		// options that do not fit, or not together
		{"nil option", reading("seed-1", nil), `engine: read "seed-1": an option is nil, want a ReadOption`, invalid("an option", nil)},
		{"From in a stream", reading("seed-1", engine.From(5)), `engine: read "seed-1": From is 5, want FromVersion for a stream`, invalid("From", 5)},
		{"After in a stream", reading("seed-1", engine.After(5)), `engine: read "seed-1": After is 5, want AfterVersion for a stream`, invalid("After", 5)},
		{"FromVersion in all", readingAll(engine.FromVersion(3)), `engine: read all: FromVersion is 3, want From for the whole store`, invalid("FromVersion", 3)},
		{"AfterVersion in all", readingAll(engine.AfterVersion(3)), `engine: read all: AfterVersion is 3, want After for the whole store`, invalid("AfterVersion", 3)},
		{"Categories in a stream", reading("seed-1", engine.Categories("seed")), `engine: read "seed-1": Categories is ["seed"], want none for a stream: it has one category`, invalid("Categories", []string{"seed"})},
		{"two beginnings", readingAll(engine.From(2), engine.After(7)), `engine: read all: After is 7, want no second beginning beside From(2)`, invalid("After", 7)},
		{"two beginnings in a stream", reading("seed-1", engine.FromVersion(0), engine.FromVersion(0)), `engine: read "seed-1": FromVersion is 0, want no second beginning beside FromVersion(0)`, invalid("FromVersion", 0)},
		{"Backward and Follow", readingAll(engine.Follow(), engine.Backward()), `engine: read all: order of a read with Follow is "Backward", want forward`, invalid("order of a read with Follow", "Backward")},
		{"Backward and After", readingAll(engine.Backward(), engine.After(1)), `engine: read all: beginning of a read Backward is "After(1)", want From or FromVersion`, invalid("beginning of a read Backward", "After(1)")},

		// contexts
		{"Read with a context that has ended", func(e *engine.Engine) error { return first(e.Read(gone(), "seed-1")) }, `engine: read "seed-1": the caller has gone away`, is(errGone)},
		{"ReadAll with a context that has ended", func(e *engine.Engine) error { return first(e.ReadAll(gone())) }, `engine: read all: the caller has gone away`, is(errGone)},
	})
}

func nothing(context.Context, engine.Event) error { return nil }

func handling(name string, opts ...engine.HandlerOption) func(*engine.Engine) error {
	return func(e *engine.Engine) error {
		_, err := e.Handle(name, nothing, opts...)
		return err
	}
}

func TestHandleRefuses(t *testing.T) {
	cut := strings.Repeat("x", 64)
	on := func(typ string, fn func(context.Context, engine.Event) error) func(*engine.Engine) error {
		return func(e *engine.Engine) error {
			_, err := e.On(typ, fn)
			return err
		}
	}
	refuses(t, []bad{
		// names
		{"empty name", handling(""), `engine: handle: handler name is "", want 1 to 1024 bytes`, invalid("handler name", "")},
		{"long name", handling(long), `engine: handle: handler name is "` + cut + `"… (1025 bytes), want at most 1024 bytes`, invalid("handler name", long)},
		{"name that is not UTF-8", handling("\xff"), `engine: handle: handler name is "\xff", want valid UTF-8`, invalid("handler name", "\xff")},
		{"name with a line feed", handling("\n"), `engine: handle: handler name is "\n", want no control characters`, invalid("handler name", "\n")},
		{"empty type", handling("h", engine.Types("")), `engine: handle "h": event type is "", want 1 to 1024 bytes`, invalid("event type", "")},
		{"On an empty type", on("", nothing), `engine: on: event type is "", want 1 to 1024 bytes`, invalid("event type", "")},
		{"On a long type", on(long, nothing), `engine: on: event type is "` + cut + `"… (1025 bytes), want at most 1024 bytes`, invalid("event type", long)},
		{"On a type with a control character", on("\a", nothing), `engine: on: event type is "\a", want no control characters`, invalid("event type", "\a")},

		// functions
		{"nil function", func(e *engine.Engine) error {
			_, err := e.Handle("h", nil)
			return err
		}, `engine: handle "h": the function is nil, want one`, invalid("the function", nil)},
		{"nil function of On", on("A", nil), `engine: on "A": the function is nil, want one`, invalid("the function", nil)},
		{"nil function of a Go type", func(e *engine.Engine) error {
			_, err := engine.Handle[validated](e, "h", nil)
			return err
		}, `engine: handle "h": the function is nil, want one`, invalid("the function", nil)},
		{"KeyedBy(1, nil)", handling("h", engine.KeyedBy(1, nil)), `engine: handle "h": key function of KeyedBy is nil, want one`, invalid("key function of KeyedBy", nil)},
		{"OnLagged(nil)", handling("h", engine.OnLagged(nil)), `engine: handle "h": function of OnLagged is nil, want one`, invalid("function of OnLagged", nil)},

		// limits
		{"Mailbox(0)", handling("h", engine.Mailbox(0)), `engine: handle "h": Mailbox is 0, want more than 0`, invalid("Mailbox", 0)},
		{"Mailbox(-1)", handling("h", engine.Mailbox(-1)), `engine: handle "h": Mailbox is -1, want more than 0`, invalid("Mailbox", -1)},
		{"Keyed(0)", handling("h", engine.Keyed(0)), `engine: handle "h": Keyed is 0, want more than 0`, invalid("Keyed", 0)},
		{"Keyed(-8)", handling("h", engine.Keyed(-8)), `engine: handle "h": Keyed is -8, want more than 0`, invalid("Keyed", -8)},
		{"Retry(-1, 1s)", handling("h", engine.Retry(-1, time.Second)), `engine: handle "h": Retry is -1, want 0 or more`, invalid("Retry", -1)},
		{"Retry(1, 0)", handling("h", engine.Retry(1, 0)), `engine: handle "h": backoff of Retry is 0s, want more than 0`, invalid("backoff of Retry", "0s")},
		{"Retry(0, -1s)", handling("h", engine.Retry(0, -time.Second)), `engine: handle "h": backoff of Retry is -1s, want more than 0`, invalid("backoff of Retry", "-1s")},
		{"MaxParked(0)", handling("h", engine.MaxParked(0)), `engine: handle "h": MaxParked is 0, want more than 0`, invalid("MaxParked", 0)},
		{"MaxParked(-1)", handling("h", engine.MaxParked(-1)), `engine: handle "h": MaxParked is -1, want more than 0`, invalid("MaxParked", -1)},
		{"no types", handling("h", engine.Types()), `engine: handle "h": number of Types is 0, want at least 1`, invalid("number of Types", 0)},
		{"Overflow of no policy", handling("h", engine.Overflow(9)), `engine: handle "h": Overflow is dispatch.Overflow(9), want Block, CatchUp, Latest or Fail`, invalid("Overflow", engine.OverflowPolicy(9))},
		{"OnFailure of no policy", handling("h", engine.OnFailure(9)), `engine: handle "h": OnFailure is dispatch.AfterRetries(9), want Park, Skip or Stop`, invalid("OnFailure", engine.FailurePolicy(9))},
		{"StartAfter beyond the head", handling("h", engine.StartAfter(2)), `engine: handle "h": StartAfter is 2, want at most 1, the position of the newest event`, invalid("StartAfter", 2)},

		// options that do not fit together
		{"nil option", handling("h", nil), `engine: handle "h": an option is nil, want a HandlerOption`, invalid("an option", nil)},
		{"two beginnings", handling("h", engine.FromStart(), engine.StartAfter(1)), `engine: handle "h": StartAfter is 1, want no second beginning beside FromStart`, invalid("StartAfter", 1)},
		{
			"all at once", handling("", nil, engine.Mailbox(0), engine.Keyed(-1), engine.Retry(-2, 0)),
			`engine: handle: handler name is "", want 1 to 1024 bytes` + "\n" +
				`engine: handle "": an option is nil, want a HandlerOption` + "\n" +
				`engine: handle "": Mailbox is 0, want more than 0` + "\n" +
				`engine: handle "": Keyed is -1, want more than 0` + "\n" +
				`engine: handle "": Retry is -2, want 0 or more`,
			invalid("handler name", ""),
		},

		// Go types
		{"Go type without a name", func(e *engine.Engine) error {
			_, err := engine.Handle(e, "h", func(context.Context, engine.Of[[]int]) error { return nil })
			return err
		}, `engine: event type of Go type []int: its name is "[]int", want a named type of a package, or NewEvent.Type, or Register`, invalid("its name", "[]int")},
		{"interface", func(e *engine.Engine) error {
			_, err := engine.Handle(e, "h", func(context.Context, engine.Of[shape]) error { return nil })
			return err
		}, `engine: event type of Go type engine_test.shape: its kind is interface, want a concrete type, or the event types that Types names`, invalid("its kind", "interface")},
		{"Go type under the name of another", func(e *engine.Engine) error {
			if err := engine.Register[elsewhere](e, "validated"); err != nil {
				return err
			}
			_, err := engine.Handle(e, "h", func(context.Context, engine.Of[validated]) error { return nil })
			return err
		}, `engine: event type "validated" cannot be Go type engine_test.validated: it is engine_test.elsewhere`, typeConflict},
	})
}

func TestHandleRefusesASecondOfTheSameName(t *testing.T) {
	e := anEngine(t)
	h, err := e.Handle("mails", nothing)
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Handle("mails", nothing, engine.FromStart())
	if want := `engine: handle "mails": dispatch: handler name is taken`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if !errors.Is(err, engine.ErrExists) {
		t.Error("want errors.Is(err, ErrExists)")
	}
	if again, ok := e.Handler("mails"); !ok || again.Name() != "mails" || len(e.Stats().Handlers) != 1 {
		t.Error("the first handler is not what it was")
	}
	// The name is free again once its handler was removed.
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Handle("mails", nothing); err != nil {
		t.Error(err)
	}
}

func TestRegisterRefuses(t *testing.T) {
	register := func(names ...string) func(*engine.Engine) error {
		return func(e *engine.Engine) (err error) {
			for _, name := range names {
				err = engine.Register[validated](e, name)
			}
			return err
		}
	}
	refuses(t, []bad{
		{"empty name", register(""), `engine: register: event type is "", want 1 to 1024 bytes`, invalid("event type", "")},
		{"name that is not UTF-8", register("\xff"), `engine: register: event type is "\xff", want valid UTF-8`, invalid("event type", "\xff")},
		{"name with a control character", register("a\rb"), `engine: register: event type is "a\rb", want no control characters`, invalid("event type", "a\rb")},
		{"two names for one Go type", register("One", "Two"), `engine: Go type engine_test.validated cannot be event type "Two": it is "One"`, typeConflict},
		{"two Go types for one name", func(e *engine.Engine) error {
			return errors.Join(engine.Register[validated](e, "One"), engine.Register[elsewhere](e, "One"))
		}, `engine: event type "One" cannot be Go type engine_test.elsewhere: it is engine_test.validated`, typeConflict},
		{"a value and its pointer", func(e *engine.Engine) error {
			return errors.Join(engine.Register[validated](e, "One"), engine.Register[*validated](e, "One"))
		}, `engine: event type "One" cannot be Go type *engine_test.validated: it is engine_test.validated`, typeConflict},
		{"interface", func(e *engine.Engine) error { return engine.Register[shape](e, "Shape") }, `engine: event type of Go type engine_test.shape: its kind is interface, want a concrete type, or the event types that Types names`, invalid("its kind", "interface")},
	})
	// The same once more is no conflict.
	if err := register("One", "One")(anEngine(t)); err != nil {
		t.Error(err)
	}
}

func TestHandlerRefusesAnotherPayload(t *testing.T) {
	e := anEngine(t)
	called := false
	h, err := engine.Handle(e, "typed", func(context.Context, engine.Of[validated]) error {
		called = true
		return nil
	}, engine.Types("Seeded"), engine.FromStart(), engine.Retry(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	parked := h.Parked()
	if called || len(parked) != 1 {
		t.Fatalf("called: %v, parked: %v; want one event parked", called, parked)
	}
	bad, ok := errors.AsType[*engine.PayloadError](parked[0].Err)
	if want := `engine: payload of event type "Seeded" is int, the handler wants engine_test.validated`; !ok || bad.Error() != want {
		t.Errorf("got %v, want %s", parked[0].Err, want)
	}
}

func TestOpenRefuses(t *testing.T) {
	e, err := engine.Open(engine.Options{
		MaxEvents: -1, MaxBytes: -2, MaxIdleStreams: -3, StreamMailbox: -4, MaxSubmitted: -5,
		IdleAfter: -time.Second, SlowCall: -2 * time.Second, StallAfter: -3 * time.Second, CloseTimeout: -4 * time.Second,
	})
	if err == nil || e != nil {
		t.Fatalf("Open returns %v, %v", e, err)
	}
	want := strings.Join([]string{
		`engine: open: Options.MaxEvents is -1, want 0 for the default, or more`,
		`engine: open: Options.MaxBytes is -2, want 0 for the default, or more`,
		`engine: open: Options.MaxIdleStreams is -3, want 0 for the default, or more`,
		`engine: open: Options.MaxSubmitted is -5, want 0 for the default, or more`,
		`engine: open: Options.StreamMailbox is -4, want 0 for the default, or more`,
		`engine: open: Options.IdleAfter is -1s, want 0 for the default, or more`,
		`engine: open: Options.SlowCall is -2s, want 0 for the default, or more`,
		`engine: open: Options.StallAfter is -3s, want 0 for the default, or more`,
		`engine: open: Options.CloseTimeout is -4s, want 0 for the default, or more`,
	}, "\n")
	if err.Error() != want {
		t.Errorf("the error says\n%s\nwant\n%s", err, want)
	}
	if problem := invalid("Options.MaxEvents", -1)(err); problem != nil {
		t.Error(problem)
	}
}

// TestAccepted has the neighbours of what is refused.
func TestAccepted(t *testing.T) {
	full := strings.Repeat("x", engine.MaxName)
	e := anEngine(t)
	ctx := t.Context()
	for i, c := range []struct {
		stream   string
		expected engine.Expected
		events   []engine.NewEvent
	}{
		{full, engine.Any, []engine.NewEvent{one}},
		{"é", engine.NoStream, []engine.NewEvent{one, one, one}},
		{"a-1", engine.Exactly(0), []engine.NewEvent{{Type: full, Data: 1}}},
		{"a-1", engine.StreamExists, []engine.NewEvent{one.WithID(full[:900])}},
		{"a-1", engine.Exactly(2), []engine.NewEvent{event("A", make([]byte, 1999))}},
		{" ", engine.Any, []engine.NewEvent{engine.New(validated{1})}},
		{"a-1", engine.Any, []engine.NewEvent{engine.New(&elsewhere{1})}},
		{"a-1", engine.Any, []engine.NewEvent{event("A", "")}},
	} {
		if _, err := e.Append(ctx, c.stream, c.expected, c.events...); err != nil {
			t.Errorf("append %d: %v", i, err)
		}
	}
	for _, opts := range [][]engine.HandlerOption{
		{engine.StartAfter(e.Head())}, {engine.FromStart()}, {engine.Mailbox(1)}, {engine.Keyed(1)}, {engine.Retry(0, 0)}, {engine.Retry(0, time.Second)}, {engine.MaxParked(1)},
	} {
		h, err := e.Handle(full, nothing, opts...)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Remove(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, opts := range [][]engine.ReadOption{
		{engine.Limit(1)}, {engine.From(0)}, {engine.After(0)}, {engine.From(math.MaxUint64)}, {engine.After(math.MaxUint64 - 1)},
		{engine.Backward(), engine.From(math.MaxUint64)}, {engine.Backward(), engine.From(0)}, {engine.Types("nobody's")}, {engine.Categories("")},
	} {
		if err := first(e.ReadAll(ctx, opts...)); err != nil {
			t.Error(err)
		}
	}
}

// TestCancelledWait is about a context that ends, before and during a wait for a handler
// that does not get there.
func TestCancelledWait(t *testing.T) {
	e := anEngine(t)
	release := make(chan struct{})
	_, err := e.Handle("slow", func(context.Context, engine.Event) error {
		<-release
		return nil
	}, engine.FromStart())
	if err != nil {
		t.Fatal(err)
	}
	for _, handlers := range [][]string{nil, {"slow"}} {
		err := e.Wait(gone(), 1, handlers...)
		if want := `engine: wait for position 1, handler "slow": the caller has gone away`; !errors.Is(err, errGone) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	err = e.Wait(t.Context(), 1, "nobody")
	if want := `engine: wait for handler "nobody": dispatch: handler removed`; !errors.Is(err, engine.ErrRemoved) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	close(release)
	if err := e.Wait(t.Context(), 1); err != nil {
		t.Error(err)
	}
}

// TestClosed calls every method of a closed engine, and of a handler that it had, twice.
func TestClosed(t *testing.T) {
	e := anEngine(t)
	ctx := t.Context()
	h, err := e.Handle("mails", nothing, engine.FromStart())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	calls := []struct {
		name string
		call func() error
		text string
	}{
		{"Append", func() error { return appending("a-1", engine.Any, one)(e) }, `engine: append "a-1": engine: closed`},
		{"Append of a new type", func() error { return appending("a-1", engine.Any, event("New", 1))(e) }, `engine: append "a-1": engine: closed`},
		{"Read", func() error { return reading("seed-1")(e) }, `engine: read "seed-1": engine: closed`},
		{"Read of a stream that is not there", func() error { return reading("b-1")(e) }, `engine: read "b-1": engine: closed`},
		{"Read of a new type", func() error { return reading("seed-1", engine.Types("New"))(e) }, `engine: event type "New": engine: closed`},
		{"Read and follow", func() error { return reading("seed-1", engine.Follow())(e) }, `engine: read "seed-1": engine: closed`},
		{"ReadAll", func() error { return readingAll()(e) }, `engine: read all: engine: closed`},
		{"ReadAll and follow", func() error { return readingAll(engine.Follow())(e) }, `engine: read all: engine: closed`},
		{"ReadAll backward", func() error { return readingAll(engine.Backward())(e) }, `engine: read all: engine: closed`},
		{"Handle", func() error { return handling("h")(e) }, `engine: handle "h": engine: closed`},
		{"Handle a Go type", func() error {
			_, err := engine.Handle(e, "h", func(context.Context, engine.Of[validated]) error { return nil })
			return err
		}, `engine: handle "h": engine: closed`},
		{"On", func() error { _, err := e.On("New", nothing); return err }, `engine: on "New": engine: closed`},
		{"Register", func() error { return engine.Register[validated](e, "Validated") }, `engine: event type "Validated": engine: closed`},
		{"Wait", func() error { return e.Wait(ctx, 1) }, `engine: wait for position 1: engine: closed`},
		{"Wait for a handler", func() error { return e.Wait(ctx, 1, "mails") }, `engine: wait for handler "mails": engine: closed`},
		{"Handler.Pause", func() error { return h.Pause(ctx) }, `engine: pause "mails": engine: closed`},
		{"Handler.Resume", h.Resume, `engine: resume "mails": engine: closed`},
		{"Handler.Redrive", func() error { _, err := h.Redrive(ctx); return err }, `engine: redrive "mails": engine: closed`},
	}
	for range 2 {
		for _, c := range calls {
			err := c.call()
			if !errors.Is(err, engine.ErrClosed) || err.Error() != c.text {
				t.Errorf("%s returns %v, want %s", c.name, err, c.text)
			}
		}
		// These have an answer.
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if report, err := e.Shutdown(gone()); err != nil || report.Head != 1 {
			t.Errorf("Shutdown: %+v, %v", report, err)
		}
		if err := h.Remove(ctx); err != nil {
			t.Errorf("Handler.Remove: %v", err)
		}
		if again, ok := e.Handler("mails"); ok {
			t.Errorf("Handler returns %v", again)
		}
		if s := e.Stats(); s.Head != 1 || s.InFlight != 0 || s.Goroutines != 0 || len(s.Handlers) != 0 {
			t.Errorf("Stats: %+v", s)
		}
		if e.Head() != 1 || h.Name() != "mails" || h.Position() != 1 || len(h.Parked()) != 0 || discards(h) || h.Stats().Lag != 0 {
			t.Errorf("Head %d; handler %q at %d, %d parked, %+v", e.Head(), h.Name(), h.Position(), len(h.Parked()), h.Stats())
		}
	}
}

// TestWaitAfterAShutdownThatGaveUp: the handler has not seen the event, so nobody may be
// told that it has.
func TestWaitAfterAShutdownThatGaveUp(t *testing.T) {
	e := anEngine(t)
	_, err := e.Handle("slow", func(ctx context.Context, _ engine.Event) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}, engine.FromStart())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Shutdown(gone()); !errors.Is(err, errGone) {
		t.Fatalf("Shutdown with a context that has ended: %v", err)
	}
	if err := e.Wait(t.Context(), 1); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("Wait for an event that no handler has handled returns %v, want ErrClosed", err)
	}
}

// TestHandleDuringShutdown: handlers still run, and no new ones come.
func TestHandleDuringShutdown(t *testing.T) {
	e := anEngine(t)
	inside, release := make(chan struct{}), make(chan struct{})
	_, err := e.Handle("slow", func(context.Context, engine.Event) error {
		close(inside)
		<-release
		return nil
	}, engine.FromStart())
	if err != nil {
		t.Fatal(err)
	}
	<-inside
	done := make(chan error)
	go func() { done <- e.Close() }()
	for { // until the shutdown has begun
		if _, err := e.Append(t.Context(), "seed-1", engine.NoStream, one); errors.Is(err, engine.ErrClosed) {
			break
		}
	}
	for _, c := range []struct {
		call func(*engine.Engine) error
		text string
	}{
		{handling("h"), `engine: handle "h": engine: closed`},
		{handling("slow"), `engine: handle "slow": engine: closed`},
		{func(e *engine.Engine) error { _, err := e.On("A", nothing); return err }, `engine: on "A": engine: closed`},
	} {
		if err := c.call(e); !errors.Is(err, engine.ErrClosed) || err.Error() != c.text {
			t.Errorf("got %v, want %s", err, c.text)
		}
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestRegisterBetweenAppends: what is registered holds for the next append, whatever the engine remembers of
// the one before.
func TestRegisterBetweenAppends(t *testing.T) {
	e := anEngine(t)
	named := engine.NewEvent{Type: "Named", Data: rvA{1}}
	for range 3 {
		if _, err := e.Append(t.Context(), "s-1", engine.Any, named); err != nil {
			t.Fatal(err)
		}
	}
	if err := engine.Register[rvB](e, "Named"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Append(t.Context(), "s-1", engine.Any, named); typeConflict(err) != nil {
		t.Error(typeConflict(err))
	}
	if _, err := e.Append(t.Context(), "s-1", engine.Any, engine.NewEvent{Type: "Named", Data: rvB{1}}); err != nil {
		t.Error(err)
	}
	var last engine.Event
	for ev, err := range e.Read(t.Context(), "s-1") {
		if err != nil {
			t.Fatal(err)
		}
		last = ev
	}
	if last.Version != 4 || last.Type != "Named" || last.Data != (rvB{1}) {
		t.Errorf("the last event is %v", last)
	}
}

// TestTypesInTurn: events of different types and names, one after the other in the same stream.
func TestTypesInTurn(t *testing.T) {
	e, err := engine.Open(engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	events := []engine.NewEvent{
		engine.New(rvA{1}), engine.New(rvB{1}), {Type: "x", Data: rvA{2}}, {Type: "y", Data: rvA{2}}, engine.New(rvA{3}),
		{Type: "y", Data: 7}, {Type: "y", Data: "seven"}, engine.New(&rvA{4}), engine.New(rvA{5}), {Type: "rvA", Data: rvA{6}},
	}
	want := []string{"rvA", "rvB", "x", "y", "rvA", "y", "y", "", "rvA", "rvA"} // *rvA is refused: rvA has the name
	var got []string
	for round := range 2 {
		for i, ev := range events {
			res, err := e.Append(t.Context(), "s-1", engine.Any, ev)
			if (err == nil) != (want[i] != "") {
				t.Fatalf("round %d, event %d: %v", round, i, err)
			}
			if err != nil {
				continue
			}
			for stored := range e.Read(t.Context(), "s-1", engine.FromVersion(res.Last)) {
				if got = append(got, stored.Type); stored.Type != want[i] {
					t.Errorf("round %d, event %d: type %q, want %q", round, i, stored.Type, want[i])
				}
			}
		}
	}
	if len(got) != 2*(len(want)-1) {
		t.Errorf("%d events", len(got))
	}
}

// discards reports whether a handler that has ended takes anything off its list.
func discards(h *engine.Handler) bool {
	ok, err := h.Discard(1)
	return ok || !errors.Is(err, engine.ErrClosed)
}
