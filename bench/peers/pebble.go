package peers

import (
	"encoding/binary"
	"path/filepath"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/weirstore/weir/bench/contender"
)

var pebbleLog = contender.Entry{
	Name: "Pebble", Kind: contender.Logs,
	Can:  contender.Keep | contender.Concurrent | contender.Durable,
	Note: "no stream index; a position may become readable before the one below it",
	Open: openPebble,
}

// pebbleDB lets one sync serve all who wait by itself.
type pebbleDB struct {
	Config contender.Config
	db     *pebble.DB
	last   atomic.Uint64
}

func openPebble(c contender.Config) (contender.Bus, error) {
	db, err := pebble.Open(filepath.Join(c.Dir, "pebble"), &pebble.Options{
		MemTableSize: 64 << 20, // as its users set it for writing; the default is 4 MiB
		Logger:       pebbleLogger{},
	})
	if err != nil {
		return nil, err
	}
	return &pebbleDB{Config: c, db: db}, nil
}

func (p *pebbleDB) Producer() contender.Producer { return &pebbleProducer{pebbleDB: p} }

type pebbleProducer struct {
	*pebbleDB
	key, value []byte
}

func (p *pebbleProducer) Append(_ int, events []contender.Event) error {
	batch := p.db.NewBatch()
	defer batch.Close()
	first := p.last.Add(uint64(len(events))) - uint64(len(events)) + 1
	for i, ev := range events {
		p.key = binary.BigEndian.AppendUint64(p.key[:0], first+uint64(i))
		p.value = ev.AppendTo(p.value[:0], p.Config.Size)
		if err := batch.Set(p.key, p.value, nil); err != nil { // a copy
			return err
		}
	}
	return batch.Commit(pebble.Sync)
}

func (p *pebbleDB) Read(fn func(contender.Event)) error {
	it, err := p.db.NewIter(nil)
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		data, err := it.ValueAndErr()
		if err != nil {
			it.Close()
			return err
		}
		fn(contender.Decode(data))
	}
	return it.Close()
}

func (p *pebbleDB) Close() error { return p.db.Close() }

// pebbleLogger drops what Pebble tells of its files.
type pebbleLogger struct{}

func (pebbleLogger) Infof(string, ...any)           {}
func (pebbleLogger) Errorf(string, ...any)          {}
func (pebbleLogger) Fatalf(format string, _ ...any) { panic(format) }
