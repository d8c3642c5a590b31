package weirtest_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/weirtest"
)

// database is what outlives a crash.
type database struct {
	mu    sync.Mutex
	total int
	seen  map[string]bool
}

// add handles a deposit. Once says that it takes each event in once.
func (d *database) add(once bool) func(context.Context, engine.Of[Deposited]) error {
	return func(_ context.Context, ev engine.Of[Deposited]) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if once && d.seen[ev.Identity()] {
			return nil
		}
		d.seen[ev.Identity()] = true
		d.total += ev.Data.Amount
		return nil
	}
}

// deposits simulates ten clients and a read model.
func simulateDeposits(sim *weirtest.Sim, once, withIDs bool) {
	d := &database{seen: make(map[string]bool)}
	sim.Open(func(e *engine.Engine) error {
		_, err := engine.Handle(e, "total", weirtest.Flaky(sim, d.add(once)), engine.FromStart())
		return err
	})
	for i := range 10 {
		sim.Go(func(e *engine.Engine) error {
			deposit := engine.New(Deposited{1})
			if withIDs {
				deposit = deposit.WithID(fmt.Sprint(i))
			}
			_, err := e.Append(sim.Context(), "account-7", engine.Any, deposit)
			return err
		})
	}
	sim.Settle()
	if d.total != 10 {
		sim.Errorf("the total is %d, want 10", d.total)
	}
}

func TestSimulate(t *testing.T) {
	weirtest.Simulate(t, 1, 200, func(sim *weirtest.Sim) { simulateDeposits(sim, true, true) })
}

// found runs a simulation that is to fail within n runs, and returns the seed that it
// prints. The failure must come again with that seed alone.
func found(t *testing.T, n int, run func(sim *weirtest.Sim), says string) (seed uint64) {
	t.Helper()
	r := record(t, func(r *recorder) { weirtest.SimulateInto(t, r, 1, n, run) })
	r.fails(t, says, "simulation failed")
	m := regexp.MustCompile(`repeat it with weirtest.Simulate\(t, (\d+), 1, …\)`).FindStringSubmatch(r.text())
	if m == nil {
		t.Fatalf("no seed in\n%s", r.text())
	}
	seed, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r.text())
	record(t, func(r *recorder) { weirtest.SimulateInto(t, r, seed, 1, run) }).fails(t, says)
	return seed
}

func TestSimulateFindsAHandlerThatIsNotIdempotent(t *testing.T) {
	found(t, 20, func(sim *weirtest.Sim) { simulateDeposits(sim, false, true) }, "the total is 1")
}

// An append that has no answer when the process dies may be stored.
func TestSimulateFindsAClientThatRepeatsWithoutIDs(t *testing.T) {
	found(t, 100, func(sim *weirtest.Sim) { simulateDeposits(sim, true, false) }, "the total is 1")
}

type Counted struct{ N int }

// count has two clients read a stream's last number, and write the next one.
func count(sim *weirtest.Sim, expected func(engine.Version) engine.Expected) {
	sim.Open(func(*engine.Engine) error { return nil })
	increment := func(client int) func(e *engine.Engine) error {
		id := fmt.Sprint("client ", client)
		return func(e *engine.Engine) error {
			for {
				n, version := 0, engine.Version(0)
				for ev, err := range e.Read(sim.Context(), "counter") {
					if err != nil {
						return err
					}
					n, version = ev.Data.(Counted).N, ev.Version
				}
				_, err := e.Append(sim.Context(), "counter", expected(version), engine.New(Counted{n + 1}).WithID(id))
				if _, conflict := err.(*engine.VersionConflictError); !conflict {
					return err
				}
			}
		}
	}
	for i := range 2 {
		sim.Go(increment(i))
	}
	sim.Settle()
	last := 0
	for ev, err := range sim.Engine().Read(sim.Context(), "counter") {
		if err != nil {
			sim.Fatal(err)
		}
		last = ev.Data.(Counted).N
	}
	if last != 2 {
		sim.Errorf("lost an update: the counter is at %d", last)
	}
}

func TestSimulateFindsALostUpdate(t *testing.T) {
	weirtest.Simulate(t, 1, 100, func(sim *weirtest.Sim) { count(sim, engine.Exactly) })
	found(t, 100, func(sim *weirtest.Sim) {
		count(sim, func(engine.Version) engine.Expected { return engine.Any })
	}, "lost an update: the counter is at 1")
}

// TestSimulateFindsALostUpdateOfAHandler: two handlers read and write the same entry of a table.
func TestSimulateFindsALostUpdateOfAHandler(t *testing.T) {
	found(t, 50, func(sim *weirtest.Sim) {
		var mu sync.Mutex
		total := 0
		sim.Open(func(e *engine.Engine) error {
			for _, name := range []string{"one", "two"} {
				_, err := engine.Handle(e, name, weirtest.Flaky(sim, func(_ context.Context, ev engine.Of[Deposited]) error {
					mu.Lock()
					n := total
					mu.Unlock()
					sim.Yield()
					mu.Lock()
					defer mu.Unlock()
					total = n + ev.Data.Amount
					return nil
				}))
				if err != nil {
					return err
				}
			}
			return nil
		})
		sim.Go(func(e *engine.Engine) error {
			_, err := e.Append(sim.Context(), "account-1", engine.Any, engine.New(Deposited{1}).WithID("d"))
			return err
		})
		sim.Settle()
		if total < 2 {
			sim.Errorf("lost an update: the total is %d", total)
		}
	}, "lost an update: the total is 1")
}

// TestSimulateWithADecider: commands of many clients, through crashes, with a decider that
// knows which it has decided.
func TestSimulateWithADecider(t *testing.T) {
	type state struct {
		balance int
		done    []string
	}
	run := func(sim *weirtest.Sim, knows bool) {
		d := &engine.Decider[state, string]{
			Evolve: func(s state, ev engine.Event) state {
				s.balance -= ev.Data.(Withdrawn).Amount
				s.done = append(s.done, ev.Meta.Extra["command"])
				return s
			},
			Decide: func(s state, id string) ([]engine.NewEvent, error) {
				if knows && slices.Contains(s.done, id) {
					return nil, nil
				}
				return []engine.NewEvent{engine.New(Withdrawn{1}).WithExtra("command", id)}, nil
			},
		}
		sim.Open(func(*engine.Engine) error { return nil })
		for i := range 5 {
			sim.Go(func(e *engine.Engine) error {
				for j := range 3 {
					if _, err := engine.Execute(sim.Context(), e, d, "account-1", fmt.Sprint(i, j)); err != nil {
						return err
					}
					sim.Yield()
				}
				return nil
			})
		}
		sim.Settle()
		s, _, err := engine.Load(sim.Context(), sim.Engine(), d, "account-1")
		if err != nil || s.balance != -15 {
			sim.Errorf("the balance is %d, %v", s.balance, err)
		}
	}
	weirtest.Simulate(t, 1, 100, func(sim *weirtest.Sim) { run(sim, true) })
	found(t, 50, func(sim *weirtest.Sim) { run(sim, false) }, "the balance is -")
}

// TestSeedRepeats: the same seed gives the same log, the same calls of handlers and the same
// crashes, in the same order and at the same times. Handlers retry nothing here: their pauses are drawn
// by the engine.
func TestSeedRepeats(t *testing.T) {
	history := func(seed uint64) (text string) {
		weirtest.Simulate(t, seed, 1, func(sim *weirtest.Sim) {
			var mu sync.Mutex
			began := time.Now()
			note := func(format string, args ...any) {
				mu.Lock()
				defer mu.Unlock()
				text += fmt.Sprintf("%v "+format+"\n", append([]any{time.Since(began)}, args...)...)
			}
			sim.Open(func(e *engine.Engine) error {
				note("open")
				_, err := engine.Handle(e, "h", weirtest.Flaky(sim, func(_ context.Context, ev engine.Of[Deposited]) error {
					note("handle %s", ev.Identity())
					return nil
				}), engine.FromStart(), engine.Retry(0, 0), engine.OnFailure(engine.Skip))
				return err
			})
			for i := range 8 {
				sim.Go(func(e *engine.Engine) error {
					for j := range 3 {
						stream := fmt.Sprintf("account-%d", i) // no commit has two clients waiting
						res, err := e.Append(sim.Context(), stream, engine.Any, engine.New(Deposited{i}).WithID(fmt.Sprint(i, j)))
						if err != nil {
							return err
						}
						note("client %d: %s@%d at %d", i, stream, res.Last, res.Position)
					}
					return nil
				})
			}
			sim.Settle()
		})
		return text
	}
	different := make(map[string]bool)
	for seed := range uint64(20) {
		once := history(seed)
		different[once] = true
		for range 3 {
			if twice := history(seed); twice != once {
				t.Fatalf("seed %d:\n%s\nand then\n%s", seed, once, twice)
			}
		}
	}
	if len(different) != 20 {
		t.Errorf("20 seeds, and %d histories", len(different))
	}
}

// TestSimulateDoesWhatItSays counts what happens in many runs.
func TestSimulateDoesWhatItSays(t *testing.T) {
	var mu sync.Mutex
	counts := make(map[string]int)
	weirtest.Simulate(t, 1, 100, func(sim *weirtest.Sim) {
		opened := 0
		called := make(map[string]int)
		sim.Open(func(e *engine.Engine) error {
			opened++
			_, err := engine.Handle(e, "h", weirtest.Flaky(sim, func(_ context.Context, ev engine.Of[Deposited]) error {
				mu.Lock()
				defer mu.Unlock()
				called[ev.Identity()]++
				return nil
			}), engine.FromStart())
			return err
		})
		for i := range 5 {
			sim.Go(func(e *engine.Engine) error {
				res, err := e.Append(sim.Context(), "a-1", engine.Any, engine.New(Deposited{1}).WithID(fmt.Sprint(i)))
				if res.Duplicate {
					mu.Lock()
					counts["stored without an answer"]++
					mu.Unlock()
				}
				return err
			})
		}
		sim.Settle()
		counts["crashes"] += opened - 1
		counts[fmt.Sprintf("%d crashes", opened-1)]++
		for _, n := range called {
			counts["handled again"] += n - 1
		}
		if len(called) != 5 {
			sim.Errorf("%d events were handled, want 5", len(called))
		}
		st := sim.Engine().Stats().Handlers[0]
		counts["failures"] += int(st.Failures)
		if st.Parked > 0 {
			sim.Errorf("%d are parked", st.Parked)
		}
		// While it is settled nothing happens.
		before := opened
		time.Sleep(time.Hour)
		if opened != before {
			sim.Errorf("a crash after Settle")
		}
		sim.Crash()
		sim.Settle()
		if opened != before+1 {
			sim.Errorf("no crash with Crash")
		}
	})
	t.Log(counts)
	for _, what := range []string{"crashes", "0 crashes", "1 crashes", "2 crashes", "3 crashes", "handled again", "failures", "stored without an answer"} {
		if counts[what] == 0 {
			t.Errorf("never: %s", what)
		}
	}
}

// TestFlaky: all kinds of failures come, and no event fails a third time.
func TestFlaky(t *testing.T) {
	kinds := make(map[string]int)
	weirtest.Simulate(t, 1, 50, func(sim *weirtest.Sim) {
		failed := make(map[string]int)
		sim.Open(func(e *engine.Engine) error {
			clear(failed) // attempts are counted anew
			ran := false
			flaky := weirtest.Flaky(sim, func(context.Context, engine.Event) error { ran = true; return nil })
			_, err := e.Handle("h", func(ctx context.Context, ev engine.Event) (err error) {
				ran = false
				defer func() {
					v := recover()
					if v != weirtest.ErrFlaky && err != weirtest.ErrFlaky {
						return
					}
					kinds[fmt.Sprintf("ran %v, panicked %v", ran, v != nil)]++
					if failed[ev.Identity()]++; failed[ev.Identity()] > 2 {
						sim.Errorf("%s has failed %d times", ev.Identity(), failed[ev.Identity()])
					}
					err = weirtest.ErrFlaky
				}()
				return flaky(ctx, ev)
			}, engine.FromStart())
			return err
		})
		sim.Go(func(e *engine.Engine) error {
			_, err := e.Append(sim.Context(), "a-1", engine.Any, engine.New(Deposited{1}).WithID("1"), engine.New(Deposited{2}).WithID("2"))
			return err
		})
		sim.Settle()
	})
	if t.Log(kinds); len(kinds) != 4 {
		t.Errorf("%v, want four kinds", kinds)
	}
}

// TestCrashLosesCheckpoints: what was handled since the last save is handled again, and what
// was stored is there.
func TestCrashLosesCheckpoints(t *testing.T) {
	weirtest.Simulate(t, 1, 20, func(sim *weirtest.Sim) {
		var mu sync.Mutex
		called, opened := 0, 0
		sim.Open(func(e *engine.Engine) error {
			opened++
			_, err := engine.Handle(e, "h", func(context.Context, engine.Of[Deposited]) error {
				mu.Lock()
				defer mu.Unlock()
				called++
				return nil
			}, engine.FromStart())
			return err
		})
		sim.Go(func(e *engine.Engine) error {
			_, err := e.Append(sim.Context(), "a-1", engine.Any, engine.New(Deposited{1}).WithID("1"), engine.New(Deposited{2}).WithID("2"))
			return err
		})
		sim.Settle()
		before, engines := called, opened
		sim.Crash() // less than a second after the append: nothing was saved
		sim.Settle()
		if lives := opened - engines; lives < 1 || called != before+2*lives {
			sim.Errorf("called %d times, and then, in %d lives, %d times more", before, lives, called-before)
		}
		time.Sleep(time.Minute)
		before, engines = called, opened
		sim.Crash()
		sim.Settle()
		if called != before {
			sim.Errorf("called %d times more, in %d lives, although checkpoints were saved", called-before, opened-engines)
		}
	})
}

// TestNextLifeWaitsForCalls: a call that takes no notice of the end of its process does not
// meet the next one.
func TestNextLifeWaitsForCalls(t *testing.T) {
	weirtest.Simulate(t, 1, 20, func(sim *weirtest.Sim) {
		running, opened, most := 0, 0, 0
		var mu sync.Mutex
		sim.Open(func(e *engine.Engine) error {
			mu.Lock()
			defer mu.Unlock()
			if opened++; running > 0 {
				sim.Errorf("engine %d is opened while a call runs", opened)
			}
			_, err := engine.Handle(e, "h", weirtest.Flaky(sim, func(context.Context, engine.Of[Deposited]) error {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				time.Sleep(time.Minute)
				mu.Lock()
				running--
				mu.Unlock()
				return nil
			}), engine.FromStart())
			return err
		})
		sim.Go(func(e *engine.Engine) error {
			_, err := e.Append(sim.Context(), "a-1", engine.Any, engine.New(Deposited{1}).WithID("1"))
			return err
		})
		time.Sleep(20 * time.Second)
		sim.Crash()
		sim.Settle()
		if most != 1 {
			sim.Errorf("%d calls at once", most)
		}
	})
}

func TestSimulateReportsWhatIsWrongWithTheTest(t *testing.T) {
	nothing := func(*engine.Engine) error { return nil }
	for name, test := range map[string]struct {
		run  func(sim *weirtest.Sim)
		says string
	}{
		"a panic":             {func(sim *weirtest.Sim) { sim.Open(nothing); panic("oh") }, "panic in the simulation: oh"},
		"a panic of a client": {func(sim *weirtest.Sim) { sim.Open(nothing); sim.Go(func(*engine.Engine) error { panic("oh") }) }, "panic in client 1: oh"},
		"a panic of setup":    {func(sim *weirtest.Sim) { sim.Open(func(*engine.Engine) error { panic("oh") }) }, "panic in setup: oh"},
		"an error of a client": {func(sim *weirtest.Sim) {
			sim.Open(nothing)
			sim.Go(func(*engine.Engine) error { return errNoSuchGoods })
		}, "client 1: no such goods"},
		"an error of setup":  {func(sim *weirtest.Sim) { sim.Open(func(*engine.Engine) error { return errNoSuchGoods }) }, "open engine 1: setup: no such goods"},
		"Fatal":              {func(sim *weirtest.Sim) { sim.Open(nothing); sim.Fatal("enough") }, "enough"},
		"it was not opened":  {func(sim *weirtest.Sim) { sim.Settle() }, "Sim.Open was not called"},
		"it is opened twice": {func(sim *weirtest.Sim) { sim.Open(nothing); sim.Open(nothing) }, "want one call"},
		"setup fails the second time": {func(sim *weirtest.Sim) {
			n := 0
			sim.Open(func(*engine.Engine) error {
				if n++; n > 1 {
					return errNoSuchGoods
				}
				return nil
			})
			sim.Crash()
			sim.Settle()
		}, "open engine 2: setup: no such goods"},
		"a handler that hangs": {func(sim *weirtest.Sim) {
			sim.Open(func(e *engine.Engine) error {
				_, err := e.Handle("h", func(ctx context.Context, _ engine.Event) error { <-ctx.Done(); return nil })
				return err
			})
			sim.Go(func(e *engine.Engine) error {
				_, err := e.Append(sim.Context(), "a-1", engine.Any, engine.New(left(1)).WithID("1"))
				return err
			})
			sim.Settle()
		}, "handler h: stalled"},
	} {
		t.Run(name, func(t *testing.T) {
			record(t, func(r *recorder) { weirtest.SimulateInto(t, r, 7, 1, test.run) }).fails(t, test.says, "weirtest.Simulate(t, 7, 1, …)")
		})
	}
}
