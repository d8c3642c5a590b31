package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Head is what stands above the tables.
type Head struct {
	Date    string
	Machine string
	Rounds  int
	Charts  []string // names of files beside the table
	// NotHere are products that a reader looks for and does not find, and why.
	NotHere string
}

// Markdown writes the tables.
func Markdown(out io.Writer, h Head, tables []Table) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Weir beside others\n\n")
	fmt.Fprintf(&b, "Made by `make bench` on %s. [bench/README.md](../../bench/README.md) says what is measured, and how to read it.\n\n", h.Date)
	fmt.Fprintf(&b, "Machine: %s. Medians of %d rounds, each run in a process of its own; × is the median of the ratios within a round.\n", h.Machine, h.Rounds)
	for _, chart := range h.Charts {
		fmt.Fprintf(&b, "\n![%s](%s)\n", strings.TrimSuffix(chart, ".svg"), chart)
	}
	for _, t := range tables {
		writeTable(&b, t)
	}
	if h.NotHere != "" {
		fmt.Fprintf(&b, "\n## Not measured\n\n%s\n", h.NotHere)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func writeTable(b *strings.Builder, t Table) {
	w := t.Work
	fmt.Fprintf(b, "\n## %s\n\n", w.Title)
	compared := "of " + w.Limit
	if w.Against != "" {
		compared = "of its own " + w.Against
	}
	fmt.Fprintf(b, "| contender | kind | events/s | low to high | × %s | p50 | p99 | p99.9 | allocs/event | B/event | kept B/event | note |\n", compared)
	fmt.Fprintf(b, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n")
	for _, r := range t.Rows {
		note := r.Entry.Note
		if r.AppendsBy > 0 {
			note = join(note, count(r.AppendsBy)+" appends/s beside it")
		}
		if r.Failures > 0 {
			fmt.Fprintf(b, "| %s | %s | **failed** | | | | | | | | | %s |\n", r.Entry.Name, r.Entry.Kind,
				cell(join(fmt.Sprintf("%d of %d rounds: %s", r.Failures, r.Failures+r.Rounds, r.Failure), note)))
			continue
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s to %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", r.Entry.Name, r.Entry.Kind,
			count(r.Rate), count(r.Low), count(r.High), figure(r.Ratio),
			nanos(r.P50), nanos(r.P99), nanos(r.P999), figure(r.Allocs), figure(r.Bytes), figure(r.Kept), cell(note))
	}
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// cell makes a text fit into a cell of a table.
func cell(s string) string { return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s) }

// count writes a number with three figures and a unit: 1.37M.
func count(v float64) string {
	switch {
	case v >= 999.5e3:
		return figure(v/1e6) + "M"
	case v >= 999.5:
		return figure(v/1e3) + "k"
	}
	return figure(v)
}

// figure writes a number with three figures; 0 is left out.
func figure(v float64) string {
	switch {
	case v == 0:
		return ""
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v >= 0.005:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return "<0.01"
}

// nanos writes a time; 0 is left out.
func nanos(ns float64) string {
	switch {
	case ns == 0:
		return ""
	case ns >= 999.5e3:
		return figure(ns/1e6) + " ms"
	case ns >= 999.5:
		return figure(ns/1e3) + " µs"
	}
	return figure(ns) + " ns"
}
