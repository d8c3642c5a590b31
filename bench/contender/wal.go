package contender

import (
	"path/filepath"

	"github.com/tidwall/wal"
)

var walLog = Entry{
	Name: "tidwall/wal", Kind: Logs,
	Can:  Keep | Concurrent | Durable,
	Note: "no stream index; grouped by the benchmark",
	Open: openWAL,
}

type tidwall struct {
	*grouped
	log   *wal.Log
	last  uint64
	batch wal.Batch
	buf   []byte
}

func openWAL(c Config) (Bus, error) {
	log, err := wal.Open(filepath.Join(c.Dir, "wal"), &wal.Options{NoCopy: true, SegmentCacheSize: 4})
	if err != nil {
		return nil, err
	}
	l := &tidwall{log: log}
	l.grouped = newGrouped(c, l.write)
	return l, nil
}

// write makes one batch of the group, which wal writes and syncs once.
func (l *tidwall) write(group []*groupRequest) error {
	for _, r := range group {
		for _, ev := range r.events {
			l.last++
			l.buf = ev.AppendTo(l.buf[:0], l.config.Size)
			l.batch.Write(l.last, l.buf) // a copy
		}
	}
	return l.log.WriteBatch(&l.batch) // which clears it
}

func (l *tidwall) Read(fn func(Event)) error {
	last, err := l.log.LastIndex()
	if err != nil {
		return err
	}
	for i := range last {
		data, err := l.log.Read(i + 1)
		if err != nil {
			return err
		}
		fn(Decode(data))
	}
	return nil
}

func (l *tidwall) Close() error {
	l.stop()
	return l.log.Close()
}
