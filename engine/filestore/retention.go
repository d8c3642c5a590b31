package filestore

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/weirstore/weir/engine"
)

// Truncate implements [engine.Retention]: a control record, synced (fdatasync).
func (s *Store) Truncate(ctx context.Context, state engine.StreamState, before engine.Version) error {
	if err := s.check(); err != nil {
		return err
	}
	st := s.stream(state)
	version, truncated := engine.Version(0), engine.Version(0)
	if st != nil {
		s.streams.change(st, func(p *positions) { version, truncated = p.version(), st.truncated })
	}
	switch {
	case before > version+1:
		return fmt.Errorf("filestore: truncate stream %q before version %d: it is at version %d", state.Name, before, version)
	case before <= 1 || before <= truncated || st.isDeleted():
		return nil
	}
	return s.control(ctx, control{kindTruncate, st.name, before})
}

// Delete implements [engine.Retention]: a control record, synced (fdatasync). It stays in
// the log for ever.
func (s *Store) Delete(ctx context.Context, state engine.StreamState) error {
	if err := s.check(); err != nil {
		return err
	}
	version := engine.Version(0)
	if st := s.stream(state); st != nil {
		if st.isDeleted() {
			return nil
		}
		s.streams.change(st, func(p *positions) { version = p.version() })
	}
	err := s.control(ctx, control{kindDelete, state.Name, version})
	if st := s.stream(state); err == nil && st != nil {
		s.dropSnapshots(ctx, st)
	}
	return err
}

// controlsAtOnce is how many control records one commit of applyRules has: one sync serves
// them all, and they take less than a group may.
const controlsAtOnce = 1000

// applyRules truncates streams as the rules say, and returns how many events that removes.
func (s *Store) applyRules(ctx context.Context, rules []engine.RetentionRule) (removed uint64, err error) {
	if len(rules) == 0 {
		return 0, nil
	}
	head := s.Head()
	old := make([]engine.Position, len(rules)) // the newest that is too old
	for i, rule := range rules {
		if rule.MaxAge > 0 {
			if old[i], err = s.before(time.Now().Add(-rule.MaxAge)); err != nil {
				return 0, err
			}
		}
	}
	var batch []control
	var going uint64 // events that batch removes
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := s.control(ctx, batch...)
		if err == nil {
			removed += going
		}
		batch, going = nil, 0
		return err
	}
	for _, st := range *s.streams.byNumber.Load() {
		before := engine.Version(0)
		for i, rule := range rules {
			if rule.Stream != "" && rule.Stream != st.name || rule.Category != "" && rule.Category != st.name[:st.category] {
				continue
			}
			list := s.streams.list(st, head)
			if v := list.version(); rule.MaxCount > 0 && uint64(v) > rule.MaxCount {
				before = max(before, v-engine.Version(rule.MaxCount)+1)
			}
			if old[i] > 0 {
				before = max(before, list.first+engine.Version(list.upTo(old[i]))+1)
			}
		}
		s.streams.change(st, func(p *positions) {
			first := max(1, p.first+1, st.truncated) // the oldest that is not removed
			if before > first && !st.isDeleted() {
				batch = append(batch, control{kindTruncate, st.name, before})
				going += uint64(before - first)
			}
		})
		if len(batch) == controlsAtOnce {
			if err := flush(); err != nil {
				return removed, err
			}
		}
	}
	return removed, flush()
}

// before returns the position of the newest event that was stored before t, 0 if there is
// none. Times never go back, so a few events of the log tell.
func (s *Store) before(t time.Time) (engine.Position, error) {
	r := s.reader(&engine.Filter{})
	var failed error
	older := func(seg *segment, i uint32) bool {
		b, off, err := r.record(seg, i)
		var rec record
		if err == nil {
			if err = rec.parse(b); err != nil {
				err = corrupt(seg.path, off, "%v", err)
			}
		}
		if err != nil {
			failed = err
			return false
		}
		return rec.time < t.UnixNano()
	}
	for k := len(r.segs) - 1; k >= 0; k-- {
		seg := r.segs[k]
		n := int(seg.stop(r.head) - seg.base)
		if seg.next != 0 {
			n = int(seg.events.Load())
		}
		if n == 0 || !older(seg, 0) {
			if failed != nil {
				return 0, failed
			}
			continue
		}
		i := sort.Search(n, func(i int) bool { return !older(seg, uint32(i)) })
		return seg.position(uint32(i - 1)), failed
	}
	return 0, failed
}
