package filestore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// markedStore notes on its disk what it has stored of handlers.
type markedStore struct {
	*filestore.Store
	disk *crashfs.Disk
}

func (m markedStore) SaveCheckpoints(ctx context.Context, list []engine.Checkpoint) error {
	saved := slices.Clone(list)
	err := m.Store.SaveCheckpoints(ctx, list)
	if err == nil {
		m.disk.Mark(saved)
	}
	return err
}

// doneMark says that a handler has handled an event, or that somebody has discarded it.
type doneMark struct {
	handler  string
	position engine.Position
}

var stateHandlers = map[string][]engine.HandlerOption{
	"plain": {engine.FromStart(), engine.Retry(0, 0)},
	"keyed": {engine.FromStart(), engine.Retry(0, 0), engine.Keyed(3)},
}

// TestHandlersAfterPowerCuts runs an engine whose handlers handle, fail, park, redrive and discard
// while their checkpoints are stored, and cuts the power at every operation of the disk. Every
// event that is left was handled before the cut, or is in the parked list, or comes again; and no
// handler goes back behind the last checkpoint that was stored.
func TestHandlersAfterPowerCuts(t *testing.T) {
	t.Parallel()
	seeds := 16
	if underRace {
		seeds = 2
	}
	for seed := range uint64(seeds * soak()) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 7))
			disk := crashfs.New()
			recordEngine(t, disk, rng)
			cuts, again := 0, 0
			for at := range disk.Crashes() {
				left := at.PowerCut(rng)
				if len(left.Files()) == 0 {
					continue
				}
				cuts++
				n, err := judgeEngine(t.Context(), left, at.Marks())
				if err != nil {
					op, _ := at.Op()
					t.Fatalf("cut in operation %d, %v: %v", at.N(), op, err)
				}
				again += n
			}
			t.Logf("%d power cuts, 0 events skipped; %d handled again", cuts, again)
		})
	}
}

// recordEngine is the run that is cut off.
func recordEngine(t *testing.T, disk *crashfs.Disk, rng *rand.Rand) {
	s, err := filestore.OpenFS(disk, tiny)
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.Open(engine.Options{Backend: markedStore{s, disk}, Logger: quiet, CheckpointEvery: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	broken := map[string]bool{}
	for name, opts := range stateHandlers {
		_, err := e.Handle(name, func(_ context.Context, ev engine.Event) error {
			mu.Lock()
			defer mu.Unlock()
			if broken[ev.Stream] {
				return errors.New("broken")
			}
			disk.Mark(doneMark{name, ev.Position})
			return nil
		}, opts...)
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 80 {
		stream := fmt.Sprint("s-", rng.IntN(4))
		mu.Lock()
		broken[stream] = rng.IntN(3) == 0
		mu.Unlock()
		res, err := e.Append(t.Context(), stream, engine.Any, engine.NewEvent{Type: "A", Data: "x"}, engine.NewEvent{Type: "A", Data: "y"})
		if err != nil {
			t.Fatal(err)
		}
		if rng.IntN(2) == 0 {
			if err := e.Wait(t.Context(), res.Position); err != nil {
				t.Fatal(err)
			}
		}
		name := []string{"plain", "keyed"}[rng.IntN(2)]
		h, _ := e.Handler(name)
		switch rng.IntN(6) {
		case 0:
			_, err = h.Redrive(t.Context())
		case 1:
			if list := h.Parked(); len(list) > 0 {
				pos := list[rng.IntN(len(list))].Event.Position
				disk.Mark(doneMark{name, pos}) // before: the cut may come in between
				_, err = h.Discard(pos)
			}
		case 2:
			err = errors.Join(h.Pause(t.Context()), h.Resume())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// judgeEngine opens what a cut has left, lets the handlers go on there, and returns how many
// events were handled again.
func judgeEngine(ctx context.Context, left *crashfs.Disk, marks []any) (again int, err error) {
	done := make(map[doneMark]bool)
	saved := make(map[string]engine.Position)
	for _, m := range marks {
		switch m := m.(type) {
		case doneMark:
			done[m] = true
		case []engine.Checkpoint:
			for _, c := range m {
				saved[c.Handler] = c.Position
			}
		}
	}
	s, err := filestore.OpenFS(left, tiny)
	if err != nil {
		return 0, err
	}
	e, err := engine.Open(engine.Options{Backend: s, Logger: quiet})
	if err != nil {
		return 0, errors.Join(err, s.Close())
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	for name, opts := range stateHandlers {
		from, _, err := s.LoadCheckpoint(ctx, name)
		if err != nil {
			return 0, err
		}
		if from < saved[name] {
			return 0, fmt.Errorf("%s is at %d, %d was stored", name, from, saved[name])
		}
		var mu sync.Mutex
		handled := make(map[engine.Position]bool)
		h, err := e.Handle(name, func(_ context.Context, ev engine.Event) error {
			mu.Lock()
			defer mu.Unlock()
			if handled[ev.Position] {
				return errors.New("twice")
			}
			handled[ev.Position] = true
			return nil
		}, opts...)
		if err != nil {
			return 0, err
		}
		if err := e.Wait(ctx, e.Head(), name); err != nil {
			return 0, err
		}
		parked := make(map[engine.Position]bool)
		for _, p := range h.Parked() {
			if !p.Held && p.Err.Error() != "broken" || p.Held && p.Err != nil {
				return 0, fmt.Errorf("%s: parked %+v", name, p)
			}
			parked[p.Event.Position] = true
		}
		mu.Lock()
		defer mu.Unlock()
		for pos := engine.Position(1); pos <= e.Head(); pos++ {
			was := done[doneMark{name, pos}]
			if handled[pos] && was {
				again++
			}
			switch {
			case handled[pos] && pos <= from:
				return 0, fmt.Errorf("%s: %d comes again, the checkpoint is %d", name, pos, from)
			case handled[pos] && parked[pos] && !was:
				return 0, fmt.Errorf("%s: %d is parked and was handled", name, pos)
			case !handled[pos] && !parked[pos] && !was:
				return 0, fmt.Errorf("%s: %d is skipped: the checkpoint is %d, parked %v", name, pos, from, parked)
			}
		}
	}
	return again, nil
}
