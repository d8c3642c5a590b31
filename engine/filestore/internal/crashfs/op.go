package crashfs

import "fmt"

// Kind says which call an [Op] is.
type Kind uint8

// The kinds that the journal holds, and those of reads (see [Disk.FailRead]).
const (
	Create Kind = iota + 1
	WriteAt
	Truncate
	Sync
	Datasync
	Rename
	Remove
	SyncDir
	Lock
	Unlock

	Open
	ReadAt
	Size
	List
)

var kindNames = [...]string{"none", "create", "write", "truncate", "sync", "datasync", "rename",
	"remove", "syncdir", "lock", "unlock", "open", "read", "size", "list"}

func (k Kind) String() string { return kindNames[k] }

// Op is one call. Calls that are refused for other reasons than the disk's, a name that does
// not exist say, are none.
type Op struct {
	N      int // its index in the journal; for reads, how many reads were before it
	Kind   Kind
	Name   string // the file's name when it was opened; of a rename, the old one
	To     string // Rename: the new name
	Offset int64  // WriteAt, ReadAt: where; Truncate: the new size
	Len    int    // WriteAt, ReadAt: number of bytes asked for
	Err    error  // how it ended
}

// String is a line for the eye: "17 write wal-1 +4096 512".
func (o Op) String() string {
	s := fmt.Sprint(o.N, " ", o.Kind, " ", o.Name)
	switch o.Kind {
	case WriteAt, ReadAt:
		s += fmt.Sprintf(" +%d %d", o.Offset, o.Len)
	case Truncate:
		s += fmt.Sprintf(" to %d", o.Offset)
	case Rename:
		s += " " + o.To
	}
	if o.Err != nil {
		s += ": " + o.Err.Error()
	}
	return s
}

// entry is an Op in the journal, with what it did: of a failed write what was written all
// the same.
type entry struct {
	Op
	ino     int
	data    []byte // nil for zeros
	written int
}

// torn is the entry of a write that got n bytes far.
func (e entry) torn(n int) entry {
	e.written = min(n, e.written)
	if e.data != nil {
		e.data = e.data[:e.written]
	}
	return e
}
