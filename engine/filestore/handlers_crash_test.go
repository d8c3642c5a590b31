package filestore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// diary is what one handler did with each event, over all lives of the store.
type diary struct {
	mu     sync.Mutex
	calls  map[engine.Position][]time.Time // guarded by mu: those that returned nil
	closed bool                            // guarded by mu: nothing is noted any more
}

func (d *diary) close(closed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = closed
}

// handle fails for every seventh event: those are parked.
func (d *diary) handle(_ context.Context, ev engine.Event) error {
	if ev.Position%7 == 0 {
		return fmt.Errorf("no to %d", ev.Position)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.calls[ev.Position] = append(d.calls[ev.Position], time.Now())
	return nil
}

// TestHandlersGoOnAfterACrash cuts the power, or kills the process, while an engine appends
// and its handlers run. Each event that was acknowledged is then handled or parked, with its error;
// and only what was handled within CheckpointEvery before the crash is handled once more. Time
// stands still while anything runs, so a save takes none.
func TestHandlersGoOnAfterACrash(t *testing.T) {
	const every = 50 * time.Millisecond
	repeated, parked := 0, 0
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			disk := crashfs.New()
			diaries := map[string]*diary{"plain": {}, "keyed": {}}
			for _, d := range diaries {
				d.calls = make(map[engine.Position][]time.Time)
			}
			var acked engine.Position
			crashed := time.Time{}
			for life := range 4 {
				s, err := filestore.OpenFS(disk, filestore.Options{SegmentSize: 16 << 10, Logger: quiet})
				if err != nil {
					t.Fatalf("seed %d, life %d: %v", seed, life, err)
				}
				e, err := engine.Open(engine.Options{Backend: s, CheckpointEvery: every, Logger: quiet})
				if err != nil {
					t.Fatal(err)
				}
				if e.Head() < acked {
					t.Fatalf("seed %d, life %d: the log ends at %d, %d was acknowledged", seed, life, e.Head(), acked)
				}
				began := time.Now()
				handlers := make(map[string]*engine.Handler)
				for name, d := range diaries {
					opts := []engine.HandlerOption{engine.Retry(0, 0), engine.FromStart()}
					if name == "keyed" { // by event, or nearly all would be held back
						opts = append(opts, engine.KeyedBy(3, func(ev engine.Event) string { return fmt.Sprint(ev.Position) }))
					}
					if handlers[name], err = e.Handle(name, d.handle, opts...); err != nil {
						t.Fatalf("seed %d, life %d: %v", seed, life, err)
					}
				}
				if err := e.Wait(t.Context(), e.Head()); err != nil {
					t.Fatal(err)
				}
				for name, d := range diaries {
					there := make(map[engine.Position]bool)
					for _, p := range handlers[name].Parked() {
						pos := p.Event.Position
						if there[pos] || p.Err == nil || p.Err.Error() != fmt.Sprint("no to ", pos) || p.Attempts != 1 || p.Event.Data != "payload" {
							t.Errorf("seed %d, life %d: %s has parked %d (twice: %v) with %v, %d attempts, payload %v", seed, life, name, pos, there[pos], p.Err, p.Attempts, p.Event.Data)
						}
						there[pos] = true
					}
					parked += len(there)
					for pos := engine.Position(1); pos <= e.Head(); pos++ {
						calls := d.calls[pos]
						if pos%7 == 0 {
							if !there[pos] || len(calls) > 0 {
								t.Errorf("seed %d, life %d: %s has handled %d %d times, parked: %v; it is to be parked", seed, life, name, pos, len(calls), there[pos])
							}
							continue
						}
						if len(calls) == 0 || there[pos] {
							t.Errorf("seed %d, life %d: %s has handled %d %d times, parked: %v", seed, life, name, pos, len(calls), there[pos])
						}
						if n := len(calls); n > 1 && !calls[n-1].Before(began) {
							repeated++
							if ago := crashed.Sub(calls[n-2]); ago > every {
								t.Errorf("seed %d, life %d: %s handled %d again, which it had handled %v before the crash", seed, life, name, pos, ago)
							}
						}
					}
				}
				for range 20 + rng.IntN(60) {
					events := make([]engine.NewEvent, 1+rng.IntN(3))
					for i := range events {
						events[i] = engine.NewEvent{Type: "A", Data: "payload"}
					}
					res, err := e.Append(t.Context(), fmt.Sprint("s-", rng.IntN(5)), engine.Any, events...)
					if err != nil {
						t.Fatal(err)
					}
					acked = res.Position
					time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
				}
				if rng.IntN(2) == 0 {
					synctest.Wait() // handlers are done with what there is, and their checkpoints are not stored
				}
				crashed = time.Now()
				n := disk.Len()
				for _, d := range diaries {
					d.close(true)
				}
				if rng.IntN(3) == 0 {
					disk = disk.Kill(n)
				} else {
					disk = disk.PowerCut(n, rng)
				}
				// The old life ends on its own disk, and what its handlers do after the crash does not count.
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
				for _, d := range diaries {
					d.close(false)
				}
				time.Sleep(time.Second)
			}
		})
	}
	t.Logf("%d events handled once more, %d found parked", repeated, parked)
	if repeated == 0 || parked == 0 {
		t.Error("no crash came between an event and its checkpoint, or nothing was parked: the test shows nothing")
	}
}
