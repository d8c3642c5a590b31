package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/weirstore/weir/engine"
)

func TestDurability(t *testing.T) {
	volatile, durable := engine.NewMemory, func() *encoded { return &encoded{Memory: engine.NewMemory(), durable: true} }
	for _, c := range []struct {
		name    string
		backend engine.Backend
		option  engine.Durability
		asked   []engine.Durability // one append each
		given   []engine.Durability // to the backend
		reached []engine.Durability
	}{
		{"durable", durable(), 0,
			[]engine.Durability{0, engine.Written, engine.Synced},
			[]engine.Durability{0, engine.Written, engine.Synced},
			[]engine.Durability{engine.Synced, engine.Written, engine.Synced}},
		{"durable, written by default", durable(), engine.Written,
			[]engine.Durability{0, engine.Synced, engine.Written, 0},
			[]engine.Durability{engine.Written, engine.Synced, engine.Written, engine.Written},
			[]engine.Durability{engine.Written, engine.Synced, engine.Written, engine.Written}},
		{"memory", volatile(), 0,
			[]engine.Durability{0, engine.Volatile}, nil,
			[]engine.Durability{engine.Volatile, engine.Volatile}},
		{"memory, volatile by default", volatile(), engine.Volatile,
			[]engine.Durability{0, engine.Volatile}, nil,
			[]engine.Durability{engine.Volatile, engine.Volatile}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := over(t, c.backend, func(o *engine.Options) { o.Durability = c.option })
			var reached []engine.Durability
			for _, d := range c.asked {
				ctx := t.Context()
				if d != 0 {
					ctx = engine.WithDurability(ctx, d)
				}
				res, err := e.Append(ctx, "a-1", engine.Any, one)
				if err != nil {
					t.Fatal(err)
				}
				reached = append(reached, res.Durability)
			}
			if !slices.Equal(reached, c.reached) {
				t.Errorf("asked for %v, reached %v, want %v", c.asked, reached, c.reached)
			}
			if b, ok := c.backend.(*encoded); ok && !slices.Equal(b.wishes, c.given) {
				t.Errorf("asked for %v, the backend got %v, want %v", c.asked, b.wishes, c.given)
			}
		})
	}
}

func TestDurabilityRefused(t *testing.T) {
	for _, c := range []struct {
		durable bool
		d       engine.Durability
		rule    string
	}{
		{false, engine.Written, `volatile, with backend "encoded"`},
		{false, engine.Synced, `volatile, with backend "encoded"`},
		{false, 9, `volatile, with backend "encoded"`},
		{true, engine.Volatile, `written or synced, with backend "encoded"`},
		{true, 9, `written or synced, with backend "encoded"`},
	} {
		t.Run(fmt.Sprintf("%v, durable=%v", c.d, c.durable), func(t *testing.T) {
			b := &encoded{Memory: engine.NewMemory(), durable: c.durable}
			_, err := engine.Open(engine.Options{Backend: b, Durability: c.d})
			want := fmt.Sprintf("engine: open: Options.Durability is %v, want %s", c.d, c.rule)
			if _, ok := errors.AsType[*engine.InvalidError](err); !ok || err.Error() != want {
				t.Errorf("Open: %v, want %s", err, want)
			}
			e := over(t, b)
			_, err = e.Append(engine.WithDurability(t.Context(), c.d), "a-1", engine.Any, one)
			want = fmt.Sprintf(`engine: append "a-1": durability is %v, want %s`, c.d, c.rule)
			if _, ok := errors.AsType[*engine.InvalidError](err); !ok || err.Error() != want {
				t.Errorf("Append: %v, want %s", err, want)
			}
			if e.Head() != 0 {
				t.Errorf("it was stored nevertheless")
			}
		})
	}
}

// TestDurabilityTakenBack: the innermost wish counts, and 0 is none.
func TestDurabilityTakenBack(t *testing.T) {
	e := over(t, &encoded{Memory: engine.NewMemory(), durable: true}, func(o *engine.Options) { o.Durability = engine.Written })
	ctx := engine.WithDurability(engine.WithDurability(t.Context(), engine.Synced), 0)
	if res, err := e.Append(ctx, "a-1", engine.Any, one); err != nil || res.Durability != engine.Written {
		t.Errorf("Append returns %+v, %v; want written, as the engine's options say", res, err)
	}
}

// TestDurabilityOfADuplicate: nobody knows how the first append's events were stored.
func TestDurabilityOfADuplicate(t *testing.T) {
	e := over(t, &encoded{Memory: engine.NewMemory(), durable: true})
	for i, want := range []engine.Durability{engine.Synced, 0} {
		res, err := e.Append(t.Context(), "a-1", engine.Any, one.WithID("id"))
		if err != nil || res.Durability != want || res.Duplicate != (i == 1) {
			t.Errorf("append %d returns %+v, %v; want durability %v", i+1, res, err, want)
		}
	}
}

// gated is a durable backend whose first commit waits until the gate is opened.
type gated struct {
	*encoded
	entered, gate chan struct{}
}

func (b *gated) Caps() engine.Caps {
	c := b.encoded.Caps()
	c.Prompt = false
	return c
}

func (b *gated) Commit(ctx context.Context, writes []*engine.Write) error {
	select {
	case b.entered <- struct{}{}:
		<-b.gate
	default:
	}
	return b.encoded.Commit(ctx, writes)
}

// TestDurabilityInABatch: appends that are committed together keep their own wishes, and
// a request that is used again forgets the one it had.
func TestDurabilityInABatch(t *testing.T) {
	b := &gated{newEncoded(), make(chan struct{}, 1), make(chan struct{})}
	b.durable = true
	e := over(t, b)
	wishes := []engine.Durability{engine.Written, engine.Synced, 0, engine.Written, 0}
	answers := make(chan error, len(wishes))
	ask := func(d engine.Durability) {
		go func() {
			want := d
			if d == 0 {
				want = engine.Synced
			}
			res, err := e.Append(engine.WithDurability(context.Background(), d), "a-1", engine.Any, one)
			if err == nil && res.Durability != want {
				err = fmt.Errorf("asked for %v, got %v", d, res.Durability)
			}
			answers <- err
		}()
	}
	ask(wishes[0])
	<-b.entered
	b.entered <- struct{}{} // full: later commits do not stop
	for _, d := range wishes[1:] {
		ask(d)
	}
	close(b.gate)
	for range wishes {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	for range 20 {
		ask(0)
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

// TestStreamDeletedByAnother: the backend's error can be found in that of Append.
func TestStreamDeletedByAnother(t *testing.T) {
	b := newEncoded()
	e := over(t, b)
	b.fail = fmt.Errorf("commit: %w", &engine.StreamDeletedError{Stream: "a-1"})
	_, err := e.Append(t.Context(), "a-1", engine.Any, one)
	deleted, ok := errors.AsType[*engine.StreamDeletedError](err)
	if !ok || deleted.Stream != "a-1" {
		t.Errorf("Append: %v, want a *StreamDeletedError", err)
	}
	if want := `engine: append "a-1": commit: engine: stream "a-1" is deleted`; err == nil || err.Error() != want {
		t.Errorf("Append: %v, want %s", err, want)
	}
}
