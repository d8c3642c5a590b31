package crashfs

import (
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// Disk is a directory in memory. It differs from [vfs.Dir] in that it keeps a journal of all
// that was done to it, out of which come crashes. All methods are safe for concurrent use;
// calls have the order in which they are in the journal.
type Disk struct {
	mu      sync.Mutex // guards all
	live    *state
	base    *state // the state before the journal; nil while the journal is empty
	journal []entry
	marks   []mark

	closed  bool
	handles map[int]int    // open files, by inode
	locks   map[int]string // holders, by inode
	next    int            // the inode to come

	failFunc, failReadFunc func(Op) error
	reads                  int
	failRand               *rand.Rand
	capacity               int64 // negative: no limit
}

type mark struct {
	at    int // number of ops before it
	value any
}

var _ vfs.FS = (*Disk)(nil)

// New returns an empty disk.
func New() *Disk { return newDisk(newState()) }

func newDisk(live *state) *Disk {
	d := &Disk{live: live, capacity: -1}
	for ino := range live.files {
		d.next = max(d.next, ino+1)
	}
	return d
}

// Len returns how many operations the journal holds. Failed ones count, reads do not.
func (d *Disk) Len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.journal)
}

// Ops returns the operations of the journal.
func (d *Disk) Ops() []Op {
	d.mu.Lock()
	defer d.mu.Unlock()
	ops := make([]Op, len(d.journal))
	for i := range ops {
		ops[i] = d.journal[i].Op
	}
	return ops
}

// Mark notes in the journal that something happened outside of the disk: an
// acknowledgement, say. It is no operation.
func (d *Disk) Mark(v any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.marks = append(d.marks, mark{len(d.journal), v})
}

// Marks returns the marks that were made while the journal had at most n operations.
func (d *Disk) Marks(n int) []any {
	d.mu.Lock()
	defer d.mu.Unlock()
	return marksUntil(d.marks, n)
}

func marksUntil(marks []mark, n int) []any {
	var values []any
	for _, m := range marks {
		if m.at > n {
			break
		}
		values = append(values, m.value)
	}
	return values
}

// Forget empties the journal and the marks. What is not durable stays so.
func (d *Disk) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forgetLocked()
}

func (d *Disk) forgetLocked() { d.base, d.journal, d.marks = nil, nil, nil }

// recordLocked appends to the journal and does what the entry says.
func (d *Disk) recordLocked(e entry) {
	if d.base == nil {
		d.base = d.live.clone()
	}
	e.N = len(d.journal)
	d.journal = append(d.journal, e)
	d.live.apply(e)
}

// Create implements [vfs.FS].
func (d *Disk) Create(name string) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refusedLocked("create", name); err != nil {
		return nil, err
	}
	if _, ok := d.live.names[name]; ok {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	e := entry{Op: Op{Kind: Create, Name: name}, ino: d.next}
	if e.Err = d.failLocked(e.Op); e.Err == nil {
		d.next++
	}
	d.recordLocked(e)
	if e.Err != nil {
		return nil, e.Err
	}
	return d.openLocked(name, e.ino), nil
}

// Open implements [vfs.FS].
func (d *Disk) Open(name string) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refusedLocked("open", name); err != nil {
		return nil, err
	}
	if err := d.failReadLocked(Op{Kind: Open, Name: name}); err != nil {
		return nil, err
	}
	ino, err := d.lookUpLocked("open", name)
	if err != nil {
		return nil, err
	}
	return d.openLocked(name, ino), nil
}

func (d *Disk) openLocked(name string, ino int) *file {
	if d.handles == nil {
		d.handles = map[int]int{}
	}
	d.handles[ino]++
	return &file{d: d, name: name, ino: ino}
}

// Rename implements [vfs.FS].
func (d *Disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refusedLocked("rename", from); err != nil {
		return err
	}
	if err := d.refusedLocked("rename", to); err != nil {
		return err
	}
	ino, err := d.lookUpLocked("rename", from)
	if err != nil || from == to {
		return err
	}
	e := entry{Op: Op{Kind: Rename, Name: from, To: to}, ino: ino}
	e.Err = d.failLocked(e.Op)
	d.recordLocked(e)
	return e.Err
}

// Remove implements [vfs.FS].
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refusedLocked("remove", name); err != nil {
		return err
	}
	ino, err := d.lookUpLocked("remove", name)
	if err != nil {
		return err
	}
	e := entry{Op: Op{Kind: Remove, Name: name}, ino: ino}
	e.Err = d.failLocked(e.Op)
	d.recordLocked(e)
	return e.Err
}

// List implements [vfs.FS].
func (d *Disk) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, &fs.PathError{Op: "list", Path: ".", Err: fs.ErrClosed}
	}
	if err := d.failReadLocked(Op{Kind: List, Name: "."}); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(d.live.names)), nil
}

// SyncDir implements [vfs.FS].
func (d *Disk) SyncDir() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return &fs.PathError{Op: "syncdir", Path: ".", Err: fs.ErrClosed}
	}
	e := entry{Op: Op{Kind: SyncDir, Name: "."}}
	e.Err = d.failLocked(e.Op)
	d.recordLocked(e)
	return e.Err
}

// Lock implements [vfs.FS]. As in a real directory there is a file of that name then, with
// the holder in it.
func (d *Disk) Lock(name, holder string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refusedLocked("lock", name); err != nil {
		return nil, err
	}
	ino, ok := d.live.names[name]
	if !ok {
		ino = d.next
	} else if other, ok := d.locks[ino]; ok {
		return nil, &vfs.LockedError{Holder: other}
	}
	e := entry{Op: Op{Kind: Lock, Name: name}, ino: ino, data: []byte(holder), written: len(holder)}
	e.Err = d.failLocked(e.Op)
	if e.Err == nil && !ok {
		d.next++
	}
	d.recordLocked(e)
	if e.Err != nil {
		return nil, e.Err
	}
	if d.locks == nil {
		d.locks = map[int]string{}
	}
	d.locks[ino] = holder
	return &held{d: d, name: name, ino: ino}, nil
}

// held is a lock.
type held struct {
	d    *Disk
	name string
	ino  int
	free bool // guarded by d.mu
}

// Close lets go of the lock. It cannot be made to fail, as File.Close cannot.
func (h *held) Close() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.free {
		return &fs.PathError{Op: "unlock", Path: h.name, Err: fs.ErrClosed}
	}
	h.free = true
	h.d.recordLocked(entry{Op: Op{Kind: Unlock, Name: h.name}, ino: h.ino})
	delete(h.d.locks, h.ino)
	return nil
}

// Close implements [vfs.FS]. Locks stay until they are closed. See [Disk.Reopen].
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return nil
}

// Reopen makes a disk usable again after Close, as when the same process opens the
// directory once more: what is not durable is not so still, and the journal goes on.
func (d *Disk) Reopen() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = false
}

// refusedLocked returns why a call is one that every disk refuses.
func (d *Disk) refusedLocked(op, name string) error {
	if d.closed {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrClosed}
	}
	return vfs.CheckName(op, name)
}

func (d *Disk) lookUpLocked(op, name string) (int, error) {
	ino, ok := d.live.names[name]
	if !ok {
		return 0, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return ino, nil
}
