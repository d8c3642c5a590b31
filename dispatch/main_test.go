package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirstore/weir/actor"
	"github.com/weirstore/weir/dispatch"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type (
	config     = dispatch.Config[event]
	handler    = dispatch.Handler[event]
	dispatcher = dispatch.Dispatcher[event]
)

var (
	ctxBg   = context.Background()
	errBoom = errors.New("boom")
	always  = func() bool { return true }
)

// rig is a dispatcher over a log in memory. When the test ends the dispatcher must end
// too, and no goroutine may be left.
type rig struct {
	*dispatcher
	t     testing.TB
	log   *memlog
	group *actor.Group
	lines *lines
	ended bool // by the test itself
}

// newRig returns a rig. Opts may be nil; it sees the log, too, before anybody else does.
func newRig(t testing.TB, opts func(*dispatch.Options, *memlog)) *rig {
	t.Helper()
	r := &rig{t: t, log: new(memlog), group: actor.NewGroup(), lines: new(lines)}
	o := dispatch.Options{Group: r.group, Logger: slog.New(r.lines)}
	if opts != nil {
		opts(&o, r.log)
	}
	r.dispatcher = dispatch.New[event](r.log, o)
	t.Cleanup(r.end)
	return r
}

func (r *rig) end() {
	if r.ended {
		return
	}
	r.ended = true
	ctx, cancel := context.WithTimeout(ctxBg, 20*time.Second)
	defer cancel()
	if err := r.End(ctx); err != nil {
		r.t.Errorf("End: %v", err)
	}
	if err := r.group.Wait(ctx); err != nil {
		r.t.Errorf("goroutines of the dispatcher: %v", err)
	}
	if n := r.Waiters(); n != 0 {
		r.t.Errorf("%d calls of Wait are still counted", n)
	}
}

// bubble runs fn with a new rig under synctest: a deadlock fails the test at once.
func bubble(t *testing.T, fn func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { fn(t, newRig(t, nil)) })
}

// add registers a handler for what comes after position start.
func (r *rig) add(cfg config, start uint64) *handler {
	r.t.Helper()
	if cfg.Name == "" {
		cfg.Name = "h"
	}
	h, err := r.Add(cfg, start)
	if err != nil {
		r.t.Fatalf("Add: %v", err)
	}
	return h
}

// store appends events and tells the dispatcher, without asking at the door.
func (r *rig) store(events ...event) uint64 {
	head := r.log.append(events...)
	r.Notify()
	return head
}

// storeN appends n events of kind 1.
func (r *rig) storeN(n int) uint64 {
	return r.store(slices.Repeat([]event{{kind: 1}}, n)...)
}

// produce appends one event as a producer does: through the door.
func (r *rig) produce(ctx context.Context, ev event) error {
	if err := r.Admit(ctx); err != nil {
		return err
	}
	r.store(ev)
	return nil
}

// handled waits until h has handled everything that is there.
func (r *rig) handled(h *handler) {
	r.t.Helper()
	if err := h.Wait(ctxBg, r.log.Head()); err != nil {
		r.t.Fatalf("Wait: %v", err)
	}
}

// settle waits, in a bubble, until nothing moves any more without the clock.
func settle() { synctest.Wait() }

func wantSpan(t testing.TB, what string, got []uint64, first, last uint64) {
	t.Helper()
	want(t, what, got, span(first, last))
}

func want(t testing.TB, what string, got, want []uint64) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %s, want %s", what, brief(got), brief(want))
	}
}

// gate holds up whoever passes until it is opened. The zero value is not usable.
type gate struct {
	ch   chan struct{}
	open func()
}

func newGate(t testing.TB) *gate {
	g := &gate{ch: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.ch) })
	t.Cleanup(g.open) // before the rig ends, which waits for handlers
	return g
}

func (g *gate) pass() { <-g.ch }

// done runs fn in a goroutine; the channel that it returns gets its error.
func done(fn func() error) <-chan error {
	ch := make(chan error, 1)
	go func() { ch <- fn() }()
	return ch
}

// waits fails the test unless nothing is in ch yet.
func waits(t testing.TB, what string, ch <-chan error) {
	t.Helper()
	settle()
	select {
	case err := <-ch:
		t.Errorf("%s did not wait: %v", what, err)
	default:
	}
}

// lines is a slog.Handler that remembers messages.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }
func (l *lines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *lines) WithGroup(string) slog.Handler            { return l }

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, r.Message)
	return nil
}

func (l *lines) count(message string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.all {
		if m == message {
			n++
		}
	}
	return n
}

// brief shortens a long list for an error message.
func brief(all []uint64) string {
	if len(all) <= 40 {
		return fmt.Sprint(all)
	}
	return fmt.Sprintf("%d positions %v … %v", len(all), all[:20], all[len(all)-10:])
}
