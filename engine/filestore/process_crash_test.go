package filestore_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// step is an event that says what the process does about it.
type step struct {
	Set    []setStep `json:",omitempty"`
	Cancel []string  `json:",omitempty"`
	Out    int       `json:",omitempty"` // events in a stream of the instance's outputs
}

// setStep is a timer, whose event is a step too.
type setStep struct {
	Name  string
	After time.Duration
	Wall  bool // by At, and not by After
	Then  step
}

// output says which event it was stored for.
type output struct{ For engine.Position }

// steps is a process whose state is the events that it has handled.
func steps() *engine.Process[[]engine.Position] {
	return &engine.Process[[]engine.Position]{
		Name: "steps",
		Key: func(ev engine.Event) string {
			key, _ := strings.CutPrefix(ev.Stream, "in-")
			if ev.Type != "step" {
				return ""
			}
			return key
		},
		Evolve: func(s []engine.Position, ev engine.Event) []engine.Position { return append(s, ev.Position) },
		React: func(s []engine.Position, ev engine.Event) (r engine.Reaction, err error) {
			if s[len(s)-1] != ev.Position {
				return r, fmt.Errorf("the state ends with %d", s[len(s)-1])
			}
			st := ev.Data.(step)
			for range st.Out {
				r.Append("out-"+ev.Stream[strings.Index(ev.Stream, "-")+1:], engine.New(output{ev.Position}))
			}
			for _, name := range st.Cancel {
				r.Cancel(name)
			}
			for _, t := range st.Set {
				if t.Wall {
					r.At(time.Now().Add(t.After), t.Name, engine.New(t.Then))
				} else {
					r.After(t.After, t.Name, engine.New(t.Then))
				}
			}
			return r, nil
		},
	}
}

// someStep draws a step, whose timers set others so many times more.
func someStep(rng *rand.Rand, deep int) step {
	var s step
	for _, name := range []string{"a", "b", "c"} {
		switch rng.IntN(4) {
		case 0:
			t := setStep{Name: name, After: time.Duration(rng.IntN(120)-20) * time.Millisecond, Wall: rng.IntN(2) == 0}
			if deep > 0 {
				t.Then = someStep(rng, deep-1)
			} else {
				t.Then.Out = rng.IntN(2)
			}
			s.Set = append(s.Set, t)
		case 1:
			s.Cancel = append(s.Cancel, name)
		}
	}
	s.Out = rng.IntN(3)
	return s
}

// openSteps opens an engine on a disk, with the process.
func openSteps(disk *crashfs.Disk, d engine.Durability) (*engine.Engine, error) {
	s, err := filestore.OpenFS(disk, filestore.Options{SegmentSize: 16 << 10, SyncEvery: 40 * time.Millisecond, Logger: quiet})
	if err != nil {
		return nil, err
	}
	e, err := engine.Open(engine.Options{Backend: s, Durability: d, CheckpointEvery: 30 * time.Millisecond, CachedStates: 2, Logger: quiet})
	if err != nil {
		s.Close()
		return nil, err
	}
	if err = engine.Register[step](e, "step"); err == nil {
		if err = engine.Register[output](e, "output"); err == nil {
			_, err = engine.Manage(e, steps(), engine.FromStart(), engine.Keyed(3))
		}
	}
	if err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// aNote is what is stored of a reaction, as the test reads it.
type aNote struct {
	Handled engine.Position
	Set     []struct {
		Name string
		At   time.Time
	}
	Cancelled []string
	Due       string
	SetBy     engine.Position
}

// anInstance is what the log must say of an instance: the model of the rules.
type anInstance struct {
	handled []engine.Position
	set     map[string]engine.Position
	at      map[string]time.Time
	due     map[string]engine.Position // timers' events that are to be handled, by timer
	ended   map[engine.Position]bool   // timers' events that must not be any more
	next    *aNote                     // the timer whose event must come next
}

// judgeSteps reads the whole log, and says what in it breaks a rule. With quiet, nothing may be
// left to do. It returns how many timers' events there are.
func judgeSteps(t *testing.T, e *engine.Engine, quiet bool) (timers int, err error) {
	instances := make(map[string]*anInstance)
	asked := make(map[engine.Position]step)
	reacted, outputs := make(map[engine.Position]int), make(map[engine.Position]int)
	for ev, err := range e.ReadAll(t.Context()) {
		if err != nil {
			return 0, err
		}
		category, key, _ := strings.Cut(ev.Stream, "-")
		switch category {
		case "in":
			asked[ev.Position] = ev.Data.(step)
			continue
		case "out":
			outputs[ev.Data.(output).For]++
			continue
		}
		in := instances[key]
		if in == nil {
			in = &anInstance{set: make(map[string]engine.Position), at: make(map[string]time.Time),
				due: make(map[string]engine.Position), ended: make(map[engine.Position]bool)}
			instances[key] = in
		}
		if in.next != nil {
			if got, want := ev.Meta.Extra["$timer"], fmt.Sprint(in.next.SetBy, " ", in.next.Due); got != want {
				return 0, fmt.Errorf("%d follows the note of timer %q, and is of %q", ev.Position, want, got)
			}
			timers++
			asked[ev.Position] = ev.Data.(step)
			in.due[in.next.Due] = ev.Position
			in.next = nil
			continue
		}
		var n aNote
		if err := json.Unmarshal(ev.Data.(json.RawMessage), &n); err != nil {
			return 0, err
		}
		if n.Due != "" {
			if in.set[n.Due] != n.SetBy {
				return 0, fmt.Errorf("at %d timer %q of %d is due, and set is that of %d", ev.Position, n.Due, n.SetBy, in.set[n.Due])
			}
			if ev.Time.Before(in.at[n.Due]) {
				return 0, fmt.Errorf("at %d timer %q is due at %v, %v too early", ev.Position, n.Due, ev.Time, in.at[n.Due].Sub(ev.Time))
			}
			delete(in.set, n.Due)
			in.next = &n
			continue
		}
		if in.ended[n.Handled] {
			return 0, fmt.Errorf("at %d the event %d is handled, of a timer that is no more", ev.Position, n.Handled)
		}
		st, ok := asked[n.Handled]
		if !ok {
			return 0, fmt.Errorf("at %d the event %d is handled, which is not there", ev.Position, n.Handled)
		}
		if len(st.Set) != len(n.Set) || !slices.Equal(st.Cancel, n.Cancelled) {
			return 0, fmt.Errorf("at %d: %+v, asked were %+v", ev.Position, n, st)
		}
		reacted[n.Handled]++
		in.handled = append(in.handled, n.Handled)
		for name, pos := range in.due {
			if pos == n.Handled {
				delete(in.due, name)
			}
		}
		end := func(name string) {
			delete(in.set, name)
			if pos, ok := in.due[name]; ok {
				in.ended[pos] = true
				delete(in.due, name)
				delete(asked, pos)
			}
		}
		for _, name := range n.Cancelled {
			end(name)
		}
		for _, s := range n.Set {
			end(s.Name)
			in.set[s.Name], in.at[s.Name] = n.Handled, s.At
		}
	}
	for key, in := range instances {
		if in.next != nil {
			return 0, fmt.Errorf("instance %s: timer %q has a note that it is due, and no event", key, in.next.Due)
		}
		if quiet && len(in.set)+len(in.due) > 0 {
			return 0, fmt.Errorf("instance %s: at rest it has timers that are set, %v, and due, %v", key, in.set, in.due)
		}
		state, events, err := engine.LoadInstance(t.Context(), e, steps(), key)
		if err != nil {
			return 0, err
		}
		if !quiet && len(state) > len(in.handled) {
			state, events = state[:len(in.handled)], len(in.handled) // it has gone on since the log was read
		}
		if !slices.Equal(state, in.handled) || events != len(in.handled) {
			return 0, fmt.Errorf("instance %s: the state is %v of %d events, want %v", key, state, events, in.handled)
		}
	}
	for pos, st := range asked {
		if n := reacted[pos]; n > 1 || quiet && n == 0 {
			return 0, fmt.Errorf("the event %d has %d reactions", pos, n)
		}
		if got, want := outputs[pos], st.Out*reacted[pos]; got != want {
			return 0, fmt.Errorf("the event %d has %d outputs, want %d", pos, got, want)
		}
	}
	return timers, nil
}

// resumeSteps opens what a crash has left, lets it run until it is quiet, and judges it before and after.
func resumeSteps(t *testing.T, disk *crashfs.Disk, d engine.Durability, acked engine.Position) (timers int, err error) {
	e, err := openSteps(disk, d)
	if err != nil {
		return 0, err
	}
	defer func() {
		if closed := e.Close(); err == nil {
			err = closed
		}
	}()
	if e.Head() < acked {
		return 0, fmt.Errorf("the log ends at %d, %d was acknowledged", e.Head(), acked)
	}
	time.Sleep(time.Second)
	synctest.Wait()
	return judgeSteps(t, e, true)
}

// TestProcessOverCrashes cuts the power, or kills the process, at many moments of lives in which a
// process sets, replaces and cancels timers. Whatever is left, once it has run on until nothing is to be done,
// each event has one reaction, whole; each timer that is set and not cancelled has one event; one that is
// no more has no reaction; and the state is what the notes say.
func TestProcessOverCrashes(t *testing.T) {
	t.Parallel()
	seeds := 4
	if underRace {
		seeds = 2
	}
	cuts, timers, cutWhileSet := 0, 0, 0
	for seed := range uint64(seeds * soak()) {
		for _, d := range []engine.Durability{engine.Synced, engine.Written} {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, uint64(d)))
				disk := crashfs.New()
				for life := range 3 {
					where := fmt.Sprintf("seed %d, %v, life %d", seed, d, life)
					began := disk.Len()
					e, err := openSteps(disk, d)
					if err != nil {
						t.Fatal(where, err)
					}
					var last engine.Position
					for range 15 + rng.IntN(15) {
						res, err := e.Append(t.Context(), fmt.Sprint("in-", rng.IntN(4)), engine.Any, engine.New(someStep(rng, 2)))
						if err != nil {
							t.Fatal(where, err)
						}
						last = res.Position
						disk.Mark(last)
						time.Sleep(time.Duration(rng.IntN(25)) * time.Millisecond)
					}
					if rng.IntN(2) == 0 {
						time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
					}
					if _, err := judgeSteps(t, e, false); err != nil {
						t.Fatal(where, err)
					}
					if err := e.Close(); err != nil {
						t.Fatal(where, err)
					}
					var left *crashfs.Disk
					for i := range 16 {
						n := began + rng.IntN(disk.Len()-began+1)
						kill := rng.IntN(3) == 0
						if kill {
							left = disk.KillTorn(n, rng)
						} else {
							left = disk.PowerCut(n, rng)
						}
						if i == 15 {
							break // this is the next life's
						}
						acked := engine.Position(0)
						if marks := disk.Marks(n); len(marks) > 0 && (kill || d == engine.Synced) {
							acked = marks[len(marks)-1].(engine.Position)
						}
						cuts++
						got, err := resumeSteps(t, left, d, acked)
						if err != nil {
							t.Fatalf("%s, crash at operation %d (kill: %v): %v", where, n, kill, err)
						}
						timers += got
						if got > 0 {
							cutWhileSet++
						}
					}
					disk = left
				}
			})
		}
	}
	t.Logf("%d crashes, %d timers' events after them", cuts, timers)
	if cutWhileSet == 0 {
		t.Error("there was no timer: the test shows nothing")
	}
}

// TestTimersBehindTheBeginning: the place where a timekeeper begins to read after a restart, which is saved
// once in many notes, is never behind the note of a timer that is still set, over crashes too.
func TestTimersBehindTheBeginning(t *testing.T) {
	t.Parallel()
	if underRace {
		t.Skip("it varies the disk, not the schedule, and takes 40 s: `make test` runs it without the race detector")
	}
	const late = 5 * time.Minute
	for seed := range uint64(soak()) {
		for _, d := range []engine.Durability{engine.Synced, engine.Written} {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, uint64(d)))
				disk := crashfs.New()
				saved := 0
				for life := range 2 {
					where := fmt.Sprintf("seed %d, %v, life %d", seed, d, life)
					e, err := openSteps(disk, d)
					if err != nil {
						t.Fatal(where, err)
					}
					began := disk.Len()
					for i := range 700 {
						s := step{Set: []setStep{{Name: "a", After: time.Millisecond * time.Duration(rng.IntN(5))}}}
						if i%100 == 50 {
							s = step{Set: []setStep{{Name: "late", After: late}}}
						}
						if _, err := e.Append(t.Context(), fmt.Sprint("in-", rng.IntN(30)), engine.Any, engine.New(s)); err != nil {
							t.Fatal(where, err)
						}
						time.Sleep(time.Duration(rng.IntN(4)) * time.Millisecond)
					}
					if err := e.Close(); err != nil {
						t.Fatal(where, err)
					}
					var left *crashfs.Disk
					for range 6 {
						left = disk.PowerCut(disk.Len()-rng.IntN((disk.Len()-began)/2), rng)
						s, err := filestore.OpenFS(left, filestore.Options{SegmentSize: 16 << 10, Logger: quiet})
						if err != nil {
							t.Fatal(where, err)
						}
						if pos, ok, _ := s.LoadCheckpoint(t.Context(), "$timers of steps"); ok && pos > 0 {
							saved++
						}
						if err := s.Close(); err != nil {
							t.Fatal(where, err)
						}
						left.Reopen()
						e, err := openSteps(left, d)
						if err != nil {
							t.Fatal(where, err)
						}
						time.Sleep(late + time.Second)
						synctest.Wait()
						_, err = judgeSteps(t, e, true)
						e.Close()
						if err != nil {
							t.Fatal(where, err)
						}
					}
					disk = disk.PowerCut(disk.Len(), rng)
				}
				if saved == 0 {
					t.Error("no beginning was saved: the test shows nothing")
				}
			})
		}
	}
}
