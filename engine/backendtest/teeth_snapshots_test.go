package backendtest_test

import (
	"bytes"
	"time"

	"github.com/weirstore/weir/engine"
)

// snapshotDefects are snapshots of something else than was asked for, or of nothing that ever was.
func snapshotDefects() []defect {
	changed := func(name string, change func(*engine.Snapshot), caught ...string) defect {
		return breaks(name, func(b *broken) {
			b.loadSnapshot = func(s engine.StreamState, name string) (engine.Snapshot, bool, error) {
				snap, there, err := b.handle.LoadSnapshot(ctx, s, name)
				if there {
					change(&snap)
				}
				return snap, there, err
			}
		}, caught...)
	}
	return []defect{
		changed("the fold's version is cut to a byte", func(s *engine.Snapshot) { s.Fold = uint32(byte(s.Fold)) }, "snapshots"),
		changed("the first version is lost", func(s *engine.Snapshot) { s.First = 0 }, "snapshots", "snapshots-reopen"),
		changed("the position is lost", func(s *engine.Snapshot) { s.Position = 0 }, "snapshots"),
		changed("times are cut to microseconds", func(s *engine.Snapshot) { s.Time = s.Time.Truncate(time.Microsecond) }, "snapshots"),
		changed("the event ID is lost", func(s *engine.Snapshot) { s.ID = "" }, "snapshots"),
		changed("the encoding is lost", func(s *engine.Snapshot) { s.Encoding = "json" }, "snapshots"),
		changed("data is cut", func(s *engine.Snapshot) { s.Data = s.Data[:min(len(s.Data), 1000)] }, "snapshots", "snapshots-reopen"),
		changed("data ends at a zero", func(s *engine.Snapshot) { s.Data, _, _ = bytes.Cut(s.Data, []byte{0}) }, "snapshots"),
		breaks("one snapshot for each stream", func(b *broken) {
			b.saveSnapshot = func(s engine.StreamState, snap engine.Snapshot) error {
				for _, name := range []string{"x", "xy", "naïve 🦫"} {
					if err := b.handle.SaveSnapshot(ctx, s, named(snap, name)); err != nil {
						return err
					}
				}
				return nil
			}
		}, "snapshots"),
		breaks("the first snapshot stays", func(b *broken) {
			b.saveSnapshot = func(s engine.StreamState, snap engine.Snapshot) error {
				if _, there, _ := b.handle.LoadSnapshot(ctx, s, snap.Name); there {
					return nil
				}
				return b.handle.SaveSnapshot(ctx, s, snap)
			}
		}, "snapshots"),
		breaks("snapshots of a deleted stream stay", func(b *broken) {
			kept := make(map[[2]string]engine.Snapshot)
			b.saveSnapshot = func(s engine.StreamState, snap engine.Snapshot) error {
				kept[[2]string{s.Name, snap.Name}] = snap
				return nil
			}
			b.loadSnapshot = func(s engine.StreamState, name string) (engine.Snapshot, bool, error) {
				snap, there := kept[[2]string{s.Name, name}]
				return snap, there, nil
			}
		}, "snapshots-of-removed"),
		breaks("a saved snapshot takes a position", func(b *broken) {
			b.saveSnapshot = func(s engine.StreamState, snap engine.Snapshot) error {
				id, _ := b.handle.TypeID("snapshot")
				hidden, _ := b.handle.Load(ctx, "hidden")
				w := &engine.Write{Stream: &hidden, After: hidden.Version, Events: []engine.Record{{Type: "snapshot", TypeID: id, Data: ""}}}
				if err := b.handle.Commit(ctx, []*engine.Write{w}); err != nil {
					return err
				}
				return b.handle.SaveSnapshot(ctx, s, snap)
			}
		}, "snapshots"),
		breaks("snapshots are saved after Close", func(b *broken) {
			b.saveSnapshot = func(s engine.StreamState, snap engine.Snapshot) error {
				return b.place.mem.SaveSnapshot(ctx, s, snap)
			}
		}, "closed"),
		breaks("snapshots are loaded after Close", func(b *broken) {
			b.loadSnapshot = func(s engine.StreamState, name string) (engine.Snapshot, bool, error) {
				return b.place.mem.LoadSnapshot(ctx, s, name)
			}
		}, "closed"),
	}
}

func named(s engine.Snapshot, name string) engine.Snapshot {
	s.Name = name
	return s
}
