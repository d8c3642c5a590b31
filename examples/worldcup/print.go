package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/weirstore/weir/engine"
)

// print writes the final tables.
func (v *views) print(ctx context.Context, eng *engine.Engine, w io.Writer) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, competition := range v.table.competitions() {
		name := strings.ReplaceAll(competition, "_", " ")
		fmt.Fprintf(w, "\n%s: results\n", name)
		for _, m := range v.results.of(competition) {
			fmt.Fprintf(w, "%s  %v\n", m.Kickoff.Format("_2 Jan"), m)
		}
		fmt.Fprintf(w, "\n%s: table\n", name)
		fmt.Fprintln(tab, "P\tW\tD\tL\tGF\tGA\tPts\t")
		for _, r := range v.table.of(competition) {
			fmt.Fprintf(tab, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t  %s\n", r.P, r.W, r.D, r.L, r.GF, r.GA, r.Pts, r.Team)
		}
		if err := tab.Flush(); err != nil {
			return err
		}
	}

	fmt.Fprintln(w, "\nTop scorers")
	for _, s := range v.scorers.top(20) {
		fmt.Fprintf(tab, "%d\tplayer %d\t  %s\n", s.Goals, s.Player, strings.Join(s.Teams, ", "))
	}
	if err := tab.Flush(); err != nil {
		return err
	}

	counts, err := countByType(ctx, eng)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "\nRecorded events")
	all := 0
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(tab, "%d\t  %s\n", counts[name], name)
		all += counts[name]
	}
	fmt.Fprintf(tab, "%d\t  in %d matches: %d goals, own goals among them: %d\n",
		all, len(v.results.matches), v.scorers.goals, v.scorers.ownGoals)
	return tab.Flush()
}

// countByType reads the whole log once more: a question that comes up once needs no
// projection.
func countByType(ctx context.Context, eng *engine.Engine) (map[string]int, error) {
	counts := make(map[string]int)
	for ev, err := range eng.ReadAll(ctx, engine.Types(recordedTypes...)) {
		if err != nil {
			return nil, err
		}
		counts[ev.Type]++
	}
	return counts, nil
}
