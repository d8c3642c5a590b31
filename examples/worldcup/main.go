// Worldcup replays recorded football matches through the engine: every pass, duel and shot
// of a tournament, with a ticker while it runs and the tables at its end.
//
//	go run ./examples/worldcup [-dir FOLDER] [FILE.jsonl.gz]
//
// With -dir the events are kept in files there, and a second run finds them: it appends only what is
// missing, and builds the tables from what is stored.
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
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

const attribution = `
Data: L. Pappalardo, E. Massucco, Soccer match event dataset, figshare 2019,
doi:10.6084/m9.figshare.c.4415000, licence CC BY 4.0, converted to JSON Lines. Described in
L. Pappalardo et al., Scientific Data 6:236, 2019, doi:10.1038/s41597-019-0247-7.
`

func main() {
	dir := flag.String("dir", "", "where to keep the events; in memory by default")
	flag.Parse()
	path := filepath.Join(os.Getenv("WEIR_DATA"), "football-worldcup2018.jsonl.gz")
	switch {
	case flag.NArg() == 1:
		path = flag.Arg(0)
	case flag.NArg() > 1 || os.Getenv("WEIR_DATA") == "":
		log.Fatal("usage: worldcup [-dir FOLDER] FILE.jsonl.gz, or WEIR_DATA=FOLDER worldcup")
	}
	if err := run(context.Background(), os.Stdout, path, *dir); err != nil {
		log.Fatal(err)
	}
	fmt.Print(attribution)
}

func run(ctx context.Context, w io.Writer, path, dir string) (err error) {
	eng, err := open(dir)
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

// open returns an engine over the files of a folder, or in memory if none is named.
func open(dir string) (*engine.Engine, error) {
	if dir == "" {
		return engine.Open(engine.Options{})
	}
	store, err := filestore.Open(dir, filestore.Options{})
	if err != nil {
		return nil, err
	}
	// Written, not Synced: what a power cut takes of a recording is fed again, and one feed
	// alone would wait for the disk match by match. Close syncs.
	eng, err := engine.Open(engine.Options{Backend: store, Durability: engine.Written})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	// The referee reads its own events, which another process may have written.
	err = errors.Join(
		engine.Register[MatchStarted](eng, "MatchStarted"),
		engine.Register[GoalScored](eng, "GoalScored"),
		engine.Register[PenaltyConverted](eng, "PenaltyConverted"),
	)
	if err != nil {
		return nil, errors.Join(err, eng.Close())
	}
	return eng, nil
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
		handle(eng, "referee", newReferee(eng, fixtures).handle, engine.Types(recordedTypes...)),
		handle(eng, "ticker", ticker{w}.handle, engine.Types("GoalScored", "PenaltyConverted")),
		view(eng, "results", v.results.handle, "MatchStarted", "GoalScored", "PenaltyConverted"),
		view(eng, "table", v.table.handle, "MatchStarted", "GoalScored"),
		view(eng, "scorers", v.scorers.handle, "GoalScored"),
	)
	if handlers != nil {
		return nil, handlers
	}
	if err := feed(ctx, eng, lines); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// In two steps: when the referee has seen the last line, it has appended all that the
	// others will see. Waiting by name, a handler that has stopped is an error.
	if err := eng.Wait(ctx, eng.Head(), "referee"); err != nil {
		return nil, err
	}
	return v, eng.Wait(ctx, eng.Head(), "ticker", "results", "table", "scorers")
}

// handle registers a handler that stops at what it cannot handle: a table with an event
// left out would be wrong, and would not look it. Where it was in an earlier run, it goes on.
func handle[T any](eng *engine.Engine, name string, fn func(context.Context, engine.Of[T]) error, opts ...engine.HandlerOption) error {
	_, err := engine.Handle(eng, name, fn, append(opts, engine.FromStart(), engine.OnFailure(engine.Stop))...)
	return err
}

// view registers a handler whose result is in memory: it begins at the first event in each run.
func view[T any](eng *engine.Engine, name string, fn func(context.Context, engine.Of[T]) error, types ...string) error {
	return handle(eng, name, fn, engine.Types(types...), engine.IgnoreCheckpoint())
}
