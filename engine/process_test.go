package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
)

// cue is an event that says what the process of these tests is to do about it, and rung one of its timers.
type cue struct {
	Key    string
	N      int
	To     string // append a reply to this stream
	Timer  string // set it
	After  time.Duration
	At     time.Time
	Cancel string
	Fail   bool
}

type rung struct{ N int }

type reply struct{ N int }

// tape is the state: what Evolve was given, in order.
type tape struct{ Saw []string }

var errCue = errors.New("as the cue says")

// puppet is the process of these tests. Reacted is called with what React was given.
func puppet(reacted func(string)) *engine.Process[tape] {
	about := func(ev engine.Event) string {
		switch data := ev.Data.(type) {
		case cue:
			return fmt.Sprint("cue ", data.N)
		case rung:
			return fmt.Sprint("rung ", data.N)
		}
		return fmt.Sprintf("%s %v", ev.Type, ev.Data)
	}
	return &engine.Process[tape]{
		Name: "puppet",
		Key: func(ev engine.Event) string {
			c, _ := ev.Data.(cue)
			return c.Key
		},
		Evolve: func(s tape, ev engine.Event) tape {
			s.Saw = append(s.Saw, about(ev))
			return s
		},
		React: func(s tape, ev engine.Event) (r engine.Reaction, err error) {
			if reacted != nil {
				reacted(about(ev))
			}
			if s.Saw[len(s.Saw)-1] != about(ev) {
				return r, fmt.Errorf("React before Evolve: %v", s.Saw)
			}
			c, ok := ev.Data.(cue)
			if !ok {
				return r, nil
			}
			if c.To != "" {
				r.Append(c.To, engine.New(reply{c.N}))
			}
			switch {
			case c.Timer == "":
			case c.At.IsZero():
				r.After(c.After, c.Timer, engine.New(rung{c.N}))
			default:
				r.At(c.At, c.Timer, engine.New(rung{c.N}))
			}
			if c.Cancel != "" {
				r.Cancel(c.Cancel)
			}
			if c.Fail {
				return r, errCue
			}
			return r, nil
		},
	}
}

// stage is an engine with the puppet, which can be opened again on what was stored.
type stage struct {
	*testing.T
	open func() engine.Backend
	e    *engine.Engine
	h    *engine.Handler
	opts []engine.HandlerOption

	mu      sync.Mutex
	reacted []string // guarded by mu
}

// onStages runs a test in a bubble of synctest, over memory that outlives an engine, and over files.
func onStages(t *testing.T, fn func(s *stage), opts ...engine.HandlerOption) {
	onBoth(t, func(t *testing.T, open func() engine.Backend) {
		synctest.Test(t, func(t *testing.T) {
			s := &stage{T: t, open: open, opts: append(opts, engine.FromStart())}
			s.start()
			defer func() { mustClose(t, s.e) }()
			fn(s)
		})
	})
}

func (s *stage) start() {
	s.Helper()
	s.e = quietEngine(s.T, engine.Options{Backend: s.open()})
	if err := errors.Join(engine.Register[cue](s.e, "cue"), engine.Register[rung](s.e, "rung"), engine.Register[reply](s.e, "reply")); err != nil {
		s.Fatal(err)
	}
	s.manage()
}

func (s *stage) process() *engine.Process[tape] {
	return puppet(func(what string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reacted = append(s.reacted, what)
	})
}

func (s *stage) manage(opts ...engine.HandlerOption) {
	s.Helper()
	var err error
	if s.h, err = engine.Manage(s.e, s.process(), append(opts, s.opts...)...); err != nil {
		s.Fatal(err)
	}
}

func (s *stage) restart() {
	s.Helper()
	mustClose(s.T, s.e)
	s.start()
}

func (s *stage) cue(c cue) engine.Result {
	s.Helper()
	res := mustAppend(s.T, s.e, "cues-1", engine.New(c))
	if err := s.e.Settle(s.Context(), res); err != nil {
		s.Fatal(err)
	}
	return res
}

// sleep lets time pass in the bubble, and what is due be done.
func (s *stage) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// take returns what was reacted to since the last call.
func (s *stage) take() []string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.reacted
	s.reacted = nil
	return got
}

// wantReacted compares that, whatever the order: timers that are due at the same moment have none.
func (s *stage) wantReacted(want ...string) {
	s.Helper()
	got := s.take()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Errorf("reacted to %q, want %q", got, want)
	}
}

func (s *stage) wantState(key string, want ...string) {
	s.Helper()
	got, n, err := engine.LoadInstance(s.Context(), s.e, puppet(nil), key)
	if err != nil || n != len(want) || !slices.Equal(got.Saw, want) {
		s.Errorf("instance %q: %q of %d events, %v; want %q", key, got.Saw, n, err, want)
	}
}

// wantTypes compares the types of a stream's events.
func (s *stage) wantTypes(stream string, want ...string) {
	s.Helper()
	var got []string
	for ev, err := range s.e.Read(s.Context(), stream) {
		if err != nil {
			s.Fatal(err)
		}
		got = append(got, ev.Type)
	}
	if !slices.Equal(got, want) {
		s.Errorf("%s has %q, want %q", stream, got, want)
	}
}

func TestProcess(t *testing.T) {
	onStages(t, func(s *stage) {
		s.cue(cue{Key: "a", N: 1, To: "out-1"})
		s.cue(cue{Key: "b", N: 2})
		s.cue(cue{N: 3, To: "out-1"}) // concerns nobody
		s.cue(cue{Key: "a", N: 4, To: "out-1"})
		s.wantReacted("cue 1", "cue 2", "cue 4")
		s.wantState("a", "cue 1", "cue 4")
		s.wantState("b", "cue 2")
		s.wantState("c")
		s.wantTypes("out-1", "reply", "reply")
		s.wantTypes("$puppet-a", "$handled", "$handled")
		for ev, err := range s.e.Read(s.Context(), "out-1") {
			if err != nil || ev.Meta.CausationID != fmt.Sprint("cues-1@", ev.Data.(reply).N) {
				s.Errorf("caused by %q: %+v, %v", ev.Meta.CausationID, ev, err)
			}
		}
		s.restart()
		s.cue(cue{Key: "a", N: 5})
		s.wantReacted("cue 5")
		s.wantState("a", "cue 1", "cue 4", "cue 5")
	})
}

// TestProcessHandlesOnce: an event that is delivered again is not reacted to, whether the instance is still in
// memory or not.
func TestProcessHandlesOnce(t *testing.T) {
	onStages(t, func(s *stage) {
		for n := range 6 {
			s.cue(cue{Key: string(rune('a' + n%2)), N: n, To: "out-1", Timer: "t", After: time.Hour})
		}
		s.sleep(time.Hour)
		s.wantReacted("cue 0", "cue 1", "cue 2", "cue 3", "cue 4", "cue 5", "rung 4", "rung 5")
		head := s.e.Head()
		for range 2 {
			if err := s.h.Remove(s.Context()); err != nil {
				s.Fatal(err)
			}
			s.manage(engine.IgnoreCheckpoint())
			if err := s.e.Wait(s.Context(), head); err != nil {
				s.Fatal(err)
			}
			s.restart()
		}
		s.sleep(time.Hour)
		s.wantReacted()
		if s.e.Head() != head {
			s.Errorf("%d new events", s.e.Head()-head)
		}
		s.wantState("a", "cue 0", "cue 2", "cue 4", "rung 4")
	})
}

func TestTimer(t *testing.T) {
	onStages(t, func(s *stage) {
		began := time.Now()
		s.cue(cue{Key: "a", N: 1, Timer: "t", After: 5 * time.Minute})
		s.cue(cue{Key: "b", N: 2, Timer: "t", At: began.Add(7 * time.Minute)})
		s.wantReacted("cue 1", "cue 2")
		s.sleep(5*time.Minute - time.Millisecond)
		s.wantReacted()
		s.sleep(time.Millisecond)
		s.wantReacted("rung 1")
		s.sleep(time.Hour)
		s.wantReacted("rung 2")
		s.wantState("b", "cue 2", "rung 2")
		s.wantTypes("$puppet-a", "$timers", "$due", "rung", "$handled")
		for ev, err := range s.e.Read(s.Context(), "$puppet-b") {
			if err != nil {
				s.Fatal(err)
			}
			if ev.Type == "rung" && (ev.Meta.CausationID != "cues-1@2" || ev.Meta.CorrelationID != "cues-1@2" || !ev.Time.Equal(began.Add(7*time.Minute))) {
				s.Errorf("%+v", ev)
			}
		}
	})
}

// TestTimersInOrder: many of them, set in another order than that in which they are due.
func TestTimersInOrder(t *testing.T) {
	onStages(t, func(s *stage) {
		var want []string
		for n := range 50 {
			s.cue(cue{Key: fmt.Sprint(n), N: n * 7 % 50, Timer: "t", After: time.Hour + time.Duration(n*7%50)*time.Second})
			want = append(want, fmt.Sprint("rung ", n))
		}
		s.take()
		s.sleep(2 * time.Hour)
		if got := s.take(); !slices.Equal(got, want) {
			s.Errorf("reacted to %q, want %q", got, want)
		}
	})
}

func TestTimerCancelledOrReplaced(t *testing.T) {
	onStages(t, func(s *stage) {
		s.cue(cue{Key: "a", N: 1, Timer: "t", After: time.Minute})
		s.cue(cue{Key: "a", N: 2, Timer: "u", After: time.Minute})
		s.cue(cue{Key: "b", N: 3, Timer: "t", After: time.Minute})
		s.cue(cue{Key: "a", N: 4, Cancel: "t"})
		s.cue(cue{Key: "b", N: 5, Timer: "t", After: 2 * time.Minute})
		s.cue(cue{Key: "c", N: 6, Timer: "t", After: time.Minute, Cancel: "t"}) // what is set stays
		s.wantReacted("cue 1", "cue 2", "cue 3", "cue 4", "cue 5", "cue 6")
		s.sleep(time.Minute)
		s.wantReacted("rung 2", "rung 6")
		s.sleep(time.Hour)
		s.wantReacted("rung 5")
		s.wantTypes("$puppet-b", "$timers", "$timers", "$due", "rung", "$handled")
	})
}

// TestTimerCancelledTooLate: its event is in the log, but the process had not got to it.
func TestTimerCancelledTooLate(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		onStages(t, func(s *stage) {
			s.cue(cue{Key: "a", N: 1, Timer: "t", After: time.Minute})
			s.cue(cue{Key: "b", N: 2, Timer: "t", After: time.Minute})
			if err := s.h.Pause(s.Context()); err != nil {
				s.Fatal(err)
			}
			c := cue{Key: "a", N: 3, Cancel: "t"}
			if replaced {
				c = cue{Key: "a", N: 3, Timer: "t", After: time.Hour}
			}
			res := mustAppend(s.T, s.e, "cues-1", engine.New(c))
			s.sleep(time.Minute)
			s.wantTypes("$puppet-a", "$timers", "$due", "rung")
			s.wantReacted("cue 1", "cue 2")
			if err := s.h.Resume(); err != nil {
				s.Fatal(err)
			}
			if err := s.e.Settle(s.Context(), res); err != nil {
				s.Fatal(err)
			}
			s.wantReacted("cue 3", "rung 2") // though a timer has come in between
			want := []string{"cue 1", "cue 3"}
			s.wantState("a", want...)
			s.restart()
			s.sleep(2 * time.Hour)
			if replaced {
				s.wantReacted("rung 3")
				want = append(want, "rung 3")
			}
			s.wantReacted()
			s.wantState("a", want...)
		})
	}
}

// TestTimersSurviveARestart: those that become due while nobody is there are due at once, and no other.
func TestTimersSurviveARestart(t *testing.T) {
	onStages(t, func(s *stage) {
		for n := range 4 {
			s.cue(cue{Key: fmt.Sprint(n), N: n, Timer: "t", After: time.Duration(n+1) * time.Minute})
		}
		s.cue(cue{Key: "2", N: 4, Cancel: "t"})
		s.sleep(time.Minute)
		s.wantReacted("cue 0", "cue 1", "cue 2", "cue 3", "cue 4", "rung 0")
		mustClose(s.T, s.e)
		time.Sleep(2 * time.Minute)
		s.start()
		s.wantReacted("rung 1")
		s.sleep(30 * time.Second)
		s.restart()
		s.sleep(29 * time.Second)
		s.wantReacted()
		s.sleep(time.Second)
		s.wantReacted("rung 3")
		s.restart()
		s.sleep(time.Hour)
		s.wantReacted()
	})
}

// TestTimersBegin: after a restart what is long over is not read again.
func TestTimersBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting()
		s := &stage{T: t, open: func() engine.Backend { return l }, opts: []engine.HandlerOption{engine.FromStart()}}
		s.start()
		defer func() { mustClose(t, s.e) }()
		s.cue(cue{Key: "old", N: 1, Timer: "t", After: 100 * time.Hour})
		round := func() {
			again := slices.Repeat([]engine.NewEvent{engine.New(cue{Key: "k", N: 2, Timer: "t", After: time.Hour})}, 1100)
			mustAppend(s.T, s.e, "cues-1", again...)
			s.sleep(0)
		}
		round()
		begin := func() engine.Position {
			s.Helper()
			s.restart()
			mustClose(s.T, s.e)
			b := s.open()
			defer b.Close()
			pos, _, err := b.LoadCheckpoint(s.Context(), "$timers of puppet")
			if err != nil {
				s.Fatal(err)
			}
			return pos
		}
		if pos := begin(); pos != 1 {
			s.Errorf("with a timer set by the event at 1, timers are read from behind %d", pos)
		}
		s.start()
		s.sleep(200 * time.Hour) // the old one is over
		round()
		head := s.e.Head()
		if pos := begin(); pos < head/2 || pos > head {
			s.Errorf("timers are read from behind %d of %d", pos, head)
		}
		s.start()
		s.take()
		s.sleep(2 * time.Hour)
		s.wantReacted("rung 2")
	})
}

// TestProcessParks: what an instance cannot handle holds up its later events, and nobody else's.
func TestProcessParks(t *testing.T) {
	onStages(t, func(s *stage) {
		s.cue(cue{Key: "a", N: 1})
		for _, c := range []cue{{Key: "a", N: 2, Fail: true, To: "out-1", Timer: "t"}, {Key: "a", N: 3}, {Key: "b", N: 4}} {
			s.cue(c)
		}
		s.wantReacted("cue 1", "cue 2", "cue 4")
		s.wantState("a", "cue 1") // nothing of the failed reaction is stored
		s.wantTypes("out-1")
		if parked := s.h.Parked(); len(parked) != 2 || parked[0].Err == nil {
			s.Fatalf("parked: %+v", parked)
		}
		if ok, err := s.h.Discard(s.h.Parked()[0].Event.Position); !ok || err != nil {
			s.Fatal(ok, err)
		}
		if n, err := s.h.Redrive(s.Context()); n != 1 || err != nil {
			s.Fatal(n, err)
		}
		s.cue(cue{Key: "a", N: 5})
		s.wantReacted("cue 3", "cue 5")
		s.wantState("a", "cue 1", "cue 3", "cue 5")
	}, engine.Retry(0, 0))
}

// TestProcessEnds: an instance whose stream is deleted takes no more events, and its timers are gone.
func TestProcessEnds(t *testing.T) {
	onStages(t, func(s *stage) {
		s.cue(cue{Key: "a", N: 1, Timer: "t", After: time.Minute})
		s.cue(cue{Key: "b", N: 2})
		if err := s.e.Delete(s.Context(), "$puppet-a", engine.Any); err != nil {
			s.Fatal(err)
		}
		s.cue(cue{Key: "a", N: 3, To: "out-1"})
		s.restart()
		s.cue(cue{Key: "a", N: 4, To: "out-1"})
		s.sleep(time.Hour)
		if n := len(s.h.Parked()); n != 0 {
			s.Errorf("%d events parked", n)
		}
		s.wantTypes("out-1")
		s.wantState("a")
		s.wantState("b", "cue 2")
	})
}

// TestProcessForgets: with room for one instance in memory all is folded anew, and the same.
func TestProcessForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{T: t, e: quietEngine(t, engine.Options{CachedStates: 1})}
		defer func() { mustClose(t, s.e) }()
		s.manage(engine.Keyed(3))
		want := make(map[string][]string)
		for n := range 300 {
			key := fmt.Sprint(n % 7)
			mustAppend(t, s.e, fmt.Sprint("cues-", n%3), engine.New(cue{Key: key, N: n, To: fmt.Sprint("out-", n%2), Timer: "t", After: time.Duration(n%2) * time.Hour}))
			want[key] = append(want[key], fmt.Sprint("cue ", n))
		}
		s.sleep(2 * time.Hour)
		for key, saw := range want {
			got, _, err := engine.LoadInstance(t.Context(), s.e, puppet(nil), key)
			cues := slices.DeleteFunc(slices.Clone(got.Saw), func(what string) bool { return !strings.HasPrefix(what, "cue") })
			if err != nil || !slices.Equal(cues, saw) {
				t.Errorf("instance %s saw %q, %v; want %q", key, got.Saw, err, saw)
			}
			if rung := len(got.Saw) - len(cues); rung == 0 {
				t.Errorf("instance %s: no timer was due", key)
			}
		}
		seen := make(map[string]bool)
		for _, what := range s.take() {
			if strings.HasPrefix(what, "rung") && seen[what] { // a cue may meet a timer, and be tried again
				t.Errorf("%s twice", what)
			}
			seen[what] = true
		}
		if len(seen) < 307 {
			t.Errorf("%d reactions", len(seen))
		}
	})
}

// TestProcessRefuses: what is wrong with a process or a reaction has a clear error, and stores nothing.
func TestProcessRefuses(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	defer mustClose(t, e)
	good := puppet(nil)
	change := func(f func(p *engine.Process[tape])) *engine.Process[tape] {
		p := *good
		f(&p)
		return &p
	}
	for what, p := range map[string]*engine.Process[tape]{
		"process":        nil,
		"Process.Name":   change(func(p *engine.Process[tape]) { p.Name = "" }),
		`without "-"`:    change(func(p *engine.Process[tape]) { p.Name = "a-b" }),
		"Process.Evolve": change(func(p *engine.Process[tape]) { p.Evolve = nil }),
		"Process.React":  change(func(p *engine.Process[tape]) { p.React = nil }),
	} {
		for op, err := range map[string]error{"manage": errOf(engine.Manage(e, p)), "load instance": func() error {
			_, _, err := engine.LoadInstance(t.Context(), e, p, "a")
			return err
		}()} {
			if bad, ok := errors.AsType[*engine.InvalidError](err); !ok || bad.Op != op || !strings.Contains(err.Error(), what) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if _, _, err := engine.LoadInstance(t.Context(), e, good, ""); !isInvalid(err) {
		t.Errorf("no key: %v", err)
	}
	if err := errOf(engine.Manage(e, good, nil)); !isInvalid(err) {
		t.Errorf("a nil option: %v", err)
	}
	if err := errOf(engine.Manage(e, good, engine.Keyed(-1))); !isInvalid(err) {
		t.Errorf("a bad option: %v", err)
	}

	var r engine.Reaction
	p := change(func(p *engine.Process[tape]) {
		p.React = func(tape, engine.Event) (engine.Reaction, error) { return r, nil }
	})
	h, err := engine.Manage(e, p, engine.Types("cue", "rung"), engine.Retry(0, 0), engine.OnFailure(engine.Skip))
	if err != nil {
		t.Fatal(err)
	}
	if err := errOf(engine.Manage(e, p)); !errors.Is(err, engine.ErrExists) {
		t.Errorf("a second time: %v", err)
	}
	ring := engine.New(rung{1})
	ring.Type = "rung"
	for what, react := range map[string]func(*engine.Reaction){
		`"$other-1"`:        func(r *engine.Reaction) { r.Append("$other-1", ring) },
		"stream name":       func(r *engine.Reaction) { r.Append("", ring) },
		"payload of event":  func(r *engine.Reaction) { r.Append("out-1", engine.NewEvent{}) },
		"name of a timer":   func(r *engine.Reaction) { r.After(0, "", ring) },
		"one timer of that": func(r *engine.Reaction) { r.After(0, "t", ring); r.After(1, "t", ring) },
		"event ID of timer": func(r *engine.Reaction) { r.After(0, "t", ring.WithID("x")) },
		`timer "t": engine`: func(r *engine.Reaction) { r.After(0, "t", engine.NewEvent{}) },
		"one of the Types":  func(r *engine.Reaction) { r.After(0, "t", engine.New(reply{1})) },
		"number of streams": func(r *engine.Reaction) { fill(r, engine.MaxStreams) },
	} {
		r = engine.Reaction{}
		r.Append("out-1", engine.New(reply{2}))
		react(&r)
		res := mustAppend(t, e, "cues-1", engine.NewEvent{Type: "cue", Data: cue{Key: "k"}})
		if err := e.Settle(t.Context(), res); err != nil {
			t.Fatal(err)
		}
		if err := h.Stats().LastError; err == nil || !strings.Contains(err.Error(), what) || e.Head() != res.Position {
			t.Errorf("%s: %v, and %d events stored", what, err, e.Head()-res.Position)
		}
	}
}

func fill(r *engine.Reaction, streams int) {
	for i := range streams {
		r.Append(fmt.Sprint("many-", i), engine.New(reply{i}))
	}
}

// TestReactionGathers: more for a stream is one write, what was given stays the caller's, and nothing is nothing.
func TestReactionGathers(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	defer mustClose(t, e)
	list := make([]engine.NewEvent, 1, 8)
	list[0] = engine.New(reply{1})
	p := puppet(nil)
	p.React = func(tape, engine.Event) (r engine.Reaction, err error) {
		r.Append("out-1", list...)
		r.Append("out-1", engine.New(reply{2}))
		r.Append("out-2", engine.New(reply{3}))
		r.Append("out-3")
		return r, nil
	}
	if err := errOf(engine.Manage(e, p)); err != nil {
		t.Fatal(err)
	}
	res := mustAppend(t, e, "cues-1", engine.New(cue{Key: "k"}))
	if err := e.Settle(t.Context(), res); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(versions(t, e, "out-1"), versions(t, e, "out-2"), versions(t, e, "out-3")); got != "[1 2] [1] []" {
		t.Errorf("stored: %s", got)
	}
	if list[:2][1].Data != nil {
		t.Error("the caller's slice was written to")
	}
}

// TestProcessByCorrelation: without a Key, an instance is a chain of events.
func TestProcessByCorrelation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := quietEngine(t, engine.Options{})
		defer mustClose(t, e)
		p := puppet(nil)
		p.Key = nil
		if err := errOf(engine.Manage(e, p)); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, e, "cues-1", engine.New(cue{N: 1, To: "out-1", Timer: "t", After: time.Hour}).WithID("first"))
		mustAppend(t, e, "cues-1", engine.New(cue{N: 2}))
		time.Sleep(time.Hour)
		synctest.Wait()
		for key, want := range map[string]string{"first": "[cue 1 reply {1} rung 1]", "cues-1@2": "[cue 2]"} {
			got, _, err := engine.LoadInstance(t.Context(), e, p, key)
			if err != nil || fmt.Sprint(got.Saw) != want {
				t.Errorf("%s: %q, %v", key, got.Saw, err)
			}
		}
	})
}

// TestTimerIsTriedAgain: while its event cannot be stored, the process dies or not, it is not lost.
func TestTimerIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fails atomic.Bool
		w := &wrapped{Memory: engine.NewMemory(), commit: func(_ context.Context, next func() error) error {
			if fails.Load() {
				return errCue
			}
			return next()
		}}
		s := &stage{T: t, open: func() engine.Backend { return w }}
		s.opts = []engine.HandlerOption{engine.FromStart()}
		s.start()
		defer func() { mustClose(t, s.e) }()
		s.cue(cue{Key: "a", N: 1, Timer: "t", After: time.Minute})
		s.cue(cue{Key: "b", N: 2, Timer: "t", After: time.Minute})
		fails.Store(true)
		s.sleep(3 * time.Minute)
		s.wantReacted("cue 1", "cue 2")
		fails.Store(false)
		s.cue(cue{Key: "b", N: 3, Cancel: "t"})
		s.sleep(2 * time.Minute)
		s.wantReacted("cue 3", "rung 1")
	})
}

// TestProcessHasOneTimekeeper: it ends with the process's handler.
func TestProcessHasOneTimekeeper(t *testing.T) {
	onStages(t, func(s *stage) {
		s.cue(cue{Key: "a", N: 1, Timer: "t", After: time.Minute})
		s.sleep(0)
		before := s.e.Stats()
		for range 3 {
			if err := s.h.Remove(s.Context()); err != nil {
				s.Fatal(err)
			}
			synctest.Wait()
			if now := s.e.Stats(); len(now.Handlers) != 0 {
				s.Fatalf("handlers without a process: %+v", now.Handlers)
			}
			s.sleep(time.Hour) // nothing is due without a process
			s.manage()
		}
		s.wantReacted("cue 1", "rung 1")
		if now := s.e.Stats(); now.Goroutines > before.Goroutines {
			s.Errorf("%d goroutines, and %d before", now.Goroutines, before.Goroutines)
		}
	})
}

// TestProcessNotesAreReadable: they are JSON whatever the codec, for whoever looks at a stream.
func TestProcessNotesAreReadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{T: t, e: over(t, newEncoded(), withGob)}
		defer func() { mustClose(t, s.e) }()
		if err := errors.Join(engine.Register[cue](s.e, "cue"), engine.Register[rung](s.e, "rung"), engine.Register[reply](s.e, "reply")); err != nil {
			t.Fatal(err)
		}
		s.manage()
		s.cue(cue{Key: "a", N: 1, Timer: "t", After: time.Minute})
		s.sleep(time.Minute)
		s.wantReacted("cue 1", "rung 1")
		for ev, err := range s.e.Read(t.Context(), "$puppet-a") {
			if err != nil {
				t.Fatal(err)
			}
			if raw, ok := ev.Data.(json.RawMessage); ok != strings.HasPrefix(ev.Type, "$") || ok && !json.Valid(raw) {
				t.Errorf("%s: %T", ev.Type, ev.Data)
			}
		}
	})
}

// TestProcessPanics: a panic is a failure of that event.
func TestProcessPanics(t *testing.T) {
	e := quietEngine(t, engine.Options{})
	defer mustClose(t, e)
	p := puppet(nil)
	evolve := p.Evolve
	p.Evolve = func(s tape, ev engine.Event) tape {
		if c, ok := ev.Data.(cue); ok && c.N == 2 {
			panic("oh")
		}
		return evolve(s, ev)
	}
	h, err := engine.Manage(e, p, engine.Retry(0, 0), engine.OnFailure(engine.Skip))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		mustAppend(t, e, "cues-1", engine.New(cue{Key: "a", N: n + 1}))
	}
	if err := e.Wait(context.Background(), e.Head()); err != nil {
		t.Fatal(err)
	}
	got, _, err := engine.LoadInstance(t.Context(), e, p, "a")
	if err != nil || fmt.Sprint(got.Saw) != "[cue 1 cue 3]" || h.Stats().Skipped != 1 {
		t.Errorf("%q, %v, %d skipped", got.Saw, err, h.Stats().Skipped)
	}
}

// TestTimerMeetsItsCancellation: the timer is due while the note that cancels it is being stored.
func TestTimerMeetsItsCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wrapped{Memory: engine.NewMemory(), commit: func(_ context.Context, next func() error) error {
			time.Sleep(time.Second)
			return next()
		}}
		s := &stage{T: t, open: func() engine.Backend { return w }}
		s.start()
		defer func() { mustClose(t, s.e) }()
		s.cue(cue{Key: "a", N: 1, Timer: "t", After: time.Minute})
		time.Sleep(time.Minute - 2500*time.Millisecond)
		s.cue(cue{Key: "a", N: 2, Cancel: "t"}) // stored half a second after the timer is due
		s.sleep(time.Hour)
		s.wantReacted("cue 1", "cue 2")
		s.wantTypes("$puppet-a", "$timers", "$timers")
	})
}

// TestTimerOfUnknownOutcome: it is in the log, though who has appended it does not know.
func TestTimerOfUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var unknown atomic.Int64
		w := &wrapped{Memory: engine.NewMemory(), commit: func(_ context.Context, next func() error) error {
			err := next()
			if unknown.Add(-1) == 0 {
				return engine.ErrOutcomeUnknown
			}
			return err
		}}
		s := &stage{T: t, open: func() engine.Backend { return w }}
		s.start()
		defer func() { mustClose(t, s.e) }()
		s.cue(cue{Key: "a", N: 1, Timer: "t", After: time.Minute})
		unknown.Store(1) // the next commit
		s.sleep(time.Hour)
		s.wantReacted("cue 1", "rung 1")
		s.wantTypes("$puppet-a", "$timers", "$due", "rung", "$handled")
	})
}

type notable struct{}

func (notable) EventType() string { return "$due" }

// TestNotesCannotBeForged: event types that begin with "$" are a process's.
func TestNotesCannotBeForged(t *testing.T) {
	overBackends(t, engine.Options{}, func(t *testing.T, e *engine.Engine) {
		for what, err := range map[string]error{
			"Append":    appendErr(e, engine.NewEvent{Type: "$timers", Data: json.RawMessage(`{"Due":"t"}`)}),
			"EventType": appendErr(e, engine.New(notable{})),
			"Register":  engine.Register[cue](e, "$handled"),
		} {
			if bad, ok := errors.AsType[*engine.InvalidError](err); !ok || !strings.Contains(err.Error(), `does not begin with "$"`) {
				t.Errorf("%s: %v, %v", what, bad, err)
			}
		}
		if err := errOf(e.Handle("reader", nothingToDo, engine.Types("$due"))); err != nil {
			t.Errorf("to read them is allowed: %v", err)
		}
		if e.Head() != 0 {
			t.Errorf("%d events", e.Head())
		}
	})
}

func appendErr(e *engine.Engine, ev engine.NewEvent) error {
	_, err := e.Append(context.Background(), "s-1", engine.Any, ev)
	return err
}

// TestTimerTooLargeToBeDue: what could be set but never appended is refused when it is set.
func TestTimerTooLargeToBeDue(t *testing.T) {
	overBackends(t, engine.Options{MaxBytes: 1000}, func(t *testing.T, e *engine.Engine) {
		var size int
		p := puppet(nil)
		p.Key = func(ev engine.Event) string { return "k" }
		p.React = func(_ tape, ev engine.Event) (r engine.Reaction, err error) {
			if ev.Type == "go" {
				r.After(0, "t", engine.NewEvent{Type: "raw", Data: make([]byte, size)})
			}
			return r, nil
		}
		h, err := engine.Manage(e, p, engine.Types("go", "raw"), engine.Retry(0, 0), engine.OnFailure(engine.Skip))
		if err != nil {
			t.Fatal(err)
		}
		set := 0
		for size = 300; size < 1000; size += 10 {
			skipped := h.Stats().Skipped
			if err := e.Settle(t.Context(), mustAppend(t, e, "s-1", engine.NewEvent{Type: "go", Data: "now"})); err != nil {
				t.Fatal(err)
			}
			if h.Stats().Skipped > skipped {
				if err := h.Stats().LastError; !isInvalid(err) {
					t.Errorf("%d bytes: %v", size, err)
				}
				continue
			}
			set++
			// It is due: the event comes, in a moment.
			for ev, err := range e.Read(t.Context(), "$puppet-k", engine.Types("raw"), engine.Follow()) {
				if err != nil {
					t.Fatal(err)
				}
				if len(ev.Data.([]byte)) == size {
					break
				}
			}
		}
		if set == 0 || set == 70 {
			t.Errorf("%d of 70 sizes can be set", set)
		}
	})
}
