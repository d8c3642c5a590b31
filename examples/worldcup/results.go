package main

import (
	"context"

	"github.com/weirstore/weir/engine"
)

// results knows how each match stands: live scores while it is played, results in the end.
type results struct {
	matches map[string]Match // by the referee's stream
	order   []string         // in which they started
}

func newResults() results { return results{matches: make(map[string]Match)} }

func (r *results) handle(_ context.Context, ev engine.Of[standing]) error {
	if _, ok := r.matches[ev.Stream]; !ok {
		r.order = append(r.order, ev.Stream)
	}
	r.matches[ev.Stream] = ev.Data.standing()
	return nil
}

// of returns the matches of a competition, in the order in which they started.
func (r *results) of(competition string) []Match {
	var matches []Match
	for _, stream := range r.order {
		if m := r.matches[stream]; m.Competition == competition {
			matches = append(matches, m)
		}
	}
	return matches
}
