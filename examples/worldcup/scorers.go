package main

import (
	"cmp"
	"context"
	"slices"

	"github.com/weirstore/weir/engine"
)

// scorers counts who has scored. Own goals are nobody's.
type scorers struct {
	byPlayer map[int]*scorer
	goals    int // own goals included
	ownGoals int
}

type scorer struct {
	Player int      // the recording has no names
	Teams  []string // for which he scored
	Goals  int
}

func newScorers() scorers { return scorers{byPlayer: make(map[int]*scorer)} }

func (s *scorers) handle(_ context.Context, ev engine.Of[GoalScored]) error {
	goal := ev.Data
	s.goals++
	if goal.OwnGoal {
		s.ownGoals++
		return nil
	}
	p := s.byPlayer[goal.Player]
	if p == nil {
		p = &scorer{Player: goal.Player}
		s.byPlayer[goal.Player] = p
	}
	p.Goals++
	if !slices.Contains(p.Teams, goal.Team) {
		p.Teams = append(p.Teams, goal.Team)
	}
	return nil
}

// top returns the n best.
func (s *scorers) top(n int) []scorer {
	var all []scorer
	for _, p := range s.byPlayer {
		all = append(all, *p)
	}
	slices.SortFunc(all, func(a, b scorer) int {
		return cmp.Or(b.Goals-a.Goals, a.Player-b.Player)
	})
	return all[:min(n, len(all))]
}
