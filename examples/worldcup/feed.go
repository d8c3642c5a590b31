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

// feed appends a recording line by line, without ever having all of it, and returns the
// last event's position. Lines of the same match that follow each other are one append: the order of
// the whole recording stays as it is.
func feed(ctx context.Context, eng *engine.Engine, r io.Reader) (last engine.Position, err error) {
	var (
		stream   string
		batch    []engine.NewEvent
		versions = make(map[string]engine.Version)
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
		versions[stream], last = res.Last, res.Position
		batch = batch[:0] // the engine has copied the events, but not what Data points to
		return nil
	}

	lines := json.NewDecoder(r)
	for n := 1; ; n++ {
		var l line // a new one each time: the event keeps its slices
		switch err := lines.Decode(&l); {
		case err == io.EOF:
			return last, flush()
		case err != nil:
			return last, fmt.Errorf("line %d: %w", n, err)
		case !slices.Contains(recordedTypes, l.Type):
			return last, fmt.Errorf("line %d: unknown event type %q", n, l.Type)
		}
		if l.Stream != stream || len(batch) == batchSize {
			if err := flush(); err != nil {
				return last, err
			}
			stream = l.Stream
		}
		l.Data.At = l.Time
		batch = append(batch, engine.NewEvent{Type: l.Type, Data: l.Data})
	}
}
