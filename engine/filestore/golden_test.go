package filestore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// golden is the directory with a store of format version 1, which every later program must
// read. A new version of the format gets a directory beside it; this one stays as it is.
const golden = "testdata/v1"

// description is what a golden store holds, in golden + ".json".
type description struct {
	Head     engine.Position
	Streams  []goldenStream
	Events   []goldenEvent // those that are not removed
	Handlers []goldenHandler
}

type goldenStream struct {
	Name    string
	Version engine.Version
	Deleted bool `json:",omitempty"`
}

type goldenEvent struct {
	Position engine.Position
	Stream   string
	Version  engine.Version
	Type     string
	ID       []byte `json:",omitempty"` // JSON would replace what is not UTF-8
	Time     time.Time
	Encoding string
	Schema   uint16
	Data     []byte
	Meta     engine.Metadata `json:",omitzero"`
}

type goldenHandler struct {
	Name       string
	Checkpoint *engine.Position `json:",omitempty"`
	Parked     []goldenParked   `json:",omitempty"`
}

type goldenParked struct {
	engine.ParkedRecord        // without the key
	Key                 []byte `json:",omitempty"`
}

// writeGolden makes the golden store. All that it does has fixed inputs: in a bubble of
// synctest time begins in the year 2000, and moves only when it is told to.
func writeGolden(t *testing.T, disk *crashfs.Disk) {
	ctx := t.Context()
	s, err := filestore.OpenFixed(disk, filestore.Options{SegmentSize: 4 << 10, Logger: quiet}, [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	states := make(map[string]*engine.StreamState)
	state := func(name string) *engine.StreamState {
		if states[name] == nil {
			states[name] = &engine.StreamState{Name: name}
		}
		return states[name]
	}
	put := func(d engine.Durability, batch ...goldenEvent) {
		t.Helper()
		time.Sleep(time.Second) // the bubble's clock
		var writes []*engine.Write
		for _, ev := range batch {
			if len(writes) == 0 || writes[len(writes)-1].Stream.Name != ev.Stream {
				st := state(ev.Stream)
				writes = append(writes, &engine.Write{Stream: st, After: st.Version, Durability: d})
			}
			typ, err := s.TypeID(ev.Type)
			must(err)
			w := writes[len(writes)-1]
			w.Stream.Version++
			w.Events = append(w.Events, engine.Record{Type: ev.Type, TypeID: typ, ID: string(ev.ID), Meta: ev.Meta,
				Data: &engine.Payload{Encoding: ev.Encoding, Schema: ev.Schema, Bytes: ev.Data}})
		}
		must(s.Commit(ctx, writes))
	}
	event := func(stream, typ, encoding string, data []byte) goldenEvent {
		return goldenEvent{Stream: stream, Type: typ, Encoding: encoding, Schema: 1, Data: data}
	}
	filler := func(n int) {
		for i := range n {
			put(engine.Synced, event("filler-"+fmt.Sprint(i%2), "Filled", "text", bytes.Repeat([]byte{'a' + byte(i%26)}, 150)))
		}
	}
	// Every encoding, an empty payload, all bytes there are, event IDs, metadata, names beyond ASCII.
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	first := event("order-1", "Placed", "json", []byte(`{"amount": 12.5, "customer": "Łódź"}`))
	first.ID, first.Meta = []byte("0192-a"), engine.Metadata{CorrelationID: "cor-1", CausationID: "cau-1", Extra: map[string]string{"user": "ann"}}
	second := event("order-1", "Paid", "text", []byte("in cash"))
	second.ID, second.Schema = []byte("0192-b"), 7
	third := event("order-2", "Scanned", "bytes", all)
	third.Meta.CorrelationID = "cor-2"
	named := event("Łódź-1", "größe", "application/x-protobuf", []byte{8, 150, 1})
	named.ID, named.Meta = []byte("id\xff\x00not UTF-8"), engine.Metadata{Extra: map[string]string{"": ""}}
	put(engine.Synced, first, second, third)
	put(engine.Written, named, event("order-2", "Emptied", "bytes", []byte{}))
	put(engine.Synced, event("gone-1", "Made", "json", []byte("1")), event("gone-1", "Made", "json", []byte("2")))
	filler(22)
	must(s.Truncate(ctx, *state("filler-0"), 4))
	must(s.Delete(ctx, *state("gone-1")))
	filler(22)
	_, err = s.Compact(ctx, []engine.RetentionRule{{Stream: "filler-1", MaxCount: 15}})
	must(err)
	must(s.Park(ctx, "mailer", engine.ParkedRecord{Position: 2, Key: "k\xff", Error: "no route", Stack: "goroutine 1", Attempts: 3, Time: time.Now().UTC()}))
	must(s.Park(ctx, "mailer", engine.ParkedRecord{Position: 4, Key: "k\xff", Held: true}))
	must(s.SaveCheckpoints(ctx, []engine.Checkpoint{{Handler: "mailer", Position: 6}, {Handler: "new", Position: 0}}))
	filler(22)
	must(s.Truncate(ctx, *state("filler-1"), 12))
	must(s.Delete(ctx, engine.StreamState{Name: "never-1"}))
	put(engine.Synced, event("order-1", "Closed", "json", []byte("null")))
	must(s.Close())
}

// describe reads everything that a store holds.
func describe(t *testing.T, s *filestore.Store, streams, handlers []string) (d description) {
	ctx := context.Background()
	d.Head = s.Head()
	dst := make([]engine.Event, 5)
	for pos := engine.Position(1); pos <= d.Head; {
		n, next, err := s.ReadAll(ctx, engine.Query{From: pos, To: d.Head}, dst)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range dst[:n] {
			p := ev.Data.(*engine.Payload)
			d.Events = append(d.Events, goldenEvent{ev.Position, ev.Stream, ev.Version, ev.Type, nil, ev.Time, p.Encoding, p.Schema, p.Bytes, ev.Meta})
			if ev.ID != "" {
				d.Events[len(d.Events)-1].ID = []byte(ev.ID)
			}
		}
		pos = next
	}
	for _, name := range streams {
		st, err := s.Load(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		d.Streams = append(d.Streams, goldenStream{name, st.Version, st.Deleted})
		for i := range d.Events {
			var found [1]engine.Version
			if ev := &d.Events[i]; ev.Stream == name && ev.ID != nil {
				if err := s.Find(ctx, st, []string{string(ev.ID)}, found[:]); err != nil || found[0] != ev.Version {
					t.Errorf("Find of %q: %d, %v", ev.ID, found[0], err)
				}
			}
		}
	}
	for _, name := range handlers {
		h := goldenHandler{Name: name}
		if at, ok, err := s.LoadCheckpoint(ctx, name); err != nil {
			t.Fatal(err)
		} else if ok {
			h.Checkpoint = &at
		}
		list, err := s.Parked(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			key := []byte(p.Key)
			p.Key = ""
			h.Parked = append(h.Parked, goldenParked{p, key})
		}
		d.Handlers = append(d.Handlers, h)
	}
	return d
}

// TestGoldenIsRead opens a copy of the golden store and compares what is read with its
// description: with its indexes, and without, so that the log itself is read.
func TestGoldenIsRead(t *testing.T) {
	text, err := os.ReadFile(golden + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var want description
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	for _, indexed := range []bool{true, false} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(golden)); err != nil {
			t.Fatal(err)
		}
		indexes, err := filepath.Glob(filepath.Join(dir, "*.idx"))
		if err != nil || len(indexes) < 3 {
			t.Fatalf("%q: %v", indexes, err)
		}
		for _, path := range indexes {
			if indexed {
				break
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		v, err := filestore.Verify(dir)
		if err != nil || v.Err() != nil || !v.Clean || v.Head != want.Head {
			t.Errorf("Verify: %+v, %v", v, err)
		}
		s := mustOpen(t, dir, filestore.Options{Logger: quiet})
		if r := s.Recovery(); !r.Clean || r.Cut != nil || (r.Indexes == 0) != indexed {
			t.Errorf("recovery, with indexes %v: %+v", indexed, r)
		}
		var streams, handlers []string
		for _, st := range want.Streams {
			streams = append(streams, st.Name)
		}
		for _, h := range want.Handlers {
			handlers = append(handlers, h.Name)
		}
		got := describe(t, s, streams, handlers)
		for i := range min(len(got.Events), len(want.Events)) {
			if !reflect.DeepEqual(got.Events[i], want.Events[i]) {
				t.Errorf("event %+v, want %+v", got.Events[i], want.Events[i])
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("read %d events up to %d, %+v, %+v; want %d up to %d, %+v, %+v", len(got.Events), got.Head, got.Streams, got.Handlers,
				len(want.Events), want.Head, want.Streams, want.Handlers)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGoldenIsWritten does what the golden store was made by, and compares the files byte by
// byte: whoever changes the format sees it here. With WEIR_GOLDEN=write it writes them, which is for a
// new version of the format, in a directory of its own.
func TestGoldenIsWritten(t *testing.T) {
	disk := crashfs.New()
	synctest.Test(t, func(t *testing.T) { writeGolden(t, disk) })
	disk.Delete("lock") // it names this process
	if os.Getenv("WEIR_GOLDEN") == "write" {
		if err := errors.Join(os.RemoveAll(golden), disk.ToDir(golden)); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := disk.ToDir(dir); err != nil {
			t.Fatal(err)
		}
		d := describe(t, mustOpen(t, dir, filestore.Options{Logger: quiet}), []string{"order-1", "order-2", "Łódź-1", "gone-1", "filler-0", "filler-1", "never-1", "none"},
			[]string{"mailer", "new", "none"})
		text, err := json.MarshalIndent(d, "", " ")
		if err == nil {
			err = os.WriteFile(golden+".json", append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want, err := crashfs.FromDir(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := disk.Files(); !slices.Equal(got, want.Files()) {
		t.Fatalf("files %q, want %q", got, want.Files())
	}
	kinds := make(map[string]int)
	for _, name := range want.Files() {
		kinds[filepath.Ext(name)]++
		if strings.HasSuffix(name, "-1.seg") {
			kinds["compacted"]++
		}
		got, want := disk.Content(name), want.Content(name)
		if bytes.Equal(got, want) {
			continue
		}
		i := 0
		for i < min(len(got), len(want)) && got[i] == want[i] {
			i++
		}
		t.Errorf("%s: it differs from byte %d on, of %d and %d; a change of the format needs a new version", name, i, len(got), len(want))
	}
	if n := size(want); kinds[".seg"] < 4 || kinds[".idx"] < 3 || kinds["compacted"] < 1 || kinds[""] != 2 || n > 64<<10 {
		t.Errorf("%v, %d bytes: the golden store should have some of everything, and be small", kinds, n)
	}
}

// TestFormatVersions gives each file of the golden store a version of the format that there
// will be: the error names the file, that version, and the newest that is known. An index is built anew.
func TestFormatVersions(t *testing.T) {
	old, err := crashfs.FromDir(golden)
	if err != nil {
		t.Fatal(err)
	}
	resum := map[string]func(b []byte){".seg": resumSegment, ".idx": resumIndex, "": resumSmall}
	for _, name := range old.Files() {
		for _, version := range []uint32{0, 2, 99} {
			b := old.Content(name)
			binary.LittleEndian.PutUint32(b[8:], version)
			for _, right := range []bool{false, true} { // whatever the later version sums up
				if right {
					resum[filepath.Ext(name)](b)
				}
				disk := old.Clone()
				disk.Put(name, b)
				s, err := filestore.OpenFS(disk.Clone(), tiny)
				if strings.HasSuffix(name, ".idx") {
					if err != nil || s.Recovery().Indexes != 1 {
						t.Fatalf("%s of version %d: %v, want a new index", name, version, err)
					}
					s.Close()
					continue
				}
				format, ok := errors.AsType[*filestore.FormatError](err)
				if !ok || format.Found != version || format.Supported != 1 || !strings.HasSuffix(format.Path, name) ||
					!strings.Contains(err.Error(), fmt.Sprintf("version %d, this program knows versions up to 1", version)) {
					t.Errorf("%s of version %d: %v", name, version, err)
				}
				if v, err := filestore.VerifyFS(disk); err != nil || v.Err() == nil || !errors.As(v.Err(), &format) {
					t.Errorf("Verify with %s of version %d: %+v, %v", name, version, v, err)
				}
			}
		}
	}
}
