package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/weirstore/weir/engine"
)

// The recording's tags that decide a match.
const (
	tagGoal    = 101 // also on the save attempt against it
	tagOwnGoal = 102
)

// referee handles what was recorded and appends what it means. What it knows of a match
// it reads from the stream that it writes, and its events have IDs: so it can be stopped, and called
// with an event for the second time, without losing or repeating a goal.
type referee struct {
	eng      *engine.Engine
	fixtures map[string]Match
	started  map[string]bool // streams that have their MatchStarted: saves asking for each event
}

func newReferee(eng *engine.Engine, fixtures map[string]Match) *referee {
	return &referee{eng, fixtures, make(map[string]bool)}
}

func (r *referee) handle(ctx context.Context, ev engine.Of[Action]) error {
	if !r.started[ev.Stream] {
		if err := r.start(ctx, ev.Stream); err != nil {
			return err
		}
	}
	switch {
	case slices.Contains(ev.Data.Tags, tagOwnGoal): // on a pass, a clearance, anything
		return r.score(ctx, ev, true)
	case slices.Contains(ev.Data.Tags, tagGoal) && (ev.Type == "Shot" || ev.Type == "Free Kick"):
		return r.score(ctx, ev, false)
	}
	return nil
}

func (r *referee) start(ctx context.Context, stream string) error {
	match, ok := r.fixtures[stream]
	if !ok {
		return fmt.Errorf("%s is not among the fixtures", stream)
	}
	_, err := r.eng.Append(ctx, scoreStream(stream), engine.Any, engine.New(MatchStarted{match}).WithID("start"))
	r.started[stream] = err == nil
	return err
}

func (r *referee) score(ctx context.Context, ev engine.Of[Action], ownGoal bool) error {
	match, err := r.standing(ctx, scoreStream(ev.Stream))
	if err != nil {
		return err
	}
	own, other := &match.Home, &match.Away
	if ev.Data.Team == match.Away.Team {
		own, other = other, own
	}
	if ev.Data.Team != own.Team {
		return fmt.Errorf("team %d does not play in %s", ev.Data.Team, ev.Stream)
	}
	team := own.Name
	if ownGoal {
		own = other // scores for the others
	}

	var what any
	if ev.Data.Period == "P" {
		own.Penalties++
		what = PenaltyConverted{match, ev.Data.At, ev.Data.Player}
	} else {
		own.Goals++
		what = GoalScored{match, ev.Data.At, ev.Data.Player, team, ownGoal}
	}
	next := engine.New(what).WithID(fmt.Sprintf("action-%d", ev.Data.ID))
	_, err = r.eng.Append(ctx, scoreStream(ev.Stream), engine.StreamExists, next)
	return err
}

// standing returns the match as of the last event about it.
func (r *referee) standing(ctx context.Context, stream string) (Match, error) {
	for ev, err := range r.eng.Read(ctx, stream, engine.Backward(), engine.Limit(1)) {
		if err != nil {
			return Match{}, err
		}
		return ev.Data.(standing).standing(), nil
	}
	return Match{}, fmt.Errorf("%s has not started", stream)
}

// scoreStream returns the referee's stream of a match's stream.
func scoreStream(stream string) string { return "score-" + strings.TrimPrefix(stream, "match-") }
