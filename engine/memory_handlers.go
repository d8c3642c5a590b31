package engine

import (
	"context"
	"slices"
)

// LoadCheckpoint implements [Backend].
func (m *Memory) LoadCheckpoint(_ context.Context, handler string) (Position, bool, error) {
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	pos, ok := m.checkpoints[handler]
	return pos, ok, m.check()
}

// SaveCheckpoints implements [Backend].
func (m *Memory) SaveCheckpoints(_ context.Context, checkpoints []Checkpoint) error {
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	if err := m.check(); err != nil {
		return err
	}
	for _, c := range checkpoints {
		m.checkpoints[c.Handler] = c.Position
	}
	return nil
}

// Park implements [Backend].
func (m *Memory) Park(_ context.Context, handler string, parked ParkedRecord) error {
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	if err := m.check(); err != nil {
		return err
	}
	list := m.parked[handler]
	if i := parkedAt(list, parked.Position); i >= 0 {
		list[i] = parked
	} else {
		m.parked[handler] = append(list, parked)
	}
	return nil
}

// Unpark implements [Backend].
func (m *Memory) Unpark(_ context.Context, handler string, pos Position) error {
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	if err := m.check(); err != nil {
		return err
	}
	list := m.parked[handler]
	if i := parkedAt(list, pos); i >= 0 {
		m.parked[handler] = slices.Delete(list, i, i+1)
	}
	return nil
}

// Parked implements [Backend].
func (m *Memory) Parked(_ context.Context, handler string) ([]ParkedRecord, error) {
	m.checkMu.Lock()
	defer m.checkMu.Unlock()
	return slices.Clone(m.parked[handler]), m.check()
}

func parkedAt(list []ParkedRecord, pos Position) int {
	return slices.IndexFunc(list, func(p ParkedRecord) bool { return p.Position == pos })
}
