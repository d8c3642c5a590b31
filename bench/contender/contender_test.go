package contender_test

import (
	"errors"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/weirstore/weir/bench/contender"
	"github.com/weirstore/weir/bench/work/worktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryContenderDoesEveryWork(t *testing.T) { worktest.Run(t, contender.All()) }

func TestEventIsDecodedAsItWasEncoded(t *testing.T) {
	for _, size := range []int{contender.EventSize, 200} {
		ev := contender.Event{Key: 1 << 40, Seq: 3}
		b := ev.AppendTo([]byte("x"), size)[1:]
		if got := contender.Decode(b); len(b) != size || got != ev {
			t.Errorf("size %d: %d bytes, %v; want %v", size, len(b), got, ev)
		}
	}
}

func TestGroupedAnswersEveryProducer(t *testing.T) {
	const producers, each = 8, 100
	bad := errors.New("bad")
	stored := 0
	g := contender.NewGrouped(contender.Config{Producers: producers}, func(group []*contender.GroupRequest) error {
		for _, r := range group {
			if r.Stream < 0 {
				return bad
			}
			stored += len(r.Events)
		}
		return nil
	})
	var wg sync.WaitGroup
	for range producers {
		p := g.Producer()
		wg.Go(func() {
			for range each {
				if err := p.Append(1, make([]contender.Event, 2)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := g.Producer().Append(-1, nil); !errors.Is(err, bad) {
		t.Errorf("a failed commit: %v", err)
	}
	g.Stop()
	if want := producers * each * 2; stored != want {
		t.Errorf("%d events stored, want %d", stored, want)
	}
}

func TestWindowWaitsForTheOldest(t *testing.T) {
	const total = 3*contender.Ahead + 1
	bad := errors.New("bad")
	added, awaited := 0, 0
	w := contender.Window[int]{Await: func(p int) error {
		if p != awaited {
			t.Fatalf("waits for %d, the oldest is %d", p, awaited)
		}
		if awaited++; awaited == total {
			return bad
		}
		return nil
	}}
	for ; added < total; added++ {
		if err := w.Room(); err != nil {
			t.Fatal(err)
		}
		if want := max(0, added-contender.Ahead+1); awaited != want {
			t.Fatalf("with %d added it has waited for %d, want %d", added, awaited, want)
		}
		w.Add(added)
	}
	if err := w.Flush(); !errors.Is(err, bad) || awaited != total {
		t.Errorf("at the end: %v, it has waited for %d of %d", err, awaited, total)
	}
}
