package filestore

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weirstore/weir/engine"
)

const (
	handlersName  = "handlers"
	handlersMagic = "WEIRHAN\n"
)

// handlers is what handlers have to find again: their checkpoints and parked lists. All of
// it stands in one small file that is replaced as a whole, so that no checkpoint can ever be
// stored without the events that were parked before it.
type handlers struct {
	mu     sync.Mutex // pure memory work
	states map[string]*handlerState
	dirty  bool // states has changed since it was written

	writing chan struct{} // cap 1: the token to replace the file; before Store.syncing
}

// handlerState is one handler's, and its form in the file.
type handlerState struct {
	Checkpoint *engine.Position `json:"checkpoint,omitempty"` // nil if none was saved
	Parked     []parkedEvent    `json:"parked,omitempty"`
}

// parkedEvent is an engine.ParkedRecord. Keys and names are bytes here: JSON would replace
// what is not UTF-8.
type parkedEvent struct {
	Position engine.Position `json:"position"`
	Key      []byte          `json:"key,omitempty"`
	Error    string          `json:"error,omitempty"`
	Stack    string          `json:"stack,omitempty"`
	Attempts int             `json:"attempts,omitempty"`
	Time     time.Time       `json:"time,omitzero"`
	Held     bool            `json:"held,omitempty"`
}

func fromParked(p engine.ParkedRecord) parkedEvent {
	return parkedEvent{p.Position, []byte(p.Key), p.Error, p.Stack, p.Attempts, p.Time, p.Held}
}

func (p parkedEvent) record() engine.ParkedRecord {
	return engine.ParkedRecord{
		Position: p.Position, Key: string(p.Key), Error: p.Error, Stack: p.Stack, Attempts: p.Attempts, Time: p.Time, Held: p.Held,
	}
}

type handlersFile struct {
	// Head is how far the log was on disk when this was written: if it ends before, events
	// are missing.
	Head     engine.Position `json:"head"`
	Handlers []namedState    `json:"handlers"`
}

type namedState struct {
	Name []byte `json:"name"`
	handlerState
}

func newHandlers() *handlers {
	return &handlers{states: make(map[string]*handlerState), writing: make(chan struct{}, 1)}
}

// stateLocked returns a handler's state, made if there is none.
func (h *handlers) stateLocked(name string) *handlerState {
	st := h.states[name]
	if st == nil {
		st = new(handlerState)
		h.states[name] = st
	}
	return st
}

// snapshot returns what is to stand in the file at this moment, and is to be written if that is said.
func (h *handlers) snapshot(write bool) *handlersFile {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := &handlersFile{Handlers: []namedState{}}
	for _, name := range slices.Sorted(maps.Keys(h.states)) {
		st := *h.states[name]
		st.Parked = slices.Clone(st.Parked)
		f.Handlers = append(f.Handlers, namedState{[]byte(name), st})
	}
	h.dirty = h.dirty && !write
	return f
}

// encode returns the file's content. Head is durable, and what f tells of is not behind it.
func (f *handlersFile) encode(id storeID, head engine.Position) ([]byte, error) {
	f.Head = head
	return encodeSmall(handlersMagic, id, f)
}

// readHandlers reads the file. It was made with the store, and is there.
func (s *Store) readHandlers() (*handlersFile, error) {
	path := s.path(handlersName)
	b, err := readFile(s.fs, path, handlersName, maxSmall)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, corrupt(path, 0, "the file is missing: where handlers stood is not known")
	}
	if err != nil {
		return nil, err
	}
	var f handlersFile
	id, err := decodeSmall(path, handlersMagic, b, &f)
	if err != nil {
		return nil, err
	}
	if id != s.id {
		return nil, corrupt(path, 16, "it belongs to another store")
	}
	return &f, nil
}

func (h *handlers) set(f *handlersFile) {
	for _, st := range f.Handlers {
		h.states[string(st.Name)] = &st.handlerState
	}
}

// LoadCheckpoint implements [engine.Backend].
func (s *Store) LoadCheckpoint(ctx context.Context, handler string) (engine.Position, bool, error) {
	if err := s.check(); err != nil {
		return 0, false, err
	}
	s.handlers.mu.Lock()
	defer s.handlers.mu.Unlock()
	if st := s.handlers.states[handler]; st != nil && st.Checkpoint != nil {
		return *st.Checkpoint, true, nil
	}
	return 0, false, nil
}

// SaveCheckpoints implements [engine.Backend]. The log is synced first (fdatasync) if it is
// not: a checkpoint on disk is never ahead of the events. Then the file of checkpoints and
// parked events is replaced (fsync of the file and the directory).
func (s *Store) SaveCheckpoints(ctx context.Context, checkpoints []engine.Checkpoint) error {
	if err := s.check(); err != nil {
		return err
	}
	if err := take(ctx, s.handlers.writing); err != nil {
		return err
	}
	defer func() { <-s.handlers.writing }()
	if err := s.check(); err != nil { // closed while it waited: the directory is somebody else's
		return err
	}
	h := s.handlers
	h.mu.Lock()
	old := make(map[string]*engine.Position, len(checkpoints))
	for _, c := range checkpoints {
		st := h.stateLocked(c.Handler)
		if _, twice := old[c.Handler]; !twice {
			old[c.Handler] = st.Checkpoint
		}
		st.Checkpoint = &c.Position
	}
	h.dirty = true
	h.mu.Unlock()
	err := s.writeHandlers()
	if err != nil {
		h.mu.Lock()
		for name, pos := range old {
			h.states[name].Checkpoint = pos
		}
		h.dirty = true
		h.mu.Unlock()
	}
	return err
}

// writeHandlers replaces the file if there is something new. REQUIRES: handlers.writing.
func (s *Store) writeHandlers() error {
	s.handlers.mu.Lock()
	dirty := s.handlers.dirty
	s.handlers.mu.Unlock()
	if !dirty {
		return nil
	}
	// First what is to be written, then the sync: an event that is parked after it may be lost
	// to a power cut, and another one then gets its position.
	f := s.handlers.snapshot(true)
	var b []byte
	err := s.syncWritten()
	if err == nil {
		b, err = f.encode(s.id, s.Durable())
	}
	if err == nil {
		err = s.replace(handlersName, b)
	}
	if err != nil {
		s.handlers.mu.Lock()
		s.handlers.dirty = true
		s.handlers.mu.Unlock()
	}
	return err
}

// Park implements [engine.Backend].
func (s *Store) Park(ctx context.Context, handler string, p engine.ParkedRecord) error {
	if err := s.check(); err != nil {
		return err
	}
	s.handlers.mu.Lock()
	defer s.handlers.mu.Unlock()
	st := s.handlers.stateLocked(handler)
	if i := st.parkedAt(p.Position); i >= 0 {
		st.Parked[i] = fromParked(p)
	} else {
		st.Parked = append(st.Parked, fromParked(p))
	}
	s.handlers.dirty = true
	return nil
}

func (st *handlerState) parkedAt(pos engine.Position) int {
	return slices.IndexFunc(st.Parked, func(p parkedEvent) bool { return p.Position == pos })
}

// Unpark implements [engine.Backend].
func (s *Store) Unpark(ctx context.Context, handler string, pos engine.Position) error {
	if err := s.check(); err != nil {
		return err
	}
	s.handlers.mu.Lock()
	defer s.handlers.mu.Unlock()
	if st := s.handlers.states[handler]; st != nil {
		if i := st.parkedAt(pos); i >= 0 {
			st.Parked = slices.Delete(st.Parked, i, i+1)
			s.handlers.dirty = true
		}
	}
	return nil
}

// Parked implements [engine.Backend].
func (s *Store) Parked(ctx context.Context, handler string) (list []engine.ParkedRecord, err error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	s.handlers.mu.Lock()
	defer s.handlers.mu.Unlock()
	if st := s.handlers.states[handler]; st != nil {
		for _, p := range st.Parked {
			list = append(list, p.record())
		}
	}
	return list, nil
}
