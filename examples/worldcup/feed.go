package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/weirstore/weir/engine"
)

// batchSize bounds how many lines of a match go into one append. Longer batches gain
// nothing any more, and the ticker would be late.
const batchSize = 64

// line is one of the recording.
type line struct {
	Stream string    `json:"stream"`
	Type   string    `json:"type"`
	Time   time.Time `json:"time"`
	Data   Action    `json:"data"`
}

// feed appends a recording line by line, without ever having all of it. Lines of the same
// match that follow each other are one append: the order of the whole recording stays as it is. The lines
// that are stored already, by an earlier run, are left out: a match's version is their number.
func feed(ctx context.Context, eng *engine.Engine, r io.Reader) error {
	var (
		stream   string
		batch    []engine.NewEvent
		versions = make(map[string]engine.Version) // of what is stored
		lines    = make(map[string]engine.Version) // how many have been read
	)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		// The feed is the only writer of a match. If it is not, that is a mistake, and
		// the expected version finds it.
		res, err := eng.Append(ctx, stream, engine.Exactly(versions[stream]), batch...)
		if err != nil {
			return err
		}
		versions[stream] = res.Last
		batch = batch[:0] // the engine has copied the events, but not what Data points to
		return nil
	}

	recording := json.NewDecoder(r)
	for n := 1; ; n++ {
		var l line // a new one each time: the event keeps its slices
		switch err := recording.Decode(&l); {
		case err == io.EOF:
			return flush()
		case err != nil:
			return fmt.Errorf("line %d: %w", n, err)
		case !slices.Contains(recordedTypes, l.Type):
			return fmt.Errorf("line %d: unknown event type %q", n, l.Type)
		}
		if l.Stream != stream || len(batch) == batchSize {
			if err := flush(); err != nil {
				return err
			}
			stream = l.Stream
		}
		if lines[stream]++; lines[stream] == 1 {
			var err error
			if versions[stream], err = version(ctx, eng, stream); err != nil {
				return err
			}
		}
		if lines[stream] <= versions[stream] {
			continue
		}
		l.Data.At = l.Time
		batch = append(batch, engine.NewEvent{Type: l.Type, Data: l.Data})
	}
}

// version returns how many events a stream has.
func version(ctx context.Context, eng *engine.Engine, stream string) (engine.Version, error) {
	for ev, err := range eng.Read(ctx, stream, engine.Backward(), engine.Limit(1)) {
		return ev.Version, err
	}
	return 0, nil
}
