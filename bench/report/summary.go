package report

import (
	"cmp"
	"slices"

	"github.com/weirstore/weir/bench/contender"
	"github.com/weirstore/weir/bench/work"
)

// Row is what all rounds of a work with a contender come to: medians.
type Row struct {
	Entry     contender.Entry
	Rounds    int // that went well
	Failures  int
	Failure   string // the first one's reason
	Rate      float64
	Low, High float64 // of the rate
	// Ratio is the median of the rates divided by that of the limit in the same round, or, if the
	// work says so, of the same contender at another work. 0 if there was none to divide by.
	Ratio                   float64
	P50, P99, P999          float64
	Allocs, Bytes, Kept     float64
	AppendsBy, NanosAnEvent float64
}

// Table is a work with its rows, fastest first; those that failed are last.
type Table struct {
	Work work.Work
	Rows []Row
}

// key names a measurement.
type key struct {
	work, contender string
	round           int
}

// Summarise puts the results of a run together.
func Summarise(works []work.Work, contenders []contender.Entry, results []work.Result) []Table {
	byKey := make(map[key]work.Result, len(results))
	for _, r := range results {
		byKey[key{r.Work, r.Contender, r.Round}] = r
	}
	var tables []Table
	for _, w := range works {
		t := Table{Work: w}
		for _, e := range contenders {
			var mine []work.Result
			for _, r := range results {
				if r.Work == w.Name && r.Contender == e.Name {
					mine = append(mine, r)
				}
			}
			if len(mine) > 0 {
				t.Rows = append(t.Rows, summarise(w, e, mine, byKey))
			}
		}
		slices.SortStableFunc(t.Rows, func(a, b Row) int { return cmp.Compare(b.Rate, a.Rate) })
		tables = append(tables, t)
	}
	return tables
}

func summarise(w work.Work, e contender.Entry, results []work.Result, byKey map[key]work.Result) Row {
	row := Row{Entry: e}
	var good []work.Result
	var ratios []float64
	for _, r := range results {
		if r.Failure != "" {
			row.Failures++
			row.Failure = cmp.Or(row.Failure, r.Failure)
			continue
		}
		good = append(good, r)
		base := key{w.Name, w.Limit, r.Round}
		if w.Against != "" {
			base = key{w.Against, e.Name, r.Round}
		}
		if b, ok := byKey[base]; ok && b.Failure == "" {
			ratios = append(ratios, r.Rate()/b.Rate())
		}
	}
	row.Rounds = len(good)
	if row.Failures > 0 || len(good) == 0 {
		return row // not a number: what fails now and then is not done
	}
	of := func(figure func(work.Result) float64) float64 {
		values := make([]float64, len(good))
		for i, r := range good {
			values[i] = figure(r)
		}
		return median(values)
	}
	row.Rate = of(work.Result.Rate)
	row.Low, row.High = good[0].Rate(), good[0].Rate()
	for _, r := range good {
		row.Low, row.High = min(row.Low, r.Rate()), max(row.High, r.Rate())
	}
	row.Ratio = median(ratios)
	row.P50 = of(func(r work.Result) float64 { return r.P50 })
	row.P99 = of(func(r work.Result) float64 { return r.P99 })
	row.P999 = of(func(r work.Result) float64 { return r.P999 })
	row.Allocs = of(func(r work.Result) float64 { return r.Allocs })
	row.Bytes = of(func(r work.Result) float64 { return r.Bytes })
	row.Kept = of(func(r work.Result) float64 { return r.Kept })
	row.AppendsBy = of(func(r work.Result) float64 { return r.AppendsBy })
	row.NanosAnEvent = 1e9 / row.Rate
	return row
}

// median returns the value in the middle, or the mean of both; 0 if there is none.
func median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
