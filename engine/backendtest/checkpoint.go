package backendtest

import (
	"context"
	"fmt"
	"sync"

	"github.com/weirstore/weir/engine"
)

var checkpointCases = []testCase{
	{
		name: "checkpoints",
		why:  "a handler goes on where its checkpoint says: one that is too high is events lost, one of somebody else's events repeated",
		run:  checkpoints,
	},
	{
		name: "checkpoints-concurrently",
		why:  "at shutdown all handlers save theirs at the same time",
		run:  checkpointsConcurrently,
	},
}

// save saves one checkpoint.
func save(ctx context.Context, b engine.Backend, handler string, pos engine.Position) error {
	return b.SaveCheckpoints(ctx, []engine.Checkpoint{{Handler: handler, Position: pos}})
}

func (st *store) checkCheckpoint(handler string, want engine.Position) {
	st.Helper()
	if pos, ok, err := st.b.LoadCheckpoint(st.Context(), handler); pos != want || !ok || err != nil {
		st.Fatalf("LoadCheckpoint(%q) returns %d, %v, %v after SaveCheckpoint of %d", short(handler), pos, ok, err, want)
	}
}

func checkpoints(s *suite) {
	st := s.store()
	st.add("a-1", "A", "A", "A", "A")
	// Up, down (somebody has started a read model anew), and the beginning.
	for _, pos := range []engine.Position{1, 4, 4, 2, 0, 3} {
		if err := save(s.Context(), st.b, "mails", pos); err != nil {
			s.Fatalf("SaveCheckpoints: %v", err)
		}
		st.checkCheckpoint("mails", pos)
		for _, other := range []string{"mail", "Mails", "mails ", "a-1"} {
			if pos, ok, err := st.b.LoadCheckpoint(s.Context(), other); pos != 0 || ok || err != nil {
				s.Fatalf("LoadCheckpoint(%q) returns %d, %v, %v; only %q has one", other, pos, ok, err, "mails")
			}
		}
	}
	if err := save(s.Context(), st.b, "mail", 1); err != nil {
		s.Fatalf("SaveCheckpoints: %v", err)
	}
	st.checkCheckpoint("mail", 1)
	st.checkCheckpoint("mails", 3)
	st.check() // a checkpoint is no event
}

func checkpointsConcurrently(s *suite) {
	st := s.store()
	const handlers, saves = 16, 10
	var all sync.WaitGroup
	for h := range handlers {
		all.Go(func() {
			for i := range saves {
				if err := save(s.Context(), st.b, fmt.Sprint("handler ", h), engine.Position(i*handlers+h)); err != nil {
					s.Errorf("SaveCheckpoints: %v", err)
				}
			}
		})
	}
	for range 10 {
		st.add("a-1", "A")
	}
	all.Wait()
	for h := range handlers {
		st.checkCheckpoint(fmt.Sprint("handler ", h), engine.Position((saves-1)*handlers+h))
	}
	st.check()
}
