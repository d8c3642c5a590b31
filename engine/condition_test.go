package engine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

func tagged(typ string, n int, tags ...string) engine.NewEvent {
	return engine.NewEvent{Type: typ, Data: n}.WithTags(tags...)
}

func storeTagged(t *testing.T, e *engine.Engine, stream string, events ...engine.NewEvent) engine.Position {
	t.Helper()
	return mustAppend(t, e, stream, events...).Position
}

func wantMatching(t *testing.T, e *engine.Engine, criteria []engine.Criterion, want ...engine.Position) engine.Position {
	t.Helper()
	events, upTo, err := e.Matching(t.Context(), criteria...)
	if err != nil {
		t.Fatal(err)
	}
	var got []engine.Position
	for _, ev := range events {
		got = append(got, ev.Position)
	}
	if !slices.Equal(got, want) || upTo != e.Head() {
		t.Errorf("%v: positions %v up to %d, want %v", criteria, got, upTo, want)
	}
	return upTo
}

func TestMatching(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		storeTagged(t, e, "a-1", tagged("A", 1, "student-1", "course-1"), tagged("B", 2, "student-1"), tagged("A", 3, "course-1"))
		storeTagged(t, e, "b-1", tagged("B", 4, "course-1", "student-2"), event("A", 5), tagged("A", 6, "student-1", "x", "course-2", "y"))
		for _, c := range []struct {
			criteria []engine.Criterion
			want     []engine.Position
		}{
			{[]engine.Criterion{{Tags: []string{"student-1"}}}, []engine.Position{1, 2, 6}},
			{[]engine.Criterion{{Tags: []string{"student-1", "course-1"}}}, []engine.Position{1}},
			{[]engine.Criterion{{Tags: []string{"course-1", "student-1"}}}, []engine.Position{1}},
			{[]engine.Criterion{{Types: []string{"B"}, Tags: []string{"student-1"}}}, []engine.Position{2}},
			{[]engine.Criterion{{Types: []string{"A", "B"}, Tags: []string{"course-1"}}}, []engine.Position{1, 3, 4}},
			{[]engine.Criterion{{Tags: []string{"student-1"}}, {Tags: []string{"course-1"}}}, []engine.Position{1, 2, 3, 4, 6}},
			{[]engine.Criterion{{Tags: []string{"nobody"}}}, nil},
			{[]engine.Criterion{{Types: []string{"Never"}, Tags: []string{"student-1"}}}, nil},
			{[]engine.Criterion{{Tags: []string{"student"}}}, nil},
		} {
			wantMatching(t, e, c.criteria, c.want...)
		}
		events, _, err := e.Matching(t.Context(), engine.Criterion{Tags: []string{"y"}})
		if err != nil || len(events) != 1 || !slices.Equal(events[0].Meta.Tags(), []string{"student-1", "x", "course-2", "y"}) {
			t.Fatalf("tags of an event: %+v, %v", events, err)
		}
		// What is removed is not found any more, whether its space was given back or not.
		if err := e.Truncate(t.Context(), "a-1", 3); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			wantMatching(t, e, []engine.Criterion{{Tags: []string{"student-1"}}, {Tags: []string{"course-1"}}}, 3, 4, 6)
			if _, err := e.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 400 { // more than a page of them
			storeTagged(t, e, "many-1", tagged("A", i, "many", fmt.Sprint("n-", i%7)))
		}
		if events, _, err := e.Matching(t.Context(), engine.Criterion{Tags: []string{"many"}}); err != nil || len(events) != 400 {
			t.Errorf("%d events, %v, want 400", len(events), err)
		}
	})
}

func TestConditions(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		ctx := t.Context()
		mine := []engine.Criterion{{Types: []string{"A"}, Tags: []string{"x", "y"}}}
		commit := func(stream string, conditions ...engine.Condition) error {
			_, err := e.Commit(ctx, engine.Tx{
				Writes:     []engine.TxWrite{{Stream: stream, Expected: engine.Any, Events: []engine.NewEvent{tagged("A", 1, "x", "y")}}},
				Conditions: conditions,
			})
			return err
		}
		upTo := wantMatching(t, e, mine)
		storeTagged(t, e, "other-1", tagged("B", 1, "x", "y"), tagged("A", 1, "x"), tagged("A", 1, "y"), event("A", 1)) // none of them is meant
		if err := commit("a-1", engine.Condition{Any: mine, After: upTo}); err != nil {
			t.Fatal(err)
		}
		err := commit("a-2", engine.Condition{Any: mine, After: upTo}) // not even a stream in common
		failed, ok := errors.AsType[*engine.ConditionError](err)
		if !ok || failed.Condition != 1 || failed.Position != 5 || e.Head() != 5 {
			t.Fatalf("%v (%+v) at head %d", err, failed, e.Head())
		}
		if want := "engine: commit: refused: condition 1: an event that it looks for was stored at position 5"; err.Error() != want {
			t.Errorf("it says %v", err)
		}
		if err := commit("a-2", engine.Condition{Any: mine, After: 5}); err != nil {
			t.Errorf("on what was read now: %v", err)
		}
		// All that has failed is told, with expectations or without.
		bad := engine.Condition{Any: []engine.Criterion{{Tags: []string{"nobody"}}, {Tags: []string{"x"}}}, After: 5}
		good := engine.Condition{Any: []engine.Criterion{{Tags: []string{"nobody"}}}}
		err = commit("a-3", good, bad, engine.Condition{Any: mine, After: 4})
		if tx, ok := errors.AsType[*engine.TxError](err); !ok || len(tx.Reasons) != 2 {
			t.Errorf("two of three conditions: %v", err)
		}
		_, err = e.Commit(ctx, engine.Tx{
			Writes:     []engine.TxWrite{{Stream: "a-1", Expected: engine.NoStream, Events: []engine.NewEvent{event("A", 1)}}},
			Conditions: []engine.Condition{bad, good},
		})
		if tx, ok := errors.AsType[*engine.TxError](err); !ok || len(tx.Reasons) != 2 {
			t.Errorf("an expectation and a condition: %v", err)
		}
		// An event that was removed since counts: who decides has not seen it.
		if err := e.Truncate(ctx, "a-2", 2); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			err := commit("a-4", engine.Condition{Any: mine, After: 5})
			if failed, ok := errors.AsType[*engine.ConditionError](err); !ok || failed.Position != 0 {
				t.Errorf("by an event that is gone: %v", err)
			}
			if _, err := e.Compact(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if head := e.Head(); head != 6 {
			t.Errorf("%d events are stored, want 6", head)
		}
	})
}

// TestNoWriteSkew lets a few goroutines enrol students in courses at the same time, in streams
// of their own for each enrolment, with rules over both: a course has so many seats, a student takes
// so many courses. No interleaving breaks one of them. WEIR_SOAK=1 runs 100,000 histories.
func TestNoWriteSkew(t *testing.T) {
	overBackends(t, engine.Options{StreamMailbox: 1}, func(t *testing.T, e *engine.Engine) {
		histories := 3000
		if e.Stats().Backend == "file" {
			histories = 100 // each conditional commit is a sync
		}
		if os.Getenv("WEIR_SOAK") != "" {
			histories = histories * 100 / 3
		}
		var refused, stored int64
		for h := range histories {
			r, s := enrol(t, e, h)
			refused, stored = refused+r, stored+s
			if t.Failed() {
				return
			}
		}
		if head := int64(e.Head()); head != stored || refused == 0 {
			t.Errorf("%d events, %d acknowledged, %d refused", head, stored, refused)
		}
		t.Logf("%d histories: %d enrolments, %d refused by their condition and decided anew", histories, stored, refused)
	})
}

// enrol is one history.
func enrol(t *testing.T, e *engine.Engine, h int) (refused, stored int64) {
	rng := rand.New(rand.NewPCG(uint64(h), 5))
	seats, most := 1+rng.IntN(2), 1+rng.IntN(2)
	count := func(events []engine.Event, tag string) (n int) {
		for _, ev := range events {
			if slices.Contains(ev.Meta.Tags(), tag) {
				n++
			}
		}
		return n
	}
	var refusals, done atomic.Int64
	var all sync.WaitGroup
	begin := make(chan struct{})
	for g := range 4 {
		student, course := fmt.Sprintf("%d-student-%d", h, rng.IntN(2)), fmt.Sprintf("%d-course-%d", h, rng.IntN(2))
		all.Go(func() {
			<-begin
			boundary := []engine.Criterion{{Tags: []string{student}}, {Tags: []string{course}}}
			for {
				events, upTo, err := e.Matching(t.Context(), boundary...)
				if err != nil {
					t.Error(err)
					return
				}
				if count(events, course) >= seats || count(events, student) >= most {
					return
				}
				runtime.Gosched() // let others read, too
				_, err = e.Commit(t.Context(), engine.Tx{
					Writes:     []engine.TxWrite{{Stream: fmt.Sprintf("enrolment-%d-%d", h, g), Expected: engine.NoStream, Events: []engine.NewEvent{tagged("Enrolled", 1, student, course)}}},
					Conditions: []engine.Condition{{Any: boundary, After: upTo}},
				})
				if err == nil {
					done.Add(1)
					return
				}
				if _, failed := errors.AsType[*engine.ConditionError](err); !failed {
					t.Errorf("Commit: %v", err)
					return
				}
				refusals.Add(1)
			}
		})
	}
	close(begin)
	all.Wait()
	for i := range 2 {
		for tag, limit := range map[string]int{fmt.Sprintf("%d-student-%d", h, i): most, fmt.Sprintf("%d-course-%d", h, i): seats} {
			if events, _, err := e.Matching(t.Context(), engine.Criterion{Tags: []string{tag}}); err != nil || len(events) > limit {
				t.Errorf("history %d: %s has %d enrolments, %v; at most %d", h, tag, len(events), err, limit)
			}
		}
	}
	return refusals.Load(), done.Load()
}

// TestTagsOutliveARestart: with the index files, and without them.
func TestTagsOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	open := func() *engine.Engine {
		s, err := filestore.Open(dir, filestore.Options{SegmentSize: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		return quietEngine(t, engine.Options{Backend: s})
	}
	e := open()
	var want []engine.Position
	for i := range 3000 {
		pos := storeTagged(t, e, fmt.Sprintf("s-%d", i%10), tagged("A", i, fmt.Sprint("n-", i%50), "all", strings.Repeat("long ", i%9)+"tag"))
		if i%50 == 7 {
			want = append(want, pos)
		}
	}
	for range 2 {
		mustClose(t, e)
		e = open()
		wantMatching(t, e, []engine.Criterion{{Tags: []string{"n-7", "all"}}}, want...)
		_, err := e.Commit(t.Context(), engine.Tx{
			Writes:     []engine.TxWrite{{Stream: "s-1", Expected: engine.Any, Events: []engine.NewEvent{event("A", 1)}}},
			Conditions: []engine.Condition{{Any: []engine.Criterion{{Tags: []string{"n-7"}}}, After: want[len(want)-1] - 1}},
		})
		if failed, ok := errors.AsType[*engine.ConditionError](err); !ok || failed.Position != want[len(want)-1] {
			t.Errorf("a condition on what was stored before the restart: %v", err)
		}
		removeIndexes(t, dir)
	}
	mustClose(t, e)
}

func TestTagsThatCannotBe(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		ctx := t.Context()
		seventeen := make([]string, 17)
		for i := range seventeen {
			seventeen[i] = fmt.Sprint(i)
		}
		for _, c := range []struct {
			name string
			tags []string
			want string
		}{
			{"no tag", nil, `engine: append "a-1": tag of event 1 is "", want 1 to 1024 bytes`},
			{"an empty one", []string{"x", ""}, `engine: append "a-1": tag of event 1 is ""`},
			{"too many", seventeen, `engine: append "a-1": number of tags of event 1 is 17, want at most 16`},
			{"one twice", []string{"x", "y", "x"}, `engine: append "a-1": tag of event 1 is "x", want different tags`},
			{"a control character", []string{"x\ty"}, `engine: append "a-1": tag of event 1 is "x\ty", want no control characters`},
		} {
			_, err := e.Append(ctx, "a-1", engine.Any, tagged("A", 1, c.tags...))
			if _, ok := errors.AsType[*engine.InvalidError](err); !ok || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%s: %v, want %s…", c.name, err, c.want)
			}
		}
		many := make([]engine.Criterion, 65)
		for _, c := range []struct {
			criteria []engine.Criterion
			want     string
		}{
			{nil, "engine: matching: number of criteria is 0, want at least 1"},
			{many, "engine: matching: number of criteria is 65, want at most 64"},
			{[]engine.Criterion{{Types: []string{"A"}}}, "engine: matching: number of tags of criterion 1 is 0, want 1 to 16"},
			{[]engine.Criterion{{Tags: []string{""}}}, `engine: matching: tag of criterion 1 is ""`},
			{[]engine.Criterion{{Tags: []string{"x"}, Types: []string{""}}}, `engine: matching: event type is ""`},
		} {
			if _, _, err := e.Matching(ctx, c.criteria...); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v: %v, want %s…", c.criteria, err, c.want)
			}
			_, err := e.Commit(ctx, engine.Tx{
				Writes:     []engine.TxWrite{{Stream: "a-1", Expected: engine.Any, Events: []engine.NewEvent{event("A", 1)}}},
				Conditions: []engine.Condition{{Any: c.criteria}},
			})
			if want := strings.Replace(c.want, "matching", "commit: condition 1", 1); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%v: %v, want %s…", c.criteria, err, want)
			}
		}
		if head := e.Head(); head != 0 {
			t.Errorf("%d events are stored", head)
		}
	})
	e := quietEngine(t, engine.Options{Backend: untagged{engine.NewMemory()}})
	defer mustClose(t, e)
	if _, _, err := e.Matching(t.Context(), engine.Criterion{Tags: []string{"x"}}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a backend without tags: %v", err)
	}
	_, err := e.Commit(t.Context(), engine.Tx{
		Writes:     []engine.TxWrite{{Stream: "a-1", Expected: engine.Any, Events: []engine.NewEvent{event("A", 1)}}},
		Conditions: []engine.Condition{{Any: []engine.Criterion{{Tags: []string{"x"}}}}},
	})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a condition over a backend without tags: %v", err)
	}
}

func removeIndexes(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.idx"))
	if err != nil || len(files) == 0 {
		t.Fatalf("index files: %v, %v", files, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

// untagged is a backend that does nothing beyond the contract.
type untagged struct{ engine.Backend }
