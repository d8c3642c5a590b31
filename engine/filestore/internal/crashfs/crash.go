package crashfs

import (
	"fmt"
	"iter"
	"math/rand/v2"
)

// PowerCut returns what the disk could be after its first n operations and a power cut, at
// rest. The next operation may have been under way. For many crashes of one run, see
// [Disk.Crashes].
func (d *Disk) PowerCut(n int, rng *rand.Rand) *Disk { return d.at(n).PowerCut(rng) }

// Kill returns what the disk is after its first n operations and the death of the process.
func (d *Disk) Kill(n int) *Disk { return d.at(n).Kill() }

// KillTorn is Kill in the middle of the next operation: see [Cursor.KillTorn].
func (d *Disk) KillTorn(n int, rng *rand.Rand) *Disk { return d.at(n).KillTorn(rng) }

func (d *Disk) at(n int) *Cursor {
	c := d.Replay()
	for c.n < n {
		if !c.Next() {
			panic(fmt.Sprintf("crashfs: %d operations asked for, %d in the journal", n, c.n))
		}
	}
	return c
}

// Crashes goes through the moments of the run: before the first operation, and after each one. The
// cursor is the same one each time.
func (d *Disk) Crashes() iter.Seq[*Cursor] {
	return func(yield func(*Cursor) bool) {
		c := d.Replay()
		for yield(c) && c.Next() {
		}
	}
}

// Replay returns a cursor before the first operation. It goes through the journal as it is
// now, whatever happens to the disk later.
func (d *Disk) Replay() *Cursor {
	d.mu.Lock()
	defer d.mu.Unlock()
	from := d.base
	if from == nil {
		from = d.live
	}
	return &Cursor{state: from.clone(), journal: d.journal, marks: d.marks}
}

// Cursor is a moment of a run. Going through a journal of n operations costs O(n) in all,
// and each crash what was not durable then. A cursor is for one goroutine; the disks that
// it returns are independent of it.
type Cursor struct {
	state   *state
	n       int
	journal []entry
	marks   []mark
}

// Next goes past one operation, if there is another.
func (c *Cursor) Next() bool {
	if c.n == len(c.journal) {
		return false
	}
	c.state.apply(c.journal[c.n])
	c.n++
	return true
}

// N returns how many operations are done.
func (c *Cursor) N() int { return c.n }

// Op returns the next operation, which a crash may find under way. There is none at the end.
func (c *Cursor) Op() (op Op, ok bool) {
	if c.n == len(c.journal) {
		return Op{}, false
	}
	return c.journal[c.n].Op, true
}

// Marks returns the marks made until now.
func (c *Cursor) Marks() []any { return marksUntil(c.marks, c.n) }

// PowerCut returns what the disk could be after a power cut now, at rest: the package
// comment says what is sure and what is chance. How likely things are to survive is drawn
// anew for each cut.
func (c *Cursor) PowerCut(rng *rand.Rand) *Disk {
	p := randomPolicy(rng)
	return newDisk(c.begun(rng).cut(p, rng))
}

// PowerCutKeeping is PowerCut in which what was not synced survives with that likelihood: 0 for
// the disk that writes nothing until it must, 1 for the one that writes everything at once.
func (c *Cursor) PowerCutKeeping(p float64, rng *rand.Rand) *Disk {
	return newDisk(c.begun(rng).cut(policy{data: p, size: p, names: p}, rng))
}

// Kill returns what the disk is if the process dies now: everything written is there, and
// as durable as it was before. Locks are free.
func (c *Cursor) Kill() *Disk { return newDisk(c.state.clone()) }

// KillTorn is Kill in the middle of the next operation: a WriteAt got part of the way, another
// one was done or was not.
func (c *Cursor) KillTorn(rng *rand.Rand) *Disk {
	s := c.begun(rng)
	if s == c.state {
		s = s.clone()
	}
	return newDisk(s)
}

// begun returns the state with part of the next operation done, or none of it.
func (c *Cursor) begun(rng *rand.Rand) *state {
	if c.n == len(c.journal) || rng.IntN(2) == 0 {
		return c.state
	}
	e := c.journal[c.n]
	switch e.Kind {
	case Sync, Datasync, SyncDir, Unlock:
		return c.state // what they did was chance, whether they have begun or not
	case WriteAt, Lock:
		e = e.torn(rng.IntN(e.written + 1))
	}
	s := c.state.clone()
	s.apply(e)
	return s
}
