package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// write is one event for a stream.
func write(stream string, expected engine.Expected, n int) engine.TxWrite {
	return engine.TxWrite{Stream: stream, Expected: expected, Events: []engine.NewEvent{engine.New(added{n})}}
}

func TestCommit(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		ctx := t.Context()
		mustAppend(t, e, "b-1", engine.New(added{1}), engine.New(added{1}))
		two := write("c-1", engine.Any, 2)
		two.Events = append(two.Events, engine.New(added{3}))
		res, err := e.Commit(ctx, engine.Tx{
			Writes: []engine.TxWrite{two, write("b-1", engine.Exactly(2), 4), write("a-1", engine.NoStream, 5)},
			Checks: []engine.TxCheck{{Stream: "d-1", Expected: engine.NoStream}, {Stream: "b-1", Expected: engine.StreamExists}},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []struct{ first, last engine.Version }{{1, 2}, {3, 3}, {1, 1}}
		for i, w := range res.Writes {
			if w.First != want[i].first || w.Last != want[i].last || w.Durability == 0 || w.Duplicate {
				t.Errorf("write %d: %+v", i+1, w)
			}
		}
		if res.Position != 6 || res.Writes[0].Position != 4 || res.Writes[1].Position != 5 || res.Writes[2].Position != 6 {
			t.Errorf("positions: %+v", res)
		}
		var got []string
		for ev, err := range e.ReadAll(ctx, engine.After(2)) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%s@%d", ev.Stream, ev.Version))
		}
		if want := []string{"c-1@1", "c-1@2", "b-1@3", "a-1@1"}; !slices.Equal(got, want) {
			t.Errorf("the log is %v, want %v", got, want)
		}
		// Each owner knows what was stored.
		for stream, v := range map[string]engine.Version{"a-1": 1, "b-1": 3, "c-1": 2, "d-1": 0} {
			if res, err := e.Append(ctx, stream, engine.Exactly(v), engine.New(added{1})); err != nil || res.Last != v+1 {
				t.Errorf("append to %s afterwards: %+v, %v", stream, res, err)
			}
		}
	})
}

// TestCommitSaysAllThatIsWrong: nothing is stored, and every reason is told.
func TestCommitSaysAllThatIsWrong(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		ctx := t.Context()
		mustAppend(t, e, "a-1", engine.New(added{1}))
		mustAppend(t, e, "b-1", engine.New(added{1}).WithID("x"))
		mustAppend(t, e, "c-1", engine.New(added{1}))
		if err := e.Delete(ctx, "c-1", engine.Any); err != nil {
			t.Fatal(err)
		}
		dup := engine.TxWrite{Stream: "b-1", Expected: engine.Any, Events: []engine.NewEvent{engine.New(added{1}).WithID("x")}}
		_, err := e.Commit(ctx, engine.Tx{
			Writes: []engine.TxWrite{write("a-1", engine.NoStream, 1), dup, write("c-1", engine.Any, 1), write("ok-1", engine.Any, 1)},
			Checks: []engine.TxCheck{{"a-1", engine.Exactly(7)}, {"ok-1", engine.NoStream}, {"none-1", engine.StreamExists}},
		})
		tx, ok := errors.AsType[*engine.TxError](err)
		if !ok || len(tx.Reasons) != 5 {
			t.Fatalf("%v, want 5 reasons", err)
		}
		const want = `engine: commit: refused: append "a-1": version conflict: expected no stream, stream is at 1; ` +
			`stream "c-1" is deleted; check "a-1": version conflict: expected 7, stream is at 1; ` +
			`check "none-1": version conflict: expected an existing stream, stream is at 0; ` +
			`append "b-1": the stream has event IDs ["x"] already, but not every event of this append`
		if err.Error() != want {
			t.Errorf("it says\n%v\nwant\n%s", err, want)
		}
		if _, ok := errors.AsType[*engine.StreamDeletedError](err); !ok {
			t.Error("a reason cannot be found with errors.AsType")
		}
		if head := e.Head(); head != 3 {
			t.Errorf("%d events are stored, want 3", head)
		}
		// What is stored wholly is not stored again, and is no error.
		for i := range 2 {
			w := write("a-2", engine.NoStream, 1)
			w.Events[0].ID = "y"
			res, err := e.Commit(ctx, engine.Tx{Writes: []engine.TxWrite{w, dup2(dup, "b-2")}})
			if err != nil || res.Position != 5 || res.Writes[0].Duplicate != (i == 1) || res.Writes[1].Duplicate != (i == 1) {
				t.Errorf("time %d: %+v, %v", i+1, res, err)
			}
		}
	})
}

func dup2(w engine.TxWrite, stream string) engine.TxWrite {
	w.Stream = stream
	return w
}

// TestCommitOverlaps moves amounts between a few accounts, from many goroutines, with
// transactions that hold the same streams in every order, beside appends and commands. It ends, no amount
// is lost or made, no account goes below zero, and a transaction's events follow one another.
func TestCommitOverlaps(t *testing.T) {
	overBackends(t, engine.Options{StreamMailbox: 1}, func(t *testing.T, e *engine.Engine) {
		const accounts, movers, each = 6, 16, 40
		var folded atomic.Int64
		d := adder(&folded)
		for i := range accounts {
			mustAppend(t, e, fmt.Sprintf("a-%d", i), engine.New(added{100}))
		}
		// Handlers commit too: a mailbox of one event, and backpressure on all others.
		if err := errOf(engine.Handle(e, "fees", func(ctx context.Context, ev engine.Of[added]) error {
			if ev.Data.N != 7 {
				return nil
			}
			_, err := e.Commit(ctx, engine.Tx{Writes: []engine.TxWrite{write("a-0", engine.Any, 1), write("bank-1", engine.Any, 1)}})
			return err
		}, engine.Mailbox(1))); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		var moved, fees atomic.Int64
		for m := range movers {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(m), 3))
				for i := range each {
					from, to := rng.IntN(accounts), rng.IntN(accounts)
					switch {
					case from == to:
						continue
					case i%10 == 8: // another kind of change of the same streams
						if _, err := engine.Execute(t.Context(), e, d, fmt.Sprintf("a-%d", from), -1); err == nil {
							moved.Add(-1)
						} else if err != errTooMuch {
							t.Errorf("Execute: %v", err)
						}
						continue
					}
					for {
						s, at, err := engine.Load(t.Context(), e, d, fmt.Sprintf("a-%d", from))
						if err != nil {
							t.Error(err)
							return
						}
						n := 1 + rng.IntN(8)
						if s.total < n {
							break
						}
						_, err = e.Commit(t.Context(), engine.Tx{
							Writes: []engine.TxWrite{write(fmt.Sprintf("a-%d", from), engine.Exactly(at), -n), write(fmt.Sprintf("a-%d", to), engine.Any, n)},
							Checks: []engine.TxCheck{{fmt.Sprintf("a-%d", rng.IntN(accounts)), engine.StreamExists}, {"closed-1", engine.NoStream}},
						})
						if _, refused := errors.AsType[*engine.TxError](err); refused {
							continue
						}
						if err != nil {
							t.Errorf("Commit: %v", err)
						} else if n == 7 {
							fees.Add(1)
						}
						break
					}
				}
			})
		}
		all.Wait()
		if err := e.Wait(t.Context(), e.Head()); err != nil {
			t.Fatal(err)
		}
		total, balance := 0, make(map[string]int)
		expect := "" // the second half of a transfer
		n := 0
		for ev, err := range e.ReadAll(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			k := ev.Data.(added).N
			if expect != "" {
				if fmt.Sprint(k) != expect {
					t.Fatalf("position %d holds %d, between the halves of a transfer of %s", ev.Position, k, expect)
				}
				expect = ""
			} else if k < -1 {
				expect = fmt.Sprint(-k)
			}
			if balance[ev.Stream] += k; balance[ev.Stream] < 0 {
				t.Fatalf("%s is at %d", ev.Stream, balance[ev.Stream])
			}
			if ev.Stream != "bank-1" {
				total += k
			}
			n++
		}
		bank := balance["bank-1"]
		if want := accounts*100 + int(moved.Load()) + bank; total > want || total < want-movers*each || bank != int(fees.Load()) {
			t.Errorf("the accounts hold %d, want about %d; %d fees of %d", total, want, bank, fees.Load())
		}
	})
}

// TestCommitInEveryOrder runs transactions over random sets of streams under synctest, with
// mailboxes of one request: where any of them could wait for another in a circle, the bubble would be dead.
func TestCommitInEveryOrder(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			e := quietEngine(t, engine.Options{StreamMailbox: 1})
			var all sync.WaitGroup
			var stored atomic.Int64
			for g := range uint64(20) {
				all.Go(func() {
					rng := rand.New(rand.NewPCG(seed, g))
					for range 20 {
						var tx engine.Tx
						for i, s := range rng.Perm(8)[:1+rng.IntN(6)] {
							if name := fmt.Sprintf("s-%d", s); i%3 == 2 {
								tx.Checks = append(tx.Checks, engine.TxCheck{Stream: name, Expected: engine.Any})
							} else {
								tx.Writes = append(tx.Writes, engine.TxWrite{Stream: name, Expected: engine.Any, Events: []engine.NewEvent{event("A", int(g))}})
							}
						}
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(3))*time.Microsecond)
						if rng.IntN(4) > 0 {
							cancel()
							ctx, cancel = context.WithCancel(t.Context())
						}
						_, err := e.Commit(ctx, tx)
						cancel()
						switch {
						case err == nil:
							stored.Add(int64(len(tx.Writes)))
						case !errors.Is(err, context.DeadlineExceeded):
							t.Errorf("Commit: %v", err)
						}
						if rng.IntN(5) == 0 {
							mustAppend(t, e, fmt.Sprintf("s-%d", rng.IntN(8)), event("A", 1))
							stored.Add(1)
						}
					}
				})
			}
			all.Wait()
			if head := e.Head(); int64(head) != stored.Load() {
				t.Errorf("%d events are stored, %d were acknowledged", head, stored.Load())
			}
			mustClose(t, e)
		})
	}
}

// TestCommitThatIsLeft: while it waits for a stream, its context ends. Nothing is stored, and
// nobody waits for it any more.
func TestCommitThatIsLeft(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		begun, release := make(chan struct{}), make(chan struct{})
		d := &engine.Decider[int, int]{Evolve: func(n int, _ engine.Event) int { return n }, Decide: func(int, int) ([]engine.NewEvent, error) {
			close(begun)
			<-release
			return nil, nil
		}}
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := engine.Execute(t.Context(), e, d, "b-1", 1); err != nil {
				t.Errorf("Execute: %v", err)
			}
		})
		<-begun
		ctx, cancel := context.WithCancelCause(t.Context())
		left := errors.New("left")
		all.Go(func() {
			_, err := e.Commit(ctx, engine.Tx{Writes: []engine.TxWrite{write("c-1", engine.Any, 1), write("b-1", engine.Any, 1), write("a-1", engine.Any, 1)}})
			if !errors.Is(err, left) {
				t.Errorf("Commit: %v, want the cause of its context's end", err)
			}
			// a-1 was held, and is not any more.
			mustAppend(t, e, "a-1", engine.New(added{1}))
			close(release)
		})
		for e.Stats().ActiveStreams < 1 {
		}
		cancel(left)
		all.Wait()
		mustAppend(t, e, "b-1", engine.New(added{1}))
		mustAppend(t, e, "c-1", engine.New(added{1}))
		if head := e.Head(); head != 3 {
			t.Errorf("%d events are stored, want 3", head)
		}
	})
}

func TestCommitWhatCannotBe(t *testing.T) {
	e := quietEngine(t, engine.Options{MaxEvents: 5, MaxBytes: 1000})
	ok := write("a-1", engine.Any, 1)
	many := make([]engine.TxCheck, engine.MaxStreams)
	for i := range many {
		many[i] = engine.TxCheck{Stream: fmt.Sprint("s-", i), Expected: engine.Any}
	}
	six := engine.TxWrite{Stream: "b-1", Expected: engine.Any, Events: []engine.NewEvent{event("A", 1), event("A", 1), event("A", 1), event("A", 1), event("A", 1)}}
	long := func(s string) engine.TxWrite {
		return engine.TxWrite{Stream: s, Expected: engine.Any, Events: []engine.NewEvent{{Type: "A", Data: strings.Repeat("x", 600)}}}
	}
	for _, c := range []struct {
		name string
		tx   engine.Tx
		want string
	}{
		{"nothing", engine.Tx{}, "engine: commit: number of writes is 0, want at least 1"},
		{"checks alone", engine.Tx{Checks: many[:1]}, "engine: commit: number of writes is 0, want at least 1"},
		{"no name", engine.Tx{Writes: []engine.TxWrite{ok, write("", engine.Any, 1)}}, `engine: commit: stream name of write 2 is ""`},
		{"no name to check", engine.Tx{Writes: []engine.TxWrite{ok}, Checks: []engine.TxCheck{{"", engine.Any}}}, `engine: commit: stream name of check 1 is ""`},
		{"a stream twice", engine.Tx{Writes: []engine.TxWrite{ok, ok}}, `engine: commit: stream of write 2 is "a-1", want one write for each stream`},
		{"no expectation", engine.Tx{Writes: []engine.TxWrite{write("a-1", engine.Expected{}, 1)}}, "engine: commit: expected version of write 1 is the zero value"},
		{"no expectation to check", engine.Tx{Writes: []engine.TxWrite{ok}, Checks: []engine.TxCheck{{Stream: "b-1"}}}, "engine: commit: expected version of check 1 is the zero value"},
		{"no events", engine.Tx{Writes: []engine.TxWrite{{Stream: "a-1", Expected: engine.Any}}}, "engine: commit: number of events of write 1 is 0"},
		{"too many streams", engine.Tx{Writes: []engine.TxWrite{ok}, Checks: many}, "engine: commit: number of streams is 1001, want at most 1000"},
		{"too many events", engine.Tx{Writes: []engine.TxWrite{ok, six}}, "engine: commit: number of events is 6, want at most 5"},
		{"too large", engine.Tx{Writes: []engine.TxWrite{long("a-1"), long("b-1")}}, "engine: commit: size in bytes of all writes is 12"},
		{"no payload", engine.Tx{Writes: []engine.TxWrite{ok, {Stream: "b-1", Expected: engine.Any, Events: []engine.NewEvent{{Type: "A"}}}}}, `engine: commit "b-1": payload of event 1 is nil`},
	} {
		_, err := e.Commit(t.Context(), c.tx)
		if _, ok := errors.AsType[*engine.InvalidError](err); !ok || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s…", c.name, err, c.want)
		}
	}
	d := &engine.Decider[int, int]{Evolve: func(n int, _ engine.Event) int { return n }, Decide: func(int, int) ([]engine.NewEvent, error) {
		_, err := e.Commit(t.Context(), engine.Tx{Writes: []engine.TxWrite{ok}})
		return nil, err
	}}
	if _, err := engine.Execute(t.Context(), e, d, "a-1", 1); !errors.Is(err, engine.ErrInDecide) {
		t.Errorf("Commit inside Decide: %v", err)
	}
	if head := e.Head(); head != 0 {
		t.Errorf("%d events are stored", head)
	}
	mustClose(t, e)
	if _, err := e.Commit(t.Context(), engine.Tx{Writes: []engine.TxWrite{ok}}); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("Commit when closed: %v", err)
	}
}

// elsewhere stores an event as another process does.
func (b *crowded) elsewhere(t *testing.T, stream string, n int) {
	t.Helper()
	now, err := b.Load(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	id, err := b.TypeID("added")
	if err != nil {
		t.Fatal(err)
	}
	w := &engine.Write{Stream: &now, After: now.Version, Events: []engine.Record{{Type: "added", TypeID: id, Data: added{n}}}}
	if err := b.Memory.Commit(t.Context(), []*engine.Write{w}); err != nil {
		t.Fatal(err)
	}
}

// TestSharedBackendIsLookedAt: what others have stored is decided on, also where that
// leads to a refusal, which no conflict would correct.
func TestSharedBackendIsLookedAt(t *testing.T) {
	b := &crowded{Memory: engine.NewMemory()}
	e := quietEngine(t, engine.Options{Backend: b})
	defer mustClose(t, e)
	var folded atomic.Int64
	d := adder(&folded)
	if _, err := engine.Execute(t.Context(), e, d, "a-1", 1); err != nil {
		t.Fatal(err)
	}
	b.elsewhere(t, "a-1", 10)
	if _, err := engine.Execute(t.Context(), e, d, "a-1", -11); err != nil {
		t.Errorf("Execute after another process: %v", err)
	}
	b.elsewhere(t, "a-1", 1)
	if _, err := e.Commit(t.Context(), engine.Tx{Writes: []engine.TxWrite{write("a-1", engine.Exactly(4), 1)}}); err != nil {
		t.Errorf("Commit after another process: %v", err)
	}
	if n := e.Deciding(); n != 0 {
		t.Errorf("%d commands are being decided for ever", n)
	}
}

// TestCommitOnASharedBackend: what cannot be promised is refused, and what others were
// faster with is decided anew.
func TestCommitOnASharedBackend(t *testing.T) {
	b := &crowded{Memory: engine.NewMemory()}
	e := quietEngine(t, engine.Options{Backend: b})
	defer mustClose(t, e)
	_, err := e.Commit(t.Context(), engine.Tx{Writes: []engine.TxWrite{write("a-1", engine.Any, 1)}, Checks: []engine.TxCheck{{"b-1", engine.NoStream}}})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a check that cannot be kept: %v", err)
	}
	b.others = 3
	res, err := e.Commit(t.Context(), engine.Tx{Writes: []engine.TxWrite{write("a-1", engine.Any, 1)}, Checks: []engine.TxCheck{{"a-1", engine.Any}}})
	if err != nil || res.Writes[0].Last != 4 {
		t.Errorf("3 others: %+v, %v", res, err)
	}
	b.others = 1
	_, err = e.Commit(t.Context(), engine.Tx{Writes: []engine.TxWrite{write("a-1", engine.Exactly(4), 1)}})
	if _, refused := errors.AsType[*engine.TxError](err); !refused {
		t.Errorf("another was faster than what was expected: %v", err)
	}
}

// TestCommitWhoseOwnerEnds: a backend that ends the goroutine of an owner that is to be held does not leave
// Commit waiting for it.
func TestCommitWhoseOwnerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends atomic.Bool
		w := &wrapped{Memory: engine.NewMemory(), onLoad: func(context.Context) error {
			if ends.Load() {
				runtime.Goexit()
			}
			return nil
		}}
		e := quietEngine(t, engine.Options{Backend: w})
		tx := engine.Tx{Writes: []engine.TxWrite{
			{Stream: "a", Expected: engine.Any, Events: []engine.NewEvent{engine.New(grown{})}},
			{Stream: "b", Expected: engine.Any, Events: []engine.NewEvent{engine.New(grown{})}},
		}}
		ends.Store(true)
		if _, err := e.Commit(t.Context(), tx); err == nil {
			t.Error("no owner could be held, and that is no error")
		}
		ends.Store(false)
		if res, err := e.Commit(t.Context(), tx); err != nil || res.Position != 2 {
			t.Errorf("afterwards: %+v, %v", res, err)
		}
		mustClose(t, e)
	})
}
