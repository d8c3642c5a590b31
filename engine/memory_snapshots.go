package engine

import "context"

var _ Snapshotting = (*Memory)(nil)

// SaveSnapshot implements [Snapshotting].
func (m *Memory) SaveSnapshot(_ context.Context, state StreamState, snap Snapshot) error {
	if err := m.check(); err != nil {
		return err
	}
	s := m.stream(state)
	if s == nil || s.deleted() {
		return nil
	}
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	if m.snapshots[s] == nil {
		m.snapshots[s] = make(map[string]Snapshot, 1)
	}
	m.snapshots[s][snap.Name] = snap
	return nil
}

// LoadSnapshot implements [Snapshotting].
func (m *Memory) LoadSnapshot(_ context.Context, state StreamState, name string) (Snapshot, bool, error) {
	if err := m.check(); err != nil {
		return Snapshot{}, false, err
	}
	s := m.stream(state)
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	snap, there := m.snapshots[s][name]
	return snap, there, nil
}

func (m *Memory) dropSnapshots(s *memStream) {
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	delete(m.snapshots, s)
}
