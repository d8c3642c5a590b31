package dispatch_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirstore/weir/dispatch"
)

// event is what the tests store.
type event struct {
	pos  uint64
	kind dispatch.Kind
	key  string
	time time.Time
}

func keyOf(ev *event) string { return ev.key }

// memlog is a Log in memory. What the hooks return, or how they panic, is how Kinds and
// Read fail; they must be set before the dispatcher is made, or while everybody is blocked.
type memlog struct {
	mu     sync.RWMutex
	events []event
	head   atomic.Uint64

	onKinds func(after uint64) error
	onRead  func(after, to uint64) error
	readAs  func(n int, upTo uint64) (int, uint64) // spoils what Read returns
	short   uint64                                 // Read looks at no more than so many positions at a time; 0 for all
}

var _ dispatch.Log[event] = (*memlog)(nil)

// append stores events and returns the position of the last.
func (l *memlog) append(events ...event) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ev := range events {
		ev.pos, ev.time = uint64(len(l.events)+1), time.Now()
		l.events = append(l.events, ev)
	}
	head := uint64(len(l.events))
	l.head.Store(head)
	return head
}

// remove makes events of the log go, as a log with retention does.
func (l *memlog) remove(positions ...uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, pos := range positions {
		l.events[pos-1].kind = dispatch.Removed
	}
}

func (l *memlog) Head() uint64 { return l.head.Load() }

func (l *memlog) Kinds(after uint64, dst []dispatch.Kind) (int, error) {
	if l.onKinds != nil {
		if err := l.onKinds(after); err != nil {
			return 0, err
		}
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := 0
	for _, ev := range l.events[after:] {
		if n == len(dst) {
			break
		}
		dst[n] = ev.kind
		n++
	}
	return n, nil
}

func (l *memlog) Read(ctx context.Context, after, to uint64, kinds *dispatch.KindSet, dst []event) (int, uint64, error) {
	if l.onRead != nil {
		if err := l.onRead(after, to); err != nil {
			return 0, after, err
		}
	}
	if l.short > 0 {
		to = min(to, after+l.short)
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	n, upTo := 0, to
	for _, ev := range l.events[after:to] {
		if ev.kind == dispatch.Removed || !kinds.Has(ev.kind) {
			continue
		}
		if n == len(dst) {
			upTo = ev.pos - 1
			break
		}
		dst[n] = ev
		n++
	}
	if l.readAs != nil {
		n, upTo = l.readAs(n, upTo)
	}
	return n, upTo, nil
}

func (l *memlog) Position(ev *event) uint64 { return ev.pos }
func (l *memlog) Time(ev *event) time.Time  { return ev.time }

// positions returns where events after start are of which want says yes.
func (l *memlog) positions(start uint64, want func(event) bool) (all []uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, ev := range l.events[start:] {
		if want(ev) {
			all = append(all, ev.pos)
		}
	}
	return all
}

// recorder is a handler's function that remembers what it was called with.
type recorder struct {
	mu  sync.Mutex
	got []event
}

func (r *recorder) handle(_ context.Context, ev event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, ev)
	return nil
}

func (r *recorder) positions() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]uint64, len(r.got))
	for i, ev := range r.got {
		all[i] = ev.pos
	}
	return all
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// byKey returns the positions seen of each key, in the order seen.
func (r *recorder) byKey() map[string][]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := make(map[string][]uint64)
	for _, ev := range r.got {
		m[ev.key] = append(m[ev.key], ev.pos)
	}
	return m
}

// span returns the positions first to last.
func span(first, last uint64) []uint64 {
	all := []uint64{}
	for pos := first; pos <= last; pos++ {
		all = append(all, pos)
	}
	return all
}

func sorted(all []uint64) []uint64 {
	all = slices.Clone(all)
	slices.Sort(all)
	return all
}
