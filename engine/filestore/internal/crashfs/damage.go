package crashfs

import (
	"fmt"
	"maps"
	"slices"
)

// The methods below look at a disk and damage it. Those that change something first make
// everything durable and empty the journal: they are for disks at rest. They panic if
// there is no such file.

// Files returns the names, sorted.
func (d *Disk) Files() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.live.names))
}

// Content returns a copy of what a file holds.
func (d *Disk) Content(name string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.contentLocked(name).bytes()
}

// Clone returns a disk of the same content, all of it durable, with nothing open, no lock and an empty
// journal. It is cheap: pages are shared until they are written. [Disk.Kill] is
// the copy that keeps what is not durable so.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return newDisk(d.live.settled())
}

// Put sets the content of a file, which it makes if there is none.
func (d *Disk) Put(name string, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settleLocked()
	var c content
	if !zeros(b) {
		c.put(0, b, len(b))
	}
	c.size = int64(len(b))
	d.putLocked(name, c)
}

// FlipBit inverts one bit: that of value 1<<(bit%8) in byte bit/8.
func (d *Disk) FlipBit(name string, bit int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settleLocked()
	c := d.contentLocked(name)
	if bit < 0 || bit/8 >= c.size {
		panic(fmt.Sprintf("crashfs: bit %d of %q, which has %d bytes", bit, name, c.size))
	}
	c.writable(bit / 8 / pageSize)[bit/8%pageSize] ^= 1 << (bit % 8)
}

// ZeroSector zeroes the i-th 512 bytes, as far as the file goes.
func (d *Disk) ZeroSector(name string, i int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settleLocked()
	if c := d.contentLocked(name); i < sectorsOf(c.size) {
		c.put(i*sectorSize, nil, sectorSize)
	}
}

// TruncateTo sets the size of a file: longer ones end with zeros.
func (d *Disk) TruncateTo(name string, size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settleLocked()
	d.contentLocked(name).truncate(size)
}

// Delete takes a file away.
func (d *Disk) Delete(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settleLocked()
	d.contentLocked(name)
	delete(d.live.names, name)
}

// Swap exchanges the contents of two files.
func (d *Disk) Swap(a, b string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settleLocked()
	x, y := d.contentLocked(a), d.contentLocked(b)
	*x, *y = *y, *x
}

// Copy gives the file to the content of the file from, and makes it if there is none.
func (d *Disk) Copy(from, to string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settleLocked()
	d.putLocked(to, d.contentLocked(from).clone())
}

func (d *Disk) contentLocked(name string) *content {
	ino, ok := d.live.names[name]
	if !ok {
		panic(fmt.Sprintf("crashfs: no file %q", name))
	}
	return &d.live.files[ino].cache
}

func (d *Disk) putLocked(name string, c content) {
	ino, ok := d.live.names[name]
	if !ok {
		ino = d.next
		d.next++
		d.live.names[name] = ino
	}
	d.live.files[ino] = &inode{cache: c}
}

// settleLocked makes everything durable and forgets how it came to be.
func (d *Disk) settleLocked() {
	d.forgetLocked()
	s := d.live
	s.durable, s.dirOps = nil, nil
	for _, f := range s.files {
		if !f.clean() {
			*f = inode{cache: f.cache}
		}
	}
}

// settled returns a copy in which everything is durable.
func (s *state) settled() *state {
	c := &state{names: maps.Clone(s.names), files: make(map[int]*inode, len(s.names))}
	for _, ino := range s.names {
		c.files[ino] = &inode{cache: s.files[ino].cache.clone()}
	}
	return c
}
