package actor_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/actor"
)

func TestGroupNamesAndCountsItsGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := actor.NewGroup()
		if g.Count() != 0 || len(g.Running()) != 0 {
			t.Errorf("a new group has %d: %q", g.Count(), g.Running())
		}
		stop := make(chan struct{})
		wait := func() { <-stop }
		g.Go("stream", "b", wait)
		g.Go("stream", "a", wait)
		g.Go("stream", "a", wait) // the same name twice is two goroutines
		g.Go("clock", "", wait)
		want := []string{`clock`, `stream "a"`, `stream "a"`, `stream "b"`}
		if got := g.Running(); !slices.Equal(got, want) || g.Count() != 4 {
			t.Errorf("Running is %q, Count %d; want %q", got, g.Count(), want)
		}
		close(stop)
		synctest.Wait()
		if g.Count() != 0 || len(g.Running()) != 0 {
			t.Errorf("after the end %d run: %q", g.Count(), g.Running())
		}
		if err := g.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestGroupWaitReturnsAPanicWithItsStack(t *testing.T) {
	tests := []struct {
		name, where string
		value       any
		is          error
	}{
		{"a value", `stream "a"`, "boom", nil},
		{"an error, which errors.Is finds", `stream "a"`, io.ErrUnexpectedEOF, io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := actor.NewGroup()
			g.Go("stream", "a", func() { explode(tt.value) })
			err := g.Wait(t.Context())
			p, ok := errors.AsType[*actor.PanicError](err)
			if !ok || p.Where != tt.where || p.Value != tt.value || !strings.Contains(string(p.Stack), "explode") {
				t.Fatalf("Wait returned %#v", err)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("errors.Is(%v, %v) is false", err, tt.is)
			}
			if again := g.Wait(t.Context()); again != err {
				t.Errorf("the second Wait returned %v", again)
			}
		})
	}
}

func explode(v any) { panic(v) }

func TestGroupPanicEndsThatGoroutineAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := actor.NewGroup()
		stop := make(chan struct{})
		g.Go("good", "", func() { <-stop })
		g.Go("bad", "", func() { panic("boom") })
		g.Go("gone", "", func() { runtime.Goexit() })
		synctest.Wait()
		if got := g.Running(); !slices.Equal(got, []string{"good"}) {
			t.Errorf("Running is %q, want good", got)
		}
		close(stop)
		if err := g.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "boom") {
			t.Errorf("Wait returned %v, want the panic", err)
		}
	})
}

func TestGroupStartsNothingOnceClosed(t *testing.T) {
	g := actor.NewGroup()
	g.Close()
	g.Close()
	if g.Go("late", "", func() { t.Error("ran") }) {
		t.Error("Go returned true")
	}
	if err := g.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestGroupWaitNamesWhoStillRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := actor.NewGroup()
		stop := make(chan struct{})
		g.Go("stuck", "x", func() { <-stop })
		boom := errors.New("boom")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, boom)
		defer cancel()
		err := g.Wait(ctx)
		if !errors.Is(err, boom) || !strings.Contains(err.Error(), `stuck \"x\"`) {
			t.Errorf("Wait returned %v, want the cause and the name", err)
		}
		close(stop)
		synctest.Wait()
		if err := g.Wait(ctx); err != nil {
			t.Errorf("all are gone, and Wait with a done ctx returned %v", err)
		}
	})
}

// Wait waits for every goroutine whose Go returned true, also when they race.
func TestGroupCloseRacesWithGo(t *testing.T) {
	for range 300 {
		g := actor.NewGroup()
		var mu sync.Mutex
		started, ran := 0, 0
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 10 {
					ok := g.Go("racer", "", func() {
						mu.Lock()
						ran++
						mu.Unlock()
					})
					if ok {
						mu.Lock()
						started++
						mu.Unlock()
					}
				}
			})
		}
		wg.Go(func() {
			if err := g.Wait(t.Context()); err != nil {
				t.Error(err)
			}
			if n := g.Count(); n != 0 {
				t.Errorf("%d run after Wait", n)
			}
		})
		wg.Wait()
		if ran != started {
			t.Fatalf("%d started, %d ran", started, ran)
		}
	}
}
