package main

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/weirstore/weir/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestOutput runs the program over a recording of 23 lines: own goals, saves that carry
// the goal tag, a shoot-out, a goalless match, two competitions. Its teams are invented.
func TestOutput(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := run(t.Context(), &out, recording(t, readFile(t, "testdata/invented.jsonl")), ""); err != nil {
		t.Fatal(err)
	}
	const want = ` 1 May 15:05  Northport 1-0 Southwick
 1 May 16:01  Northport 1-1 Southwick
 1 May 16:21  Northport 2-1 Southwick, own goal
 1 May 17:50  Eastham 0-0 Westley (1-0 on penalties)
 1 May 17:51  Eastham 0-0 Westley (1-1 on penalties)
 1 May 17:52  Eastham 0-0 Westley (1-2 on penalties)
 9 May 19:10  Westley 0-1 Northport
 9 May 20:14  Westley 0-2 Northport

Coast League: results
 9 May  Westley 0-2 Northport
16 May  Southwick 0-0 Eastham

Coast League: table
  P  W  D  L  GF  GA  Pts
  1  1  0  0   2   0    3  Northport
  1  0  1  0   0   0    1  Southwick
  1  0  1  0   0   0    1  Eastham
  1  0  0  1   0   2    0  Westley

Harbour Cup: results
 1 May  Northport 2-1 Southwick
 1 May  Eastham 0-0 Westley (1-2 on penalties)

Harbour Cup: table
  P  W  D  L  GF  GA  Pts
  1  1  0  0   2   1    3  Northport
  1  0  1  0   0   0    1  Eastham
  1  0  1  0   0   0    1  Westley
  1  0  0  1   1   2    0  Southwick

Top scorers
  3  player 102  Northport
  1  player 202  Southwick

Recorded events
   2  Duel
   1  Foul
   6  Free Kick
   1  Goalkeeper leaving line
   1  Interruption
   1  Offside
   1  Others on the ball
   5  Pass
   2  Save attempt
   3  Shot
  23  in 4 matches: 5 goals, own goals among them: 1
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

// TestInterrupted feeds a part of the recording, closes, and starts anew with all of it.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	dir, lines := t.TempDir(), readFile(t, "testdata/invented.jsonl")
	var whole, first, second strings.Builder
	if err := run(t.Context(), &whole, recording(t, lines), ""); err != nil {
		t.Fatal(err)
	}
	part := bytes.SplitAfterN(lines, []byte("\n"), 12)
	if err := run(t.Context(), &first, recording(t, bytes.Join(part[:11], nil)), dir); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), &second, recording(t, lines), dir); err != nil {
		t.Fatal(err)
	}
	// The ticker goes on, and the tables are the same.
	before, _, _ := strings.Cut(first.String(), "\n\n")
	if got := before + "\n" + second.String(); got != whole.String() {
		t.Errorf("in two runs:\n%s\nin one:\n%s", got, whole.String())
	}
}

// TestRefereeTwice has a second referee, which knows nothing of the first, go over the
// whole recording: every event that it appends must be there already.
func TestRefereeTwice(t *testing.T) {
	t.Parallel()
	eng, path := openTest(t, ""), recording(t, readFile(t, "testdata/invented.jsonl"))
	if _, err := replay(t.Context(), eng, new(strings.Builder), path); err != nil {
		t.Fatal(err)
	}
	fixtures, err := loadFixtures("testdata/invented.ref.json")
	if err != nil {
		t.Fatal(err)
	}
	head := eng.Head()
	if err := handle(eng, "second referee", newReferee(eng, fixtures).handle, engine.Types(recordedTypes...)); err != nil {
		t.Fatal(err)
	}
	if err := eng.Wait(t.Context(), head, "second referee"); err != nil {
		t.Fatal(err)
	}
	if eng.Head() != head {
		t.Errorf("the second referee has appended %d events", eng.Head()-head)
	}
}

func TestBadRecording(t *testing.T) {
	const good = `{"stream":"match-10","type":"Pass","data":{"team":1}}` + "\n"
	for name, test := range map[string]struct{ lines, want string }{
		"not JSON":     {good + "{", "line 2: unexpected EOF"},
		"unknown type": {good + `{"stream":"match-10","type":"Throw"}`, `line 2: unknown event type "Throw"`},
		"no fixture":   {`{"stream":"match-99","type":"Pass"}`, "match-99 is not among the fixtures"},
		"strange team": {`{"stream":"match-10","type":"Shot","data":{"team":9,"tags":[101]}}`, "team 9 does not play in match-10"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run(t.Context(), new(strings.Builder), recording(t, []byte(test.lines)), "")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

// TestWorldCup holds every figure that the program prints against answers that were
// computed without it: in files, and once more when they were closed and opened again. In memory
// it does so with WEIR_SOAK only: TestOutput shows that the engine is no other there.
func TestWorldCup(t *testing.T) {
	t.Parallel()
	checkRecording(t, "football-worldcup2018")
}

// TestEnglandSpain does so with 1.3 million events in two competitions.
func TestEnglandSpain(t *testing.T) {
	if testing.Short() || os.Getenv("WEIR_SOAK") == "" {
		t.Skip("WEIR_SOAK is not set, or -short is: it takes ten seconds, and two minutes with the race detector")
	}
	checkRecording(t, "football-england-spain-1718")
}

func checkRecording(t *testing.T, name string) {
	dir := t.TempDir()
	for _, c := range []struct {
		backend, dir string
		stored       bool // already
	}{{"memory", "", false}, {"files", dir, false}, {"files, opened again", dir, true}} {
		if c.dir == "" && os.Getenv("WEIR_SOAK") == "" {
			continue
		}
		t.Run(c.backend, func(t *testing.T) { checkAnswers(t, name, openTest(t, c.dir), c.stored) })
	}
}

// answers are the figures of the .answers.json beside a recording.
type answers struct {
	Streams int
	Events  int
	PerType map[string]int `json:"per_type"`
	Goals   struct {
		FromEvents int                       `json:"from_events"`
		Own        int                       `json:"own_goals_from_events"`
		Differ     []struct{ Stream string } `json:"matches_where_events_and_official_differ"`
	}
	Shootouts  map[string]map[int]int `json:"shootouts_from_events"`
	TopScorers [][2]int               `json:"top_scorers_from_events"`
	Tables     map[string][]row       `json:"tables_from_events"`
}

// checkAnswers replays a recording, of which everything is stored already or nothing.
func checkAnswers(t *testing.T, name string, eng *engine.Engine, stored bool) {
	folder := os.Getenv("WEIR_DATA")
	if folder == "" {
		t.Skip("WEIR_DATA is not set: it names the folder with the recordings")
	}
	base := filepath.Join(folder, name)
	var want answers
	if err := json.Unmarshal(readFile(t, base+".answers.json"), &want); err != nil {
		t.Fatal(err)
	}
	fixtures, err := loadFixtures(base + ".ref.json")
	if err != nil {
		t.Fatal(err)
	}

	head := eng.Head()
	var ticker, out strings.Builder
	views, err := replay(t.Context(), eng, &ticker, base+".jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	if stored {
		equal(t, "events stored now", eng.Head()-head, 0)
		equal(t, "ticker, which has said everything", ticker.String(), "")
	}
	if err := views.print(t.Context(), eng, &out); err != nil {
		t.Fatal(err)
	}
	got := parse(t, out.String())

	// Every match: its result, and its stream.
	wantResults, wantPenalties := make(map[string][]string), 0
	matches := readTable(t, base+".streams.tsv")
	equal(t, "matches", len(matches), want.Streams)
	for _, m := range matches {
		stream, fixture := m["stream"], fixtures[m["stream"]]
		result := fmt.Sprintf("%s %s-%s %s", fixture.Home.Name, m["home_goals_events"], m["away_goals_events"], fixture.Away.Name)
		official := fmt.Sprintf("%s %s-%s %s", fixture.Home.Name, m["home_goals_official"], m["away_goals_official"], fixture.Away.Name)
		known := slices.ContainsFunc(want.Goals.Differ, func(d struct{ Stream string }) bool { return d.Stream == stream })
		if (result != official) != known {
			t.Errorf("%s: %s by the events, officially %s", stream, result, official)
		}
		if s, ok := want.Shootouts[stream]; ok {
			home, away := s[fixture.Home.Team], s[fixture.Away.Team]
			wantPenalties += home + away
			result += fmt.Sprintf(" (%d-%d on penalties)", home, away)
		}
		wantResults[fixture.Competition] = append(wantResults[fixture.Competition], result)
		checkStream(t, eng, m)
	}
	for competition, results := range wantResults {
		slices.Sort(results)
		equal(t, competition+" results", slices.Sorted(slices.Values(got.results[competition])), results)
	}
	equal(t, "competitions with results", len(got.results), len(wantResults))

	// Every table, in order.
	for competition, rows := range want.Tables {
		for i := range rows {
			rows[i].ID = 0 // not printed
		}
		equal(t, competition+" table", got.tables[competition], rows)
	}
	equal(t, "competitions with a table", len(got.tables), len(want.Tables))

	equal(t, "scorers", got.scorers, want.TopScorers)
	equal(t, "events by type", got.perType, want.PerType)
	equal(t, "summary", got.summary, fmt.Sprintf("%d in %d matches: %d goals, own goals among them: %d",
		want.Events, want.Streams, want.Goals.FromEvents, want.Goals.Own))
	if !stored {
		equal(t, "lines of the ticker", strings.Count(ticker.String(), "\n"), want.Goals.FromEvents+wantPenalties)
		equal(t, "own goals in the ticker", strings.Count(ticker.String(), ", own goal"), want.Goals.Own)
	}
}

// checkStream holds the stream of a match against its line of the .streams.tsv.
func checkStream(t *testing.T, eng *engine.Engine, want map[string]string) {
	t.Helper()
	end := func(opts ...engine.ReadOption) (id string, version engine.Version) {
		for ev, err := range eng.Read(t.Context(), want["stream"], append(opts, engine.Limit(1))...) {
			if err != nil {
				t.Fatal(err)
			}
			id, version = strconv.Itoa(action(t, ev).ID), ev.Version
		}
		return id, version
	}
	first, _ := end()
	last, n := end(engine.Backward())
	got := fmt.Sprintf("%s to %s, %d events", first, last, n)
	equal(t, want["stream"], got, fmt.Sprintf("%s to %s, %s events", want["first_id"], want["last_id"], want["events"]))
}

// action returns what a recorded event says. One Go type stands for all recorded types, so
// none of them is decoded by a read.
func action(t *testing.T, ev engine.Event) (a Action) {
	t.Helper()
	switch data := ev.Data.(type) {
	case Action: // in memory
		return data
	case json.RawMessage:
		if err := json.Unmarshal(data, &a); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// printed is what the program has printed, taken apart again.
type printed struct {
	results map[string][]string // by competition
	tables  map[string][]row
	scorers [][2]int
	perType map[string]int
	summary string
}

func parse(t *testing.T, out string) printed {
	t.Helper()
	p := printed{results: make(map[string][]string), tables: make(map[string][]row), perType: make(map[string]int)}
	for section := range strings.SplitSeq(strings.Trim(out, "\n"), "\n\n") {
		lines := strings.Split(section, "\n")
		title, what, _ := strings.Cut(lines[0], ": ")
		competition := strings.ReplaceAll(title, " ", "_")
		for i, line := range lines[1:] {
			var r row
			var n, player int
			var name string
			switch {
			case what == "results":
				p.results[competition] = append(p.results[competition], line[len("14 Jun  "):])
			case what == "table" && i == 0: // the header
			case what == "table":
				scan(t, line, &r.P, &r.W, &r.D, &r.L, &r.GF, &r.GA, &r.Pts, &r.Team)
				p.tables[competition] = append(p.tables[competition], r)
			case title == "Top scorers":
				scan(t, strings.Replace(line, "player", "", 1), &n, &player, &name)
				p.scorers = append(p.scorers, [2]int{player, n}) // as in the answers
			case i == len(lines)-2:
				p.summary = strings.Join(strings.Fields(line), " ")
			default:
				scan(t, line, &n, &name)
				p.perType[name] = n
			}
		}
	}
	return p
}

// scan reads numbers, and into the last value the rest of the line.
func scan(t *testing.T, line string, values ...any) {
	t.Helper()
	fields := strings.Fields(line)
	n := len(values) - 1
	if len(fields) <= n {
		t.Fatalf("line %q: want %d numbers and a name", line, n)
	}
	*values[n].(*string) = strings.Join(fields[n:], " ")
	for i, v := range values[:n] {
		var err error
		if *v.(*int), err = strconv.Atoi(fields[i]); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
	}
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Errorf("%s:\ngot  %s\nwant %s", what, g, w)
	}
}

// openTest returns an engine that is closed with the test.
func openTest(t *testing.T, dir string) *engine.Engine {
	t.Helper()
	eng, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := eng.Close(); err != nil {
			t.Error(err)
		}
	})
	return eng
}

// recording compresses lines into a file that has the invented fixtures beside it.
func recording(t *testing.T, lines []byte) string {
	t.Helper()
	folder := t.TempDir()
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	if _, err := zip.Write(lines); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "invented.jsonl.gz")
	for name, content := range map[string][]byte{
		path: zipped.Bytes(),
		filepath.Join(folder, "invented.ref.json"): readFile(t, "testdata/invented.ref.json"),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// readTable returns the lines of a table with a header, as maps by column.
func readTable(t *testing.T, path string) []map[string]string {
	t.Helper()
	r := csv.NewReader(bytes.NewReader(readFile(t, path)))
	r.Comma = '\t'
	lines, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var table []map[string]string
	for _, line := range lines[1:] {
		m := make(map[string]string)
		for i, column := range lines[0] {
			m[column] = line[i]
		}
		table = append(table, m)
	}
	return table
}
