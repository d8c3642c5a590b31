package actor_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/actor"
)

// deliver has m handled as an engine does: by the caller, if it can borrow the actor, or else
// by its owner.
func deliver[M any](a *actor.Actor[M], recv actor.Receiver[M], m M) error {
	if a.Borrow() {
		defer a.GiveBack()
		recv.Receive([]M{m})
		return nil
	}
	return a.Send(context.Background(), m)
}

func TestLentActorHasOneOwnerAndLosesNothing(t *testing.T) {
	for name, cfg := range map[string]actor.Config[numbered]{
		"among senders":                   {},
		"while owner goroutines go early": {Idle: 1, Linger: 1},
		"with a mailbox for one":          {Mailbox: 1, Batch: 1, Idle: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			const senders, each = 6, 3000
			cfg.Lend, cfg.Prompt = true, true
			sys := newSystem(t, cfg)
			l := &ledger{t: t, next: make([]int, senders)}
			recv := receiverFunc[numbered](func(batch []numbered) {
				if batch[0].n%3 == 0 {
					runtime.Gosched() // let others come meanwhile
				}
				l.Receive(batch)
			})
			l.self = sys.New("x", recv)
			var wg sync.WaitGroup
			for s := range senders {
				wg.Go(func() {
					for i := range each {
						if err := deliver(l.self, recv, numbered{s, i}); err != nil {
							t.Error(err)
						}
						if i%(s+2) == 0 {
							runtime.Gosched()
						}
					}
				})
			}
			wg.Wait()
			<-sys.Drain()
			for s, n := range l.next {
				if n != each {
					t.Errorf("%d messages of sender %d, want %d", n, s, each)
				}
			}
		})
	}
}

// newLent returns an actor that is lent to a sender which is in its turn, with message 1, until
// release is called.
func newLent(t *testing.T) (b *begun, sent chan error) {
	b = &begun{}
	inside, release := make(chan struct{}), make(chan struct{})
	b.release = sync.OnceFunc(func() { close(release) })
	b.sys = newSystem(t, actor.Config[int]{Lend: true, Prompt: true, Kind: "lent", Discard: func(m int, err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.discarded = append(b.discarded, m)
		b.errs = append(b.errs, err)
	}})
	t.Cleanup(b.release)
	recv := receiverFunc[int](func(batch []int) {
		if batch[0] == 1 {
			close(inside)
			<-release
		}
		b.mu.Lock()
		b.handled = append(b.handled, batch...)
		b.mu.Unlock()
	})
	b.Actor = b.sys.New("x", recv)
	sent = make(chan error, 1)
	go func() { sent <- deliver(b.Actor, recv, 1) }()
	<-inside
	return b, sent
}

func TestLentActorNeedsNoGoroutine(t *testing.T) {
	sys := newSystem(t, actor.Config[int]{Lend: true})
	n := 0
	recv := receiverFunc[int](func(batch []int) { n += len(batch) })
	a := sys.New("x", recv)
	for i := range 1000 {
		if err := deliver(a, recv, i); err != nil {
			t.Fatal(err)
		}
		if a.Active() || sys.Active() != 0 {
			t.Fatal("an actor with one sender has a goroutine")
		}
	}
	if n != 1000 {
		t.Errorf("%d messages handled before their sender went on, want 1000", n)
	}
}

func TestLentActorTakesAnOwnerWhenShared(t *testing.T) {
	b, sent := newLent(t)
	send(t, b.Actor, 2, 3, 4) // accepted, although the sender of 1 is in its turn
	b.want(t, nothing, nothing)
	b.release()
	if err := <-sent; err != nil {
		t.Error(err)
	}
	<-b.sys.Drain()
	b.want(t, []int{1, 2, 3, 4}, nothing)
}

// Who finds an actor borrowed waits awake for a moment, and not for ever: the borrower may have lost its
// processor.
func TestLentActorIsNotWaitedForLong(t *testing.T) {
	b, sent := newLent(t)
	for range 2 * runtime.GOMAXPROCS(0) {
		if b.Borrow() {
			t.Fatal("lent to two")
		}
	}
	send(t, b.Actor, 2)
	if b.Borrow() {
		t.Fatal("lent while a message waits for its owner")
	}
	b.release()
	<-sent
	<-b.sys.Drain()
	b.want(t, []int{1, 2}, nothing)
}

// Senders that never pause do not keep an actor from being lent again: its owner goroutine ends as soon as nothing
// waits, however many messages it has had before.
func TestLentActorIsLentAgainAmongMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, sent := newLent(t)
		send(t, b.Actor, 2)
		b.release()
		<-sent
		for round := 1; ; round++ {
			synctest.Wait()
			if b.Borrow() {
				b.GiveBack()
				break
			}
			if round == 50 {
				t.Fatal("its goroutine is still there after many turns")
			}
			var wg sync.WaitGroup
			for range round { // not always as many: an owner that ends in a round has a successor for the rest
				wg.Go(func() { send(t, b.Actor, 2) })
			}
			wg.Wait()
		}
		<-b.sys.Drain()
	})
}

func TestLentActorIsLentAgainOnceItHasOneSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, sent := newLent(t)
		send(t, b.Actor, 2)
		b.release()
		<-sent
		for i := 3; ; i++ {
			synctest.Wait()
			if b.Borrow() {
				b.GiveBack()
				break
			}
			if i == 100 {
				t.Fatal("its goroutine is still there after a hundred turns with one sender, without any pause")
			}
			send(t, b.Actor, i)
		}
		<-b.sys.Drain()
	})
}

func TestLentActorEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(b *begun) <-chan struct{}
		all  bool // of the whole system, which does not know who has borrowed
	}{
		{"when it is drained", func(b *begun) <-chan struct{} { return b.Drain() }, false},
		{"when it is stopped", func(b *begun) <-chan struct{} { return b.Stop() }, false},
		{"when its system is drained", func(b *begun) <-chan struct{} { return b.sys.Drain() }, true},
		{"when its system is stopped", func(b *begun) <-chan struct{} { return b.sys.Stop() }, true},
	}
	for _, tt := range tests {
		for _, shared := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, shared %v", tt.name, shared), func(t *testing.T) {
				b, sent := newLent(t)
				if shared {
					send(t, b.Actor, 2)
				}
				gone := tt.end(b)
				if isClosed(gone) && (shared || !tt.all) {
					t.Error("the channel is closed while the borrower owns the actor")
				}
				if b.Borrow() {
					t.Error("lent after the end")
				}
				if err := b.Send(context.Background(), 3); !errors.Is(err, actor.ErrStopped) {
					t.Errorf("Send after the end: %v", err)
				}
				b.release()
				if err := <-sent; err != nil {
					t.Errorf("the sender that owned it: %v", err)
				}
				<-gone
				<-tt.end(b)
				b.mu.Lock()
				defer b.mu.Unlock()
				all := append(slices.Clone(b.handled), b.discarded...)
				slices.Sort(all)
				want := []int{1}
				if shared {
					want = []int{1, 2}
				}
				if !slices.Equal(all, want) || b.handled[0] != 1 {
					t.Errorf("handled %v, discarded %v", b.handled, b.discarded)
				}
			})
		}
	}
}

func TestLentActorOutlivesABorrowerThatDoesNotReturn(t *testing.T) {
	for name, fail := range map[string]func(){
		"panic":  func() { panic("no") },
		"Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			sys := newSystem(t, actor.Config[int]{Lend: true})
			var handled []int
			recv := receiverFunc[int](func(batch []int) {
				if batch[0] == 2 {
					fail()
				}
				handled = append(handled, batch...)
			})
			a := sys.New("x", recv)
			for i := range 4 {
				done := make(chan struct{})
				go func() { // Goexit takes the borrower's goroutine with it
					defer close(done)
					defer func() { recover() }()
					if err := deliver(a, recv, i); err != nil {
						t.Error(err)
					}
				}()
				<-done
			}
			if !slices.Equal(handled, []int{0, 1, 3}) || a.Active() {
				t.Errorf("handled %v, active %v", handled, a.Active())
			}
		})
	}
}

// Ends race with senders that own, share and find the actor ended.
func TestLentActorEndRacesWithSend(t *testing.T) {
	for round := range 100 {
		sys := newSystem(t, actor.Config[int]{Lend: true, Mailbox: 1})
		handled := 0
		recv := receiverFunc[int](func(batch []int) { handled += len(batch) })
		a := sys.New("x", recv)
		accepted := make(chan int)
		for range 3 {
			go func() {
				n := 0
				for deliver(a, recv, 1) == nil {
					n++
				}
				accepted <- n
			}()
		}
		for range round % 5 {
			runtime.Gosched()
		}
		if round%2 == 0 {
			<-a.Drain()
		} else {
			<-sys.Drain()
		}
		if sum := <-accepted + <-accepted + <-accepted; sum != handled {
			t.Fatalf("round %d: %d messages accepted, %d handled", round, sum, handled)
		}
	}
}
