package crashfs

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
)

// tearing is how likely it is that a sector which gets written is torn, unless all or
// nothing survives.
const tearing = 1.0 / 8

// inode is a file whatever its name: what reads see, and what is between it and the disk.
//
//	disk --lost--> seen --pending--> cache
//
// Usually nothing is lost, and seen is disk. If nothing is pending either, there is only cache.
type inode struct {
	cache   content   // what reads see
	disk    content   // what a power cut leaves for sure; unused when clean
	pending []pending // since the last sync, in order

	// What failed syncs have dropped.
	isLost  bool
	seen    content            // cache at the last sync
	lost    map[int64]struct{} // sectors that differ between disk and seen
	resized bool               // the size does
	lostMin int64              // smallest size that was lost; MaxInt64 if none
}

// pending is a write or, with length 0, a truncation.
type pending struct {
	off    int64
	length int
	data   []byte // nil for zeros
	before int64  // size of the file
	after  int64
}

func (w *pending) shrinks() bool { return w.after < w.before }

func (w *pending) resizes() bool { return w.after != w.before }

// sectors returns the first sector that a change touches, and the one after the last. Growth
// touches none, as what is beyond the end is zeros already.
func (w *pending) sectors() (from, to int64) {
	if w.shrinks() {
		return w.after / sectorSize, sectorsOf(w.before)
	}
	if w.length == 0 {
		return 0, 0
	}
	return w.off / sectorSize, sectorsOf(w.off + int64(w.length))
}

func sectorsOf(size int64) int64 { return (size + sectorSize - 1) / sectorSize }

func blockEnd(size int64) int64 { return (size + pageSize - 1) / pageSize * pageSize }

func (w *pending) apply(c *content) {
	if w.length > 0 {
		c.writeAt(w.off, w.data, w.length)
	} else {
		c.truncate(w.after)
	}
}

func (f *inode) clean() bool { return len(f.pending) == 0 && !f.isLost }

func (f *inode) clone() *inode {
	return &inode{
		cache: f.cache.clone(), disk: f.disk.clone(), pending: slices.Clip(f.pending),
		isLost: f.isLost, seen: f.seen.clone(), lost: maps.Clone(f.lost), resized: f.resized, lostMin: f.lostMin,
	}
}

func (f *inode) writeAt(off int64, data []byte, length int) {
	if length > 0 {
		f.change(pending{off: off, data: data, length: length, before: f.cache.size, after: max(f.cache.size, off+int64(length))})
	}
}

func (f *inode) truncate(size int64) {
	f.change(pending{before: f.cache.size, after: size})
}

func (f *inode) change(w pending) {
	if f.clean() {
		f.disk = f.cache.clone()
	}
	f.pending = append(f.pending, w)
	w.apply(&f.cache)
}

// sync makes durable what is pending. What failed syncs have dropped stays dropped, but for
// the sectors that have been written again.
func (f *inode) sync() {
	if f.isLost && len(f.pending) > 0 {
		f.syncAfterLoss()
	}
	f.pending = nil
	if f.clean() {
		f.disk = content{}
	}
}

func (f *inode) syncAfterLoss() {
	// The size goes to disk if it has changed, or if what is written lies beyond the one there.
	resized := false
	for i := range f.pending {
		w := &f.pending[i]
		if w.shrinks() {
			f.lostMin = min(f.lostMin, w.after)
		}
		end := w.off + int64(w.length)
		resized = resized || w.resizes() || end > min(f.disk.size, f.lostMin)
	}
	size := f.disk.size
	if resized {
		size = f.cache.size
		f.disk.truncate(min(f.disk.size, f.lostMin))
		f.resized, f.lostMin = false, math.MaxInt64
	}
	for i := range f.pending {
		for s, to := f.pending[i].sectors(); s < to; s++ {
			f.disk.copySector(&f.cache, s, sectorSize) // with what was lost in it
			delete(f.lost, s)
		}
	}
	f.disk.truncate(size)
	f.seen = f.cache.clone()
	if !f.resized && len(f.lost) == 0 {
		f.isLost, f.seen = false, content{}
	}
}

// failSync drops what is pending.
func (f *inode) failSync() {
	if len(f.pending) == 0 {
		return
	}
	if !f.isLost {
		f.isLost, f.lost, f.lostMin = true, map[int64]struct{}{}, math.MaxInt64
	}
	for i := range f.pending {
		w := &f.pending[i]
		for s, to := w.sectors(); s < to; s++ {
			f.lost[s] = struct{}{}
		}
		if w.shrinks() {
			f.lostMin = min(f.lostMin, w.after)
		}
		f.resized = f.resized || w.resizes()
	}
	f.seen = f.cache.clone()
	f.pending = nil
}

// cut returns what a power cut leaves. It plays a disk that works while changes come in:
// after each of them, some of the sectors that it touched are written back as they are then.
func (f *inode) cut(p policy, rng *rand.Rand) content {
	if f.clean() || p.data == 1 && p.size == 1 {
		return f.cache.clone()
	}
	out, now := f.disk.clone(), f.disk.clone()
	size := out.size
	limit := int64(math.MaxInt64) // what is beyond it belongs to a truncation that is not on disk
	var torn map[int64]bool
	writeBack := func(from, to int64) {
		if p.data == 0 {
			return
		}
		to = min(to, limit/sectorSize)
		for s := from; s < to; s++ {
			if i := s * sectorSize / pageSize; out.page(i) == now.page(i) {
				s = (i+1)*pageSize/sectorSize - 1 // the whole page is the same
				continue
			}
			if rng.Float64() >= p.data || torn[s] {
				continue
			}
			n := sectorSize
			if p.data < 1 && rng.Float64() < tearing {
				n = 1 + rng.IntN(sectorSize-1)
				if torn == nil {
					torn = map[int64]bool{}
				}
				torn[s] = true // the power went while it was written: nothing comes after
			}
			out.copySector(&now, s, n)
		}
	}

	// Sizes are metadata: in the order in which they were changed, those up to last are on disk.
	last := -1
	for i := range f.pending {
		if f.pending[i].resizes() && rng.Float64() < p.size {
			last = i
		}
	}
	if f.isLost {
		now = f.seen.clone()
		switch {
		case f.resized && (last >= 0 || rng.Float64() < p.size):
			size = f.seen.size
			if f.lostMin < out.size {
				out.truncate(f.lostMin)
			}
		case f.lostMin < math.MaxInt64:
			limit = blockEnd(f.lostMin)
		}
		for _, s := range slices.Sorted(maps.Keys(f.lost)) {
			writeBack(s, s+1)
		}
	}
	for i := range f.pending {
		w := &f.pending[i]
		if p.data > 0 {
			w.apply(&now)
		}
		from, to := w.sectors()
		switch {
		case !w.shrinks():
		case i <= last:
			out.truncate(w.after) // its blocks are free
		default:
			// The rest of the last block is zeroed, and may be so on disk before the size is.
			limit = min(limit, blockEnd(w.after))
		}
		writeBack(from, to)
	}
	if last >= 0 {
		size = f.pending[last].after
	}
	if p.size > 0 && p.size < 1 && rng.IntN(4) == 0 {
		size = f.partWay(last+1, size, rng)
	}
	out.truncate(size)
	return out
}

// partWay returns a size between this one and that of the next change, if that is an
// appending write: a long one reaches the disk in parts.
func (f *inode) partWay(next int, size int64, rng *rand.Rand) int64 {
	for i := next; i < len(f.pending); i++ {
		w := &f.pending[i]
		if !w.resizes() {
			continue
		}
		from := max(size, w.off)/sectorSize + 1
		if ends := (w.after-1)/sectorSize + 1 - from; w.length > 0 && ends > 0 {
			return (from + rng.Int64N(ends)) * sectorSize
		}
		break
	}
	return size
}
