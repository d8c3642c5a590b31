package engine_test

import (
	"errors"
	"testing"

	"github.com/weirstore/weir/engine"
)

// counter is an object that counts what is added to it.
type counter struct {
	total, events int
}

func (c *counter) Apply(ev engine.Event) {
	c.total += ev.Data.(added).N
	c.events++
}

func (c *counter) Add(n int) ([]engine.NewEvent, error) {
	if c.total+n < 0 {
		return nil, errTooMuch
	}
	return []engine.NewEvent{engine.New(added{n})}, nil
}

func TestAggregate(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		counters := engine.NewAggregate[counter]()
		add := func(n int) (engine.Result, error) {
			return engine.Execute(t.Context(), e, counters, "counter-1", func(c *counter) ([]engine.NewEvent, error) { return c.Add(n) })
		}
		for i, c := range []struct {
			n    int
			last engine.Version
			err  error
		}{{5, 1, nil}, {-6, 0, errTooMuch}, {-5, 2, nil}} {
			if res, err := add(c.n); res.Last != c.last || err != c.err {
				t.Errorf("command %d: %+v, %v", i, res, err)
			}
		}
		c, at, err := engine.Load(t.Context(), e, counters, "counter-1")
		if err != nil || at != 2 || *c != (counter{0, 2}) {
			t.Errorf("%+v at %d, %v", c, at, err)
		}
		other, at, err := engine.Load(t.Context(), e, counters, "counter-2")
		if err != nil || at != 0 || other == nil || *other != (counter{}) {
			t.Errorf("%+v at %d, %v", other, at, err)
		}
		_, err = engine.Execute(t.Context(), e, counters, "counter-1", nil)
		if bad, ok := errors.AsType[*engine.InvalidError](err); !ok || bad.What != "the command" {
			t.Errorf("no command: %v", err)
		}
	})
}
