package main

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/weirstore/weir/engine"
)

// table is a league table of each competition, right after every goal. All matches count,
// and a match that a shoot-out decides is a draw.
type table struct {
	matches map[string]Match // as they are in the table
	rows    map[string]map[int]*row
}

// row is a team's line, named as in newspapers.
type row struct {
	Team        string
	ID          int
	P, W, D, L  int
	GF, GA, Pts int
}

func newTable() table {
	return table{make(map[string]Match), make(map[string]map[int]*row)}
}

// handle takes the match out of the table and puts it in again as it now stands. So it
// does not matter how often it is called with an event.
func (t *table) handle(_ context.Context, ev engine.Of[standing]) error {
	if before, ok := t.matches[ev.Stream]; ok {
		t.add(before, -1)
	}
	now := ev.Data.standing()
	t.add(now, +1)
	t.matches[ev.Stream] = now
	return nil
}

func (t *table) add(m Match, n int) {
	if t.rows[m.Competition] == nil {
		t.rows[m.Competition] = make(map[int]*row)
	}
	t.addSide(m.Competition, m.Home, m.Away, n)
	t.addSide(m.Competition, m.Away, m.Home, n)
}

func (t *table) addSide(competition string, own, other Side, n int) {
	r := t.rows[competition][own.Team]
	if r == nil {
		r = &row{Team: own.Name, ID: own.Team}
		t.rows[competition][own.Team] = r
	}
	r.P += n
	r.GF += n * own.Goals
	r.GA += n * other.Goals
	switch {
	case own.Goals > other.Goals:
		r.W += n
		r.Pts += 3 * n
	case own.Goals == other.Goals:
		r.D += n
		r.Pts += n
	default:
		r.L += n
	}
}

func (t *table) competitions() []string { return slices.Sorted(maps.Keys(t.rows)) }

// of returns the rows of a competition, best first: by points, difference, goals.
func (t *table) of(competition string) []row {
	var rows []row
	for _, r := range t.rows[competition] {
		rows = append(rows, *r)
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(b.Pts-a.Pts, (b.GF-b.GA)-(a.GF-a.GA), b.GF-a.GF, a.ID-b.ID)
	})
	return rows
}
