package engine_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/backendtest"
)

func TestMemory(t *testing.T) {
	backendtest.Run(t, func(*testing.T) engine.Backend { return engine.NewMemory() })
}

// TestTimesNeverGoBack: who reads the clock first need not be the first to commit, and the wall clock may be set
// back; retention by age relies on the order of times.
func TestTimesNeverGoBack(t *testing.T) {
	if got, want := engine.Later(5, 3, 5, 9, 8), []int64{5, 5, 5, 9, 9}; !slices.Equal(got, want) {
		t.Errorf("times %v, want %v", got, want)
	}
	e := quietEngine(t, engine.Options{})
	defer mustClose(t, e)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 2000 {
				mustAppend(t, e, fmt.Sprint("s-", i), one)
			}
		})
	}
	wg.Wait()
	var last time.Time
	for ev, err := range e.ReadAll(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Time.Before(last) {
			t.Fatalf("position %d is of %v, after %v", ev.Position, ev.Time, last)
		}
		last = ev.Time
	}
}
