package work_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weirstore/weir/bench/contender"
	"github.com/weirstore/weir/bench/work"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// liar is a store that spoils what it is told to.
type liar struct {
	handlers []contender.Handler
	spoil    func(n int, ev contender.Event, do func(contender.Event)) // on the way to handlers
	keep     func(n int, ev contender.Event, do func(contender.Event)) // on the way to the store
	mu       sync.Mutex                                                // guards what is below, and serialises handlers
	n        int
	kept     []contender.Event
}

func (l *liar) Producer() contender.Producer { return l }

func (l *liar) Append(_ int, events []contender.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ev := range events {
		l.n++
		l.spoil(l.n, ev, func(ev contender.Event) {
			for _, h := range l.handlers {
				h(ev)
			}
		})
		l.keep(l.n, ev, func(ev contender.Event) { l.kept = append(l.kept, ev) })
	}
	return nil
}

func (l *liar) Read(fn func(contender.Event)) error {
	for _, ev := range l.kept {
		fn(ev)
	}
	return nil
}

func (*liar) Close() error { return nil }

func TestRunFindsWhatIsWrong(t *testing.T) {
	type spoiler = func(int, contender.Event, func(contender.Event))
	honest := spoiler(func(_ int, ev contender.Event, do func(contender.Event)) { do(ev) })
	dropped := spoiler(func(n int, ev contender.Event, do func(contender.Event)) {
		if n != 30 {
			do(ev)
		}
	})
	repeated := spoiler(func(n int, ev contender.Event, do func(contender.Event)) {
		do(ev)
		if n == 30 {
			do(ev)
		}
	})
	lastRepeated := spoiler(func(n int, ev contender.Event, do func(contender.Event)) {
		do(ev)
		if n == 100 {
			do(ev)
		}
	})
	var held contender.Event
	swapped := spoiler(func(n int, ev contender.Event, do func(contender.Event)) {
		switch n {
		case 30:
			held = ev
		case 31:
			do(ev)
			do(held)
		default:
			do(ev)
		}
	})
	lastDropped := spoiler(func(n int, ev contender.Event, do func(contender.Event)) {
		if n != 100 {
			do(ev)
		}
	})
	for _, tc := range []struct {
		name        string
		spoil, keep spoiler
		want        string // "" if nothing is wrong
	}{
		{"nothing", honest, honest, ""},
		{"an event is not delivered", dropped, honest, "time was up"},
		{"the last event is not delivered", lastDropped, honest, "time was up"},
		{"an event is delivered twice", repeated, honest, "event 30 after 30"},
		{"the last event is delivered twice", lastRepeated, honest, "event 100 after 100"},
		{"two events change places on the way to the handler", swapped, honest, "event 31 after 29"},
		{"an event is not stored", honest, dropped, "stored: key 0: event 31 after 29"},
		{"the last event is not stored", honest, lastDropped, "stored: 99 of 100"},
		{"an event is stored twice", honest, repeated, "stored: key 0: event 30 after 30"},
		{"two events change places in the store", honest, swapped, "stored: key 0: event 31 after 29"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := work.Run(ctx, work.Work{Name: "w", Events: 100, Producers: 1, Streams: 1, Batch: 1, Handlers: 1, Size: 16},
					contender.Entry{Name: "liar", Open: func(c contender.Config) (contender.Bus, error) {
						return &liar{handlers: c.Handlers, spoil: tc.spoil, keep: tc.keep}, nil
					}}, dir, work.Profile{})
				switch {
				case tc.want == "" && err != nil:
					t.Error(err)
				case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
					t.Errorf("error %v, want one with %q", err, tc.want)
				}
			})
		})
	}
}

func TestWorksAreWhole(t *testing.T) {
	all := append(contender.All(), contender.Entry{Name: "any"})
	seen := map[string]bool{}
	for _, full := range []bool{false, true} {
		clear(seen)
		for _, w := range work.All(work.Scale{Factor: 1, Full: full}) {
			if seen[w.Name] {
				t.Errorf("two works are named %s", w.Name)
			}
			seen[w.Name] = true
			if w.Events%(w.Producers*w.Batch) != 0 {
				t.Errorf("%s: %d events cannot be shared out to %d producers in batches of %d", w.Name, w.Events, w.Producers, w.Batch)
			}
			if w.Against != "" {
				if !seen[w.Against] {
					t.Errorf("%s is compared to %s, which does not come before it", w.Name, w.Against)
				}
				continue
			}
			if limit, ok := contender.Find(all, w.Limit); !ok || !limit.Fits(w.Needs) {
				t.Errorf("%s: its limit %q is not there or cannot do it", w.Name, w.Limit)
			}
		}
	}
	if w, ok := work.Find("events-10000000", work.Scale{Factor: 1, Full: true}); !ok || w.Events != 10_000_000 {
		t.Error("the full size has no work of 10^7 events")
	}
}
