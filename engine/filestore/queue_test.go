package filestore_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
	"github.com/weirstore/weir/engine/filestore/internal/crashfs"
)

// busy is a store whose log is synced when the test says so.
type busy struct {
	*plain
	syncing chan struct{} // takes one for each sync that may end
	writers int
}

// newBusy is called in a bubble. The store's segment is never half full: who makes the next one would wait
// for the disk's lock, which a sync holds.
func newBusy(t *testing.T) *busy {
	p := &plain{TB: t, disk: crashfs.New()}
	var err error
	if p.s, err = filestore.OpenFS(p.disk, filestore.Options{SegmentSize: 256 << 10, Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.s.Close() })
	b := &busy{p, make(chan struct{}), 0}
	b.disk.Fail(func(op crashfs.Op) error {
		if op.Kind == crashfs.Datasync {
			<-b.syncing
		}
		return nil
	})
	return b
}

// free lets all syncs through from now on.
func (b *busy) free() {
	close(b.syncing) // first: the disk is locked while a sync waits
	synctest.Wait()
	b.disk.Fail(nil)
}

// commit commits an event to a stream of its own, and waits until the commit waits. The answer comes
// over the channel.
func (b *busy) commit(ctx context.Context, payload string) <-chan error {
	b.writers++
	p := &plain{TB: b.TB, s: b.s, state: engine.StreamState{Name: fmt.Sprintf("s-%d", b.writers)}}
	answer := make(chan error, 1)
	go func() { answer <- p.putContext(ctx, engine.Synced, payload) }()
	synctest.Wait()
	return answer
}

// answered returns what came over a channel, and whether something did.
func answered(c <-chan error) (error, bool) {
	select {
	case err := <-c:
		return err, true
	default:
		return nil, false
	}
}

func (b *busy) stored(want ...string) {
	b.Helper()
	if list, err := payloads(b.s); err != nil || !slices.Equal(list, want) {
		b.Errorf("the store has %q, %v; want %q", list, err, want)
	}
}

// TestContextOfThoseWhoWait ends contexts while the writer syncs. Who waits for it leaves, and what he
// had is not stored; whose commit the writer has taken gets its answer; and nobody else is told. The first context
// that a store sees is watched by its queue, others by those who came with them.
func TestContextOfThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBusy(t)
		cause, other := errors.New("the engine ends"), errors.New("one call ends")
		shared, endShared := context.WithCancelCause(context.Background())
		own, endOwn := context.WithCancelCause(context.Background())
		taken := b.commit(shared, "taken")
		waits := []<-chan error{b.commit(shared, "left"), b.commit(shared, "left, too")}
		alone := b.commit(own, "left alone")
		stays := b.commit(context.Background(), "stays")

		endShared(cause)
		synctest.Wait()
		for i, c := range waits {
			if err, ok := answered(c); !ok || !errors.Is(err, cause) {
				t.Errorf("commit %d waits, its context has ended: %v, %v", i, ok, err)
			}
		}
		if err, ok := answered(b.commit(shared, "late")); !ok || !errors.Is(err, cause) {
			t.Errorf("a commit with a context that has ended: %v, %v", ok, err)
		}
		for name, c := range map[string]<-chan error{"taken": taken, "alone": alone, "stays": stays} {
			if err, ok := answered(c); ok {
				t.Errorf("%s was answered: %v", name, err)
			}
		}
		endOwn(other)
		synctest.Wait()
		if err, ok := answered(alone); !ok || !errors.Is(err, other) {
			t.Errorf("a commit waits, its own context has ended: %v, %v", ok, err)
		}
		b.free()
		synctest.Wait()
		for name, c := range map[string]<-chan error{"taken": taken, "stays": stays, "afterwards": b.commit(context.Background(), "afterwards")} {
			if err, ok := answered(c); !ok || err != nil {
				t.Errorf("%s: %v, %v", name, ok, err)
			}
		}
		b.stored("taken", "stays", "afterwards")
	})
}

// TestCloseStoresWhatWaits closes a store while one commit is synced and others wait. All are
// stored and told so, and Close returns then.
func TestCloseStoresWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBusy(t)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		answers := []<-chan error{b.commit(ctx, "1"), b.commit(ctx, "2"), b.commit(context.Background(), "3")}
		closed := make(chan error, 1)
		go func() { closed <- b.s.Close() }()
		synctest.Wait()
		if err, ok := answered(closed); ok {
			t.Errorf("Close did not wait: %v", err)
		}
		b.free()
		synctest.Wait()
		for i, c := range append(answers, closed) {
			if err, ok := answered(c); !ok || err != nil {
				t.Errorf("answer %d: %v, %v", i+1, ok, err)
			}
		}
		s, err := filestore.OpenFS(b.disk.Clone(), tiny)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if list, err := payloads(s); err != nil || !slices.Equal(list, []string{"1", "2", "3"}) {
			t.Errorf("then there are %q, %v", list, err)
		}
	})
}

// TestFailedSyncFailsThoseBehindIt lets the sync fail that others wait for. Nobody is told that
// it worked, nothing is written behind it, and a power cut leaves what was acknowledged.
func TestFailedSyncFailsThoseBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBusy(t)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		first := b.commit(ctx, "first")
		b.syncing <- struct{}{}
		synctest.Wait()
		fails := errors.New("the disk is gone")
		goes, failed := make(chan struct{}), false
		b.disk.Fail(func(op crashfs.Op) error {
			if op.Kind == crashfs.Datasync && !failed {
				failed = true
				<-goes
				return fails
			}
			return nil
		})
		ops := b.disk.Len()
		hit := b.commit(ctx, "hit")
		behind := []<-chan error{b.commit(ctx, "behind"), b.commit(ctx, "behind, too")}
		close(goes)
		synctest.Wait()
		if err, ok := answered(first); !ok || err != nil {
			t.Errorf("what was synced before: %v, %v", ok, err)
		}
		if err, ok := answered(hit); !ok || !errors.Is(err, engine.ErrOutcomeUnknown) {
			t.Errorf("what the sync was for: %v, %v", ok, err)
		}
		for _, c := range behind {
			if err, ok := answered(c); !ok || !errors.Is(err, filestore.ErrPoisoned) || errors.Is(err, engine.ErrOutcomeUnknown) {
				t.Errorf("what waited behind it: %v, %v", ok, err)
			}
		}
		writes := 0
		for _, op := range b.disk.Ops()[ops:] {
			if op.Kind == crashfs.WriteAt {
				writes++
			}
		}
		if writes != 1 {
			t.Errorf("there were %d writes, want the one that was not synced", writes)
		}
		b.stored("first")
		s, err := filestore.OpenFS(cutNow(b.disk), tiny)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if list, err := payloads(s); err != nil || !slices.Equal(list, []string{"first"}) {
			t.Errorf("after a power cut there are %q, %v", list, err)
		}
	})
}

// TestWriterWaitsForThoseItExpects lets eight goroutines commit again and again. Each sync serves
// all of them: a writer that begins with the first who comes back needs twice as many. With one processor the
// goroutines that were answered run before the writer does.
func TestWriterWaitsForThoseItExpects(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, func(t *testing.T) {
		b := newBusy(t)
		const turns, crowd = 30, 8
		done := make(chan error, crowd)
		for i := range crowd {
			p := &plain{TB: t, s: b.s, state: engine.StreamState{Name: fmt.Sprintf("s-%d", i)}}
			go func() { done <- several(turns, func() error { return p.put(engine.Synced, "x") }) }()
		}
		for ended := 0; ended < crowd; {
			synctest.Wait()
			select {
			case err := <-done:
				if ended++; err != nil {
					t.Error(err)
				}
			case b.syncing <- struct{}{}:
			}
		}
		if n := filestore.Groups(b.s); n > turns*4/3 {
			t.Errorf("%d turns of %d goroutines took %d writes", turns, crowd, n)
		}
		b.free()
	})
}

// TestQueueThatIsNeverEmptyStaysSmall lets commits wait at every moment, as they do where the writer has more to
// do than it can. The queue is no larger than what waits needs, and keeps the order.
func TestQueueThatIsNeverEmptyStaysSmall(t *testing.T) {
	for _, waiting := range []int{1, 7, 64} {
		q := filestore.NewQueue()
		pushed, popped := 0, 0
		for pushed < 100_000 {
			for pushed-popped < waiting {
				if pushed++; !q.Push(pushed) {
					t.Fatal("refused")
				}
			}
			if n := q.Pop(); n != popped+1 {
				t.Fatalf("%d waiting: after %d comes %d", waiting, popped, n)
			}
			popped++
			if pushed++; !q.Push(pushed) {
				t.Fatal("refused")
			}
		}
		if n, room := q.Size(); n != pushed-popped || room > 8*waiting+8 {
			t.Errorf("%d wait, want %d, and there is room for %d", n, pushed-popped, room)
		}
	}
}

// foreign is a context that is not made by package context.
type foreign struct {
	context.Context
	done chan struct{}
}

func (f foreign) Done() <-chan struct{} { return f.done }

// TestQueueWatchesUntilItTells: who comes when the context has ended, and those were told that waited,
// looks after it himself; so does who has another. When the queue ends nothing of the watching is left.
func TestQueueWatchesUntilItTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := filestore.NewQueue()
		ctx, cancel := context.WithCancel(context.Background())
		if !q.PushWatched(ctx) || q.PushWatched(t.Context()) || q.PushWatched(context.Background()) {
			t.Error("the queue does not watch the first context, or another")
		}
		cancel()
		synctest.Wait()
		if q.PushWatched(ctx) {
			t.Error("the queue would tell once more")
		}
		q.End()
		q = filestore.NewQueue()
		q.PushWatched(foreign{context.Background(), make(chan struct{})})
		q.End() // or the bubble does not end
	})
}

// TestQueueLosesNoWakeup lets one goroutine take what others push just when it is about to sleep.
func TestQueueLosesNoWakeup(t *testing.T) {
	q := filestore.NewQueue()
	var taken atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var spin atomic.Int64
		for q.Wait() != 0 {
			for range taken.Add(1) % 100 {
				spin.Add(1)
			}
		}
	}()
	for n := range int64(20_000) {
		q.Push(1)
		for look := 0; taken.Load() == n; look++ { // awake: whoever is woken comes too late
			if look%20 == 19 {
				runtime.Gosched()
			}
			if look == 100_000_000 {
				t.Fatalf("nobody takes commit %d", n+1)
			}
		}
	}
	q.End()
	<-ended
}

// TestQueueThatEndsGivesOutAll: what was accepted before the end is taken, however close the end is.
func TestQueueThatEndsGivesOutAll(t *testing.T) {
	for round := range 20_000 {
		q := filestore.NewQueue()
		taken := make(chan int, 1)
		go func() {
			n := 0
			for q.Wait() != 0 {
				n++
			}
			taken <- n
		}()
		if round%2 == 0 {
			runtime.Gosched()
		}
		var spin atomic.Int64
		for range round % 200 {
			spin.Add(1)
		}
		q.Push(1)
		q.End()
		if q.Push(1) {
			t.Fatal("accepted after the end")
		}
		if n := <-taken; n != 1 {
			t.Fatalf("round %d: %d commits were taken, want 1", round, n)
		}
	}
}

// TestWriterDoesNotWaitForABusyProcessor keeps the only processor busy, for a millisecond at a time, while the
// writer expects two commits of which one comes. The other's place costs it no more than a few turns.
func TestWriterDoesNotWaitForABusyProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	disk := crashfs.New()
	s, err := filestore.OpenFS(disk, filestore.Options{SegmentSize: 256 << 10, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put := func(i int) error {
		p := &plain{TB: t, s: s, state: engine.StreamState{Name: fmt.Sprintf("s-%d", i)}}
		return p.put(engine.Synced, "x")
	}
	filestore.Expect(s, 8)
	var given atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for began := time.Now(); time.Since(began) < time.Millisecond; {
			}
			given.Add(1)
			runtime.Gosched()
		}
	}()
	before := given.Load()
	if err := put(1); err != nil {
		t.Error(err)
	}
	if n := given.Load() - before; n > 32 {
		t.Errorf("a commit has let another goroutine have the processor %d times", n)
	}
	close(stop)
	<-stopped
}
