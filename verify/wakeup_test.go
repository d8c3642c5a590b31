package verify_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirstore/weir/engine"
)

// TestNoWakeUpIsLost: whoever sleeps is woken by the first event that concerns it, however rarely one comes. In
// a storm the next event would make good for a lost wake-up.
func TestNoWakeUpIsLost(t *testing.T) {
	const rounds = 1000 // of each case: a few seconds at most, see bounded
	forSeeds(t, 3, func(t *testing.T, seed uint64, rng *rand.Rand) {
		ctx, end := bounded(t)
		defer end()
		eng := open(t, engine.Options{})
		var handled [2]atomic.Uint64
		for i, opts := range [][]engine.HandlerOption{{}, {engine.Keyed(2)}} {
			if _, err := eng.Handle(fmt.Sprint("h", i), func(context.Context, engine.Event) error {
				handled[i].Add(1)
				return nil
			}, opts...); err != nil {
				t.Fatal(err)
			}
		}
		followed := make(chan engine.Position)
		var followers sync.WaitGroup
		following, stop := context.WithCancel(ctx)
		for _, opts := range [][]engine.ReadOption{{}, {engine.Types("x")}} {
			followers.Go(func() {
				for ev, err := range eng.ReadAll(following, append(opts, engine.Follow())...) {
					if err != nil {
						t.Error(err)
						return
					}
					select {
					case followed <- ev.Position:
					case <-following.Done():
					}
				}
			})
		}
		pause := func() { // everybody is about to fall asleep, or sleeps
			for range rng.IntN(30) {
				runtime.Gosched()
			}
		}
	rounds:
		for range rounds {
			pos := mustAppend(t, eng, "a", 1).Position
			for range 2 {
				select {
				case got := <-followed:
					if got != pos {
						t.Errorf("a follower saw position %d, want %d", got, pos)
					}
				case <-ctx.Done():
					t.Error("a follower sleeps on")
					break rounds
				}
			}
			pause()
			pos = mustAppend(t, eng, "a", 1).Position
			if err := eng.Wait(ctx, pos); err != nil {
				t.Errorf("position %d: %v", pos, err)
				break
			}
			<-followed
			<-followed
			pause()
		}
		stop()
		followers.Wait()
		if err := eng.Close(); err != nil {
			t.Error(err)
		}
		if head := uint64(eng.Head()); handled[0].Load() != head || handled[1].Load() != head {
			t.Errorf("handled %d and %d of %d", handled[0].Load(), handled[1].Load(), head)
		}
	})
}
