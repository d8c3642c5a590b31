package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/backendtest"
)

// encoded is a Memory that claims to store bytes, so that what the engine does for such a
// backend can be tested without a disk.
type encoded struct {
	*engine.Memory
	durable bool // it claims that too
	outlive bool // Close leaves the Memory open, for another program
	fresh   bool // each read returns payloads of its own, as from a disk; else what was committed

	mu     sync.Mutex
	wishes []engine.Durability // guarded by mu: those of all writes
	fail   error               // guarded by mu: what Commit returns
}

func newEncoded() *encoded { return &encoded{Memory: engine.NewMemory()} }

func (b *encoded) Caps() engine.Caps {
	c := b.Memory.Caps()
	c.Name, c.Encoded = "encoded", true
	if b.durable {
		c.Durable, c.Reopen = true, true
	}
	return c
}

func (b *encoded) Commit(ctx context.Context, writes []*engine.Write) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	wishes := make([]engine.Durability, len(writes))
	for i, w := range writes {
		wishes[i] = w.Durability
		for _, r := range w.Events {
			if p, ok := r.Data.(*engine.Payload); !ok || p.Encoding == "" || p.Schema == 0 {
				return fmt.Errorf("payload of type %T: %v", r.Data, r.Data)
			}
		}
	}
	b.wishes = append(b.wishes, wishes...)
	err := b.Memory.Commit(ctx, writes)
	for i, w := range writes {
		if w.Durability = wishes[i]; w.Durability == 0 {
			w.Durability = engine.Volatile
			if b.durable {
				w.Durability = engine.Synced
			}
		}
	}
	return err
}

func (b *encoded) ReadAll(ctx context.Context, q engine.Query, dst []engine.Event) (int, engine.Position, error) {
	n, next, err := b.Memory.ReadAll(ctx, q, dst)
	b.copy(dst[:n])
	return n, next, err
}

func (b *encoded) ReadStream(ctx context.Context, s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
	n, next, err := b.Memory.ReadStream(ctx, s, q, dst)
	b.copy(dst[:n])
	return n, next, err
}

func (b *encoded) copy(events []engine.Event) {
	for i := range events {
		if p, ok := events[i].Data.(*engine.Payload); ok && b.fresh {
			events[i].Data = &engine.Payload{Encoding: p.Encoding, Schema: p.Schema, Bytes: bytes.Clone(p.Bytes)}
		}
	}
}

func (b *encoded) Close() error {
	if b.outlive {
		return nil
	}
	return b.Memory.Close()
}

// put stores an event as another program may have done.
func (b *encoded) put(t testing.TB, stream, typ string, data any) {
	t.Helper()
	ctx := context.Background()
	id, err := b.TypeID(typ)
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.Load(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	w := &engine.Write{Stream: &s, After: s.Version, Events: []engine.Record{{Type: typ, TypeID: id, Data: data}}}
	if err := b.Memory.Commit(ctx, []*engine.Write{w}); err != nil {
		t.Fatal(err)
	}
}

func jsonPayload(schema uint16, text string) *engine.Payload {
	return &engine.Payload{Encoding: engine.EncodingJSON, Schema: schema, Bytes: []byte(text)}
}

// over opens an engine over b, which t closes.
func over(t testing.TB, b engine.Backend, change ...func(*engine.Options)) *engine.Engine {
	t.Helper()
	opts := engine.Options{Backend: b, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&opts)
	}
	e, err := engine.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return e
}

// readAll returns all events and the error that ended the read.
func readAll(e *engine.Engine, opts ...engine.ReadOption) (events []engine.Event, err error) {
	for ev, err := range e.ReadAll(context.Background(), opts...) {
		if err != nil {
			return events, err
		}
		events = append(events, ev)
	}
	return events, nil
}

func TestEncoded(t *testing.T) {
	for name, fresh := range map[string]bool{"the same payloads": false, "fresh payloads": true} {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, func(*testing.T) engine.Backend {
				b := newEncoded()
				b.fresh = fresh
				return b
			})
		})
	}
}
