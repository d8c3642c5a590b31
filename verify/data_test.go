package verify_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirstore/weir/engine"
)

// recorded is a line of a recording.
type recorded struct {
	Stream string          `json:"stream"`
	Type   string          `json:"type"`
	Time   string          `json:"time"`
	Data   json.RawMessage `json:"data"`
}

// TestRecordings imports real event logs, closes the engine, opens it again, and takes from what is
// stored every line, byte by byte, and the answers that were computed from the recording by other programs. What
// the football matches mean is in the test of examples/worldcup.
func TestRecordings(t *testing.T) {
	folder := os.Getenv("WEIR_DATA")
	if folder == "" {
		t.Skip("WEIR_DATA is not set: it names the folder with the recordings")
	}
	for _, r := range []struct {
		name  string
		large bool
		check func(t *testing.T, answers []byte, log []recorded)
	}{
		{"git-tokio", false, checkTrees},
		{"wabo-receipt", false, checkCases},
		{"football-worldcup2018", true, nil},
		{"football-england-spain-1718", true, nil},
	} {
		t.Run(r.name, func(t *testing.T) {
			if r.large && os.Getenv("WEIR_SOAK") == "" {
				t.Skip("WEIR_SOAK is not set: it is large")
			}
			log := newKeeper()
			dir := t.TempDir()
			for backend, again := range map[string]func() engine.Backend{"memory": log.again, "files": func() engine.Backend { return openFiles(t, dir) }} {
				if backend == "memory" && os.Getenv("WEIR_SOAK") == "" {
					continue // files are the harder case
				}
				t.Run(backend, func(t *testing.T) {
					base := filepath.Join(folder, r.name)
					importRecording(t, again(), base+".jsonl.gz")
					answers, err := os.ReadFile(base + ".answers.json")
					if err != nil {
						t.Fatal(err)
					}
					stored := checkStored(t, again(), answers)
					if r.check != nil {
						r.check(t, answers, stored)
					}
				})
			}
		})
	}
}

// importRecording appends lines of one stream that follow each other at once, up to 64.
func importRecording(t *testing.T, b engine.Backend, path string) {
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	zipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	opts := engine.Options{Backend: b}
	if b.Caps().Durable {
		opts.Durability = engine.Written
	}
	eng := open(t, opts)
	defer func() {
		if err := eng.Close(); err != nil {
			t.Error(err)
		}
	}()
	var batch []engine.NewEvent
	stream, versions := "", make(map[string]engine.Version)
	flush := func() {
		if len(batch) == 0 {
			return
		}
		res, err := eng.Append(t.Context(), stream, engine.Exactly(versions[stream]), batch...)
		if err != nil {
			t.Fatal(err)
		}
		versions[stream], batch = res.Last, nil
	}
	for lines := json.NewDecoder(zipped); ; {
		var l recorded
		if err := lines.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if l.Stream != stream || len(batch) == 64 {
			flush()
		}
		stream = l.Stream
		batch = append(batch, engine.NewEvent{Type: l.Type, Data: l.Data}.WithExtra("time", l.Time))
	}
	flush()
}

// checkStored holds what is stored against the answers that every recording has, and returns it.
func checkStored(t *testing.T, b engine.Backend, answers []byte) (log []recorded) {
	var want struct {
		Events, Streams int
		PerType         map[string]int `json:"per_type"`
		Sum             string         `json:"sha256_of_uncompressed_jsonl"`
		Bytes           int            `json:"bytes_uncompressed"`
	}
	if err := json.Unmarshal(answers, &want); err != nil {
		t.Fatal(err)
	}
	perType, versions := make(map[string]int), make(map[string]engine.Version)
	sum, size := sha256.New(), 0
	for _, ev := range logOf(t, b) {
		l := recorded{ev.Stream, ev.Type, ev.Meta.Extra["time"], ev.Data.(json.RawMessage)}
		line := new(bytes.Buffer)
		enc := json.NewEncoder(line) // which ends the line
		enc.SetEscapeHTML(false)
		if err := enc.Encode(l); err != nil {
			t.Fatal(err)
		}
		n, _ := sum.Write(line.Bytes())
		size += n
		perType[ev.Type]++
		versions[ev.Stream]++
		log = append(log, l)
	}
	same(t, "events", len(log), want.Events)
	same(t, "streams", len(versions), want.Streams)
	same(t, "events by type", perType, want.PerType)
	same(t, "bytes", size, want.Bytes)
	same(t, "checksum of all lines", hex.EncodeToString(sum.Sum(nil)), want.Sum)
	return log
}

// checkTrees replays a repository: at some places git itself has said which files there were.
func checkTrees(t *testing.T, answers []byte, log []recorded) {
	var want struct {
		Trees []struct {
			After int    `json:"after_events"`
			Files int    `json:"files"`
			Lines int    `json:"text_lines"`
			Sum   string `json:"sha256_same_with_blobs_cut_to_16_digits"`
		} `json:"trees_as_git_gives_them"`
		Live int `json:"streams_live_at_end"`
	}
	if err := json.Unmarshal(answers, &want); err != nil {
		t.Fatal(err)
	}
	tree, lines, checked := make(map[string]string), 0, 0
	for i, l := range log {
		var change struct {
			Old, New *string
			Add, Del int
		}
		if err := json.Unmarshal(l.Data, &change); err != nil {
			t.Fatal(err)
		}
		if blob, ok := tree[l.Stream]; ok != (change.Old != nil) || ok && blob != *change.Old {
			t.Fatalf("position %d: %s is not what the change before has left", i+1, l.Stream)
		}
		delete(tree, l.Stream)
		if change.New != nil {
			tree[l.Stream] = *change.New
		}
		lines += change.Add - change.Del
		for _, w := range want.Trees {
			if w.After == i+1 {
				checked++
				var text strings.Builder
				for _, path := range slices.Sorted(maps.Keys(tree)) {
					fmt.Fprintf(&text, "%s\t%s\n", path, tree[path])
				}
				sum := sha256.Sum256([]byte(text.String()))
				same(t, "tree", fmt.Sprintf("%d files, %d lines, %x", len(tree), lines, sum), fmt.Sprintf("%d files, %d lines, %s", w.Files, w.Lines, w.Sum))
			}
		}
	}
	same(t, "trees", checked, len(want.Trees))
	same(t, "files at the end", len(tree), want.Live)
}

// checkCases counts the ways that cases have taken.
func checkCases(t *testing.T, answers []byte, log []recorded) {
	var want struct {
		Variants int
		Once     int `json:"variants_seen_once"`
		Top      []struct {
			Count int
			Types []string
		} `json:"top_variants"`
		Pairs int `json:"directly_follows_pairs"`
	}
	if err := json.Unmarshal(answers, &want); err != nil {
		t.Fatal(err)
	}
	ways, variants, pairs, once := make(map[string][]string), make(map[string]int), make(map[string]int), 0
	for _, l := range log {
		if way := ways[l.Stream]; len(way) > 0 {
			pairs[way[len(way)-1]+"\n"+l.Type]++
		}
		ways[l.Stream] = append(ways[l.Stream], l.Type)
	}
	for _, way := range ways {
		variants[strings.Join(way, "\n")]++
	}
	for _, n := range variants {
		if n == 1 {
			once++
		}
	}
	same(t, "variants", len(variants), want.Variants)
	same(t, "variants seen once", once, want.Once)
	same(t, "pairs", len(pairs), want.Pairs)
	for _, v := range want.Top {
		same(t, strings.Join(v.Types, ", "), variants[strings.Join(v.Types, "\n")], v.Count)
	}
}

func same[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: %s, want %s", what, g, w)
	}
}
