package actor_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/actor"
)

func TestMailboxReceive(t *testing.T) {
	tests := []struct {
		name string
		sent int
		buf  int // capacity of the buffer
		held int // what is in the buffer before
		want int // length of the buffer after
	}{
		{"one message fills one place", 1, 4, 0, 1},
		{"what waits is taken in one go", 3, 4, 0, 3},
		{"no more than the buffer holds is taken", 6, 4, 0, 4},
		{"what the buffer held stays before it", 2, 4, 1, 3},
		{"a full buffer grows by one", 2, 1, 1, 2},
		{"a nil buffer takes one", 2, 0, 0, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			box := actor.NewMailbox[int](8)
			buf := make([]int, 0, tt.buf)
			for i := range tt.held {
				buf = append(buf, i)
			}
			for i := range tt.sent {
				if err := box.Send(t.Context(), tt.held+i); err != nil {
					t.Fatal(err)
				}
			}
			if box.Len() != tt.sent {
				t.Errorf("Len is %d after %d sends", box.Len(), tt.sent)
			}
			buf, open := box.Receive(buf)
			if !open || len(buf) != tt.want {
				t.Fatalf("Receive returned %v, %v; want %d messages", buf, open, tt.want)
			}
			for i, m := range buf {
				if m != i {
					t.Fatalf("received %v, out of order", buf)
				}
			}
			if box.Len() != tt.sent {
				t.Errorf("Len is %d before Handled, want %d", box.Len(), tt.sent)
			}
			box.Handled(len(buf) - tt.held)
			if want := tt.sent - (tt.want - tt.held); box.Len() != want {
				t.Errorf("Len is %d after Handled, want %d", box.Len(), want)
			}
		})
	}
}

func TestMailboxTryReceiveDoesNotWait(t *testing.T) {
	box := actor.NewMailbox[int](4)
	if buf, open := box.TryReceive(nil); len(buf) != 0 || !open {
		t.Errorf("empty mailbox: %v, %v", buf, open)
	}
	_ = box.Send(t.Context(), 1)
	_ = box.Send(t.Context(), 2)
	if buf, open := box.TryReceive(make([]int, 0, 4)); !slices.Equal(buf, []int{1, 2}) || !open {
		t.Errorf("two messages: %v, %v", buf, open)
	}
	box.Handled(2)
	box.Close()
	if buf, open := box.TryReceive(nil); len(buf) != 0 || open {
		t.Errorf("closed mailbox: %v, %v", buf, open)
	}
}

func TestMailboxHasRoomForOneAtLeast(t *testing.T) {
	for _, capacity := range []int{-1, 0, 1} {
		if got := actor.NewMailbox[int](capacity).Cap(); got != 1 {
			t.Errorf("NewMailbox(%d).Cap() = %d, want 1", capacity, got)
		}
	}
}

func TestMailboxFullSendWaitsUntil(t *testing.T) {
	boom := errors.New("boom")
	tests := []struct {
		name string
		act  func(box *actor.Mailbox[int], cancel context.CancelCauseFunc) []int // what came with the first message
		err  error
		want []int // what the owner gets after the first message
	}{
		{"there is room", func(box *actor.Mailbox[int], _ context.CancelCauseFunc) []int {
			buf, _ := box.Receive(nil)
			box.Handled(len(buf))
			return buf[1:] // the sender may be as quick as that
		}, nil, []int{2}},
		{"ctx is done, and returns its cause", func(_ *actor.Mailbox[int], cancel context.CancelCauseFunc) []int {
			cancel(boom)
			return nil
		}, boom, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				box := actor.NewMailbox[int](1)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if err := box.Send(ctx, 1); err != nil {
					t.Fatal(err)
				}
				sent := make(chan error, 1)
				go func() { sent <- box.Send(ctx, 2) }()
				synctest.Wait()
				select {
				case err := <-sent:
					t.Fatalf("Send did not wait: %v", err)
				default:
				}
				got := tt.act(box, cancel)
				if err := <-sent; !errors.Is(err, tt.err) {
					t.Errorf("Send returned %v, want %v", err, tt.err)
				}
				box.Close()
				for open := true; open; {
					n := len(got)
					got, open = box.Receive(got)
					box.Handled(len(got) - n)
				}
				if tt.err != nil {
					got = got[1:] // the first, which nobody has taken yet
				}
				if !slices.Equal(got, tt.want) || box.Len() != 0 {
					t.Errorf("then received %v, Len %d; want %v, 0", got, box.Len(), tt.want)
				}
			})
		})
	}
}

func TestMailboxWithRoomDoesNotLookAtContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	box := actor.NewMailbox[int](1)
	if err := box.Send(ctx, 1); err != nil {
		t.Errorf("Send: %v", err)
	}
	if err := box.Send(ctx, 2); !errors.Is(err, context.Canceled) || box.Len() != 1 {
		t.Errorf("Send into a full mailbox: %v, Len %d", err, box.Len())
	}
}

func TestMailboxCloseDeliversWhatWasAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := actor.NewMailbox[int](2)
		var accepted atomic.Int64
		for i := range 5 { // two in the channel, three that wait
			go func() {
				if box.Send(t.Context(), i) == nil {
					accepted.Add(1)
				}
			}()
			synctest.Wait()
		}
		box.Close()
		box.Close()
		if err := box.Send(t.Context(), 9); !errors.Is(err, actor.ErrStopped) {
			t.Errorf("Send after Close: %v, want ErrStopped", err)
		}
		if box.Len() != 5 {
			t.Errorf("Len is %d after Close, want 5", box.Len())
		}
		var got []int
		for {
			buf, open := box.Receive(nil)
			if !open {
				break
			}
			got = append(got, buf...)
			box.Handled(len(buf))
		}
		synctest.Wait()
		if !slices.Equal(got, []int{0, 1, 2, 3, 4}) || accepted.Load() != 5 {
			t.Errorf("received %v, accepted %d; want 0 to 4", got, accepted.Load())
		}
	})
}

// The last to leave a closed mailbox may be a sender that gives up: it closes the channel.
func TestMailboxIsClosedByTheSenderThatGivesUpLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := actor.NewMailbox[int](1)
		ctx, cancel := context.WithCancel(t.Context())
		_ = box.Send(ctx, 1)
		go func() { _ = box.Send(ctx, 2) }()
		synctest.Wait()
		box.Close()
		done := make(chan bool)
		go func() {
			buf, _ := box.Receive(nil)
			time.Sleep(time.Second) // the sender may now put 2 into the channel …
			box.Handled(len(buf))
			for open := true; open; {
				buf, open = box.Receive(nil)
				box.Handled(len(buf))
			}
			close(done)
		}()
		cancel() // … or give up
		<-done
		if box.Len() != 0 {
			t.Errorf("Len is %d at the end", box.Len())
		}
	})
}

func TestMailboxRetires(t *testing.T) {
	tests := []struct {
		name string
		prep func(box *actor.Mailbox[int])
		want bool
		err  error // of a Send afterwards
	}{
		{"when nothing was ever sent", func(*actor.Mailbox[int]) {}, true, actor.ErrRetired},
		{"when everything is handled", func(box *actor.Mailbox[int]) {
			_ = box.Send(context.Background(), 1)
			buf, _ := box.Receive(nil)
			box.Handled(len(buf))
		}, true, actor.ErrRetired},
		{"not while a message waits", func(box *actor.Mailbox[int]) {
			_ = box.Send(context.Background(), 1)
		}, false, nil},
		{"not while a message is being handled", func(box *actor.Mailbox[int]) {
			_ = box.Send(context.Background(), 1)
			_, _ = box.Receive(nil)
		}, false, nil},
		{"not twice", func(box *actor.Mailbox[int]) { box.Retire() }, false, actor.ErrRetired},
		{"not when closed", func(box *actor.Mailbox[int]) { box.Close() }, false, actor.ErrStopped},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			box := actor.NewMailbox[int](2)
			tt.prep(box)
			if got := box.Retire(); got != tt.want {
				t.Errorf("retire returned %v, want %v", got, tt.want)
			}
			if err := box.Send(t.Context(), 2); err != tt.err {
				t.Errorf("Send afterwards: %v, want %v", err, tt.err)
			}
		})
	}
}

func TestMailboxCloseLeavesARetiredOneRetired(t *testing.T) {
	box := actor.NewMailbox[int](1)
	box.Retire()
	box.Close()
	if err := box.Send(t.Context(), 1); err != actor.ErrRetired {
		t.Errorf("Send: %v, want that its sender looks for the successor", err)
	}
}

// Senders that give up, closers, retirers and the owner race: the channel is closed once,
// and what was accepted is received, once.
func TestMailboxStorm(t *testing.T) {
	for round := range 300 {
		synctest.Test(t, func(t *testing.T) {
			box := actor.NewMailbox[int](1 + round%3)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var accepted, received atomic.Int64
			var senders sync.WaitGroup
			for i := range 4 {
				senders.Go(func() {
					for {
						ctx := ctx
						if i%2 == 0 {
							ctx = t.Context() // patient
						}
						switch err := box.Send(ctx, 1); err {
						case nil:
							accepted.Add(1)
						case context.Canceled:
						default:
							return
						}
					}
				})
			}
			senders.Go(func() {
				for range round % 16 {
					box.Retire()
				}
				cancel()
			})
			for range 2 {
				senders.Go(func() {
					for received.Load() < int64(round%50) && !box.Retire() {
						if err := box.Send(ctx, 1); err != nil {
							break
						}
						accepted.Add(1)
					}
					box.Close()
				})
			}
			buf := make([]int, 0, 4)
			for {
				var open bool
				if buf, open = box.Receive(buf[:0]); !open {
					break
				}
				received.Add(int64(len(buf)))
				box.Handled(len(buf))
			}
			senders.Wait()
			if accepted.Load() != received.Load() || box.Len() != 0 {
				t.Fatalf("round %d: accepted %d, received %d, Len %d", round, accepted.Load(), received.Load(), box.Len())
			}
		})
	}
}

// panickyContext panics when it is asked for its end.
type panickyContext struct{ context.Context }

func (panickyContext) Done() <-chan struct{} { panic("no end") }

// Was wrong: a Send whose context panicked stayed counted, and a closed mailbox never ended.
func TestMailboxAfterAContextThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := actor.NewMailbox[int](1)
		if err := box.Send(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			box.Send(panickyContext{t.Context()}, 2)
		}()
		if n := box.Len(); n != 1 {
			t.Errorf("%d messages, want 1", n)
		}
		box.Close()
		got, ok := box.Receive(nil)
		if !ok || !slices.Equal(got, []int{1}) {
			t.Errorf("%v, %v", got, ok)
		}
		box.Handled(1)
		if _, ok := box.Receive(nil); ok { // would wait for ever
			t.Error("a closed mailbox goes on")
		}
	})
}
