package crashfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// state is a disk at one moment: what the process sees, and what of it is durable.
type state struct {
	names   map[string]int // to files
	durable map[string]int // what names was at the last SyncDir; nil if dirOps is empty
	dirOps  []dirOp        // since then, in order
	files   map[int]*inode // removed ones too: a power cut can bring them back
}

// dirOp is a change of names.
type dirOp struct {
	kind     Kind // Create, Rename, Remove
	name, to string
	ino      int
	synced   bool // by a SyncDir, but one that failed came before it
	lost     bool // a SyncDir failed: no other will make it durable
}

func (o *dirOp) apply(names map[string]int) {
	if o.kind != Create {
		// All names, not only o.name: without an earlier rename the file is under another one.
		maps.DeleteFunc(names, func(_ string, ino int) bool { return ino == o.ino })
	}
	switch o.kind {
	case Create:
		names[o.name] = o.ino
	case Rename:
		names[o.to] = o.ino
	}
}

// takes returns the name that a file has from this change on.
func (o *dirOp) takes() string {
	switch o.kind {
	case Create:
		return o.name
	case Rename:
		return o.to
	}
	return ""
}

func newState() *state {
	return &state{names: map[string]int{}, files: map[int]*inode{}}
}

func (s *state) clone() *state {
	c := &state{maps.Clone(s.names), maps.Clone(s.durable), slices.Clone(s.dirOps), make(map[int]*inode, len(s.files))}
	for ino, f := range s.files {
		c.files[ino] = f.clone()
	}
	return c
}

// apply does what an entry of the journal did.
func (s *state) apply(e entry) {
	switch e.Kind {
	case WriteAt:
		s.files[e.ino].writeAt(e.Offset, e.data, e.written) // a failed one may have written something
	case Sync, Datasync:
		if e.Err == nil {
			s.files[e.ino].sync()
		} else {
			s.files[e.ino].failSync()
		}
	case SyncDir:
		s.syncDir(e.Err == nil)
	}
	if e.Err != nil {
		return
	}
	switch e.Kind {
	case Create:
		s.files[e.ino] = new(inode)
		s.change(dirOp{kind: Create, name: e.Name, ino: e.ino})
	case Truncate:
		s.files[e.ino].truncate(e.Offset)
	case Rename:
		s.change(dirOp{kind: Rename, name: e.Name, to: e.To, ino: e.ino})
	case Remove:
		s.change(dirOp{kind: Remove, name: e.Name, ino: e.ino})
	case Lock:
		if s.files[e.ino] == nil {
			s.files[e.ino] = new(inode)
			s.change(dirOp{kind: Create, name: e.Name, ino: e.ino})
		}
		s.files[e.ino].truncate(0)
		s.files[e.ino].writeAt(0, e.data, e.written)
	}
}

func (s *state) change(o dirOp) {
	if len(s.dirOps) == 0 {
		s.durable = maps.Clone(s.names)
	}
	s.dirOps = append(s.dirOps, o)
	o.apply(s.names)
}

func (s *state) syncDir(ok bool) {
	for i := range s.dirOps {
		if o := &s.dirOps[i]; ok {
			o.synced = !o.lost
		} else {
			o.lost = !o.synced
		}
	}
	for len(s.dirOps) > 0 && s.dirOps[0].synced {
		s.dirOps[0].apply(s.durable)
		s.dirOps = s.dirOps[1:]
	}
	if len(s.dirOps) == 0 {
		s.durable, s.dirOps = nil, nil
	}
}

// cut returns what a power cut leaves, at rest.
func (s *state) cut(p policy, rng *rand.Rand) *state {
	out := newState()
	out.names = s.cutNames(p, rng)
	for _, name := range slices.Sorted(maps.Keys(out.names)) {
		ino := out.names[name]
		if p.perFile {
			p.data, p.size = likelihood(rng), likelihood(rng)
		}
		out.files[ino] = &inode{cache: s.files[ino].cut(p, rng)}
	}
	return out
}

func (s *state) cutNames(p policy, rng *rand.Rand) map[string]int {
	if len(s.dirOps) == 0 {
		return maps.Clone(s.names)
	}
	kept := make([]bool, len(s.dirOps))
	for i := range s.dirOps {
		kept[i] = s.dirOps[i].synced || rng.Float64() < p.names
	}
	// A name that is taken again was free: if the file that had it was renamed, then that
	// rename is on disk too. Without it the file would lose both names.
	for i := len(kept) - 1; i >= 0; i-- {
		if to := s.dirOps[i].takes(); kept[i] && to != "" {
			for j := range i {
				if s.dirOps[j].kind == Rename && s.dirOps[j].name == to {
					kept[j] = true
				}
			}
		}
	}
	names := maps.Clone(s.durable)
	for i := range s.dirOps {
		if kept[i] {
			s.dirOps[i].apply(names)
		}
	}
	return names
}

// policy is how likely it is that what was not synced survives: of data each sector, of
// sizes each change, of names each change.
type policy struct {
	data, size, names float64
	perFile           bool // data and size are drawn again for each file
}

func randomPolicy(rng *rand.Rand) policy {
	p := likelihood(rng)
	if rng.IntN(2) == 0 {
		return policy{data: p, size: p, names: p}
	}
	return policy{p, likelihood(rng), likelihood(rng), rng.IntN(2) == 0}
}

func likelihood(rng *rand.Rand) float64 {
	return [...]float64{0, 0.05, 0.5, 0.95, 1}[rng.IntN(5)]
}
