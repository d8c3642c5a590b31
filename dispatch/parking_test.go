package dispatch_test

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

	"github.com/weirstore/weir/dispatch"
)

// shelf is where a parked list is kept that outlives its handler.
type shelf struct {
	mu     sync.Mutex
	list   []dispatch.Parked[event]
	calls  []string
	before func(call string) error // called without the lock; may be nil
	busy   atomic.Int32
	t      testing.TB
}

func (s *shelf) parking() dispatch.Parking[event] {
	return dispatch.Parking[event]{
		Load: func() ([]dispatch.Parked[event], error) {
			err := s.call("load")
			defer s.busy.Add(-1)
			s.mu.Lock()
			defer s.mu.Unlock()
			return slices.Clone(s.list), err
		},
		Park: func(p dispatch.Parked[event]) error {
			err := s.call(fmt.Sprint("park ", p.Event.pos))
			defer s.busy.Add(-1)
			if err != nil {
				return err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if i := s.at(p.Event.pos); i >= 0 {
				s.list[i] = p
			} else {
				s.list = append(s.list, p)
			}
			return nil
		},
		Unpark: func(pos uint64) error {
			err := s.call(fmt.Sprint("unpark ", pos))
			defer s.busy.Add(-1)
			if err != nil {
				return err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if i := s.at(pos); i >= 0 {
				s.list = slices.Delete(s.list, i, i+1)
			}
			return nil
		},
	}
}

func (s *shelf) at(pos uint64) int {
	return slices.IndexFunc(s.list, func(p dispatch.Parked[event]) bool { return p.Event.pos == pos })
}

func (s *shelf) call(what string) error {
	if s.busy.Add(1) != 1 {
		s.t.Errorf("%s: called beside another call", what)
	}
	s.mu.Lock()
	s.calls = append(s.calls, what)
	s.mu.Unlock()
	if s.before != nil {
		return s.before(what)
	}
	return nil
}

func positionsOf(list []dispatch.Parked[event]) []uint64 {
	all := make([]uint64, len(list))
	for i, p := range list {
		all[i] = p.Event.pos
	}
	return all
}

// The list that is kept is, call by call, the one in memory.
func TestParkingFollowsTheList(t *testing.T) {
	eachFailure(t, func(t *testing.T, r *rig, cfg config, fail func() error, is func(error) bool) {
		s := &shelf{t: t}
		var broken atomic.Bool
		broken.Store(true)
		rec := new(recorder)
		cfg.After, cfg.Parking = dispatch.Park, s.parking()
		cfg.Handle = func(ctx context.Context, ev event) error {
			if broken.Load() && ev.pos%2 == 1 {
				return fail()
			}
			return rec.handle(ctx, ev)
		}
		var h *handler
		check := func(what string) {
			t.Helper()
			got := h.Parked()
			if len(got) != len(s.list) {
				t.Fatalf("%s: %d are kept, %d parked", what, len(s.list), len(got))
			}
			for i, p := range got {
				if q := s.list[i]; q.Event != p.Event || q.Key != p.Key || q.Err != p.Err || q.Stack != p.Stack || q.Attempts != p.Attempts || q.Held != p.Held || !q.Time.Equal(p.Time) {
					t.Errorf("%s: kept is %+v, parked %+v", what, q, p)
				}
			}
		}
		h = r.add(cfg, 0)
		for range 3 {
			r.store(event{kind: 1, key: "a"}, event{kind: 1, key: "b"})
		}
		r.handled(h)
		want(t, "parked", sorted(positionsOf(s.list))[:1], []uint64{1})
		check("parked")
		if _, err := h.Redrive(ctxBg); err != nil {
			t.Fatal(err)
		}
		check("redriven in vain")
		discard(t, h, 3)
		check("discarded")
		broken.Store(false)
		if _, err := h.Redrive(ctxBg); err != nil {
			t.Fatal(err)
		}
		check("redriven")
		if len(s.list) != 0 {
			t.Errorf("left: %v", s.list)
		}
		want(t, "handled", sorted(rec.positions()), []uint64{1, 2, 4, 5, 6})
		if p := h.Stats(); p.Handled != 5 {
			t.Errorf("%+v", p)
		}
	})
}

// An event is parked before the position passes it: whoever stores the position cannot lose it.
func TestParkReturnsBeforeThePositionPasses(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			s := &shelf{t: t}
			g := newGate(t)
			s.before = func(call string) error {
				if strings.HasPrefix(call, "park") {
					g.pass()
				}
				return nil
			}
			cfg := config{After: dispatch.Park, Parking: s.parking(), Handle: func(context.Context, event) error { return errBoom }}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 2
			}
			h := r.add(cfg, 0)
			r.storeN(3)
			settle()
			if h.Position() != 0 || h.Stats().Parked != 0 || h.Stats().Lag != 3 {
				t.Errorf("while the first is being parked: %+v", h.Stats())
			}
			g.open()
			r.handled(h)
			want(t, "parked", positionsOf(s.list), []uint64{1, 2, 3})
		})
	})
}

// If an event cannot be parked the handler stops before it, and goes on there.
func TestParkThatFailsStopsTheHandler(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			s := &shelf{t: t}
			refuse := map[string]error{"park 2": errBoom, "park 3": errBoom}
			s.before = func(call string) error { return refuse[call] }
			cfg := config{After: dispatch.Park, Parking: s.parking(), Handle: func(context.Context, event) error { return errors.New("call") }}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 2
			}
			h := r.add(cfg, 0)
			r.storeN(4)
			for pos := uint64(1); pos <= 2; pos++ { // with keys, the second one is held back
				err := h.Wait(ctxBg, 4)
				if stopped, ok := errors.AsType[*dispatch.StoppedError](err); !ok || !errors.Is(err, errBoom) || stopped.Position != pos {
					t.Fatalf("Wait returned %v, want that it stopped at %d", err, pos)
				}
				settle()
				wantSpan(t, "parked", positionsOf(h.Parked()), 1, pos)
				delete(refuse, fmt.Sprint("park ", pos+1))
				if err := h.Resume(); err != nil {
					t.Fatal(err)
				}
			}
			r.handled(h)
			wantSpan(t, "parked", positionsOf(s.list), 1, 4)
			if h.Stats().Parked != 4 {
				t.Errorf("%+v", h.Stats())
			}
		})
	})
}

// What could not be taken off, or changed, where the list is kept stays in memory too, as it was.
func TestUnparkThatFails(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := &shelf{t: t}
		broken := true
		h := r.add(config{After: dispatch.Park, Parking: s.parking(), Handle: func(context.Context, event) error {
			if broken {
				return errBoom
			}
			return nil
		}}, 0)
		r.storeN(2)
		r.handled(h)
		refused := errors.New("refused")
		s.before = func(string) error { return refused }
		if ok, err := h.Discard(1); ok || !errors.Is(err, refused) {
			t.Errorf("Discard returned %v, %v", ok, err)
		}
		if n, err := h.Redrive(ctxBg); n != 0 || !errors.Is(err, refused) {
			t.Errorf("failing, Redrive returned %d, %v", n, err)
		}
		broken = false
		if n, err := h.Redrive(ctxBg); n != 0 || !errors.Is(err, refused) {
			t.Errorf("Redrive returned %d, %v", n, err)
		}
		for _, p := range h.Parked() {
			if p.Attempts != 1 {
				t.Errorf("%+v", p)
			}
		}
		s.before = nil
		if n, err := h.Redrive(ctxBg); n != 2 || err != nil || len(s.list) != 0 {
			t.Errorf("Redrive returned %d, %v; left %v", n, err, s.list)
		}
	})
}

// An event that is discarded while it is redriven in vain does not come back.
func TestDiscardDuringRedrive(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := &shelf{t: t}
		var h *handler
		calls := 0
		h = r.add(config{After: dispatch.Park, Parking: s.parking(), Handle: func(context.Context, event) error {
			if calls++; calls > 1 {
				discard(t, h, 1)
			}
			return errBoom
		}}, 0)
		r.storeN(1)
		r.handled(h)
		if n, err := h.Redrive(ctxBg); n != 0 || err != nil {
			t.Errorf("Redrive returned %d, %v", n, err)
		}
		if len(h.Parked()) != 0 || len(s.list) != 0 {
			t.Errorf("parked %v, kept %v", h.Parked(), s.list)
		}
		want := []string{"load", "park 1", "unpark 1"}
		if !slices.Equal(s.calls, want) {
			t.Errorf("calls %q, want %q", s.calls, want)
		}
	})
}

// An event that is discarded while earlier ones are redriven is not called any more.
func TestDiscardOfALaterEventDuringRedrive(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := &shelf{t: t}
		var h *handler
		broken := true
		rec := new(recorder)
		h = r.add(config{After: dispatch.Park, Parking: s.parking(), Handle: func(ctx context.Context, ev event) error {
			if broken {
				return errBoom
			}
			if ev.pos == 1 {
				discard(t, h, 2)
			}
			return rec.handle(ctx, ev)
		}}, 0)
		r.storeN(3)
		r.handled(h)
		broken = false
		if n, err := h.Redrive(ctxBg); n != 2 || err != nil {
			t.Errorf("Redrive returned %d, %v", n, err)
		}
		want(t, "handled", rec.positions(), []uint64{1, 3})
		if len(h.Parked()) != 0 || h.Stats().Handled != 2 {
			t.Errorf("parked %v, %d handled", h.Parked(), h.Stats().Handled)
		}
	})
}

// After a crash an event that comes again may fail, and is parked behind a later one of its key.
// Redrive has the order of the log nevertheless.
func TestRedriveHasTheOrderOfTheLog(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			r.store(event{kind: 1, key: "a"}, event{kind: 1, key: "a"}, event{kind: 1, key: "a"})
			s := &shelf{t: t, list: []dispatch.Parked[event]{{Event: r.log.events[2], Err: errBoom, Attempts: 1}}}
			broken := true
			rec := new(recorder)
			cfg := config{After: dispatch.Park, Parking: s.parking(), Handle: func(ctx context.Context, ev event) error {
				if broken {
					return errBoom
				}
				return rec.handle(ctx, ev)
			}}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 2
			}
			h := r.add(cfg, 0)
			r.handled(h)
			want(t, "parked", positionsOf(h.Parked()), []uint64{3, 1, 2})
			broken = false
			if n, err := h.Redrive(ctxBg); n != 3 || err != nil {
				t.Errorf("Redrive returned %d, %v", n, err)
			}
			want(t, "redriven", rec.positions(), []uint64{1, 2, 3})
		})
	})
}

// Ended is called once, whether the handler was removed, ended with the dispatcher or could not be
// added, while the name is still taken.
func TestEndedIsCalledOnce(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			calls := make(map[string]int)
			cfg := func(name string) config {
				c := config{Name: name, Handle: new(recorder).handle, Ended: func() {
					calls[name]++
					if _, taken := r.Handler(name); !taken {
						t.Errorf("%s: the name is free already", name)
					}
				}}
				if keyed {
					c.Key, c.Workers = keyOf, 2
				}
				return c
			}
			h := r.add(cfg("removed"), 0)
			if err := h.Remove(ctxBg); err != nil {
				t.Fatal(err)
			}
			h = r.add(cfg("paused"), 0)
			if err := errors.Join(h.Pause(ctxBg), h.Remove(ctxBg)); err != nil {
				t.Fatal(err)
			}
			refused := cfg("refused")
			refused.Resume = func() (uint64, bool, error) { return 0, false, errBoom }
			if _, err := r.Add(refused, 0); !errors.Is(err, errBoom) {
				t.Errorf("Add returned %v", err)
			}
			r.add(cfg("ended"), 0)
			if err := r.End(ctxBg); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"removed", "paused", "refused", "ended"} {
				if calls[name] != 1 {
					t.Errorf("%s: Ended was called %d times", name, calls[name])
				}
			}
		})
	})
}

// A handler begins with the list that was kept: keys are held back again, and what is in the
// list is not handled a second time, although the position to begin after is before it.
func TestParkingIsLoaded(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			r.store(event{kind: 1, key: "a"}, event{kind: 1, key: "b"}, event{kind: 1, key: "a"}, event{kind: 1, key: "b"}, event{kind: 1, key: "c"})
			s := &shelf{t: t, list: []dispatch.Parked[event]{
				{Event: r.log.events[0], Key: "other", Err: errBoom, Attempts: 3},
				{Event: r.log.events[3], Err: errBoom, Attempts: 1},
			}}
			rec := new(recorder)
			cfg := config{After: dispatch.Park, Parking: s.parking(), Handle: rec.handle}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 2
			}
			h := r.add(cfg, 1) // a checkpoint that is behind the one and before the other
			r.handled(h)
			r.store(event{kind: 1, key: "b"}, event{kind: 1, key: "c"})
			r.handled(h)
			handled, parked := []uint64{2, 3, 5, 6, 7}, []uint64{1, 4}
			if keyed { // 2 was handled before 4 was parked, and comes again
				handled, parked = []uint64{2, 5, 7}, []uint64{1, 3, 4, 6}
			}
			want(t, "handled", sorted(rec.positions()), handled)
			want(t, "parked", sorted(positionsOf(h.Parked())), parked)
			if n, err := h.Redrive(ctxBg); n != len(parked) || err != nil || len(s.list) != 0 {
				t.Errorf("Redrive returned %d, %v; left %v", n, err, s.list)
			}
			want(t, "handled at the end", sorted(rec.positions()), span(1, 7))
			for key, positions := range rec.byKey() {
				if keyed && !slices.IsSorted(positions) {
					t.Errorf("key %s: %v", key, positions)
				}
			}
		})
	})
}

func TestParkingThatCannotBeLoaded(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := &shelf{t: t, before: func(string) error { return errBoom }}
		cfg := config{Name: "h", Parking: s.parking(), Handle: new(recorder).handle}
		if _, err := r.Add(cfg, 0); !errors.Is(err, errBoom) {
			t.Errorf("Add returned %v", err)
		}
		s.before = nil
		r.storeN(1)
		s.list = []dispatch.Parked[event]{{Event: r.log.events[0]}}
		cfg.Workers, cfg.Key = 2, func(*event) string { panic("no key") }
		if _, err := r.Add(cfg, 1); err == nil || !strings.Contains(err.Error(), "no key") {
			t.Errorf("Add returned %v", err)
		}
		cfg.Parking.Unpark = nil
		if _, err := r.Add(cfg, 0); err == nil || !strings.Contains(err.Error(), "go together") {
			t.Errorf("Add returned %v", err)
		}
	})
}

// The list of a name belongs to the handler that has it now.
func TestDiscardOfAHandlerThatIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		s := &shelf{t: t}
		cfg := config{After: dispatch.Park, Parking: s.parking(), Handle: func(context.Context, event) error { return errBoom }}
		old := r.add(cfg, 0)
		r.storeN(1)
		r.handled(old)
		if err := old.Remove(ctxBg); err != nil {
			t.Fatal(err)
		}
		h := r.add(cfg, 1)
		if ok, err := old.Discard(1); ok || err != dispatch.ErrRemoved {
			t.Errorf("Discard returned %v, %v", ok, err)
		}
		want(t, "parked", positionsOf(h.Parked()), []uint64{1})
		want(t, "kept", positionsOf(s.list), []uint64{1})
	})
}

// Progress is called when the position has moved, not before.
func TestProgress(t *testing.T) {
	both(t, func(t *testing.T, keyed bool) {
		bubble(t, func(t *testing.T, r *rig) {
			var h *handler
			var last atomic.Uint64
			cfg := config{Handle: new(recorder).handle, Progress: func() { last.Store(h.Position()) }}
			if keyed {
				cfg.Key, cfg.Workers = keyOf, 2
			}
			h = r.add(cfg, 0)
			for range 5 {
				head := r.storeN(100)
				r.handled(h)
				settle()
				if got := last.Load(); got != head {
					t.Errorf("the last time that Progress was called the position was %d, want %d", got, head)
				}
			}
		})
	})
}

func TestStatsAsJSON(t *testing.T) {
	for _, s := range []dispatch.Stats{{Name: "h", Position: 3, LastError: fmt.Errorf("call: %w", errBoom)}, {Name: "g"}} {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Name      string
			Position  uint64
			State     string
			LastError *string
		}
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if got.Name != s.Name || got.Position != s.Position || got.State != "live" || (got.LastError == nil) != (s.LastError == nil) {
			t.Errorf("%s", text)
		}
		if s.LastError != nil && *got.LastError != "call: boom" {
			t.Errorf("%s", text)
		}
	}
}
