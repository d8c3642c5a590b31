package backendtest_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/backendtest"
)

// place is where several handles keep one log: a memory backend that outlives their Close.
type place struct {
	mem *engine.Memory

	mu      sync.Mutex // held for a commit
	handles map[*handle]func()
}

// handle is a backend that has every capability. It has no defect; broken has.
type handle struct {
	place  *place
	closed atomic.Bool
}

func newHandle() *handle {
	p := &place{mem: engine.NewMemory(), handles: make(map[*handle]func())}
	return p.open()
}

func (p *place) open() *handle {
	h := &handle{place: p}
	p.mu.Lock()
	p.handles[h] = func() {}
	p.mu.Unlock()
	return h
}

// store commits to the memory that counts as a disk.
func (p *place) store(ctx context.Context, writes []*engine.Write) error {
	err := p.mem.Commit(ctx, writes)
	for _, w := range writes {
		w.Durability = engine.Synced
	}
	return err
}

func (h *handle) at() *place { return h.place }

func (h *handle) check() error {
	if h.closed.Load() {
		return engine.ErrClosed
	}
	return nil
}

func (h *handle) Caps() engine.Caps {
	return engine.Caps{Name: "fake", Durable: true, Prompt: true, Shared: true, Reopen: true}
}

func (h *handle) TypeID(name string) (engine.TypeID, error) {
	if err := h.check(); err != nil {
		return 0, err
	}
	return h.place.mem.TypeID(name)
}

func (h *handle) Load(ctx context.Context, stream string) (engine.StreamState, error) {
	if err := h.check(); err != nil {
		return engine.StreamState{}, err
	}
	return h.place.mem.Load(ctx, stream)
}

func (h *handle) Find(ctx context.Context, s engine.StreamState, ids []string, versions []engine.Version) error {
	if err := h.check(); err != nil {
		return err
	}
	return h.place.mem.Find(ctx, s, ids, versions)
}

func (h *handle) Commit(ctx context.Context, writes []*engine.Write) error {
	return h.commit(writes, func() error { return h.place.store(ctx, writes) })
}

func (h *handle) CommitIf(ctx context.Context, writes []*engine.Write, conditions []engine.TagCondition) error {
	return h.commit(writes, func() error {
		err := h.place.mem.CommitIf(ctx, writes, conditions)
		for _, w := range writes {
			w.Durability = engine.Synced
		}
		return err
	})
}

func (h *handle) Matching(ctx context.Context, matches []engine.TagMatch, after, to engine.Position, dst []engine.Event) (int, error) {
	if err := h.check(); err != nil {
		return 0, err
	}
	return h.place.mem.Matching(ctx, matches, after, to, dst)
}

func (h *handle) commit(writes []*engine.Write, store func() error) error {
	if err := h.check(); err != nil {
		return err
	}
	p := h.place
	p.mu.Lock()
	defer p.mu.Unlock()
	pending := make(map[string]engine.Version)
	for _, w := range writes {
		state, err := p.mem.Load(context.Background(), w.Stream.Name)
		if err != nil {
			return err
		}
		now := state.Version + pending[w.Stream.Name]
		if w.After != now {
			return fmt.Errorf("fake: %w", &engine.VersionConflictError{Stream: w.Stream.Name, Expected: engine.Exactly(w.After), Actual: now})
		}
		pending[w.Stream.Name] += engine.Version(len(w.Events))
	}
	if err := store(); err != nil {
		return err
	}
	for other, grown := range p.handles {
		if other != h {
			grown()
		}
	}
	return nil
}

func (h *handle) Head() engine.Position { return h.place.mem.Head() }

func (h *handle) Types(after engine.Position, dst []engine.TypeID) (int, error) {
	if err := h.check(); err != nil {
		return 0, err
	}
	return h.place.mem.Types(after, dst)
}

func (h *handle) ReadAll(ctx context.Context, q engine.Query, dst []engine.Event) (int, engine.Position, error) {
	if err := h.check(); err != nil {
		return 0, 0, err
	}
	return h.place.mem.ReadAll(ctx, q, dst)
}

func (h *handle) ReadStream(ctx context.Context, s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
	if err := h.check(); err != nil {
		return 0, 0, err
	}
	return h.place.mem.ReadStream(ctx, s, q, dst)
}

func (h *handle) LoadCheckpoint(ctx context.Context, handler string) (engine.Position, bool, error) {
	if err := h.check(); err != nil {
		return 0, false, err
	}
	return h.place.mem.LoadCheckpoint(ctx, handler)
}

func (h *handle) SaveCheckpoints(ctx context.Context, checkpoints []engine.Checkpoint) error {
	if err := h.check(); err != nil {
		return err
	}
	return h.place.mem.SaveCheckpoints(ctx, checkpoints)
}

func (h *handle) Park(ctx context.Context, handler string, parked engine.ParkedRecord) error {
	if err := h.check(); err != nil {
		return err
	}
	return h.place.mem.Park(ctx, handler, parked)
}

func (h *handle) Unpark(ctx context.Context, handler string, pos engine.Position) error {
	if err := h.check(); err != nil {
		return err
	}
	return h.place.mem.Unpark(ctx, handler, pos)
}

func (h *handle) Parked(ctx context.Context, handler string) ([]engine.ParkedRecord, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	return h.place.mem.Parked(ctx, handler)
}

func (h *handle) Truncate(ctx context.Context, s engine.StreamState, before engine.Version) error {
	if err := h.check(); err != nil {
		return err
	}
	return h.place.mem.Truncate(ctx, s, before)
}

func (h *handle) Delete(ctx context.Context, s engine.StreamState) error {
	if err := h.check(); err != nil {
		return err
	}
	return h.place.mem.Delete(ctx, s)
}

func (h *handle) Compact(ctx context.Context, rules []engine.RetentionRule) (engine.Compaction, error) {
	if err := h.check(); err != nil {
		return engine.Compaction{}, err
	}
	return h.place.mem.Compact(ctx, rules)
}

func (h *handle) SaveSnapshot(ctx context.Context, s engine.StreamState, snap engine.Snapshot) error {
	if err := h.check(); err != nil {
		return err
	}
	return h.place.mem.SaveSnapshot(ctx, s, snap)
}

func (h *handle) LoadSnapshot(ctx context.Context, s engine.StreamState, name string) (engine.Snapshot, bool, error) {
	if err := h.check(); err != nil {
		return engine.Snapshot{}, false, err
	}
	return h.place.mem.LoadSnapshot(ctx, s, name)
}

func (h *handle) Watch(grown func()) {
	h.place.mu.Lock()
	defer h.place.mu.Unlock()
	if h.check() == nil {
		h.place.handles[h] = grown
	}
}

func (h *handle) Close() error {
	h.closed.Store(true)
	h.place.mu.Lock()
	defer h.place.mu.Unlock()
	delete(h.place.handles, h)
	return nil
}

// located is a handle, or a broken one.
type located interface {
	engine.Backend
	at() *place
}

// harness returns a Harness of handles, each wrapped.
func harness(wrap func(*handle) engine.Backend) backendtest.Harness {
	more := func(_ *testing.T, b engine.Backend) engine.Backend { return wrap(b.(located).at().open()) }
	return backendtest.Harness{
		Open:   func(*testing.T) engine.Backend { return wrap(newHandle()) },
		Reopen: more,
		Join:   more,
		Crash: func(t *testing.T, b engine.Backend) engine.Backend {
			b.Close()
			return more(t, b)
		},
	}
}
