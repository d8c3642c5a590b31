package dispatch

import (
	"slices"

	"github.com/weirstore/weir/actor"
)

// Watcher is woken when events of its kinds come. It differs from a handler in that it
// has no goroutine, no mailbox and no position: a reader that follows the log parks on it.
type Watcher struct {
	*actor.Signal
	// Close ends the watch. It does not wait for handlers.
	Close func()
	kinds *KindSet
}

// Watch returns a Watcher for kinds; nil for all. One goroutine may park on it, as on
// any Signal. After End it returns [ErrClosed].
func (d *Dispatcher[E]) Watch(kinds *KindSet) (*Watcher, error) {
	w := &Watcher{Signal: actor.NewSignal(), kinds: kinds}
	w.Close = func() {
		d.do(func() { d.watchers = slices.DeleteFunc(d.watchers, func(o *Watcher) bool { return o == w }) })
	}
	if !d.do(func() { d.watchers = append(d.watchers, w) }) {
		return nil, ErrClosed
	}
	return w, nil
}

// wakeWatchers wakes those whom the kinds of a round concern. Dispatcher's goroutine.
func (d *Dispatcher[E]) wakeWatchers() {
	for _, w := range d.watchers {
		if w.Parked() && (w.kinds == nil && len(d.touched) > 0 || slices.ContainsFunc(d.touched, w.kinds.Has)) {
			w.Wake()
		}
	}
}
