package dispatch

import (
	"encoding/json"
	"fmt"
	"time"
)

// State says how a handler is doing. It is derived from positions and from the age of
// the last progress: nothing sets it.
type State uint8

const (
	// Live: nothing is before the handler, or nothing older than a second.
	Live State = iota
	// Behind: it has older events before it, and makes progress.
	Behind
	// Stalled: it has events before it and has made no progress for StallAfter.
	Stalled
	// Retrying: its function has failed, and the event will be tried again.
	Retrying
	// Paused by Pause.
	Paused
	// Stopped by its own failure policy, by overflow, by an unreadable log, or removed.
	Stopped
)

func (s State) String() string {
	return name(s, "live", "behind", "stalled", "retrying", "paused", "stopped")
}

// MarshalText makes a State its name in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// liveWithin is how old the oldest unhandled event of a live handler may be: less than
// a person would call late, more than a scheduler's hiccup.
const liveWithin = time.Second

// Stats is what can be seen of a handler from outside.
type Stats struct {
	Name     string
	State    State
	Position uint64 // everything up to here that concerns the handler is handled
	// Lag counts the events before the handler. While it reads what was in the log when
	// it joined, or is paused or stopped, Lag counts positions: an upper bound.
	Lag     uint64
	LagTime time.Duration // age of the oldest of them; 0 without lag
	Fill    int           // events in the mailbox
	Window  int           // the mailbox's size
	Workers int           // 0 without a Key

	Handled  uint64 // calls that returned nil
	Failures uint64 // calls that returned an error, panicked, or ended their goroutine
	Retries  uint64 // repeated calls
	Skipped  uint64 // events given up after the last retry
	Lagged   uint64 // events that a Latest handler jumped over
	Parked   int    // events in the parked list now
	Slow     uint64 // calls that the watchdog reported
	Attempt  int    // failures of the event being retried

	LastError error // the newest failure, nil if there was none
}

func (s Stats) String() string {
	return fmt.Sprintf("%s: %v at %d, lag %d (%v), mailbox %d/%d", s.Name, s.State, s.Position, s.Lag, s.LagTime, s.Fill, s.Window)
}

// MarshalJSON makes LastError its text, or null.
func (s Stats) MarshalJSON() ([]byte, error) {
	type plain Stats // without this method
	return json.Marshal(struct {
		plain
		LastError any
	}{plain(s), errorText(s.LastError)})
}

func errorText(err error) any {
	if err == nil {
		return nil
	}
	return err.Error()
}

// Stats returns what can be seen of the handler now. It reads at most one event of the log.
func (h *Handler[E]) Stats() Stats {
	c := &h.counters
	s := Stats{
		Name:     h.cfg.Name,
		Position: h.Position(),
		Window:   h.cfg.Window,
		Workers:  h.cfg.Workers,
		Handled:  c.handled.Load(),
		Failures: c.failures.Load(),
		Retries:  c.retries.Load(),
		Skipped:  c.skipped.Load(),
		Lagged:   c.lagged.Load(),
		Slow:     c.slow.Load(),
		Attempt:  h.attempt(),
	}
	if h.attached.Load() {
		s.Fill = int(h.mail.fill())
		s.Lag = h.mail.history() + uint64(s.Fill)
	} else if head := h.d.log.Head(); head > s.Position {
		s.Lag = head - s.Position
	}
	h.mu.Lock()
	s.Parked = len(h.parked)
	s.LastError = h.lastErr
	h.mu.Unlock()

	var oldest int64 // Unix ns of when the oldest unhandled event was stored
	if s.Lag > 0 {
		var ev [1]E
		if n, _, err := h.readLog(s.Position, max(h.d.done.Load(), s.Position+1), ev[:]); err == nil && n == 1 {
			oldest = h.d.log.Time(&ev[0]).UnixNano()
			s.LagTime = max(0, time.Duration(now()-oldest))
		} else if err == nil {
			s.Lag, s.Fill = 0, 0 // handled since they were counted
		}
	}
	progress := max(oldest, c.progressAt.Load(), h.main.pulse.moved.Load())
	stalled := time.Duration(now()-progress) >= h.d.opts.StallAfter
	switch want := h.want.Load(); {
	case want >= wantStop:
		s.State = Stopped
	case want == wantPause:
		s.State = Paused
	case s.Attempt > 0:
		s.State = Retrying
	case s.Lag == 0:
		s.State = Live
	case stalled:
		s.State = Stalled
	case s.LagTime >= liveWithin:
		s.State = Behind
	}
	return s
}

// attempt returns the highest number of failures among the events being tried.
func (h *Handler[E]) attempt() int {
	n := h.main.attempt.Load()
	if h.keyed != nil {
		for _, w := range h.keyed.workers {
			n = max(n, w.attempt.Load())
		}
	}
	return int(n)
}
