package peers

import (
	"path/filepath"

	"github.com/tidwall/wal"

	"github.com/weirstore/weir/bench/contender"
)

var walLog = contender.Entry{
	Name: "tidwall/wal", Kind: contender.Logs,
	Can:  contender.Keep | contender.Concurrent | contender.Durable,
	Note: "no stream index; grouped by the benchmark",
	Open: openWAL,
}

type tidwall struct {
	*contender.Grouped
	log   *wal.Log
	last  uint64
	batch wal.Batch
	buf   []byte
}

func openWAL(c contender.Config) (contender.Bus, error) {
	log, err := wal.Open(filepath.Join(c.Dir, "wal"), &wal.Options{NoCopy: true, SegmentCacheSize: 4})
	if err != nil {
		return nil, err
	}
	l := &tidwall{log: log}
	l.Grouped = contender.NewGrouped(c, l.write)
	return l, nil
}

// write makes one batch of the group, which wal writes and syncs once.
func (l *tidwall) write(group []*contender.GroupRequest) error {
	for _, r := range group {
		for _, ev := range r.Events {
			l.last++
			l.buf = ev.AppendTo(l.buf[:0], l.Config.Size)
			l.batch.Write(l.last, l.buf) // a copy
		}
	}
	return l.log.WriteBatch(&l.batch) // which clears it
}

func (l *tidwall) Read(fn func(contender.Event)) error {
	last, err := l.log.LastIndex()
	if err != nil {
		return err
	}
	for i := range last {
		data, err := l.log.Read(i + 1)
		if err != nil {
			return err
		}
		fn(contender.Decode(data))
	}
	return nil
}

func (l *tidwall) Close() error {
	l.Stop()
	return l.log.Close()
}
