// Worldcup replays recorded football matches through the engine: every pass, duel and shot
// of a tournament, with a ticker while it runs and the tables at its end.
//
//	go run ./examples/worldcup [FILE.jsonl.gz]
//
// Who decides what:
//
//   - The feed appends what was recorded, a stream a match ("match-2058017"), and judges nothing.
//   - The referee, a process manager, alone knows what a goal is. It handles the recorded events and
//     appends what they mean, MatchStarted, GoalScored and PenaltyConverted, to streams of its own
//     ("score-2058017"), so that the match's streams stay what was recorded, line by line.
//   - Ticker, results, table and scorers are projections. They handle only the referee's
//     events, a few hundred of a hundred thousand, and each of these carries how the match then stands:
//     no projection counts goals, so none can count them in another way.
package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/weirstore/weir/engine"
)

const attribution = `
Data: L. Pappalardo, E. Massucco, Soccer match event dataset, figshare 2019,
doi:10.6084/m9.figshare.c.4415000, licence CC BY 4.0, converted to JSON Lines. Described in
L. Pappalardo et al., Scientific Data 6:236, 2019, doi:10.1038/s41597-019-0247-7.
`

func main() {
	path := filepath.Join(os.Getenv("WEIR_DATA"), "football-worldcup2018.jsonl.gz")
	switch {
	case len(os.Args) == 2:
		path = os.Args[1]
	case len(os.Args) > 2 || os.Getenv("WEIR_DATA") == "":
		log.Fatal("usage: worldcup FILE.jsonl.gz, or WEIR_DATA=FOLDER worldcup")
	}
	if err := run(context.Background(), os.Stdout, path); err != nil {
		log.Fatal(err)
	}
	fmt.Print(attribution)
}

func run(ctx context.Context, w io.Writer, path string) (err error) {
	eng, err := engine.Open(engine.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, eng.Close()) }()
	views, err := replay(ctx, eng, w, path)
	if err != nil {
		return err
	}
	return views.print(ctx, eng, w)
}

// views are the projections, to be read when replay has returned. They have no locks:
// nothing is stored any more, and Wait returned after their last call. A program that reads them
// while events come in gives each a mutex.
type views struct {
	results results
	table   table
	scorers scorers
}

// replay appends the file, with the ticker writing to w, and returns when every handler
// has seen everything.
func replay(ctx context.Context, eng *engine.Engine, w io.Writer, path string) (*views, error) {
	fixtures, err := loadFixtures(strings.TrimSuffix(path, ".jsonl.gz") + ".ref.json")
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines, err := gzip.NewReader(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}

	v := &views{newResults(), newTable(), newScorers()}
	handlers := errors.Join(
		handle(eng, "referee", newReferee(eng, fixtures).handle, recordedTypes...),
		handle(eng, "ticker", ticker{w}.handle, "GoalScored", "PenaltyConverted"),
		handle(eng, "results", v.results.handle, "MatchStarted", "GoalScored", "PenaltyConverted"),
		handle(eng, "table", v.table.handle, "MatchStarted", "GoalScored"),
		handle(eng, "scorers", v.scorers.handle, "GoalScored"),
	)
	if handlers != nil {
		return nil, handlers
	}
	last, err := feed(ctx, eng, lines)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// In two steps: when the referee has seen the last line, it has appended all that the
	// others will see. Waiting by name, a handler that has stopped is an error.
	if err := eng.Wait(ctx, last, "referee"); err != nil {
		return nil, err
	}
	return v, eng.Wait(ctx, eng.Head(), "ticker", "results", "table", "scorers")
}

// handle registers a handler that stops at what it cannot handle: a table with an event
// left out would be wrong, and would not look it.
func handle[T any](eng *engine.Engine, name string, fn func(context.Context, engine.Of[T]) error, types ...string) error {
	_, err := engine.Handle(eng, name, fn, engine.Types(types...), engine.FromStart(), engine.OnFailure(engine.Stop))
	return err
}
