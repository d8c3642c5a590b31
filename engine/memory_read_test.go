package engine_test

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/weirstore/weir/engine"
)

// paged is a Memory that the engine does not know as one: it reads pages of events from it.
type paged struct{ *engine.Memory }

// TestReadsWithoutPages compares what a read of a Memory yields, which has no page in between,
// with what they yield over pages, and with each event as it is read alone, for all kinds of reads.
func TestReadsWithoutPages(t *testing.T) {
	for _, retention := range []string{"nothing removed", "removed", "compacted"} {
		t.Run(retention, func(t *testing.T) {
			m := engine.NewMemory()
			direct := openOver(t, m)
			history(t, direct, retention)
			pages := openOver(t, paged{m}) // it only reads
			alone := readAlone(t, pages)
			rng := rand.New(rand.NewPCG(1, 2))
			for range 300 {
				opts, what := randomRead(rng)
				stream := fmt.Sprintf("s%d-1", rng.IntN(6))
				all := rng.IntN(2) == 0
				read := func(e *engine.Engine) iter.Seq2[engine.Event, error] {
					if all {
						return e.ReadAll(t.Context(), opts(false)...)
					}
					return e.Read(t.Context(), stream, opts(true)...)
				}
				compareReads(t, fmt.Sprintf("all=%v %s: %s", all, stream, what), read(direct), read(pages), alone)
			}
		})
	}
}

func openOver(t *testing.T, b engine.Backend) *engine.Engine {
	e, err := engine.Open(engine.Options{Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// history stores 5,000 events of five streams: with and without IDs and metadata, one by one and
// many at once.
func history(t *testing.T, e *engine.Engine, retention string) {
	rng := rand.New(rand.NewPCG(3, 4))
	ctx := context.Background()
	for n := 0; n < 5000; {
		events := make([]engine.NewEvent, 1+rng.IntN(30)*rng.IntN(2))
		for i := range events {
			n++
			events[i] = engine.NewEvent{Type: fmt.Sprint("t", rng.IntN(3)), Data: n}
			if rng.IntN(4) == 0 {
				events[i] = events[i].WithID(fmt.Sprint("id", n))
			}
			if rng.IntN(4) == 0 {
				events[i] = events[i].WithExtra("n", fmt.Sprint(n))
			}
			if rng.IntN(4) == 0 {
				events[i].Meta.CorrelationID = fmt.Sprint("c", n)
			}
		}
		if _, err := e.Append(ctx, fmt.Sprintf("s%d-1", rng.IntN(5)), engine.Any, events...); err != nil {
			t.Fatal(err)
		}
	}
	if retention == "nothing removed" {
		return
	}
	if err := e.Truncate(ctx, "s1-1", 600); err != nil {
		t.Fatal(err)
	}
	if err := e.Delete(ctx, "s2-1", engine.Any); err != nil {
		t.Fatal(err)
	}
	if retention == "removed" {
		return
	}
	// All but the newest: whole segments go.
	for _, s := range []string{"s0-1", "s1-1", "s3-1", "s4-1"} {
		if err := e.Truncate(ctx, s, 800); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.Compact(ctx); err != nil {
		t.Fatal(err)
	}
}

// randomRead draws options, for a stream or the whole store.
func randomRead(rng *rand.Rand) (opts func(stream bool) []engine.ReadOption, what string) {
	backward, from, limit := rng.IntN(2) == 0, rng.IntN(3), rng.IntN(3)
	at, most, filter := rng.IntN(5200), 1+rng.IntN(400), rng.IntN(5)
	return func(stream bool) (opts []engine.ReadOption) {
		if backward {
			opts = append(opts, engine.Backward())
		}
		if from == 0 && stream {
			opts = append(opts, engine.FromVersion(engine.Version(at/4)))
		} else if from == 0 {
			opts = append(opts, engine.From(engine.Position(at)))
		}
		if limit == 0 {
			opts = append(opts, engine.Limit(most))
		}
		if filter == 0 || filter == 1 {
			opts = append(opts, engine.Types("t1"))
		}
		if (filter == 1 || filter == 2) && !stream {
			opts = append(opts, engine.Categories("s1", "s3"))
		}
		return opts
	}, fmt.Sprintf("backward %v, from %d at %d, limit %d most %d, filter %d", backward, from, at, limit, most, filter)
}

// readAlone reads each event with a read of its own: nothing is left of another one.
func readAlone(t *testing.T, e *engine.Engine) map[engine.Position]engine.Event {
	alone := make(map[engine.Position]engine.Event)
	for pos := engine.Position(0); pos < e.Head(); {
		end := true
		for ev, err := range e.ReadAll(t.Context(), engine.After(pos), engine.Limit(1)) {
			if err != nil {
				t.Fatal(err)
			}
			alone[ev.Position], pos, end = ev, ev.Position, false
		}
		if end {
			break
		}
	}
	return alone
}

func compareReads(t *testing.T, what string, got, want iter.Seq2[engine.Event, error], alone map[engine.Position]engine.Event) {
	next, stop := iter.Pull2(want)
	defer stop()
	n := 0
	for ev, err := range got {
		n++
		other, otherErr, ok := next()
		if !ok {
			t.Fatalf("%s: more than %d events: %+v", what, n-1, ev)
		}
		if fmt.Sprint(err) != fmt.Sprint(otherErr) || !same(ev, other) {
			t.Fatalf("%s: event %d is %+v, %v\nwith pages %+v, %v", what, n, ev, err, other, otherErr)
		}
		if err == nil && !same(ev, alone[ev.Position]) {
			t.Fatalf("%s: event %d is %+v\nread alone %+v", what, n, ev, alone[ev.Position])
		}
	}
	if ev, err, ok := next(); ok {
		t.Fatalf("%s: only %d events; with pages also %+v, %v", what, n, ev, err)
	}
}

// same compares all fields: reflection is too slow for as many.
func same(a, b engine.Event) bool {
	return a.Stream == b.Stream && a.Version == b.Version && a.Position == b.Position && a.Type == b.Type &&
		a.ID == b.ID && a.Time == b.Time && a.Data == b.Data && a.Meta.CorrelationID == b.Meta.CorrelationID &&
		a.Meta.CausationID == b.Meta.CausationID && maps.Equal(a.Meta.Extra, b.Meta.Extra)
}

// TestLeavingAReadWithoutPages leaves loops at every place of a group that is built at once.
func TestLeavingAReadWithoutPages(t *testing.T) {
	e := openOver(t, engine.NewMemory())
	history(t, e, "nothing removed")
	for leave := 1; leave <= 9; leave++ {
		n := 0
		for ev, err := range e.ReadAll(t.Context()) {
			n++
			if err != nil || ev.Position != engine.Position(n) {
				t.Fatalf("event %d: position %d, %v", n, ev.Position, err)
			}
			if n == leave {
				break
			}
		}
		if n != leave {
			t.Fatalf("left after %d events, not %d", n, leave)
		}
	}
}

// TestLoopBodiesThatDoNotReturn ends loops by a panic, and by the end of the goroutine: others go on, and
// nobody waits for who followed.
func TestLoopBodiesThatDoNotReturn(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	mustAppend(t, e, "a-1", numbered(300)...)
	ctx := t.Context()
	for how, leave := range map[string]func(){"panic": func() { panic("oh") }, "Goexit": runtime.Goexit} {
		for what, read := range map[string]iter.Seq2[engine.Event, error]{
			"Read":               e.Read(ctx, "a-1"),
			"Read, following":    e.Read(ctx, "a-1", engine.Follow()),
			"ReadAll":            e.ReadAll(ctx),
			"ReadAll, following": e.ReadAll(ctx, engine.Follow()),
		} {
			done := make(chan any)
			go func() {
				defer func() { done <- recover() }()
				for ev := range read {
					if ev.Version == 3 {
						leave()
					}
				}
			}()
			if v := <-done; (v == nil) != (how == "Goexit") {
				t.Errorf("%s: %s: %v", what, how, v)
			}
		}
	}
	if got := versions(t, e, "a-1"); len(got) != 300 {
		t.Errorf("%d versions", len(got))
	}
	mustClose(t, e)
}
