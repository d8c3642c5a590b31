package filestore

import (
	"sync"

	"github.com/weirstore/weir/engine"
)

// ids finds events by their IDs. It holds eight bytes for each, of which 24 bits are of
// the ID's hash and 40 the position: what it finds is looked at in the log, where one in
// several million is another.
//
// The tables are open: an entry stands at the place that its 24 bits say, or behind it.
// That place grows with the 24 bits whatever the table's size, so a table can be copied into a larger one
// without the hashes.
type ids struct {
	shards [256]idShard
}

type idShard struct {
	mu    sync.RWMutex // pure memory work
	n     int
	table []uint64 // 0 is empty
}

const (
	positionBits = 40
	maxPosition  = 1<<positionBits - 1 // a million million events
	printBits    = 64 - positionBits
)

// add is called by the writer alone, or before there is one.
func (x *ids) add(hash uint64, pos engine.Position) {
	sh := &x.shards[hash>>56]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if (sh.n+1)*10 > len(sh.table)*9 { // nine in ten places taken at the most
		sh.grow()
	}
	sh.put(hash<<8>>positionBits<<positionBits | uint64(pos))
	sh.n++
}

func (sh *idShard) grow() {
	old := sh.table
	sh.table = make([]uint64, len(old)+len(old)/4+16)
	for _, e := range old {
		if e != 0 {
			sh.put(e)
		}
	}
}

func (sh *idShard) place(print uint64) uint64 { return print * uint64(len(sh.table)) >> printBits }

func (sh *idShard) put(e uint64) {
	i := sh.place(e >> positionBits)
	for sh.table[i] != 0 {
		if i++; i == uint64(len(sh.table)) {
			i = 0
		}
	}
	sh.table[i] = e
}

// find appends the positions at which the event may be.
func (x *ids) find(dst []engine.Position, hash uint64) []engine.Position {
	sh := &x.shards[hash>>56]
	print := hash << 8 >> positionBits
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	if len(sh.table) == 0 {
		return dst
	}
	for i := sh.place(print); sh.table[i] != 0; {
		if sh.table[i]>>positionBits == print {
			dst = append(dst, engine.Position(sh.table[i]&maxPosition))
		}
		if i++; i == uint64(len(sh.table)) {
			i = 0
		}
	}
	return dst
}
