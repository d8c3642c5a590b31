package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// onDisk opens an engine over files.
func onDisk(t *testing.T, dir string, opts engine.Options) *engine.Engine {
	t.Helper()
	store, err := filestore.Open(dir, filestore.Options{SegmentSize: 64 << 10, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	opts.Backend = store
	return quietEngine(t, opts)
}

type ordered struct {
	Item string
	Fail bool
}

// desk is a handler that fails with what says so, and notes the rest.
type desk struct {
	mu      sync.Mutex
	mended  bool
	handled []engine.Position
}

func (d *desk) handle(_ context.Context, ev engine.Of[ordered]) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ev.Data.Fail && !d.mended {
		return fmt.Errorf("no %s left", ev.Data.Item)
	}
	d.handled = append(d.handled, ev.Position)
	return nil
}

// took returns what was handled since it was called last.
func (d *desk) took() []engine.Position {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.handled
	d.handled = nil
	slices.Sort(all)
	return all
}

func (d *desk) mend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mended = true
}

func (d *desk) add(t *testing.T, e *engine.Engine, name string, opts ...engine.HandlerOption) *engine.Handler {
	t.Helper()
	h, err := engine.Handle(e, name, d.handle, append(opts, engine.FromStart(), engine.Retry(1, time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func order(t *testing.T, e *engine.Engine, n int, fail ...engine.Position) {
	t.Helper()
	for range n {
		next := e.Head() + 1
		ev := engine.New(ordered{fmt.Sprint("item ", next), slices.Contains(fail, next)})
		mustAppend(t, e, fmt.Sprint("order-", next%3), ev)
	}
}

func waitFor(t *testing.T, e *engine.Engine, handlers ...string) {
	t.Helper()
	if err := e.Wait(t.Context(), e.Head(), handlers...); err != nil {
		t.Fatal(err)
	}
}

func span(first, last engine.Position, but ...engine.Position) (all []engine.Position) {
	for pos := first; pos <= last; pos++ {
		if !slices.Contains(but, pos) {
			all = append(all, pos)
		}
	}
	return all
}

// After Close each handler goes on where it was, by whichever name it has, with its own parked
// list: error texts, attempts, keys, and payloads of their Go type. What was redriven or discarded stays
// gone, and nothing is handled twice.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	e := onDisk(t, dir, engine.Options{})
	fail := []engine.Position{4, 11}
	order(t, e, 10, fail...)
	// Keyed by stream, "order-1" holds 4 and all of it after that.
	var plain, keyed desk
	hp, hk := plain.add(t, e, "plain"), keyed.add(t, e, "keyed", engine.Keyed(2))
	waitFor(t, e)
	if err := hp.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	order(t, e, 5, fail...)
	waitFor(t, e, "keyed")
	inKey := []engine.Position{4, 7, 10, 13, 11, 14}
	mustPark(t, "plain handled", plain.took(), span(1, 10, 4)...)
	mustPark(t, "keyed handled", keyed.took(), span(1, 15, inKey...)...)
	slices.Sort(inKey)
	before := map[string][]engine.Parked{"plain": hp.Parked(), "keyed": hk.Parked()}
	mustClose(t, e)

	e = onDisk(t, dir, engine.Options{})
	order(t, e, 2)
	hp, hk = plain.add(t, e, "plain"), keyed.add(t, e, "keyed", engine.Keyed(2))
	waitFor(t, e)
	mustPark(t, "plain handled after", plain.took(), span(11, 17, 11)...)
	mustPark(t, "keyed handled after", keyed.took()) // 16 and 17 are of keys that are held back
	mustPark(t, "plain parked", positionsOf(hp.Parked()), 4, 11)
	after := map[string][]engine.Parked{"plain": hp.Parked()[:1], "keyed": hk.Parked()[:len(before["keyed"])]}
	for name := range before {
		for i, p := range before[name] {
			q := after[name][i]
			if p.Event.Position != q.Event.Position || p.Key != q.Key || p.Attempts != q.Attempts || p.Held != q.Held || !p.Time.Equal(q.Time) || p.Stack != q.Stack {
				t.Errorf("%s: parked %+v, was %+v", name, q, p)
			}
			if p.Held != (q.Err == nil) || !p.Held && q.Err.Error() != fmt.Sprintf("no item %d left", q.Event.Position) {
				t.Errorf("%s: error %v of %d", name, q.Err, q.Event.Position)
			}
			if data, ok := q.Event.Data.(ordered); !ok || data.Item != fmt.Sprint("item ", q.Event.Position) {
				t.Errorf("%s: payload %#v of %d", name, q.Event.Data, q.Event.Position)
			}
			if !p.Held && q.Attempts != 2 || name == "keyed" && q.Key != q.Event.Stream {
				t.Errorf("%s: %+v", name, q)
			}
		}
	}
	plain.mend()
	keyed.mend()
	if ok, err := hp.Discard(4); !ok || err != nil {
		t.Errorf("Discard returned %v, %v", ok, err)
	}
	if n, err := hp.Redrive(t.Context()); n != 1 || err != nil {
		t.Errorf("Redrive returned %d, %v", n, err)
	}
	held := append(slices.Clone(inKey), 16, 17)
	if n, err := hk.Redrive(t.Context()); n != len(held) || err != nil {
		t.Errorf("Redrive returned %d, %v", n, err)
	}
	mustPark(t, "plain redriven", plain.took(), 11)
	mustPark(t, "keyed redriven", keyed.took(), held...)
	mustClose(t, e)

	e = onDisk(t, dir, engine.Options{})
	defer mustClose(t, e)
	hp, hk = plain.add(t, e, "plain"), keyed.add(t, e, "keyed", engine.Keyed(2))
	waitFor(t, e)
	if a, b := plain.took(), keyed.took(); len(a)+len(b)+len(hp.Parked())+len(hk.Parked()) > 0 {
		t.Errorf("after the second restart: handled %v and %v, parked %v and %v", a, b, positionsOf(hp.Parked()), positionsOf(hk.Parked()))
	}
}

// After a crash exactly what was handled since the last save comes again, and nothing is skipped;
// what was parked before is in the list, what was parked since comes again. A copy of a directory that
// is in use, but not written to, is what a crash would leave.
func TestRestartAfterACrash(t *testing.T) {
	for _, workers := range []int{0, 3} {
		t.Run(fmt.Sprint(workers, " workers"), func(t *testing.T) {
			dir := t.TempDir()
			e := onDisk(t, dir, engine.Options{CheckpointEvery: time.Hour})
			defer mustClose(t, e)
			var opts []engine.HandlerOption
			if workers > 0 { // a key for each event: nothing is held back
				opts = append(opts, engine.KeyedBy(workers, func(ev engine.Event) string { return fmt.Sprint(ev.Position) }))
			}
			fail := []engine.Position{3, 15, 25}
			var d desk
			h := d.add(t, e, "h", opts...)
			order(t, e, 20, fail...)
			waitFor(t, e)
			if ok, err := h.Discard(15); !ok || err != nil {
				t.Fatal(ok, err)
			}
			if err := errors.Join(h.Pause(t.Context()), h.Resume()); err != nil { // saves
				t.Fatal(err)
			}
			order(t, e, 20, fail...)
			waitFor(t, e)
			if ok, err := h.Discard(3); !ok || err != nil { // not saved
				t.Fatal(ok, err)
			}
			mustPark(t, "handled", d.took(), span(1, 40, fail...)...)
			mustPark(t, "parked", positionsOf(h.Parked()), 25)

			crashed := t.TempDir()
			if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			f := onDisk(t, crashed, engine.Options{})
			defer func() { mustClose(t, f) }()
			h = d.add(t, f, "h", opts...)
			waitFor(t, f)
			mustPark(t, "handled again", d.took(), span(21, 40, fail...)...)
			mustPark(t, "parked again", positionsOf(h.Parked()), 3, 25)
			if n, err := h.Redrive(t.Context()); n != 0 || err != nil {
				t.Errorf("Redrive returned %d, %v", n, err)
			}
			if p := h.Parked()[0]; p.Attempts != 3 {
				t.Errorf("%d attempts of an event that was tried twice before the crash and once after it", p.Attempts)
			}
		})
	}
}

// What a handler does not save, a save that is due does: a crash later than that repeats nothing.
func TestCrashAfterTheWindow(t *testing.T) {
	dir := t.TempDir()
	e := onDisk(t, dir, engine.Options{CheckpointEvery: time.Millisecond})
	defer mustClose(t, e)
	var d desk
	h := d.add(t, e, "h")
	order(t, e, 30, 5, 10)
	waitFor(t, e)
	until := func(want ...engine.Position) {
		t.Helper()
		for try := 1; ; try++ { // until the save that is due is done
			crashed := t.TempDir()
			if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
				continue // a file was replaced meanwhile
			}
			d.took()
			f := onDisk(t, crashed, engine.Options{})
			h := d.add(t, f, "h")
			waitFor(t, f)
			again, parked := d.took(), positionsOf(h.Parked())
			mustClose(t, f)
			if len(again) == 0 && slices.Equal(parked, want) {
				return
			}
			if try == 200 {
				t.Fatalf("handled again %v, parked %v, want %v", again, parked, want)
			}
		}
	}
	until(5, 10)
	if ok, err := h.Discard(5); !ok || err != nil { // nothing moves
		t.Fatal(ok, err)
	}
	until(10)
}

// Over files and in memory alike: a handler that reads the history of a log that was truncated,
// deleted from and compacted, in between or before, gets what is left, in order, and nobody waits for
// the rest.
func TestCatchUpThroughRemovedEvents(t *testing.T) {
	for name, open := range map[string]func(t *testing.T, opts engine.Options) *engine.Engine{
		"memory": quietEngine,
		"files":  func(t *testing.T, opts engine.Options) *engine.Engine { return onDisk(t, t.TempDir(), opts) },
	} {
		for _, compacted := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " compacted=", compacted), func(t *testing.T) {
				e := open(t, engine.Options{Retention: []engine.RetentionRule{{Category: "few", MaxCount: 100}}})
				defer mustClose(t, e)
				const rounds = 300
				pad := strings.Repeat("x", 300) // several segments
				for range rounds / 5 {
					for _, stream := range []string{"cut-1", "few-1", "gone-1", "kept-1"} {
						mustAppend(t, e, stream, slices.Repeat([]engine.NewEvent{event("A", pad), event("B", pad)}, 5)...)
					}
				}
				left := make(map[string][]engine.Version)
				change := func() {
					if err := errors.Join(e.Truncate(t.Context(), "cut-1", 2*rounds-9), e.Delete(t.Context(), "gone-1", engine.Any)); err != nil {
						t.Fatal(err)
					}
					if compacted {
						if _, err := e.Compact(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				}
				change()
				for ev, err := range e.ReadAll(t.Context(), engine.Types("A")) {
					if err != nil {
						t.Fatal(err)
					}
					left[ev.Stream] = append(left[ev.Stream], ev.Version)
				}
				few := map[bool]int{false: rounds, true: 50}[compacted]
				if len(left["cut-1"]) != 5 || len(left["few-1"]) != few || len(left["kept-1"]) != rounds || len(left) != 3 {
					t.Fatalf("%d, %d, %d are left in %d streams", len(left["cut-1"]), len(left["few-1"]), len(left["kept-1"]), len(left))
				}
				var mu sync.Mutex
				got := make(map[string]map[string][]engine.Version)
				for handler, opts := range map[string][]engine.HandlerOption{
					"catch up": {engine.Overflow(engine.CatchUp), engine.Mailbox(8)},
					"block":    {engine.Mailbox(1)},
					"keyed":    {engine.Keyed(3), engine.Mailbox(16)},
				} {
					seen := make(map[string][]engine.Version)
					got[handler] = seen
					mustHandle(t, e, handler, func(_ context.Context, ev engine.Event) error {
						mu.Lock()
						defer mu.Unlock()
						seen[ev.Stream] = append(seen[ev.Stream], ev.Version)
						return nil
					}, append(opts, engine.FromStart(), engine.Types("A"))...)
				}
				followed := make(map[string][]engine.Version)
				follower := make(chan error, 1)
				go func() {
					for ev, err := range e.ReadAll(t.Context(), engine.Types("A"), engine.Follow()) {
						if err != nil || ev.Stream == "end" {
							follower <- err
							return
						}
						followed[ev.Stream] = append(followed[ev.Stream], ev.Version)
					}
				}()
				// A position in the middle of what is gone, and the end.
				if err := e.Wait(t.Context(), 3); err != nil {
					t.Fatal(err)
				}
				waitFor(t, e)
				mustAppend(t, e, "end", event("A", 1))
				waitFor(t, e)
				if err := <-follower; err != nil {
					t.Fatal(err)
				}
				mu.Lock()
				defer mu.Unlock()
				got["follower"] = followed
				for who, seen := range got {
					delete(seen, "end")
					if !maps.EqualFunc(seen, left, slices.Equal) {
						t.Errorf("%s has seen %d, %d, %d of %d streams", who, len(seen["cut-1"]), len(seen["few-1"]), len(seen["kept-1"]), len(seen))
					}
				}
				for _, s := range e.Stats().Handlers {
					if s.Lag != 0 || s.Position != e.Head() || s.State != engine.Live {
						t.Errorf("%v", s.Stats)
					}
				}
			})
		}
	}
}

// A follower that was woken, or has yet to read, passes over what is removed before it comes to it,
// over both backends.
func TestFollowersPassOverRemovedEvents(t *testing.T) {
	for name, open := range map[string]func(t *testing.T, opts engine.Options) *engine.Engine{
		"memory": quietEngine,
		"files":  func(t *testing.T, opts engine.Options) *engine.Engine { return onDisk(t, t.TempDir(), opts) },
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, engine.Options{})
			defer mustClose(t, e)
			mustAppend(t, e, "s-1", event("A", 1))
			in, on := make(chan engine.Event), make(chan struct{}) // it stays in the loop's body from in to on
			done := make(chan error, 1)
			go func() {
				for ev, err := range e.ReadAll(t.Context(), engine.Follow()) {
					if err != nil || ev.Stream == "end" {
						done <- err
						return
					}
					in <- ev
					<-on
				}
			}()
			<-in
			for i := range 20 {
				stream := fmt.Sprint("t-", i)
				mustAppend(t, e, stream, event("A", 1), event("A", 2), event("A", 3))
				if err := e.Delete(t.Context(), stream, engine.Any); err != nil {
					t.Fatal(err)
				}
				mustAppend(t, e, "s-1", event("A", 1))
				on <- struct{}{}
				if ev := <-in; ev.Stream != "s-1" || ev.Version != engine.Version(i+2) {
					t.Errorf("got %s@%d", ev.Stream, ev.Version)
				}
			}
			on <- struct{}{}
			mustAppend(t, e, "end", event("A", 1))
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
	}
}
