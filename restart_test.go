package weir_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// durable are those that outlive the process: they open what is in a folder.
var durable = map[string]func(t testing.TB, dir string) engine.Backend{
	"file": func(t testing.TB, dir string) engine.Backend {
		store, err := filestore.Open(dir, filestore.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return store
	},
}

// TestWeirAgain is the list of promises that hold from one process to the next. A scenario has a
// part before the engine is closed and one after it is opened again.
func TestWeirAgain(t *testing.T) {
	for backend, open := range durable {
		t.Run(backend, func(t *testing.T) {
			for _, scenario := range restarts {
				t.Run(scenario.sentence, func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					for _, run := range []func(*testing.T, store){scenario.before, scenario.after} {
						s := openStore(t, open(t, dir))
						run(t, s)
						s.close()
					}
				})
			}
		})
	}
}

var restarts = []struct {
	sentence      string
	before, after func(t *testing.T, s store)
}{
	{"an event is read back after a restart as it was appended", func(t *testing.T, s store) {
		s.append("customer-1", engine.NoStream, john.WithID("a").WithExtra("tenant", "t"))
	}, func(t *testing.T, s store) {
		undecoded := s.read("customer-1")[0]
		expect(t, "payload before its Go type is known", string(undecoded.Data.(json.RawMessage)), `{"FirstName":"John","LastName":"Smith"}`)
		if err := engine.Register[CustomerCreated](s.Engine, "CustomerCreated"); err != nil {
			t.Fatal(err)
		}
		ev := s.read("customer-1")[0]
		expect(t, "payload", ev.Data, any(CustomerCreated{"John", "Smith"}))
		expect(t, "place", fmt.Sprintf("%s %d %d %s %v", ev.Identity(), ev.Version, ev.Position, ev.Type, ev.Meta.Extra), "a 1 1 CustomerCreated map[tenant:t]")
	}},
	{"versions, positions and event IDs go on after a restart", func(t *testing.T, s store) {
		s.append("customer-1", engine.NoStream, john.WithID("a"), gone)
		s.append("customer-2", engine.NoStream, john)
	}, func(t *testing.T, s store) {
		expect(t, "the same event again", s.append("customer-1", engine.NoStream, john.WithID("a")), engine.Result{First: 1, Last: 1, Position: 1, Duplicate: true})
		_, err := s.Append(t.Context(), "customer-1", engine.Exactly(1), john)
		if _, ok := errors.AsType[*engine.VersionConflictError](err); !ok {
			t.Errorf("append at an old version: %v", err)
		}
		expect(t, "result", place(s.append("customer-1", engine.Exactly(2), john)), engine.Result{First: 3, Last: 3, Position: 4})
		expectList(t, "positions", positions(s.readAll()), upTo(4))
	}},
	{"a named handler goes on after a restart where it was, and has what it had parked", func(t *testing.T, s store) {
		s.handle("h", func(_ context.Context, ev engine.Event) error {
			if ev.Position == 2 {
				return errors.New("not yet")
			}
			return nil
		}, engine.Retry(0, time.Millisecond))
		s.append("customer-1", engine.Any, john, john, john)
		s.wait()
	}, func(t *testing.T, s store) {
		s.append("customer-1", engine.Any, john)
		var handled seen
		h := s.handle("h", handled.handle, engine.FromStart())
		s.wait()
		expectList(t, "handled", handled.positions(), []engine.Position{4})
		n, err := h.Redrive(t.Context())
		if n != 1 || err != nil {
			t.Errorf("Redrive: %d, %v", n, err)
		}
		expectList(t, "handled", handled.positions(), []engine.Position{4, 2})
	}},
	{"what was truncated or deleted stays so after a restart", func(t *testing.T, s store) {
		s.append("customer-1", engine.Any, john, john, john)
		s.append("customer-2", engine.Any, john)
		if err := errors.Join(s.Truncate(t.Context(), "customer-1", 3), s.Delete(t.Context(), "customer-2", engine.Any)); err != nil {
			t.Fatal(err)
		}
	}, func(t *testing.T, s store) {
		_, err := s.Append(t.Context(), "customer-2", engine.Any, john)
		if _, ok := errors.AsType[*engine.StreamDeletedError](err); !ok {
			t.Errorf("append to a deleted stream: %v", err)
		}
		s.append("customer-1", engine.Exactly(3), john)
		expectList(t, "positions", positions(s.readAll()), []engine.Position{3, 5})
	}},
}
