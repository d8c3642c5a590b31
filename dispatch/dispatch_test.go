package dispatch

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirstore/weir/actor"
)

type ev struct {
	pos  uint64
	kind Kind
}
type memLog struct {
	mu   sync.RWMutex
	evs  []ev
	head atomic.Uint64
}

func (l *memLog) add(k Kind) {
	l.mu.Lock()
	l.evs = append(l.evs, ev{uint64(len(l.evs) + 1), k})
	l.head.Store(uint64(len(l.evs)))
	l.mu.Unlock()
}
func (l *memLog) Head() uint64 { return l.head.Load() }
func (l *memLog) Kinds(after uint64, dst []Kind) (int, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := 0
	for i := after; i < uint64(len(l.evs)) && n < len(dst); i++ {
		dst[n] = l.evs[i].kind
		n++
	}
	return n, nil
}
func (l *memLog) Read(ctx context.Context, after, to uint64, ks *KindSet, dst []ev) (n int, upTo uint64, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for i := after; i < to; i++ {
		if n == len(dst) {
			return n, i, nil
		}
		if ks.Has(l.evs[i].kind) {
			dst[n] = l.evs[i]
			n++
		}
	}
	return n, to, nil
}
func (l *memLog) Position(e *ev) uint64 { return e.pos }
func (l *memLog) Time(e *ev) time.Time  { return time.Time{} }

func TestSmoke(t *testing.T) {
	l := new(memLog)
	g := actor.NewGroup()
	d := New[ev](l, Options{Group: g})
	var n, m atomic.Int64
	h, err := d.Add(Config[ev]{Name: "a", Handle: func(ctx context.Context, e ev) error { n.Add(1); return nil }}, 0)
	if err != nil {
		t.Fatal(err)
	}
	k, err := d.Add(Config[ev]{Name: "k", Key: func(e *ev) string { return string(rune(e.pos % 10)) }, Workers: 4, Kinds: NewKindSet(2), Handle: func(ctx context.Context, e ev) error { m.Add(1); return nil }}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10000 {
		if err := d.Admit(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.add(Kind(i%3 + 1))
		d.Notify()
	}
	if err := h.Wait(t.Context(), 10000); err != nil {
		t.Fatal(err)
	}
	if err := k.Wait(t.Context(), 10000); err != nil {
		t.Fatal(err)
	}
	t.Log(n.Load(), m.Load(), h.Stats(), k.Stats(), d.Waited())
	if err := d.Quiesce(t.Context(), func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	if err := d.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}
