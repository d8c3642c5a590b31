package filestore

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Options of [Open]. The zero value works.
type Options struct {
	// SegmentSize is the size in bytes of a segment file, 64 KiB to 1 GiB. Default 64 MiB.
	// The first six segments are smaller, 1 to 32 MiB, so that a small store stays small; an
	// append that is larger than a segment gets one that is large enough. A store keeps one
	// file open for each segment.
	SegmentSize int64

	// SyncEvery is how long events may stay unsynced that were appended with
	// [engine.Written]: what a power cut can take of them. Default 100ms.
	SyncEvery time.Duration

	// TailEvents is how many of the newest events are kept in memory, where handlers find
	// them that keep up; TailBytes limits their payloads. Defaults 16,384 events, 16 MiB.
	TailEvents int
	TailBytes  int64

	// CacheBytes limits the memory for parts of the log that were read. Default 32 MiB.
	CacheBytes int64

	// Logger gets what no caller is there to be told: what recovery cut, indexes that had to
	// be built anew, failed syncs. Default slog.Default().
	Logger *slog.Logger
}

// Limits of Options.SegmentSize. A record's offset in its segment has 32 bits.
const (
	minSegment = 64 << 10
	maxSegment = 1 << 30
)

// firstSegment is the size of a store's first segment, growth the factor from one to the next
// until they have Options.SegmentSize.
const (
	firstSegment = 1 << 20
	growth       = 2
)

func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.SegmentSize == 0 {
		o.SegmentSize = 64 << 20
	}
	if o.SegmentSize < minSegment || o.SegmentSize > maxSegment {
		errs = append(errs, fmt.Errorf("filestore: Options.SegmentSize is %d bytes, want %d to %d", o.SegmentSize, minSegment, maxSegment))
	}
	for _, n := range []struct {
		field string
		value int64
	}{{"SyncEvery", int64(o.SyncEvery)}, {"TailEvents", int64(o.TailEvents)}, {"TailBytes", o.TailBytes}, {"CacheBytes", o.CacheBytes}} {
		if n.value < 0 {
			errs = append(errs, fmt.Errorf("filestore: Options.%s is %d, want 0 for the default, or more", n.field, n.value))
		}
	}
	setDefault(&o.SyncEvery, 100*time.Millisecond)
	setDefault(&o.TailEvents, 16<<10)
	setDefault(&o.TailBytes, 16<<20)
	setDefault(&o.CacheBytes, 32<<20)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o, errors.Join(errs...)
}

func setDefault[N int | int64 | time.Duration](n *N, standard N) {
	if *n == 0 {
		*n = standard
	}
}
