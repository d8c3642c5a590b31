package actor_test

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/actor"
)

// An activation that waits for the lender to return is in the passivator's wheel already.
// If the sender that made it has not yet given its message when Idle is over, the passivator
// retires it, and activate takes a retired activation for one whose owner has finished: it
// launches the successor at once, beside the lender, and giveBack launches it once more.
func TestRegressionPassivatorRetiresActivationThatWaitsForItsLender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := actor.NewGroup()
		sys := actor.NewSystem(actor.Config[numbered]{Group: g, Kind: "x", Lend: true, Idle: time.Second, Discard: func(numbered, error) {}})
		var inside, most atomic.Int32
		release := make(chan struct{})
		recv := receiverFunc[numbered](func(batch []numbered) {
			most.Store(max(most.Load(), inside.Add(1)))
			if batch[0].n == 1 {
				<-release
			}
			inside.Add(-1)
		})
		a := sys.New("a", recv)
		lender := make(chan error, 1)
		go func() { lender <- deliver(a, recv, numbered{0, 1}) }()
		synctest.Wait()
		if err := a.BeginSend(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // the second sender does not run for so long; nor does the lender return
		if err := a.Send(context.Background(), numbered{1, 2}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := most.Load(); n != 1 {
			t.Errorf("%d owners in Receive at once", n)
		}
		close(release)
		<-lender
		select {
		case <-sys.Drain():
		case <-time.After(time.Hour):
			t.Errorf("Drain does not end: %d active", sys.Active())
		}
		g.Close()
	})
}

// The same without help: a real schedule, on more threads than processors.
func TestRegressionOneOwnerUnderStress(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(32))
	g := actor.NewGroup()
	sys := actor.NewSystem(actor.Config[numbered]{Group: g, Kind: "x", Lend: true, Idle: 1, Discard: func(numbered, error) {}})
	var twice atomic.Int64
	deadline := time.Now().Add(time.Second)
	var wg sync.WaitGroup
	for range 100 {
		var inside atomic.Int32
		recv := receiverFunc[numbered](func(batch []numbered) {
			if inside.Add(1) > 1 {
				twice.Add(1)
			}
			time.Sleep(3 * time.Millisecond)
			inside.Add(-1)
		})
		a := sys.New("a", recv)
		for range 2 {
			wg.Go(func() {
				for time.Now().Before(deadline) && twice.Load() == 0 {
					deliver(a, recv, numbered{})
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
	}
	wg.Wait()
	if n := twice.Load(); n > 0 {
		t.Errorf("two owners at once, %d times", n)
	}
	select {
	case <-sys.Drain():
	case <-time.After(5 * time.Second):
		t.Errorf("Drain does not end: %d active", sys.Active())
	}
	g.Close()
}
