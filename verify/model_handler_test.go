package verify_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pgregory.net/rapid"

	"github.com/weirstore/weir/engine"
)

// trouble is a payload, and what handlers that may fail do with it.
type trouble int

const (
	harmless trouble = iota
	flaky            // fails at the first attempt of each handler
	poison           // fails until the handler is healed
)

// modelHandler is a handler and what it should have done. Calls write done, failed and lagged.
type modelHandler struct {
	name    string
	types   []string // nil for all
	keyed   bool
	fails   bool // minds trouble
	policy  engine.FailurePolicy
	full    engine.OverflowPolicy
	slow    time.Duration
	opts    []engine.HandlerOption
	h       *engine.Handler
	paused  bool
	from    engine.Position // this life began behind it
	healed  atomic.Bool
	mu      sync.Mutex
	done    []engine.Position       // calls that returned nil, in order
	tried   map[engine.Position]int // calls
	lagged  uint64
	problem error // found inside a call

	// The model of a handler that fails: what it should have done up to cursor.
	cursor     engine.Position
	wantDone   []engine.Position
	wantParked []engine.Position
	wantTried  map[engine.Position]bool
	stopped    bool
}

// configure makes the same of the same number, in every life of a name.
func (h *modelHandler) configure(kind int) {
	pick := func(n int) int {
		k := kind % n
		kind /= n
		return k
	}
	h.keyed = pick(2) == 0
	if pick(2) == 0 {
		h.types = modelTypes[:1+pick(2)]
		h.opts = append(h.opts, engine.Types(h.types...))
	}
	h.slow = []time.Duration{0, time.Millisecond, time.Second}[pick(3)]
	h.fails = pick(2) == 0
	if h.fails {
		h.policy = []engine.FailurePolicy{engine.Skip, engine.Park, engine.Stop}[pick(3)]
		h.full = []engine.OverflowPolicy{engine.Block, engine.CatchUp}[pick(2)]
	} else {
		h.policy = engine.Park
		h.full = []engine.OverflowPolicy{engine.Block, engine.CatchUp, engine.Latest, engine.Fail}[pick(4)]
	}
	h.opts = append(h.opts, engine.OnFailure(h.policy), engine.Overflow(h.full),
		engine.Mailbox([]int{1, 2, 8, 100}[pick(4)]), engine.Retry(1+pick(2), 10*time.Millisecond))
	if h.full == engine.Latest {
		h.opts = append(h.opts, engine.OnLagged(func(_ context.Context, n uint64) {
			h.mu.Lock()
			h.lagged += n
			h.mu.Unlock()
		}))
	}
	if h.keyed {
		h.opts = append(h.opts, engine.Keyed(1+pick(3)))
	}
}

func (h *modelHandler) handle(_ context.Context, ev engine.Event) error {
	if h.slow > 0 {
		time.Sleep(h.slow)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tried[ev.Position]++
	if h.types != nil && !slices.Contains(h.types, ev.Type) {
		h.problem = fmt.Errorf("called with type %q", ev.Type)
	}
	if what := ev.Data.(trouble); h.fails && (what == poison && !h.healed.Load() || what == flaky && h.tried[ev.Position] == 1) {
		if ev.Position%2 == 0 {
			panic("no")
		}
		return errors.New("no")
	}
	h.done = append(h.done, ev.Position)
	return nil
}

// advance moves the model of a failing handler to the log's end.
func (m *machine) advance(h *modelHandler) {
	if !h.fails {
		return
	}
	for !h.stopped && !h.paused && int(h.cursor) < len(m.ref.log) {
		rec := m.ref.log[h.cursor]
		pos := h.cursor + 1
		held := h.keyed && slices.ContainsFunc(h.wantParked, func(p engine.Position) bool { return m.ref.log[p-1].stream == rec.stream })
		switch {
		case h.types != nil && !slices.Contains(h.types, rec.typ):
		case held:
			m.tally["held"]++
			h.wantParked = append(h.wantParked, pos)
		case rec.data != poison || h.healed.Load():
			h.wantDone = append(h.wantDone, pos)
			h.wantTried[pos] = true
		case h.policy == engine.Park:
			m.tally["parked"]++
			h.wantParked = append(h.wantParked, pos)
			h.wantTried[pos] = true
		case h.policy == engine.Stop:
			h.stopped = true
			m.tally["stopped"]++
			return
		}
		h.cursor = pos
	}
}

func (m *machine) checkHandlers(t *rapid.T) {
	for _, h := range m.handlers {
		h.mu.Lock()
		err := m.checkHandler(h)
		h.mu.Unlock()
		if err != nil {
			t.Fatalf("handler %s (types %v, keyed %v, %v, %v), from %d: %v; done %v", h.name, h.types, h.keyed, h.full, h.policy, h.from, err, h.done)
		}
	}
}

// mine returns what concerns a handler of its present life.
func (m *machine) mine(h *modelHandler) []engine.Position {
	return m.ref.positions(func(pos engine.Position, r record) bool {
		return pos > h.from && (h.types == nil || slices.Contains(h.types, r.typ))
	})
}

// checkHandler compares a handler that is at rest with its model. REQUIRES: h.mu.
func (m *machine) checkHandler(h *modelHandler) error {
	if h.problem != nil {
		return h.problem
	}
	stats, head := h.h.Stats(), engine.Position(len(m.ref.log))
	want := m.mine(h)
	switch {
	case h.fails:
		m.advance(h)
		want = h.wantDone
		var parked []engine.Position
		for _, p := range h.h.Parked() {
			parked = append(parked, p.Event.Position)
		}
		slices.Sort(parked) // keyed workers park side by side
		expect := slices.Sorted(slices.Values(h.wantParked))
		if !slices.Equal(parked, expect) {
			return fmt.Errorf("parked %v, want %v", parked, expect)
		}
		if h.stopped && h.keyed {
			return m.checkStoppedKeyed(h)
		}
		if h.stopped && !h.paused && (stats.State != engine.Stopped || stats.Position != h.cursor) {
			return fmt.Errorf("%v, want it stopped at %d", stats.Stats, h.cursor)
		}
	case h.full == engine.Latest:
		if !h.paused && len(h.done)+int(h.lagged) != len(want) {
			return fmt.Errorf("saw %d and lagged %d of %d", len(h.done), h.lagged, len(want))
		}
		m.tally["lagged"] += int(h.lagged)
		if stats.Lagged != h.lagged {
			return fmt.Errorf("lagged %d, the stats say %d", h.lagged, stats.Lagged)
		}
		want = slices.DeleteFunc(want, func(p engine.Position) bool { return !slices.Contains(h.done, p) })
	case h.paused:
		for _, pos := range want {
			if pos <= stats.Position && !slices.Contains(h.done, pos) {
				return fmt.Errorf("position %d is not handled, and %d claimed", pos, stats.Position)
			}
		}
		if n := len(want); n > len(h.done) {
			m.tally["paused with events before it"]++
		}
		want = m.prefix(h, want)
	}
	if !h.paused && !h.stopped {
		if stats.Position != head || stats.Lag != 0 || stats.State != engine.Live || stats.Fill != 0 {
			return fmt.Errorf("%+v at rest, the head is %d", stats, head)
		}
	}
	if h.paused && stats.State != engine.Paused {
		return fmt.Errorf("%v, want it paused", stats.State)
	}
	if stats.Handled != uint64(len(h.done)) {
		return fmt.Errorf("handled %d, the stats say %d", len(h.done), stats.Handled)
	}
	return m.sameOrder(h, want)
}

// prefix is what a paused handler may have done: for each key a beginning of what it is to do.
func (m *machine) prefix(h *modelHandler, want []engine.Position) (begun []engine.Position) {
	ended := make(map[string]bool)
	for _, pos := range want {
		key := ""
		if h.keyed {
			key = m.ref.log[pos-1].stream
		}
		if ended[key] = ended[key] || !slices.Contains(h.done, pos); !ended[key] {
			begun = append(begun, pos)
		}
	}
	return begun
}

// sameOrder checks that the handler did just this, in order, of each key if it has keys.
func (m *machine) sameOrder(h *modelHandler, want []engine.Position) error {
	if !h.keyed {
		if !slices.Equal(h.done, want) {
			return fmt.Errorf("want %v", want)
		}
		return nil
	}
	for _, stream := range modelStreams {
		of := func(list []engine.Position) []engine.Position {
			return slices.DeleteFunc(slices.Clone(list), func(p engine.Position) bool { return m.ref.log[p-1].stream != stream })
		}
		if got, want := of(h.done), of(want); !slices.Equal(got, want) {
			return fmt.Errorf("of %q did %v, want %v", stream, got, want)
		}
	}
	return nil
}

// checkStoppedKeyed checks a keyed handler that has stopped: other workers may have gone further.
func (m *machine) checkStoppedKeyed(h *modelHandler) error {
	if pos := h.h.Position(); pos > h.cursor || h.h.Stats().State != engine.Stopped {
		return fmt.Errorf("%v at %d, want it stopped at most at %d", h.h.Stats().State, pos, h.cursor)
	}
	return m.sameOrder(h, m.prefix(h, m.mine(h)))
}
