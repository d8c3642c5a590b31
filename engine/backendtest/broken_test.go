package backendtest_test

import (
	"context"

	"github.com/weirstore/weir/engine"
)

// broken is a handle of which some methods were replaced.
type broken struct {
	*handle
	caps           func() engine.Caps
	typeID         func(string) (engine.TypeID, error)
	load           func(string) (engine.StreamState, error)
	find           func(engine.StreamState, []string, []engine.Version) error
	commit         func(context.Context, []*engine.Write) error
	head           func() engine.Position
	types          func(engine.Position, []engine.TypeID) (int, error)
	readAll        func(engine.Query, []engine.Event) (int, engine.Position, error)
	readStream     func(engine.StreamState, engine.StreamQuery, []engine.Event) (int, engine.Version, error)
	loadCheckpoint func(string) (engine.Position, bool, error)
	saveCheckpoint func(string, engine.Position) error
	saveAll        func([]engine.Checkpoint) error
	park           func(string, engine.ParkedRecord) error
	unpark         func(string, engine.Position) error
	parked         func(string) ([]engine.ParkedRecord, error)
	truncate       func(engine.StreamState, engine.Version) error
	delete         func(engine.StreamState) error
	compact        func(context.Context, []engine.RetentionRule) (engine.Compaction, error)
	commitIf       func([]*engine.Write, []engine.TagCondition) error
	matching       func([]engine.TagMatch, engine.Position, engine.Position, []engine.Event) (int, error)
	saveSnapshot   func(engine.StreamState, engine.Snapshot) error
	loadSnapshot   func(engine.StreamState, string) (engine.Snapshot, bool, error)
	watch          func(func())
	close          func() error
}

func (b *broken) Caps() engine.Caps {
	if b.caps != nil {
		return b.caps()
	}
	return b.handle.Caps()
}

func (b *broken) TypeID(name string) (engine.TypeID, error) {
	if b.typeID != nil {
		return b.typeID(name)
	}
	return b.handle.TypeID(name)
}

func (b *broken) Load(ctx context.Context, stream string) (engine.StreamState, error) {
	if b.load != nil {
		return b.load(stream)
	}
	return b.handle.Load(ctx, stream)
}

func (b *broken) Find(ctx context.Context, s engine.StreamState, ids []string, versions []engine.Version) error {
	if b.find != nil {
		return b.find(s, ids, versions)
	}
	return b.handle.Find(ctx, s, ids, versions)
}

func (b *broken) Commit(ctx context.Context, writes []*engine.Write) error {
	if b.commit != nil {
		return b.commit(ctx, writes)
	}
	return b.handle.Commit(ctx, writes)
}

func (b *broken) Head() engine.Position {
	if b.head != nil {
		return b.head()
	}
	return b.handle.Head()
}

func (b *broken) Types(after engine.Position, dst []engine.TypeID) (int, error) {
	if b.types != nil {
		return b.types(after, dst)
	}
	return b.handle.Types(after, dst)
}

func (b *broken) ReadAll(ctx context.Context, q engine.Query, dst []engine.Event) (int, engine.Position, error) {
	if b.readAll != nil {
		return b.readAll(q, dst)
	}
	return b.handle.ReadAll(ctx, q, dst)
}

func (b *broken) ReadStream(ctx context.Context, s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
	if b.readStream != nil {
		return b.readStream(s, q, dst)
	}
	return b.handle.ReadStream(ctx, s, q, dst)
}

func (b *broken) LoadCheckpoint(ctx context.Context, handler string) (engine.Position, bool, error) {
	if b.loadCheckpoint != nil {
		return b.loadCheckpoint(handler)
	}
	return b.handle.LoadCheckpoint(ctx, handler)
}

func (b *broken) SaveCheckpoints(ctx context.Context, checkpoints []engine.Checkpoint) error {
	if b.saveAll != nil {
		return b.saveAll(checkpoints)
	}
	if b.saveCheckpoint == nil {
		return b.handle.SaveCheckpoints(ctx, checkpoints)
	}
	for _, c := range checkpoints {
		if err := b.saveCheckpoint(c.Handler, c.Position); err != nil {
			return err
		}
	}
	return nil
}

// save saves one checkpoint in the handle.
func (b *broken) save(handler string, pos engine.Position) error {
	return b.handle.SaveCheckpoints(ctx, []engine.Checkpoint{{Handler: handler, Position: pos}})
}

func (b *broken) Park(ctx context.Context, handler string, p engine.ParkedRecord) error {
	if b.park != nil {
		return b.park(handler, p)
	}
	return b.handle.Park(ctx, handler, p)
}

func (b *broken) Unpark(ctx context.Context, handler string, pos engine.Position) error {
	if b.unpark != nil {
		return b.unpark(handler, pos)
	}
	return b.handle.Unpark(ctx, handler, pos)
}

func (b *broken) Parked(ctx context.Context, handler string) ([]engine.ParkedRecord, error) {
	if b.parked != nil {
		return b.parked(handler)
	}
	return b.handle.Parked(ctx, handler)
}

func (b *broken) Truncate(ctx context.Context, s engine.StreamState, before engine.Version) error {
	if b.truncate != nil {
		return b.truncate(s, before)
	}
	return b.handle.Truncate(ctx, s, before)
}

func (b *broken) Delete(ctx context.Context, s engine.StreamState) error {
	if b.delete != nil {
		return b.delete(s)
	}
	return b.handle.Delete(ctx, s)
}

func (b *broken) Compact(ctx context.Context, rules []engine.RetentionRule) (engine.Compaction, error) {
	if b.compact != nil {
		return b.compact(ctx, rules)
	}
	return b.handle.Compact(ctx, rules)
}

func (b *broken) CommitIf(ctx context.Context, writes []*engine.Write, conditions []engine.TagCondition) error {
	if b.commitIf != nil {
		return b.commitIf(writes, conditions)
	}
	return b.handle.CommitIf(ctx, writes, conditions)
}

func (b *broken) Matching(ctx context.Context, matches []engine.TagMatch, after, to engine.Position, dst []engine.Event) (int, error) {
	if b.matching != nil {
		return b.matching(matches, after, to, dst)
	}
	return b.handle.Matching(ctx, matches, after, to, dst)
}

func (b *broken) SaveSnapshot(ctx context.Context, s engine.StreamState, snap engine.Snapshot) error {
	if b.saveSnapshot != nil {
		return b.saveSnapshot(s, snap)
	}
	return b.handle.SaveSnapshot(ctx, s, snap)
}

func (b *broken) LoadSnapshot(ctx context.Context, s engine.StreamState, name string) (engine.Snapshot, bool, error) {
	if b.loadSnapshot != nil {
		return b.loadSnapshot(s, name)
	}
	return b.handle.LoadSnapshot(ctx, s, name)
}

func (b *broken) Watch(grown func()) {
	if b.watch != nil {
		b.watch(grown)
		return
	}
	b.handle.Watch(grown)
}

func (b *broken) Close() error {
	if b.close != nil {
		return b.close()
	}
	return b.handle.Close()
}
