package crashfs

import (
	"bytes"
	"slices"
)

const (
	pageSize   = 4096
	sectorSize = 512
)

type page [pageSize]byte

// content is the bytes of a file. Pages are shared between clones until one side writes;
// a nil page is zeros. Bytes of a page that lie beyond size are zero.
type content struct {
	size  int64
	pages []pageRef // may be shorter than size says: the rest is zeros
}

type pageRef struct {
	*page
	own bool // nobody else has this page
}

func (c *content) clone() content {
	for i := range c.pages {
		c.pages[i].own = false
	}
	return content{c.size, slices.Clone(c.pages)}
}

// page returns the page with that index, nil for zeros.
func (c *content) page(i int64) *page {
	if i >= int64(len(c.pages)) {
		return nil
	}
	return c.pages[i].page
}

// writable returns the page with that index for writing.
func (c *content) writable(i int64) *page {
	if n := int(i) + 1; n > len(c.pages) {
		c.pages = slices.Grow(c.pages, n-len(c.pages))[:n]
	}
	ref := &c.pages[i]
	if !ref.own {
		fresh := new(page)
		if ref.page != nil {
			*fresh = *ref.page
		}
		*ref = pageRef{fresh, true}
	}
	return ref.page
}

// readAt fills b and returns how much of it lies within the file.
func (c *content) readAt(b []byte, off int64) int {
	n := int(max(0, min(int64(len(b)), c.size-off)))
	for done := 0; done < n; {
		i, in := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		chunk := b[done:min(n, done+int(pageSize-in))]
		if p := c.page(i); p != nil {
			copy(chunk, p[in:])
		} else {
			clear(chunk)
		}
		done += len(chunk)
	}
	return n
}

// put writes length bytes at off, zeros if data is nil, and leaves the size alone.
func (c *content) put(off int64, data []byte, length int) {
	for done := 0; done < length; {
		i, in := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		n := min(length-done, int(pageSize-in))
		switch {
		case data != nil:
			copy(c.writable(i)[in:], data[done:done+n])
		case c.page(i) == nil:
		case n == pageSize:
			c.pages[i] = pageRef{}
		default:
			clear(c.writable(i)[in : int(in)+n])
		}
		done += n
	}
}

// writeAt is put, and makes the file longer if need be.
func (c *content) writeAt(off int64, data []byte, length int) {
	c.put(off, data, length)
	c.size = max(c.size, off+int64(length))
}

// truncate sets the size. What lay beyond a smaller one becomes zeros.
func (c *content) truncate(size int64) {
	if keep := int((size + pageSize - 1) / pageSize); keep < len(c.pages) {
		clear(c.pages[keep:])
		c.pages = c.pages[:keep]
	}
	if in := size % pageSize; in > 0 && c.page(size/pageSize) != nil {
		if tail := c.page(size / pageSize)[in:]; !zeros(tail) {
			clear(c.writable(size / pageSize)[in:])
		}
	}
	c.size = size
}

// copySector takes the first n bytes of a sector from another content, whatever the sizes.
func (c *content) copySector(from *content, sector int64, n int) {
	i, in := sector*sectorSize/pageSize, sector*sectorSize%pageSize
	src := from.page(i)
	switch {
	case src == c.page(i):
	case src == nil:
		clear(c.writable(i)[in : int(in)+n])
	default:
		copy(c.writable(i)[in:int(in)+n], src[in:])
	}
}

func (c *content) bytes() []byte {
	b := make([]byte, c.size)
	c.readAt(b, 0)
	return b
}

var zeroPage page

func zeros(b []byte) bool {
	for ; len(b) > pageSize; b = b[pageSize:] {
		if !bytes.Equal(b[:pageSize], zeroPage[:]) {
			return false
		}
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}
