package weirtest

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// Simulate calls run n times, with the seeds seed, seed+1 and so on, each time in a bubble of
// [synctest.Test], with an empty store, and with other interleavings, failures and crashes. It stops at the first
// run that fails the test, prints what was done to it, and the call that repeats it.
//
//	weirtest.Simulate(t, 1, 200, func(sim *weirtest.Sim) {
//		totals := newTotals() // what outlives a crash, like a database
//		sim.Open(func(e *engine.Engine) error {
//			_, err := engine.Handle(e, "totals", weirtest.Flaky(sim, totals.add), engine.FromStart())
//			return err
//		})
//		for i := range 10 {
//			sim.Go(func(e *engine.Engine) error { // a client
//				deposit := engine.New(Deposited{1}).WithID(fmt.Sprint(i)) // it may be sent twice
//				_, err := e.Append(sim.Context(), "account-7", engine.Any, deposit)
//				return err
//			})
//		}
//		sim.Settle()
//		if totals.sum != 10 {
//			sim.Errorf("the total is %d", totals.sum)
//		}
//	})
//
// What happens in a run:
//
//   - Each commit takes a while, before and after events are stored, and so does each call of a function
//     wrapped with [Flaky]; clients begin at different moments. These times order what runs at once.
//   - Calls of wrapped functions fail or panic, before or after the function has run.
//   - Up to three times the process dies: before or after a commit, before checkpoints are saved,
//     or after a wrapped function has run. All calls of that engine fail, it is thrown away, and another one is
//     opened on what was stored, with the checkpoints that were saved, and set up in the same way.
//
// # What a seed repeats
//
// All of these are drawn from the seed and from what they happen to (a stream's version; a
// handler, an event and its attempt; the number of a client), not from the order in which things are asked, and time
// is the bubble's. So the same seed brings the same delays, failures and crashes to the same things. Not repeated are
// the pauses between retries, which the engine draws itself, the order of what happens at the very same
// moment, on several processors (two appends that are answered by one commit go on at the same moment), and whatever the program under test leaves to chance: map iteration, select,
// its own random numbers. A run whose failure depends on these fails often, but not every time.
//
// # Limits
//
// Run must not wait for anything outside of the bubble: no files, no network. Code that is in the middle of a
// call when its process dies cannot be ended in Go: it goes on until it returns, its context cancelled and
// every call of its engine failing. The next engine is opened when no wrapped function runs any more.
func Simulate(t *testing.T, seed uint64, n int, run func(sim *Sim)) {
	t.Helper()
	simulate(t, nil, seed, n, run)
}

// simulate reports to another test than the bubble's if that is not nil.
func simulate(t *testing.T, to testing.TB, seed uint64, n int, run func(sim *Sim)) {
	t.Helper()
	if n < 1 || run == nil {
		t.Fatalf("weirtest: simulate %d times: want at least 1, and a function", n)
	}
	for i := range uint64(n) {
		if !simulateOnce(t, to, seed+i, run) {
			return
		}
	}
}

func simulateOnce(t *testing.T, to testing.TB, seed uint64, run func(sim *Sim)) (passed bool) {
	t.Helper()
	var sim *Sim
	report := to
	if report == nil {
		report = t
	}
	defer func() { // synctest.Test does not return if the bubble has failed, or is deadlocked
		if !passed {
			report.Errorf("weirtest: simulation failed%s\nrepeat it with weirtest.Simulate(t, %d, 1, …)", sim.traced(), seed)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		sim = newSim(t, seed)
		if to != nil {
			sim.TB = to
		}
		defer sim.end()
		done := make(chan struct{})
		go func() { // so that its Fatal does not end the bubble before its engine
			defer close(done)
			defer sim.recovered("the simulation")
			run(sim)
		}()
		<-done
	})
	return !sim.Failed()
}

// Sim is one run of a simulation. It is the test of its bubble: what fails it ends [Simulate]. Its
// methods may be called from many goroutines.
type Sim struct {
	testing.TB
	ctx     context.Context // the bubble's
	seed    uint64
	began   time.Time
	crashes int // at most
	memory  *engine.Memory
	setup   func(*engine.Engine) error
	clients sync.WaitGroup

	mu       sync.Mutex     // guards what follows
	life     *life          // the newest
	quiet    bool           // nothing is going on: no more crashes
	crashed  int            // how often
	yields   int            // calls of Yield
	started  int            // calls of Go
	sites    int            // calls of Flaky in this life
	attempts map[string]int // calls of wrapped functions in this life
	trace    []string
}

func newSim(t *testing.T, seed uint64) *Sim {
	s := &Sim{TB: t, ctx: t.Context(), seed: seed, began: time.Now(), memory: engine.NewMemory()}
	s.crashes = s.draw("crashes").IntN(4)
	return s
}

// Context returns the context of the bubble. It ends with the run.
func (s *Sim) Context() context.Context { return s.ctx }

// Seed returns the run's seed, for what the test itself leaves to chance.
func (s *Sim) Seed() uint64 { return s.seed }

// Open opens the engine, to which setup adds types and handlers. Setup is called again
// after each crash: what it makes is lost then, and what was made outside of it outlives the crash.
func (s *Sim) Open(setup func(e *engine.Engine) error) {
	s.Helper()
	if s.setup != nil || setup == nil {
		s.Fatalf("weirtest: Sim.Open: want one call, with a function")
	}
	s.setup = setup
	l := s.begin()
	l.open()
	if l.err != nil {
		s.FailNow()
	}
}

// Engine returns the engine that runs now. After a crash it waits for the next one.
func (s *Sim) Engine() *engine.Engine {
	s.Helper()
	l := s.current()
	if l.err != nil {
		s.Fatalf("weirtest: %v", l.err)
	}
	return l.engine
}

// Do calls fn with the engine that runs now, as a client of the process would. If that one
// crashes, and fn returns an error, the outcome of what it has done is unknown, and fn is called again with
// the next engine: so it must be safe to repeat, by event IDs or expected versions. Other errors
// are returned. Do not call it from inside handlers.
func (s *Sim) Do(fn func(e *engine.Engine) error) error {
	s.mu.Lock()
	s.quiet = false
	s.mu.Unlock()
	_, err := s.do(fn, nil)
	return err
}

// do calls fn until an engine lives as long as the call, and between two engines wait, if that is
// not nil.
func (s *Sim) do(fn func(e *engine.Engine) error, wait func(l *life)) (*life, error) {
	for again := false; ; again = true {
		l := s.current()
		if again && wait != nil {
			wait(l)
		}
		if l.err != nil {
			return l, l.err
		}
		if err := fn(l.engine); err == nil || !l.isDead() {
			return l, err
		}
	}
}

// Go calls fn as [Sim.Do] does, in a goroutine of its own, which begins at some moment of the next
// few milliseconds, and as long after a crash. An error of fn fails the test.
func (s *Sim) Go(fn func(e *engine.Engine) error) {
	s.mu.Lock()
	s.quiet = false
	s.started++
	client := fmt.Sprintf("client %d", s.started)
	s.mu.Unlock()
	wait := func(l *life) {
		n := 0
		if l != nil {
			n = l.n
		}
		sleep(s.ctx, nil, s.upTo(fmt.Sprint(n, client), 5*time.Millisecond))
	}
	s.clients.Go(func() {
		defer s.recovered(client)
		wait(nil)
		if _, err := s.do(fn, wait); err != nil {
			s.Errorf("weirtest: %s: %v", client, err)
		}
	})
}

// Yield lets the others go on: it takes a while, of a millisecond at most. Call it where the order
// matters and nothing takes time by itself: between the reading and the writing of a fake database.
func (s *Sim) Yield() {
	s.mu.Lock()
	s.yields++
	what := fmt.Sprintf("yield %d", s.yields)
	s.mu.Unlock()
	sleep(s.ctx, nil, s.upTo(what, time.Millisecond))
}

// Settle waits for all that [Sim.Go] has started, and then, as [WaitCaughtUp] does, for all
// handlers, through crashes if they come. From its return to the next Go, Do or Crash nothing happens, so
// that what handlers have made can be looked at.
func (s *Sim) Settle() {
	s.Helper()
	s.clients.Wait()
	ctx, cancel := bounded(s)
	defer cancel()
	for {
		l, err := s.do(func(e *engine.Engine) error { return caughtUp(ctx, e, nil) }, nil)
		if err != nil {
			s.Fatalf("weirtest: %v", err)
		}
		s.mu.Lock()
		s.quiet = s.life == l // else it has crashed since, and handles again what was not saved
		quiet := s.quiet
		s.mu.Unlock()
		if quiet {
			return
		}
	}
}

// Crash lets the process die now. Without it the seed says when it does.
func (s *Sim) Crash() {
	l := s.current()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet = false
	s.crashLocked(l, "as the test wants")
}

// end closes the last engine.
func (s *Sim) end() {
	s.clients.Wait()
	s.mu.Lock()
	s.quiet = true
	l := s.life
	s.mu.Unlock()
	if l == nil {
		return
	}
	<-l.ready
	if l.err != nil {
		return
	}
	if err := l.engine.Close(); err != nil {
		s.Errorf("weirtest: %v", err)
	}
}

// recovered makes a panic fail the test, by which the seed is printed.
func (s *Sim) recovered(where string) {
	if v := recover(); v != nil {
		s.Errorf("weirtest: panic in %s: %v\n%s", where, v, debug.Stack())
	}
}

// draw returns the random numbers for one thing, whenever they are asked for.
func (s *Sim) draw(what string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(what))
	return rand.New(rand.NewPCG(s.seed, h.Sum64()))
}

func (s *Sim) upTo(what string, most time.Duration) time.Duration {
	return time.Duration(s.draw(what).Int64N(int64(most))) + 1
}

// maxTrace is how many lines of a run are kept: its end.
const maxTrace = 50

// noteLocked adds a line to what is printed if the run fails. REQUIRES: s.mu.
func (s *Sim) noteLocked(format string, args ...any) {
	if len(s.trace) == maxTrace {
		s.trace = s.trace[1:]
	}
	s.trace = append(s.trace, fmt.Sprintf("\n  %9v  ", time.Since(s.began).Round(time.Microsecond))+fmt.Sprintf(format, args...))
}

func (s *Sim) traced() (text string) {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.trace {
		text += line
	}
	return text
}

// sleep waits, but not longer than ctx, or until done is closed.
func sleep(ctx context.Context, done <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-done:
	}
}
