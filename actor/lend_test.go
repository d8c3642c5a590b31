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

func TestLentActorHasOneOwnerAndLosesNothing(t *testing.T) {
	for name, cfg := range map[string]actor.Config[numbered]{
		"among senders":                   {},
		"while owner goroutines go early": {Idle: 1, Linger: 1},
		"with a mailbox for one":          {Mailbox: 1, Batch: 1, Idle: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			const senders, each = 6, 3000
			cfg.Lend = true
			sys := newSystem(t, cfg)
			l := &ledger{t: t, next: make([]int, senders)}
			l.self = sys.New("x", receiverFunc[numbered](func(batch []numbered) {
				if batch[0].n%3 == 0 {
					runtime.Gosched() // let others come meanwhile
				}
				l.Receive(batch)
			}))
			var wg sync.WaitGroup
			for s := range senders {
				wg.Go(func() {
					for i := range each {
						send(t, l.self, numbered{s, i})
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

// lent is an actor that is lent to a sender which is in its turn, with message 1, until
// release is called.
func newLent(t *testing.T) (b *begun, sent chan error) {
	b = &begun{}
	inside, release := make(chan struct{}), make(chan struct{})
	b.release = sync.OnceFunc(func() { close(release) })
	b.sys = newSystem(t, actor.Config[int]{Lend: true, Kind: "lent", Discard: func(m int, err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.discarded = append(b.discarded, m)
		b.errs = append(b.errs, err)
	}})
	t.Cleanup(b.release)
	b.Actor = b.sys.New("x", receiverFunc[int](func(batch []int) {
		if batch[0] == 1 {
			close(inside)
			<-release
		}
		b.mu.Lock()
		b.handled = append(b.handled, batch...)
		b.mu.Unlock()
	}))
	sent = make(chan error, 1)
	go func() { sent <- b.Send(context.Background(), 1) }()
	<-inside
	return b, sent
}

func TestLentActorNeedsNoGoroutine(t *testing.T) {
	sys := newSystem(t, actor.Config[int]{Lend: true})
	n := 0
	a := sys.New("x", receiverFunc[int](func(batch []int) { n += len(batch) }))
	for i := range 1000 {
		send(t, a, i)
		if a.Active() || sys.Active() != 0 {
			t.Fatal("an actor with one sender has a goroutine")
		}
	}
	if n != 1000 {
		t.Errorf("%d messages handled before Send returned, want 1000", n)
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

func TestLentActorIsLentAgainOnceItHasOneSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, sent := newLent(t)
		send(t, b.Actor, 2)
		b.release()
		<-sent
		for i := 3; i < 100; i++ {
			synctest.Wait()
			send(t, b.Actor, i)
		}
		synctest.Wait()
		if b.Active() {
			t.Error("its goroutine is still there after a hundred turns with one sender, without any pause")
		}
		<-b.sys.Drain()
	})
}

func TestLentActorEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(b *begun) <-chan struct{}
	}{
		{"when it is drained", func(b *begun) <-chan struct{} { return b.Drain() }},
		{"when it is stopped", func(b *begun) <-chan struct{} { return b.Stop() }},
		{"when its system is drained", func(b *begun) <-chan struct{} { return b.sys.Drain() }},
		{"when its system is stopped", func(b *begun) <-chan struct{} { return b.sys.Stop() }},
	}
	for _, tt := range tests {
		for _, shared := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, shared %v", tt.name, shared), func(t *testing.T) {
				b, sent := newLent(t)
				if shared {
					send(t, b.Actor, 2)
				}
				gone := tt.end(b)
				if isClosed(gone) {
					t.Error("the channel is closed while the sender owns the actor")
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

func TestLentActorOutlivesAReceiveThatDoesNotReturn(t *testing.T) {
	for name, fail := range map[string]func(){
		"panic":  func() { panic("no") },
		"Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			var discarded []int
			var reason error
			sys := newSystem(t, actor.Config[int]{Lend: true, Kind: "stream", Discard: func(m int, err error) {
				discarded, reason = append(discarded, m), err
			}})
			var handled []int
			a := sys.New("x", receiverFunc[int](func(batch []int) {
				if batch[0] == 2 {
					fail()
				}
				handled = append(handled, batch...)
			}))
			for i := range 4 {
				done := make(chan struct{})
				go func() { // Goexit takes the sender's goroutine with it
					defer close(done)
					send(t, a, i)
				}()
				<-done
			}
			if !slices.Equal(handled, []int{0, 1, 3}) || !slices.Equal(discarded, []int{2}) {
				t.Errorf("handled %v, discarded %v", handled, discarded)
			}
			if p, ok := errors.AsType[*actor.PanicError](reason); !ok || p.Where != `stream "x"` {
				t.Errorf("discarded with %v", reason)
			}
		})
	}
}

// Ends race with senders that own, share and find the actor ended.
func TestLentActorEndRacesWithSend(t *testing.T) {
	for round := range 100 {
		sys := newSystem(t, actor.Config[int]{Lend: true, Mailbox: 1})
		handled := 0
		a := sys.New("x", receiverFunc[int](func(batch []int) { handled += len(batch) }))
		accepted := make(chan int)
		for range 3 {
			go func() {
				n := 0
				for a.Send(context.Background(), 1) == nil {
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
