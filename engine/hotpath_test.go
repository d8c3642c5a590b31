package engine_test

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// panickingLog is a logger's handler that cannot log.
type panickingLog struct{ slog.Handler }

func (panickingLog) Handle(context.Context, slog.Record) error { panic("the logger") }

// TestSnapshotFailureIsNotTheCallers: the events of a command are stored when its snapshot is saved. Whatever
// goes wrong then, be it that the logger which is to be told of it panics, is not the caller's.
func TestSnapshotFailureIsNotTheCallers(t *testing.T) {
	type state struct{ hidden int } // the codec leaves that out, so no snapshot is ever stored
	d := &engine.Decider[state, int]{
		Snapshots: engine.SnapshotPolicy{Name: "n", Every: 1},
		Evolve:    func(s state, _ engine.Event) state { return state{s.hidden + 1} },
		Decide:    func(state, int) ([]engine.NewEvent, error) { return []engine.NewEvent{one}, nil },
	}
	e := quietEngine(t, engine.Options{Logger: slog.New(panickingLog{slog.NewTextHandler(io.Discard, nil)})})
	for i := range engine.Version(3) {
		res, err := engine.Execute(t.Context(), e, d, "s-1", 0)
		if err != nil || res.Last != i+1 {
			t.Errorf("command %d returns %+v, %v", i+1, res, err)
		}
		if res, err := engine.Execute(context.Background(), e, d, "s-2", 0); err != nil || res.Last != i+1 {
			t.Errorf("command %d, of one that borrows the stream, returns %+v, %v", i+1, res, err)
		}
	}
	if wrong := e.Requests(); wrong != "" {
		t.Error(wrong)
	}
	mustClose(t, e)
}

// TestCausesAreNotHandedOn: a request that was a handler's, whose events got what caused them, is then that of others,
// whose events were caused by nothing.
func TestCausesAreNotHandedOn(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	mustHandle(t, e, "h", func(ctx context.Context, _ engine.Event) error {
		_, err := e.Append(ctx, "s-1", engine.Any, engine.New(rvB{1}), engine.New(rvB{2}))
		return err
	}, engine.Types("rvA"))
	for range 3 {
		res := mustAppend(t, e, "s-1", engine.New(rvA{1}))
		if err := e.Wait(t.Context(), res.Position); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, e, "s-1", engine.New(rvB{3}))
		mustAppend(t, e, "s-1", engine.New(rvB{3}), engine.New(rvB{3}))
	}
	for ev, err := range e.Read(t.Context(), "s-1") {
		if err != nil {
			t.Fatal(err)
		}
		b, isB := ev.Data.(rvB)
		if caused := isB && b != (rvB{3}); caused != (ev.Meta.CausationID != "") || caused != (ev.Meta.CorrelationID != "") {
			t.Errorf("version %d, %+v, has metadata %+v", ev.Version, ev.Data, ev.Meta)
		}
	}
	mustClose(t, e)
}

// TestDoorIsClosedAtTheLimit: as many appends are let in as a mailbox has room for, and not one more.
func TestDoorIsClosedAtTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		goOn := make(chan struct{})
		mustHandle(t, e, "h", func(context.Context, engine.Event) error { <-goOn; return nil }, engine.Mailbox(4))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n := 0
		for ; n < 20; n++ {
			synctest.Wait()
			if _, err := e.Append(ctx, "s-1", engine.Any, one); err != nil {
				break
			}
		}
		if n != 4 {
			t.Errorf("%d appends are let in, want 4", n)
		}
		close(goOn)
		mustClose(t, e)
	})
}

// TestDurabilityWithoutWishes: while nobody in the process has wished for another, each append asks for the
// durability of the options, whatever its request has asked for before.
func TestDurabilityWithoutWishes(t *testing.T) {
	b := &encoded{Memory: engine.NewMemory(), durable: true}
	e := over(t, b, func(o *engine.Options) { o.Durability = engine.Written })
	mustAppend(t, e, "s-1", one)
	if _, err := e.Append(engine.WithDurability(t.Context(), engine.Synced), "s-1", engine.Any, one); err != nil {
		t.Fatal(err)
	}
	defer engine.ForgetWishes()()
	mustAppend(t, e, "s-1", one)
	if want := []engine.Durability{engine.Written, engine.Synced, engine.Written}; !slices.Equal(b.wishes, want) {
		t.Errorf("the backend is asked for %v, want %v", b.wishes, want)
	}
}

// TestSmallAppendsAllocateNothing: a request that has room for as many events as it is lent for keeps that.
func TestSmallAppendsAllocateNothing(t *testing.T) {
	if engine.RaceDetector {
		t.Skip("the race detector allocates")
	}
	e := quietEngine(t, engine.Options{})
	events := make([]engine.NewEvent, 8)
	for i := range events {
		events[i] = engine.New(&rvA{i})
	}
	for _, n := range []int{8, 5, 3} {
		got := testing.AllocsPerRun(200, func() {
			for _, n := range []int{n, 8} {
				if _, err := e.Append(context.Background(), "s-1", engine.Any, events[:n]...); err != nil {
					t.Error(err)
				}
			}
		})
		if got >= 1 {
			t.Errorf("appends of %d and 8 events allocate %v times", n, got)
		}
	}
	mustClose(t, e)
}
