package actor

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Group starts the goroutines of one owner. It differs from errgroup.Group, on
// which it stands, in that it names and counts them, catches their panics, can be
// closed against new ones, and can be waited for with a context.
//
// The zero value is not usable; call NewGroup. All methods are safe for
// concurrent use.
type Group struct {
	eg errgroup.Group

	mu      sync.Mutex // pure memory work; never held while a goroutine runs user code
	running map[*goroutine]struct{}
	closed  bool

	joined   chan struct{} // closed when all goroutines have returned after Close
	joinOnce sync.Once
	err      error // the first panic; written before joined is closed
}

type goroutine struct{ kind, name string }

// NewGroup returns an empty group.
func NewGroup() *Group {
	return &Group{running: make(map[*goroutine]struct{}), joined: make(chan struct{})}
}

// Go runs fn in a new goroutine, called "kind name" in [Group.Running], and
// reports whether it did: a closed group starts nothing. A panic in fn ends that
// goroutine alone and is returned by Wait. A runtime.Goexit ends it too, and Wait says
// nothing of that: fn's own deferred calls are the place to deal with it.
func (g *Group) Go(kind, name string, fn func()) bool {
	me := &goroutine{kind, name}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return false
	}
	g.running[me] = struct{}{}
	// Started under the lock: a Wait that begins after Close has seen every start.
	g.eg.Go(func() (err error) {
		defer g.forget(me)
		defer func() {
			if v := recover(); v != nil {
				err = &PanicError{Where: me.String(), Value: v, Stack: debug.Stack()}
			}
		}()
		fn()
		return nil
	})
	g.mu.Unlock()
	return true
}

func (r *goroutine) String() string {
	if r.name == "" {
		return r.kind
	}
	return fmt.Sprintf("%s %q", r.kind, r.name)
}

func (g *Group) forget(me *goroutine) {
	g.mu.Lock()
	delete(g.running, me)
	g.mu.Unlock()
}

// Count returns how many goroutines of the group are running.
func (g *Group) Count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.running)
}

// Running names the goroutines that are running, sorted.
func (g *Group) Running() []string {
	g.mu.Lock()
	names := make([]string, 0, len(g.running))
	for r := range g.running {
		names = append(names, r.String())
	}
	g.mu.Unlock()
	slices.Sort(names)
	return names
}

// Close makes Go start nothing more. It does not wait.
func (g *Group) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.joinOnce.Do(func() {
		// The one goroutine that the group does not count: it waits for the others.
		// It ends with the last of them.
		go func() {
			g.err = g.eg.Wait()
			close(g.joined)
		}()
	})
}

// Wait closes the group and blocks until every goroutine has returned, or until
// ctx is done. It returns the first panic as a [*PanicError], or an error that
// wraps ctx's cause and names the goroutines that still run; those go on.
func (g *Group) Wait(ctx context.Context) error {
	g.Close()
	select {
	case <-g.joined: // all gone: no matter whether ctx is done too
		return g.err
	default:
	}
	select {
	case <-g.joined:
		return g.err
	case <-ctx.Done():
		return fmt.Errorf("actor: wait for %q: %w", g.Running(), context.Cause(ctx))
	}
}
