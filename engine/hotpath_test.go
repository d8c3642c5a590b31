package engine_test

import (
	"context"
	"io"
	"log/slog"
	"testing"

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
