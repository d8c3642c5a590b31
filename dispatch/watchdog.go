package dispatch

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirstore/weir/actor"
)

// watchdog looks twice in each SlowCall whether a worker is still where it was: a call
// that it finds at three looks has run for at least that long, and is logged and counted,
// once. The workers pay nothing for it but a flag a turn; no clock is read in a
// call's way. While nobody is in a turn, or all who are have been reported, it sleeps.
type watchdog struct {
	log   *slog.Logger
	every time.Duration // half of SlowCall
	sig   *actor.Signal
	quit  chan struct{}

	mu     sync.Mutex // pure memory work
	pulses map[*pulse]struct{}
	isEnd  bool
}

// pulse is what the watchdog sees of a worker.
type pulse struct {
	handler string
	at      *atomic.Uint64 // the position being handled
	slow    *atomic.Uint64 // calls that were too slow
	turns   atomic.Uint64  // odd while in a turn
	// reported is set with the report; the worker clears it with the next call, and wakes the
	// watchdog, which may have gone to sleep over it.
	reported atomic.Bool
	moved    atomic.Int64 // Unix ns of the last look that found another position in the same turn

	// owner: the watchdog's goroutine
	lastTurn, lastAt uint64
	looks            int
}

func newWatchdog(opts Options) *watchdog {
	return &watchdog{
		log:    opts.Logger,
		every:  max(opts.SlowCall/2, 1),
		sig:    actor.NewSignal(),
		quit:   make(chan struct{}),
		pulses: make(map[*pulse]struct{}),
	}
}

func (d *watchdog) add(p *pulse) {
	d.mu.Lock()
	d.pulses[p] = struct{}{}
	d.mu.Unlock()
}

func (d *watchdog) remove(p *pulse) {
	d.mu.Lock()
	delete(d.pulses, p)
	d.mu.Unlock()
}

// begin tells that a turn begins, end that it has ended. Worker's goroutine.
func (p *pulse) begin(d *watchdog) {
	p.turns.Add(1)
	d.kick()
}

func (p *pulse) end() { p.turns.Add(1) }

// kick wakes the watchdog, if it sleeps.
func (d *watchdog) kick() { d.sig.Wake() }

func (d *watchdog) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.isEnd {
		d.isEnd = true
		close(d.quit)
	}
}

// run is the watchdog's goroutine.
func (d *watchdog) run() {
	timer := time.NewTimer(d.every)
	defer timer.Stop()
	for {
		d.sig.Arm()
		if d.look() {
			d.sig.Disarm()
		} else {
			select {
			case <-d.sig.C():
			case <-d.quit:
				return
			}
		}
		timer.Reset(d.every)
		select {
		case <-timer.C:
		case <-d.quit:
			return
		}
	}
}

// look looks at every worker and reports whether there is one to look at again.
func (d *watchdog) look() (again bool) {
	var slow []*pulse
	d.mu.Lock()
	for p := range d.pulses {
		turn, at := p.turns.Load(), p.at.Load()
		switch {
		case turn%2 == 0:
			p.looks = 0
			continue
		case p.looks == 0 || turn != p.lastTurn || at != p.lastAt:
			if p.looks > 0 && turn == p.lastTurn {
				p.moved.Store(now())
			}
			p.lastTurn, p.lastAt, p.looks = turn, at, 1
		case p.looks < 3:
			p.looks++
			if p.looks == 3 {
				slow = append(slow, p)
			}
		}
		again = again || p.looks < 3
	}
	d.mu.Unlock()
	for _, p := range slow { // without the lock: the logger is somebody else's code
		p.reported.Store(true)
		// The call may have returned meanwhile: then the worker has stored its next position
		// after it saw reported, or it is seen here.
		again = again || p.at.Load() != p.lastAt || p.turns.Load() != p.lastTurn
		p.slow.Add(1)
		d.log.Warn("weir: handler call is slow", "handler", p.handler, "position", p.lastAt, "longer_than", 2*d.every)
	}
	return again
}
