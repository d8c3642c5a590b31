package filestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// tiny makes segments that a few batches fill.
var tiny = filestore.Options{SegmentSize: 8 << 10, Logger: quiet, SyncEvery: 1 << 40}

// run does things with a store on a disk, and notes what the store owes for them. It is what
// a crash is judged by.
type run struct {
	disk *crashfs.Disk
	fs   vfs.FS // what the store sees of it; nil for itself
	opts filestore.Options
	id   [16]byte // the store's: the same in each process, for what the fuzzer finds in one
	s    *filestore.Store
	rng  *rand.Rand

	log     []fact                   // all that was ever given to the store, but for what it refused
	ends    map[engine.Position]bool // of batches
	states  map[string]*engine.StreamState
	parked  map[string][]engine.ParkedRecord
	now     promise
	refused bool // the last call was, with nothing stored
	payload int  // most bytes of a payload, or so
	batches []batchEnd
}

// promise is what must be found after a crash at some moment.
type promise struct {
	durable engine.Position           // every event up to here is on disk
	written engine.Position           // every event up to here the operating system has
	removed map[string]engine.Version // versions before these are gone
	maybe   map[string]engine.Version // versions before these may be gone: it was asked for
	// handlers is what checkpoints and parked lists may be: as stored last, and as they were to be
	// stored when the crash came.
	handlers []handlersAt
}

type handlersAt struct {
	checkpoints map[string]engine.Position
	parked      map[string][]engine.ParkedRecord
}

// forever stands for the version before which everything is removed of a deleted stream.
const forever = maxVersion

func newRun(disk *crashfs.Disk, opts filestore.Options, seed uint64) *run {
	return &run{
		disk: disk, opts: opts, id: [16]byte{0: 'w', 15: byte(seed)}, rng: rand.New(rand.NewPCG(seed, 2)), payload: 300,
		ends:   map[engine.Position]bool{0: true},
		states: make(map[string]*engine.StreamState),
		parked: make(map[string][]engine.ParkedRecord),
		now: promise{
			removed: make(map[string]engine.Version), maybe: make(map[string]engine.Version),
			handlers: []handlersAt{{}},
		},
	}
}

func (r *run) open() (err error) {
	fs := r.fs
	if fs == nil {
		fs = r.disk
	}
	if r.s, err = filestore.OpenFixed(fs, r.opts, r.id); err == nil {
		for name := range r.states {
			r.states[name] = &engine.StreamState{Name: name, Version: r.states[name].Version, Deleted: r.states[name].Deleted}
		}
	}
	return err
}

// mark notes the promise of this moment on the disk.
func (r *run) mark() { r.disk.Mark(r.promised()) }

func (r *run) promised() promise {
	p := r.now
	p.removed, p.maybe, p.handlers = maps.Clone(p.removed), maps.Clone(p.maybe), slices.Clone(p.handlers)
	return p
}

func (r *run) state(name string) *engine.StreamState {
	if r.states[name] == nil {
		r.states[name] = &engine.StreamState{Name: name}
	}
	return r.states[name]
}

func (r *run) name() string { return fmt.Sprintf("%c-%d", 'a'+r.rng.IntN(2), r.rng.IntN(3)) }

// step does one thing, chosen at random.
func (r *run) step() error {
	r.refused = false
	switch n := r.rng.IntN(100); {
	case n < 50:
		return r.put(engine.Synced)
	case n < 65:
		return r.put(engine.Written)
	case n < 75:
		return r.truncate()
	case n < 77:
		return r.delete()
	case n < 82:
		return r.compact()
	case n < 90:
		r.park()
		return nil
	case n < 96:
		return r.save()
	default:
		if err := r.close(); err != nil {
			return err
		}
		r.disk.Reopen()
		return r.open()
	}
}

// put commits a batch of one to four events for one or two streams.
func (r *run) put(d engine.Durability) error {
	r.refused = false
	before := len(r.log)
	var writes []*engine.Write
	used := make(map[string]bool)
	for range 1 + r.rng.IntN(2) {
		name := r.name()
		st := r.state(name)
		if used[name] || st.Deleted {
			continue
		}
		used[name] = true
		w := &engine.Write{Stream: st, After: st.Version, Durability: d}
		for i := range 1 + r.rng.IntN(4) {
			f := fact{stream: name, version: st.Version + engine.Version(i) + 1, typ: "A"}
			f.data = fmt.Appendf(nil, "%d %s", len(r.log)+1, bytes.Repeat([]byte{'x'}, r.rng.IntN(r.payload)))
			if r.rng.IntN(3) == 0 {
				f.id = fmt.Sprint("id-", f.version)
			}
			w.Events = append(w.Events, f.record(r.s, "text"))
			r.log = append(r.log, f)
		}
		writes = append(writes, w)
	}
	if len(writes) == 0 {
		return nil
	}
	end := engine.Position(len(r.log))
	known := r.ends[end]
	r.ends[end] = true // before it is acknowledged: it may be there
	err := r.s.Commit(context.Background(), writes)
	switch {
	case err == nil:
		for _, w := range writes {
			w.Stream.Version += engine.Version(len(w.Events))
		}
		r.now.written = end
		if d != engine.Synced {
			r.mark()
		} else {
			r.now.durable = end
			r.mark()
			file, bytes := r.active()
			r.batches = append(r.batches, batchEnd{file, bytes, r.promised()})
		}
	case !errors.Is(err, engine.ErrOutcomeUnknown): // nothing is stored
		r.log = r.log[:before]
		if !known {
			delete(r.ends, end)
		}
		r.refused = true
	}
	return err
}

// control does what asks for versions of streams to be removed, which is synced.
func (r *run) control(before map[string]engine.Version, do func() error) error {
	for name, v := range before {
		r.now.maybe[name] = max(r.now.maybe[name], v)
	}
	r.mark()
	err := do()
	if err == nil {
		for name, v := range before {
			r.now.removed[name] = max(r.now.removed[name], v)
		}
		if len(before) > 0 {
			r.now.durable = engine.Position(len(r.log))
		}
		r.mark()
	}
	return err
}

func (r *run) truncate() error {
	st := r.state(r.name())
	before := engine.Version(r.rng.IntN(int(st.Version) + 2))
	if st.Deleted || before <= max(1, r.now.removed[st.Name]) {
		return r.s.Truncate(context.Background(), *st, before) // nothing to do
	}
	return r.control(map[string]engine.Version{st.Name: before}, func() error { return r.s.Truncate(context.Background(), *st, before) })
}

func (r *run) delete() error {
	st := r.state(r.name())
	if st.Deleted {
		return nil
	}
	return r.control(map[string]engine.Version{st.Name: forever}, func() error {
		err := r.s.Delete(context.Background(), *st)
		st.Deleted = err == nil
		return err
	})
}

// compact compacts, half of the time with a rule.
func (r *run) compact() error {
	var rules []engine.RetentionRule
	before := make(map[string]engine.Version)
	if r.rng.IntN(2) == 0 {
		const keep = 3
		rules = []engine.RetentionRule{{Category: "a", MaxCount: keep}}
		for name, st := range r.states {
			if name[0] == 'a' && st.Version > keep && st.Version-keep+1 > r.now.removed[name] {
				before[name] = st.Version - keep + 1
			}
		}
	}
	return r.control(before, func() error {
		_, err := r.s.Compact(context.Background(), rules)
		return err
	})
}

// park parks an event, or takes one off a list. The next save stores it.
func (r *run) park() {
	h := fmt.Sprint("h-", r.rng.IntN(2))
	pos := engine.Position(r.rng.IntN(len(r.log)+1) + 1)
	list := slices.DeleteFunc(slices.Clone(r.parked[h]), func(p engine.ParkedRecord) bool { return p.Position == pos })
	if len(list) == len(r.parked[h]) && len(r.log) > 0 {
		pos = min(pos, engine.Position(len(r.log)))
		p := engine.ParkedRecord{Position: pos, Error: fmt.Sprint("no ", len(r.log)), Attempts: 1, Time: time.Unix(1, 2).UTC()}
		if err := r.s.Park(context.Background(), h, p); err != nil {
			panic(err)
		}
		list = append(slices.DeleteFunc(list, func(q engine.ParkedRecord) bool { return q.Position == pos }), p)
		if i := slices.IndexFunc(r.parked[h], func(q engine.ParkedRecord) bool { return q.Position == pos }); i >= 0 {
			list = slices.Clone(r.parked[h])
			list[i] = p
		}
	} else if err := r.s.Unpark(context.Background(), h, pos); err != nil {
		panic(err)
	}
	r.parked[h] = list
}

// save stores checkpoints, and what is parked.
func (r *run) save() error {
	h := handlersAt{maps.Clone(r.now.handlers[0].checkpoints), maps.Clone(r.parked)}
	if h.checkpoints == nil {
		h.checkpoints = make(map[string]engine.Position)
	}
	var list []engine.Checkpoint
	for i := range 1 + r.rng.IntN(3) {
		c := engine.Checkpoint{Handler: fmt.Sprint("h-", i), Position: engine.Position(r.rng.IntN(len(r.log) + 1))}
		h.checkpoints[c.Handler] = c.Position
		list = append(list, c)
	}
	return r.stores(h, func() error { return r.s.SaveCheckpoints(context.Background(), list) })
}

// stores does what stores checkpoints and parked lists, and all of the log with them.
func (r *run) stores(h handlersAt, do func() error) error {
	r.now.handlers = append(r.now.handlers[:len(r.now.handlers):len(r.now.handlers)], h)
	r.mark()
	err := do()
	if err == nil {
		r.now.handlers = []handlersAt{h}
		r.now.durable = engine.Position(len(r.log))
		r.mark()
	}
	return err
}

func (r *run) close() error {
	return r.stores(handlersAt{r.now.handlers[0].checkpoints, maps.Clone(r.parked)}, r.s.Close)
}

// judge compares a store that was opened after a crash with what was promised.
func (r *run) judge(s *filestore.Store, p promise) error {
	head := s.Head()
	if head < p.durable || !r.ends[head] {
		return fmt.Errorf("the log ends at %d, durable was %d; an end of a batch: %v", head, p.durable, r.ends[head])
	}
	if err := r.judgeLog(s, p); err != nil {
		return err
	}
	versions := make(map[string]engine.Version)
	for i := range r.log[:head] {
		versions[r.log[i].stream] = r.log[i].version
	}
	for name := range r.states {
		st, err := s.Load(context.Background(), name)
		if err != nil || st.Version != versions[name] {
			return fmt.Errorf("stream %q is at version %d, %w; want %d", name, st.Version, err, versions[name])
		}
		if err := r.judgeStream(s, st, p); err != nil {
			return err
		}
		if st.Deleted && p.maybe[name] < forever || !st.Deleted && p.removed[name] == forever {
			return fmt.Errorf("stream %q: deleted %v, was to be removed before %d, perhaps %d", name, st.Deleted, p.removed[name], p.maybe[name])
		}
	}
	return judgeHandlers(s, p.handlers)
}

func (r *run) judgeLog(s *filestore.Store, p promise) error {
	head := s.Head()
	dst := make([]engine.Event, 64)
	missing := func(from, to engine.Position) error {
		for ; from < to; from++ {
			if f := &r.log[from-1]; f.version >= p.maybe[f.stream] {
				return fmt.Errorf("position %d is missing: %s@%d, truncated before %d", from, f.stream, f.version, p.maybe[f.stream])
			}
		}
		return nil
	}
	from := engine.Position(1)
	for pos := from; pos <= head; {
		n, next, err := s.ReadAll(context.Background(), engine.Query{From: pos, To: head}, dst)
		if err != nil || next <= pos {
			return fmt.Errorf("read at %d: %d, next %d, %w", pos, n, next, err)
		}
		for i := range dst[:n] {
			ev := &dst[i]
			if err := missing(from, ev.Position); err != nil {
				return err
			}
			from = ev.Position + 1
			f := &r.log[ev.Position-1]
			data := ev.Data.(*engine.Payload).Bytes
			if ev.Stream != f.stream || ev.Version != f.version || ev.ID != f.id || !bytes.Equal(data, f.data) {
				return fmt.Errorf("position %d holds %s@%d, %d bytes; want %s@%d, %d", ev.Position, ev.Stream, ev.Version, len(data), f.stream, f.version, len(f.data))
			}
			if f.version < p.removed[f.stream] {
				return fmt.Errorf("position %d holds %s@%d, which was removed", ev.Position, f.stream, f.version)
			}
		}
		pos = next
	}
	return missing(from, head+1)
}

// judgeStream reads a stream from its first event that is left, and looks its IDs up.
func (r *run) judgeStream(s *filestore.Store, st engine.StreamState, p promise) error {
	dst := make([]engine.Event, 16)
	want := engine.Version(0)
	for v := engine.Version(1); v <= st.Version; {
		n, next, err := s.ReadStream(context.Background(), st, engine.StreamQuery{From: v, To: st.Version}, dst)
		if err != nil || next <= v {
			return fmt.Errorf("read %q at %d: %d, next %d, %w", st.Name, v, n, next, err)
		}
		for i := range dst[:n] {
			ev := &dst[i]
			if want == 0 && ev.Version > 1 && ev.Version > p.maybe[st.Name] {
				return fmt.Errorf("stream %q begins at version %d, truncated before %d", st.Name, ev.Version, p.maybe[st.Name])
			}
			if want > 0 && ev.Version != want {
				return fmt.Errorf("stream %q has version %d where %d must come", st.Name, ev.Version, want)
			}
			want = ev.Version + 1
			var found [1]engine.Version
			if ev.ID == "" {
				continue
			}
			if err := s.Find(context.Background(), st, []string{ev.ID}, found[:]); err != nil || found[0] != ev.Version {
				return fmt.Errorf("%q of %q is found at version %d, %w; want %d", ev.ID, st.Name, found[0], err, ev.Version)
			}
		}
		v = next
	}
	if want == 0 && st.Version > 0 && p.maybe[st.Name] <= st.Version || want > 0 && want != st.Version+1 {
		return fmt.Errorf("stream %q is at version %d, its last event is %d", st.Name, st.Version, want-1)
	}
	return nil
}

// judgeHandlers looks whether checkpoints and parked lists are one of those that may be.
func judgeHandlers(s *filestore.Store, allowed []handlersAt) error {
	var wrong []string
	for _, h := range allowed {
		bad := ""
		for i := range 3 {
			name := "h-" + strconv.Itoa(i)
			at, _, err := s.LoadCheckpoint(context.Background(), name)
			if err != nil {
				return err
			}
			list, err := s.Parked(context.Background(), name)
			if err != nil {
				return err
			}
			if at != h.checkpoints[name] || !slices.Equal(list, h.parked[name]) {
				bad += fmt.Sprintf("%s is at %d with %d parked, want %d with %d; ", name, at, len(list), h.checkpoints[name], len(h.parked[name]))
			}
		}
		if bad == "" {
			return nil
		}
		wrong = append(wrong, bad)
	}
	return fmt.Errorf("handlers are none of what they may be: %q", wrong)
}
