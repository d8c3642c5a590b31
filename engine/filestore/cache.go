package filestore

import (
	"container/list"
	"sync"

	"github.com/weirstore/weir/engine/filestore/internal/vfs"
)

// cache holds parts of the log that were read, up to so many bytes: the least recently
// used goes first. What is in it was checked when it was read, and never changes.
type cache struct {
	shards [16]cacheShard
}

type cacheShard struct {
	mu    sync.Mutex // pure memory work
	max   int64      // bytes
	bytes int64
	pages map[pageKey]*list.Element // of *page
	order list.List                 // the most recently used first
}

// pageKey is a place in a file: two generations of a segment have two files.
type pageKey struct {
	file   vfs.File
	offset uint32
}

// page is a run of whole records, their checksums verified.
type page struct {
	key     pageKey
	buf     []byte
	index   uint32   // of its first event
	offsets []uint32 // of its events in buf
}

// pageOverhead is what a page takes beside its bytes.
const pageOverhead = 200

func newCache(bytes int64) *cache {
	c := new(cache)
	for i := range c.shards {
		c.shards[i].max = bytes / int64(len(c.shards))
		c.shards[i].pages = make(map[pageKey]*list.Element)
	}
	return c
}

func (c *cache) shard(k pageKey) *cacheShard {
	return &c.shards[k.offset/pageSize%uint32(len(c.shards))]
}

func (p *page) size() int64 { return int64(len(p.buf)+4*len(p.offsets)) + pageOverhead }

// get returns a page of at least n bytes: the last one of the active segment grows.
func (c *cache) get(k pageKey, n int) *page {
	sh := c.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	el := sh.pages[k]
	if el == nil {
		return nil
	}
	p := el.Value.(*page)
	if len(p.buf) < n {
		return nil
	}
	sh.order.MoveToFront(el)
	return p
}

// put adds a page, unless it is larger than the cache should be for one.
func (c *cache) put(p *page) {
	sh := c.shard(p.key)
	if p.size() > sh.max/4 {
		return
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if el := sh.pages[p.key]; el != nil {
		sh.bytes += p.size() - el.Value.(*page).size()
		el.Value = p
		sh.order.MoveToFront(el)
	} else {
		sh.pages[p.key] = sh.order.PushFront(p)
		sh.bytes += p.size()
	}
	for sh.bytes > sh.max {
		el := sh.order.Back()
		old := sh.order.Remove(el).(*page)
		delete(sh.pages, old.key)
		sh.bytes -= old.size()
	}
}
