package actor_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/weirstore/weir/actor"
)

// numbered is a message that knows its sender and its place among that one's.
type numbered struct{ sender, n int }

// ledger is a receiver that fails the test if a second goroutine is inside it, and if a
// message is lost, handled twice or out of order. Its fields have no locks: the race
// detector would see a second owner too.
type ledger struct {
	t     *testing.T
	self  *actor.Actor[numbered]
	next  []int // by sender
	lives int
	life  any
	busy  atomic.Bool

	lived   atomic.Int64 // lives, for others to read
	handled atomic.Int64
}

func (l *ledger) Receive(batch []numbered) {
	if !l.busy.CompareAndSwap(false, true) {
		l.t.Error("two goroutines are in Receive")
	}
	if life := l.self.Life(); life != l.life {
		l.life = life
		l.lives++
		l.lived.Store(int64(l.lives))
	}
	for _, m := range batch {
		if m.n != l.next[m.sender] {
			l.t.Errorf("sender %d: got message %d, want %d", m.sender, m.n, l.next[m.sender])
		}
		l.next[m.sender] = m.n + 1
	}
	l.handled.Add(int64(len(batch)))
	if !l.busy.CompareAndSwap(true, false) {
		l.t.Error("two goroutines are in Receive")
	}
}

func TestActorHasOneOwnerAndLosesNothing(t *testing.T) {
	tests := []struct {
		name      string
		cfg       actor.Config[numbered]
		burst     int  // messages in a row; then the sender waits until they are handled
		tillQuiet bool // … and until the actor is passive
		lives     int64
	}{
		{"while it lives", actor.Config[numbered]{}, 100, false, 1},
		{"with a mailbox for one and batches of one", actor.Config[numbered]{Mailbox: 1, Batch: 1}, 20, false, 1},
		{"while the passivator races with senders", actor.Config[numbered]{Idle: 1}, 3, false, 20},
		{"when it is passive between two bursts", actor.Config[numbered]{Idle: 1}, 2, true, 1000},
		{"when owners retire at once", actor.Config[numbered]{Linger: 1, Idle: time.Hour}, 2, false, 4000},
		{"when owners retire at once, and the passivator too", actor.Config[numbered]{Linger: 1, Idle: 1, Mailbox: 2}, 3, false, 4000},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const actors, senders = 3, 4
			sys := newSystem(t, tt.cfg)
			ledgers := make([]*ledger, actors)
			for i := range ledgers {
				l := &ledger{t: t, next: make([]int, senders)}
				l.self = sys.New(fmt.Sprint(i), l)
				ledgers[i] = l
			}
			enough := func() bool {
				lives, handled := int64(0), int64(0)
				for _, l := range ledgers {
					lives += l.lived.Load()
					handled += l.handled.Load()
				}
				return lives >= tt.lives && handled > 3000 || t.Failed()
			}
			var sent [senders][actors]int
			var wg sync.WaitGroup
			for s := range senders {
				wg.Go(func() {
					for i := s; !enough(); i++ {
						l := ledgers[i%actors]
						for range tt.burst {
							if err := l.self.Send(t.Context(), numbered{s, sent[s][i%actors]}); err != nil {
								t.Error(err)
							}
							sent[s][i%actors]++
						}
						for l.self.Len() > 0 || tt.tillQuiet && s == 0 && l.self.Active() {
							runtime.Gosched()
						}
					}
				})
			}
			wg.Wait()
			<-sys.Drain()
			for i, l := range ledgers {
				for s := range senders {
					if l.next[s] != sent[s][i] {
						t.Errorf("actor %d got %d messages of sender %d, want %d", i, l.next[s], s, sent[s][i])
					}
				}
			}
		})
	}
}

// begun is an actor whose owner is in its first turn, with message 1, until release is
// called. Further turns do not wait.
type begun struct {
	*actor.Actor[int]
	sys     *actor.System[int]
	release func()

	mu        sync.Mutex
	handled   []int
	discarded []int
	errs      []error
	onTurn    func(batch []int) // called in each turn but the first
}

func newBegun(t *testing.T, cfg actor.Config[int]) *begun {
	b := &begun{}
	inside, release := make(chan struct{}), make(chan struct{})
	b.release = sync.OnceFunc(func() { close(release) })
	cfg.Kind = "begun"
	cfg.Discard = func(m int, err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.discarded = append(b.discarded, m)
		b.errs = append(b.errs, err)
	}
	b.sys = newSystem(t, cfg)
	t.Cleanup(b.release)
	first := true
	b.Actor = b.sys.New("x", receiverFunc[int](func(batch []int) {
		if first {
			first = false
			close(inside)
			<-release
		} else if b.onTurn != nil {
			b.onTurn(batch)
		}
		b.mu.Lock()
		b.handled = append(b.handled, batch...)
		b.mu.Unlock()
	}))
	send(t, b.Actor, 1)
	<-inside
	return b
}

func (b *begun) want(t *testing.T, handled, discarded []int) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.handled, handled) || !slices.Equal(b.discarded, discarded) {
		t.Errorf("handled %v, discarded %v; want %v, %v", b.handled, b.discarded, handled, discarded)
	}
}

var (
	nothing []int
	drain   = (*actor.Actor[int]).Drain
	stop    = (*actor.Actor[int]).Stop
)

func TestActorEndFinishesOrDiscards(t *testing.T) {
	tests := []struct {
		name               string
		ends               []func(*actor.Actor[int]) <-chan struct{}
		handled, discarded []int
	}{
		{"Drain finishes what was accepted", []func(*actor.Actor[int]) <-chan struct{}{drain}, []int{1, 2, 3, 4, 5}, nothing},
		{"Stop discards what was not begun", []func(*actor.Actor[int]) <-chan struct{}{stop}, []int{1}, []int{2, 3, 4, 5}},
		{"Drain twice is Drain", []func(*actor.Actor[int]) <-chan struct{}{drain, drain}, []int{1, 2, 3, 4, 5}, nothing},
		{"Stop twice is Stop", []func(*actor.Actor[int]) <-chan struct{}{stop, stop}, []int{1}, []int{2, 3, 4, 5}},
		{"Stop after Drain is Stop", []func(*actor.Actor[int]) <-chan struct{}{drain, stop}, []int{1}, []int{2, 3, 4, 5}},
		{"Drain after Stop is Stop", []func(*actor.Actor[int]) <-chan struct{}{stop, drain}, []int{1}, []int{2, 3, 4, 5}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBegun(t, actor.Config[int]{Mailbox: 2})
				for i := 2; i <= 5; i++ { // two fit, two wait in Send
					go func() {
						if err := b.Send(t.Context(), i); err != nil {
							t.Errorf("Send returned %v", err)
						}
					}()
					synctest.Wait()
				}
				var ended []<-chan struct{}
				for _, end := range tt.ends {
					ended = append(ended, end(b.Actor))
				}
				if err := b.Send(t.Context(), 9); !errors.Is(err, actor.ErrStopped) {
					t.Errorf("Send returned %v, want ErrStopped", err)
				}
				synctest.Wait()
				for _, ch := range ended {
					if isClosed(ch) {
						t.Error("the channel is closed while the owner is in Receive")
					}
				}
				b.release()
				for _, ch := range ended {
					<-ch
				}
				b.want(t, tt.handled, tt.discarded)
				for _, err := range b.errs {
					if !errors.Is(err, actor.ErrStopped) {
						t.Errorf("discarded with %v, want ErrStopped", err)
					}
				}
				if b.sys.Active() != 0 || b.Active() || b.Len() != 0 {
					t.Errorf("the owner has returned, but Active is %v, Len %d", b.Active(), b.Len())
				}
				for _, end := range tt.ends {
					if !isClosed(end(b.Actor)) {
						t.Error("ended again, the channel is not closed")
					}
				}
				if err := b.Send(t.Context(), 9); !errors.Is(err, actor.ErrStopped) {
					t.Errorf("Send to an actor that has ended returned %v, want ErrStopped", err)
				}
			})
		})
	}
}

// What the actor is when it is told to end, and where its owner then is.
func TestActorEndsFromEveryState(t *testing.T) {
	states := []struct {
		name string
		prep func(a *actor.Actor[int])
	}{
		{"never used", func(*actor.Actor[int]) {}},
		{"idle", func(a *actor.Actor[int]) {
			_ = a.Send(context.Background(), 1)
			for a.Len() > 0 {
				runtime.Gosched()
			}
		}},
		{"retired, and its owner about to return", func(a *actor.Actor[int]) {
			_ = a.Send(context.Background(), 1)
			for !a.Retire() {
				runtime.Gosched()
			}
		}},
		{"passive", func(a *actor.Actor[int]) {
			_ = a.Send(context.Background(), 1)
			for !a.Retire() {
				runtime.Gosched()
			}
			for a.Life() != nil {
				runtime.Gosched()
			}
		}},
	}
	ends := []struct {
		name string
		end  func(*actor.Actor[int]) <-chan struct{}
	}{{"Drain", drain}, {"Stop", stop}}
	for _, state := range states {
		for _, end := range ends {
			t.Run(end.name+" of one that is "+state.name, func(t *testing.T) {
				sys := newSystem(t, actor.Config[int]{Discard: func(int, error) {}})
				for range 100 {
					a := sys.New("x", receiverFunc[int](func([]int) {}))
					state.prep(a)
					var wg sync.WaitGroup
					for range 2 {
						wg.Go(func() { <-end.end(a) })
					}
					wg.Wait()
					if n := sys.Active(); n != 0 {
						t.Fatalf("%d owners run after the channel was closed", n)
					}
					if err := a.Send(t.Context(), 2); !errors.Is(err, actor.ErrStopped) {
						t.Fatalf("Send returned %v, want ErrStopped", err)
					}
					if a.Active() || a.Len() != 0 {
						t.Fatalf("Active is %v, Len %d", a.Active(), a.Len())
					}
				}
			})
		}
	}
}

// Every message that was accepted is handled or discarded, and nothing happens after the
// channel was closed.
func TestActorEndRacesWithSend(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*actor.Actor[int]) <-chan struct{}
	}{{"Drain", drain}, {"Stop", stop}} {
		t.Run(tt.name, func(t *testing.T) {
			var accepted, handled, discarded atomic.Int64
			sys := newSystem(t, actor.Config[int]{Idle: 1, Mailbox: 2, Discard: func(_ int, err error) {
				if !errors.Is(err, actor.ErrStopped) {
					t.Errorf("discarded with %v", err)
				}
				discarded.Add(1)
			}})
			for round := range 500 {
				a := sys.New("x", receiverFunc[int](func(b []int) { handled.Add(int64(len(b))) }))
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() {
						for a.Send(t.Context(), 1) == nil {
							accepted.Add(1)
						}
					})
				}
				wg.Go(func() {
					for range round % 8 {
						runtime.Gosched()
					}
					<-tt.end(a)
					before := handled.Load() + discarded.Load()
					if a.Send(t.Context(), 1) == nil {
						t.Error("accepted after the end")
					}
					runtime.Gosched()
					if after := handled.Load() + discarded.Load(); after != before {
						t.Errorf("%d messages were handled or discarded after the end", after-before)
					}
				})
				wg.Wait()
				if accepted.Load() != handled.Load()+discarded.Load() {
					t.Fatalf("accepted %d, handled %d, discarded %d", accepted.Load(), handled.Load(), discarded.Load())
				}
			}
			if tt.name == "Drain" && discarded.Load() > 0 {
				t.Errorf("Drain discarded %d", discarded.Load())
			}
		})
	}
}

func TestActorSendToAFullMailboxHonoursContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBegun(t, actor.Config[int]{Mailbox: 2})
		send(t, b.Actor, 2, 3)
		boom := errors.New("boom")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, boom)
		defer cancel()
		began := time.Now()
		if err := b.Send(ctx, 4); err != boom || time.Since(began) != time.Second {
			t.Errorf("Send returned %v after %v, want the cause after 1s", err, time.Since(began))
		}
		if b.Len() != 3 {
			t.Errorf("Len is %d, want 3: the refused message is not accepted", b.Len())
		}
		b.release()
		<-b.Drain()
		b.want(t, []int{1, 2, 3}, nothing)
	})
}

func TestActorGoesOnAfterAReceiveThatDoesNotReturn(t *testing.T) {
	tests := []struct {
		name  string
		crash func([]int)
		stack bool
		is    error
	}{
		{"because it panics", func([]int) { panic("boom") }, true, nil},
		{"because it panics with an error", func([]int) { panic(os.ErrInvalid) }, true, os.ErrInvalid},
		{"because of runtime.Goexit", func([]int) { runtime.Goexit() }, false, actor.ErrGoexit},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBegun(t, actor.Config[int]{Batch: 3, Idle: time.Second})
				b.onTurn = func(batch []int) {
					if slices.Contains(batch, 3) || slices.Contains(batch, 12) {
						tt.crash(batch)
					}
				}
				for i := 2; i <= 12; i++ { // turns: 1 | 2 3 4 | 5 6 7 | 8 9 10 | 11 12
					send(t, b.Actor, i)
				}
				b.release()
				synctest.Wait()
				b.want(t, []int{1, 5, 6, 7, 8, 9, 10}, []int{2, 3, 4, 11, 12})
				for _, err := range b.errs {
					p, ok := errors.AsType[*actor.PanicError](err)
					if !ok || p.Where != `begun "x"` || (len(p.Stack) > 0) != tt.stack {
						t.Errorf("discarded with %#v", err)
					}
					if tt.is != nil && !errors.Is(err, tt.is) {
						t.Errorf("errors.Is(%v, %v) is false", err, tt.is)
					}
				}
				send(t, b.Actor, 13)
				synctest.Wait()
				b.want(t, []int{1, 5, 6, 7, 8, 9, 10, 13}, []int{2, 3, 4, 11, 12})
				if b.sys.Active() != 1 || b.Len() != 0 {
					t.Errorf("Active is %d, Len %d; want 1 and 0", b.sys.Active(), b.Len())
				}
				time.Sleep(2 * time.Second)
				if b.Active() {
					t.Error("it is still active when long idle")
				}
			})
		})
	}
}

// The passivator looked at the actor while the turn that then fails was going on.
func TestActorBecomesPassiveAfterALongTurnThatFails(t *testing.T) {
	for _, tt := range []struct {
		name  string
		crash func()
	}{{"by a panic", func() { panic("boom") }}, {"by Goexit", runtime.Goexit}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sys := newSystem(t, actor.Config[int]{Idle: time.Second, Discard: func(int, error) {}})
				a := sys.New("x", receiverFunc[int](func([]int) {
					time.Sleep(10 * time.Second)
					tt.crash()
				}))
				send(t, a, 1)
				time.Sleep(12 * time.Second)
				if a.Active() || sys.Active() != 0 {
					t.Error("it keeps its goroutine for ever")
				}
			})
		})
	}
}

func TestActorBecomesPassiveBetweenIdleAndFiveQuartersOfIt(t *testing.T) {
	const idle = 8 * time.Second
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t, actor.Config[int]{Idle: idle})
		busy := sys.New("busy", receiverFunc[int](func([]int) {})) // keeps the wheel turning, out of step
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for !isClosed(stop) {
				if err := busy.Send(t.Context(), 1); err != nil {
					t.Error(err)
				}
				time.Sleep(idle / 3)
			}
		})
		t.Cleanup(func() {
			close(stop)
			wg.Wait()
		})
		for phase := range 24 {
			a := sys.New("x", receiverFunc[int](func(b []int) { time.Sleep(time.Duration(b[0])) }))
			for n := range 1 + phase%4 { // 1 to 4 messages, at odd moments
				send(t, a, int(time.Duration(n*n)*time.Second)) // … and some turns are long
				for a.Len() > 0 {
					time.Sleep(10 * time.Millisecond)
				}
				time.Sleep(time.Duration(phase) * idle / 25)
				if !a.Active() {
					t.Fatalf("phase %d: passive %v after a message", phase, time.Duration(phase)*idle/25)
				}
			}
			send(t, a, 0)
			used := time.Now()
			for a.Active() {
				time.Sleep(10 * time.Millisecond)
			}
			if took := time.Since(used); took < idle || took > idle*5/4+20*time.Millisecond {
				t.Errorf("phase %d: passive after %v, want %v to %v", phase, took, idle, idle*5/4)
			}
		}
		if !busy.Active() {
			t.Error("the busy actor is passive")
		}
	})
}

func TestActorPassiveHasNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group := actor.NewGroup()
		sys := actor.NewSystem(actor.Config[int]{Group: group, Kind: "stream", Discard: func(int, error) {}})
		a := sys.New("a", receiverFunc[int](func([]int) {}))
		if a.Active() || a.Len() != 0 || a.Name() != "a" {
			t.Error("a new actor is active")
		}
		want := []string{"stream passivator"}
		if got := group.Running(); !slices.Equal(got, want) {
			t.Errorf("running: %q, want %q", got, want)
		}
		for range 3 {
			send(t, a, 1)
			if got := group.Running(); !slices.Equal(got, []string{`stream "a"`, "stream passivator"}) || !a.Active() || sys.Active() != 1 {
				t.Errorf("running: %q", got)
			}
			time.Sleep(time.Minute)
			if got := group.Running(); !slices.Equal(got, want) || a.Active() || sys.Active() != 0 {
				t.Errorf("running: %q, want %q", got, want)
			}
		}
		<-sys.Stop()
		if err := group.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A timer in the passivator would let synctest's clock run on, and hide a deadlock in the
// program under test. The deadlock ends the process, so it has one of its own.
func TestPassivatorHasNoTimerWhileNobodyIsActive(t *testing.T) {
	const env = "ACTOR_TEST_DEADLOCK"
	if os.Getenv(env) != "" {
		synctest.Test(t, func(t *testing.T) {
			sys := actor.NewSystem(actor.Config[int]{Group: actor.NewGroup(), Discard: func(int, error) {}})
			a := sys.New("a", receiverFunc[int](func([]int) {}))
			send(t, a, 1)
			time.Sleep(time.Minute)
			<-make(chan struct{})
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.timeout=20s")
	cmd.Env = append(os.Environ(), env+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "deadlock: all goroutines in bubble are blocked") {
		t.Errorf("no deadlock was detected: %v\n%s", err, out)
	}
}

func TestActorLetsGoOfMessages(t *testing.T) {
	sys := newSystem(t, actor.Config[*[64]byte]{Idle: time.Hour})
	a := sys.New("x", receiverFunc[*[64]byte](func([]*[64]byte) {}))
	msg := new([64]byte)
	ref := weak.Make(msg)
	send(t, a, msg)
	msg = nil
	for a.Len() > 0 {
		runtime.Gosched()
	}
	if runtime.GC(); ref.Value() != nil {
		t.Error("a handled message is still held by its actor")
	}
}

func TestActorCanBeEmbedded(t *testing.T) {
	type stream struct {
		actor.Actor[int]
		got []int
	}
	sys := newSystem(t, actor.Config[int]{})
	var s stream
	sys.Init(&s.Actor, "embedded", receiverFunc[int](func(b []int) { s.got = append(s.got, b...) }))
	send(t, &s.Actor, 1, 2, 3)
	<-s.Drain()
	if !slices.Equal(s.got, []int{1, 2, 3}) || s.Name() != "embedded" {
		t.Errorf("%s got %v", s.Name(), s.got)
	}
}
