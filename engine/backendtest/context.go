package backendtest

import (
	"context"
	"errors"
	"fmt"

	"github.com/weirstore/weir/engine"
)

var contextCases = []testCase{
	{
		name: "cancelled-commit",
		why:  "a caller that gives up must not leave half an append behind, nor a store that takes no more (raft-wal 3aaaab8: writer state not rolled back after a failed write)",
		run:  cancelledCommit,
	},
	{
		name: "cancelled-during-commit",
		why:  "the same at any moment of the commit",
		run:  cancelledDuringCommit,
	},
	{
		name: "cancelled-reads",
		why:  "a context that ends makes a call return its cause, or changes nothing: never a shorter answer",
		run:  cancelledReads,
	},
}

// tryCommit commits with a context that has ended, or will, and checks that what became
// of it is all or nothing, and what the error says.
func (st *store) tryCommit(ctx context.Context, writes ...*engine.Write) {
	st.Helper()
	want := st.expect(writes)
	err := st.b.Commit(ctx, writes)
	if err == nil {
		st.committed(writes, want)
		return
	}
	<-ctx.Done() // there is no other reason for an error
	if cause := context.Cause(ctx); !errors.Is(err, cause) {
		st.Errorf("Commit with a context that has ended returns %v, which is not the context's cause: %v", err, cause)
	}
	total := 0
	for _, w := range writes {
		total += len(w.Events)
	}
	head, before := st.b.Head(), engine.Position(len(st.log))
	unknown := errors.Is(err, engine.ErrOutcomeUnknown)
	switch {
	case head == before+engine.Position(total) && unknown:
		st.adopt(writes, want)
	case head > before && !unknown:
		st.Fatalf("Commit returns %v and has stored %d of %d events", err, head-before, total)
	case head != before:
		st.Fatalf("Commit returns %v and has stored %d of %d events: neither all nor none", err, head-before, total)
	default:
		for _, w := range writes { // the owner asks anew after an error
			delete(st.streams, w.Stream.Name)
		}
	}
}

// adopt takes over what was stored although Commit has not said so.
func (st *store) adopt(writes []*engine.Write, want [][]engine.Event) {
	st.Helper()
	dst := make([]engine.Event, 1)
	for i, w := range writes {
		w.Position = engine.Position(len(st.log) + 1)
		if n, _, err := st.b.ReadAll(st.Context(), engine.Query{From: w.Position, To: w.Position}, dst); n != 1 || err != nil {
			st.Fatalf("ReadAll of position %d returns %d, %v", w.Position, n, err)
		}
		w.UnixNano = dst[0].Time.UnixNano()
		st.took(w, want[i])
		delete(st.streams, w.Stream.Name)
	}
}

func cancelledCommit(s *suite) {
	st := s.store()
	st.add("a-1", "A")
	ctx, _ := s.cancelled()
	for i := range 10 {
		first := st.write("a-1", "A", "B")
		first.Events[0].ID = fmt.Sprint("id-", i)
		st.tryCommit(ctx, first, st.write("b-1", "A"), st.write("a-1", "C", "A"))
		st.check()
		st.add("a-1", "A") // nothing is stuck
		st.add("b-1", "A")
	}
	st.check()
}

func cancelledDuringCommit(s *suite) {
	st := s.store()
	cause := errors.New("the caller has gone away")
	for i := range 50 {
		first, second := st.write("a-1", "A", "B"), st.write(fmt.Sprintf("b-%d", i%3), "A")
		ctx, cancel := context.WithCancelCause(s.Context())
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			cancel(cause)
		}()
		if i%2 == 0 {
			<-gone // the goroutine alone would mostly come too late
		}
		st.tryCommit(ctx, first, second)
		<-gone
	}
	st.check()
	st.add("a-1", "A")
	st.check()
}

func cancelledReads(s *suite) {
	st := s.shelf()
	w := st.write("account-1", "Paid")
	w.Events[0].ID = "id-1"
	st.commit(w)
	state := st.load("account-1")
	ctx, cause := s.cancelled()
	judge := func(call string, err error, right bool) {
		s.Helper()
		if err != nil && !errors.Is(err, cause) {
			s.Errorf("%s with a context that has ended returns %v, which is not the context's cause: %v", call, err, cause)
		}
		if err == nil && !right {
			s.Errorf("%s with a context that has ended returns no error and the wrong answer", call)
		}
	}
	got, err := st.b.Load(ctx, "account-1")
	judge("Load", err, got.Version == state.Version)
	versions := []engine.Version{0}
	err = st.b.Find(ctx, state, []string{"id-1"}, versions)
	judge("Find", err, versions[0] == state.Version)
	dst := make([]engine.Event, 2)
	n, _, err := st.b.ReadAll(ctx, engine.Query{From: 2, To: 2}, dst)
	judge("ReadAll", err, n == 1 && difference(&dst[0], &st.log[1]) == "")
	n, _, err = st.b.ReadStream(ctx, state, engine.StreamQuery{From: 1, To: 1}, dst)
	judge("ReadStream", err, n == 1 && difference(&dst[0], &st.log[0]) == "")

	err = save(ctx, st.b, "mails", 3)
	pos, ok, loadErr := st.b.LoadCheckpoint(s.Context(), "mails")
	if loadErr != nil || ok && pos != 3 {
		s.Errorf("LoadCheckpoint returns %d, %v, %v after a cancelled SaveCheckpoint of 3", pos, ok, loadErr)
	}
	judge("SaveCheckpoints", err, ok)
	if err := save(s.Context(), st.b, "mails", 4); err != nil {
		s.Errorf("SaveCheckpoints: %v", err)
	}
	pos, ok, err = st.b.LoadCheckpoint(ctx, "mails")
	judge("LoadCheckpoint", err, pos == 4 && ok)
	st.check() // nothing is stuck
}
