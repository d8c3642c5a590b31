package filestore_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// lives is a run in which a call of the disk fails, and that goes on in a store which is opened anew over
// the same files, in the same machine. Beside the run somebody saves checkpoints.
type lives struct {
	*run
	tried, saved engine.Position // of handler x: asked for, and acknowledged
	parked       int             // events that were ever parked for it
}

// Marks of crashfs, beside those of run.
type (
	triedMark engine.Position
	savedMark engine.Position
)

// x is the handler whose checkpoints are saved. At checkpoint n it has parked n events.
const x = "x"

// saver saves the next checkpoint for each word from ask, until that is closed.
func (l *lives) saver(ask <-chan struct{}) {
	for range ask {
		pos := l.tried + 1
		l.tried, l.parked = pos, max(l.parked, int(pos))
		l.disk.Mark(triedMark(pos))
		err := l.s.Park(context.Background(), x, engine.ParkedRecord{Position: pos, Error: fmt.Sprint("no to ", pos), Attempts: 1})
		if err == nil {
			err = l.s.SaveCheckpoints(context.Background(), []engine.Checkpoint{{Handler: x, Position: pos}})
		}
		if err == nil {
			l.saved = pos
			l.disk.Mark(savedMark(pos))
		}
	}
}

// live opens the store, does so many things with it, and closes it, or lets the process die. It returns what
// is left. With an error that leaves nothing sure it does no more.
func (l *lives) live(steps int, die bool) (left *crashfs.Disk, err error) {
	turns := takeTurns(l.disk, rand.New(rand.NewPCG(l.rng.Uint64(), 1)))
	defer turns.stop()
	l.fs = turns
	if err := l.open(); err != nil {
		return l.disk.Kill(l.disk.Len()), err
	}
	if err := l.found(); err != nil {
		return nil, err
	}
	ask := make(chan struct{}, 1)
	saved := make(chan struct{})
	go func() { l.saver(ask); close(saved) }()
	for range steps {
		failed := l.some(ask)
		if err == nil {
			err = failed
		}
		if errors.Is(failed, engine.ErrOutcomeUnknown) {
			break // what the log has is not known
		}
	}
	close(ask)
	<-saved
	if !die {
		if closed := l.s.Close(); err == nil {
			err = closed
		}
	}
	left = l.disk.Kill(l.disk.Len())
	l.s.Close()
	return left, err
}

// some does one thing.
func (l *lives) some(ask chan<- struct{}) error {
	switch n := l.rng.IntN(100); {
	case n < 35:
		return l.put(engine.Synced)
	case n < 45:
		return l.put(engine.Written)
	case n < 60:
		return l.truncate()
	case n < 63:
		return l.delete()
	case n < 73:
		return l.compact()
	case n < 80:
		return l.snap()
	}
	select {
	case ask <- struct{}{}: // it is done beside what comes next
	default:
	}
	return nil
}

// snap saves a snapshot, so large that the third is the occasion to make the file anew.
func (l *lives) snap() error {
	st := l.state("a-0")
	i := len(l.log) - 1
	for i >= 0 && (l.log[i].stream != st.Name || l.log[i].version != st.Version) {
		i--
	}
	if i < 0 {
		return nil
	}
	data := fmt.Appendf(nil, "%d %s", st.Version, strings.Repeat("s", 90<<10))
	return l.s.SaveSnapshot(context.Background(), *st, engine.Snapshot{
		Name: "fold", First: 1, Version: st.Version, Position: engine.Position(i + 1), Time: time.Unix(1, 0), Data: data,
	})
}

// found takes what an opening has found for what there is: all of it must be on disk from now on.
func (l *lives) found() error {
	p := l.promised()
	p.durable = max(p.durable, p.written)
	if err := l.judgeLife(l.s, moment{p, l.tried, l.saved}); err != nil {
		return fmt.Errorf("opened: %w", err)
	}
	head, ctx := l.s.Head(), context.Background()
	l.log = l.log[:head]
	maps.DeleteFunc(l.ends, func(end engine.Position, _ bool) bool { return end > head })
	l.now.durable, l.now.written = head, head
	for name := range l.states {
		st, err := l.s.Load(ctx, name)
		if err != nil {
			return err
		}
		l.states[name] = &st
		first, dst := engine.Version(1), make([]engine.Event, 1)
		for first <= st.Version && dst[0].Version == 0 {
			if _, first, err = l.s.ReadStream(ctx, st, engine.StreamQuery{From: first, To: st.Version}, dst); err != nil {
				return err
			}
		}
		if dst[0].Version > 0 {
			first = dst[0].Version
		}
		if st.Deleted {
			first = forever
		}
		if first > 1 {
			l.now.removed[name] = max(l.now.removed[name], first)
			l.now.maybe[name] = max(l.now.maybe[name], first)
		}
	}
	at, _, err := l.s.LoadCheckpoint(ctx, x)
	l.tried, l.saved = at, at
	l.disk.Mark(triedMark(l.tried))
	l.disk.Mark(savedMark(l.saved))
	l.mark()
	return err
}

// moment is what is owed at one.
type moment struct {
	promise
	tried, saved engine.Position
}

// momentOf returns what marks say, and before the first of them what was owed then.
func momentOf(marks []any, before moment) moment {
	m := before
	for _, v := range marks {
		switch v := v.(type) {
		case promise:
			m.promise = v
		case triedMark:
			m.tried = engine.Position(v)
		case savedMark:
			m.saved = engine.Position(v)
		}
	}
	return m
}

// judgeLife judges checkpoints and snapshots too.
func (l *lives) judgeLife(s *filestore.Store, m moment) error {
	if err := l.judge(s, m.promise); err != nil {
		return err
	}
	ctx := context.Background()
	at, _, err := s.LoadCheckpoint(ctx, x)
	if err != nil || at < m.saved || at > m.tried {
		return fmt.Errorf("the checkpoint is %d, %v; saved was %d, tried %d", at, err, m.saved, m.tried)
	}
	parked, err := s.Parked(ctx, x)
	if err != nil || len(parked) < int(at) || len(parked) > l.parked {
		return fmt.Errorf("at checkpoint %d there are %d parked, %d ever were; %v", at, len(parked), l.parked, err)
	}
	for name := range l.states {
		st, err := s.Load(ctx, name)
		if err != nil {
			return err
		}
		snap, there, err := s.LoadSnapshot(ctx, st, "fold")
		if err != nil {
			if _, damaged := errors.AsType[*filestore.CorruptionError](err); damaged {
				continue // it was not synced, and it is told of
			}
			return err
		}
		if !there {
			continue
		}
		if snap.Version > st.Version || !strings.HasPrefix(string(snap.Data), fmt.Sprint(snap.Version, " ")) {
			return fmt.Errorf("%q is at version %d, its snapshot at %d: %.10q", name, st.Version, snap.Version, snap.Data)
		}
		if f := l.log[snap.Position-1]; f.stream != name || f.version != snap.Version {
			return fmt.Errorf("the snapshot of %q at version %d is of position %d, where %s@%d stands", name, snap.Version, snap.Position, f.stream, f.version)
		}
	}
	return nil
}

// cutAt opens what a power cut has left, and judges it.
func (l *lives) cutAt(left *crashfs.Disk, m moment) error {
	for i := range 2 {
		s, err := filestore.OpenFS(left, l.opts)
		if err == nil {
			err = l.judgeLife(s, m)
			if closed := s.Close(); err == nil {
				err = closed
			}
		}
		if err != nil {
			return fmt.Errorf("opening %d: %w", i+1, err)
		}
		left.Reopen()
	}
	return nil
}

// as returns what is judged by now, with the log as it is.
func (l *lives) as() *lives {
	r := *l.run
	r.log, r.ends, r.states, r.rng = slices.Clone(l.log), maps.Clone(l.ends), maps.Clone(l.states), rand.New(rand.NewPCG(l.rng.Uint64(), 2))
	return &lives{run: &r, tried: l.tried, saved: l.saved, parked: l.parked}
}

// firstLife is how many things are done in it.
const firstLife = 30

func newLives(disk *crashfs.Disk, seed uint64) *lives {
	return &lives{run: newRun(disk, filestore.Options{SegmentSize: 4 << 10, Logger: quiet, SyncEvery: 1 << 40}, seed)}
}

// withoutFailure returns the operations of a first life in which all goes well.
func withoutFailure(t *testing.T, seed uint64) (ops []crashfs.Op) {
	synctest.Test(t, func(t *testing.T) {
		l := newLives(crashfs.New(), seed)
		if _, err := l.live(firstLife, false); err != nil {
			t.Fatal(err)
		}
		ops = l.disk.Ops()
	})
	return ops
}

// closeBy is how many operations behind the failure, and behind the opening, are where it is most likely to
// show.
const closeBy = 20

// secondLife lets the n-th operation of the disk fail, opens the store again, goes on, and cuts the power at
// moments of both lives: one of so many where it is close by, and elsewhere.
func secondLife(t *testing.T, seed uint64, n int, fault error, near, far int) (cuts int) {
	var first, second *lives
	var before moment
	var op crashfs.Op
	failed := false
	die := (n+int(seed))%2 == 0
	skip := func(rng *rand.Rand, distance int) bool {
		if distance < closeBy {
			return rng.IntN(near) > 0
		}
		return rng.IntN(far) > 0
	}
	synctest.Test(t, func(t *testing.T) {
		disk := crashfs.New()
		disk.Fail(func(o crashfs.Op) error {
			if o.N == n {
				op, failed = o, true
				return fault
			}
			return nil
		})
		l := newLives(disk, seed)
		left, err := l.live(firstLife, die)
		if err != nil && !errors.Is(err, fault) {
			t.Errorf("seed %d, operation %d, %v failed, and then: %v", seed, n, op, err)
		}
		if !failed {
			t.Errorf("seed %d: there was no operation %d", seed, n)
		}
		if t.Failed() {
			return
		}
		first = l.as()
		before = moment{l.promised(), l.tried, l.saved}
		l.disk = left
		if _, err := l.live(8, false); err != nil {
			t.Errorf("seed %d, operation %d, %v failed (%v); opened again: %v", seed, n, op, err, err)
			return
		}
		second = l.as()
		second.disk = left
	})
	if second == nil {
		return 0
	}
	where := fmt.Sprintf("seed %d, operation %d, %v failed, the process died: %v", seed, n, op, die)
	for at := range first.disk.Crashes() {
		if at.N() < n || skip(first.rng, at.N()-n) {
			continue
		}
		cuts++
		if err := first.cutAt(at.PowerCut(first.rng), momentOf(at.Marks(), moment{promise: promise{handlers: []handlersAt{{}}}})); err != nil {
			t.Errorf("%s; power cut at operation %d: %v", where, at.N(), err)
			return cuts
		}
	}
	for at := range second.disk.Crashes() {
		if skip(second.rng, at.N()) && at.N() < second.disk.Len() {
			continue
		}
		cuts++
		judge := second
		if len(at.Marks()) == 0 {
			judge = first // the opening has not told anybody yet
		}
		left := at.PowerCut(second.rng)
		if at.N() == second.disk.Len() {
			left = at.PowerCutKeeping(0, second.rng)
		}
		if err := judge.cutAt(left, momentOf(at.Marks(), before)); err != nil {
			t.Errorf("%s; opened again, and then a power cut at operation %d: %v", where, at.N(), err)
			return cuts
		}
	}
	return cuts
}
