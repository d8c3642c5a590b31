package report_test

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/weirstore/weir/bench/contender"
	"github.com/weirstore/weir/bench/report"
	"github.com/weirstore/weir/bench/work"
)

var (
	contenders = []contender.Entry{
		{Name: "weir", Kind: contender.Weir},
		{Name: "peer", Kind: contender.Peer, Note: "a | b"},
		{Name: "channel", Kind: contender.Limit},
	}
	works = []work.Work{
		{Name: "append", Title: "one producer", Limit: "channel"},
		{Name: "slow", Title: "one slow handler", Against: "append"},
		{Name: "events-10", Title: "growth: 10 events", Limit: "channel", Growth: "events", X: 10},
		{Name: "events-100", Title: "growth: 100 events", Limit: "channel", Growth: "events", X: 100},
	}
)

// result is of a run with so many events a second.
func result(w, c string, round int, rate float64) work.Result {
	return work.Result{Work: w, Contender: c, Round: round, Events: int(rate), Seconds: 1, P50: 1500, P99: 2.5e6, P999: 3e6, Allocs: 2, Bytes: 80.25}
}

func results() []work.Result {
	failed := result("append", "peer", 1, 1e9)
	failed.Failure = "handler 1: 4 of 5 events"
	return []work.Result{
		// The machine is slow in round 1, for both: the ratios are 2, 3 and 3.
		result("append", "channel", 0, 1_000_000), result("append", "weir", 0, 2_000_000), result("append", "peer", 0, 10),
		result("append", "channel", 1, 100_000), result("append", "weir", 1, 300_000), failed,
		result("append", "channel", 2, 1_000_000), result("append", "weir", 2, 3_000_000), result("append", "peer", 2, 10),
		result("slow", "weir", 0, 1_000_000),
		result("events-10", "weir", 0, 1000), result("events-10", "channel", 0, 2000),
		result("events-100", "weir", 0, 1000), result("events-100", "channel", 0, 2000),
	}
}

func TestSummaryTakesMediansAndRatiosWithinARound(t *testing.T) {
	tables := report.Summarise(works, contenders, results())
	if len(tables) != len(works) {
		t.Fatalf("%d tables for %d works", len(tables), len(works))
	}
	rows := tables[0].Rows
	if len(rows) != 3 || rows[0].Entry.Name != "weir" || rows[1].Entry.Name != "channel" || rows[2].Entry.Name != "peer" {
		t.Fatalf("rows are not in the order of their rates: %+v", rows)
	}
	if w := rows[0]; w.Rate != 2_000_000 || w.Low != 300_000 || w.High != 3_000_000 || w.Ratio != 3 || w.Rounds != 3 || w.NanosAnEvent != 500 {
		t.Errorf("weir: %+v", w)
	}
	if p := rows[2]; p.Failures != 1 || p.Rate != 0 || p.Ratio != 0 || p.Failure != "handler 1: 4 of 5 events" {
		t.Errorf("a contender that has failed once has a number: %+v", p)
	}
	if s := tables[1].Rows[0]; s.Ratio != 0.5 {
		t.Errorf("a work compared to another of the same contender: ratio %v, want 0.5", s.Ratio)
	}
}

func TestSummaryHasNoRatioWithoutALimit(t *testing.T) {
	limit := result("append", "channel", 0, 5)
	limit.Failure = "no"
	tables := report.Summarise(works[:1], contenders, []work.Result{result("append", "weir", 0, 10), limit})
	if w := tables[0].Rows[0]; w.Entry.Name != "weir" || w.Rate != 10 || w.Ratio != 0 {
		t.Errorf("%+v", w)
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	head := report.Head{Date: "2026-11-25", Machine: "2 cores", Rounds: 3, Charts: []string{"rates.svg"}, NotHere: "others"}
	if err := report.Markdown(&b, head, report.Summarise(works, contenders, results())); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{
		"Machine: 2 cores. Medians of 3 rounds",
		"![rates](rates.svg)",
		"| × of channel |", "| × of its own append |",
		"| weir | weir | 2.00M | 300k to 3.00M | 3.00 | 1.50 µs | 2.50 ms | 3.00 ms | 2.00 | 80.2 |  |  |",
		`| peer | store | **failed** | | | | | | | | | 1 of 3 rounds: handler 1: 4 of 5 events; a \| b |`,
		"## Not measured\n\nothers\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q", want)
		}
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Error("the table has NaN or Inf")
	}
	columns := 0
	for line := range strings.Lines(text) {
		n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|")
		switch {
		case n == 0:
			columns = 0
		case columns != 0 && n != columns:
			t.Errorf("a row of %d columns in a table of %d: %s", n, columns, line)
		default:
			columns = n
		}
	}
	if err := report.Markdown(broken{}, head, nil); !errors.Is(err, errBroken) {
		t.Errorf("a writer that fails: %v", err)
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestCharts(t *testing.T) {
	tables := report.Summarise(works, contenders, results())
	for _, tc := range []struct {
		name string
		draw func(io.Writer, []report.Table) error
		want []string
		not  string
	}{
		{"rates", report.Rates, []string{"one producer", "one slow handler", ">weir<", ">peer<", "2.00M", "failed", "events a second"}, "growth"},
		{"growth", report.Growth, []string{"what an event costs, by events", "ns an event", ">weir<", ">channel<"}, "one producer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b strings.Builder
			if err := tc.draw(&b, tables); err != nil {
				t.Fatal(err)
			}
			shapes, texts := elements(t, b.String())
			if shapes == 0 {
				t.Error("the chart has no shapes")
			}
			for _, want := range tc.want {
				if !strings.Contains(texts, want) {
					t.Errorf("the chart lacks the text %q", want)
				}
			}
			if strings.Contains(texts, tc.not) {
				t.Errorf("the chart has the text %q", tc.not)
			}
			var none strings.Builder
			if err := tc.draw(&none, report.Summarise(works, contenders, nil)); err != nil || none.Len() > 0 {
				t.Errorf("a chart of nothing: %d bytes, %v", none.Len(), err)
			}
			if err := tc.draw(broken{}, tables); err == nil {
				t.Error("a writer that fails is no error")
			}
		})
	}
}

// elements parses SVG, and returns how many shapes it has and its texts, each as >text<.
func elements(t *testing.T, svg string) (shapes int, texts string) {
	t.Helper()
	var b strings.Builder
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := d.Token()
		if err == io.EOF {
			return shapes, b.String()
		}
		if err != nil {
			t.Fatalf("the chart is no XML: %v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if token.Name.Local == "path" {
				shapes++
			}
		case xml.CharData:
			b.WriteString(">" + strings.TrimSpace(string(token)) + "<")
		}
	}
}

func TestGrowthOfFewPoints(t *testing.T) {
	bad := result("events-10", "weir", 0, 1)
	bad.Failure = "no"
	for _, tc := range []struct {
		name   string
		result work.Result
		want   bool // a chart
	}{
		{"one that failed", bad, false},
		{"one", result("events-10", "weir", 0, 1000), true},
		{"one that is faster than a nanosecond", result("events-10", "weir", 0, 3e9), true},
	} {
		var b strings.Builder
		if err := report.Growth(&b, report.Summarise(works, contenders, []work.Result{tc.result})); err != nil || (b.Len() > 0) != tc.want {
			t.Errorf("%s: %v, a chart of %d bytes", tc.name, err, b.Len())
		}
	}
}
