package weirtest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrFlaky is what a function wrapped by [Flaky] fails or panics with.
var ErrFlaky = errors.New("weirtest: flaky")

// Flaky wraps a handler's function, for [engine.Handle], [engine.Engine.Handle] or [engine.Engine.On]: in
// a simulation each call takes a while, of up to two seconds, and some fail or panic, before the function is
// called or after it has returned nil. One event fails twice at most before the next crash, so a handler with the
// default retries handles all; one that never retries gives some up.
func Flaky[E interface{ Identity() string }](s *Sim, fn func(ctx context.Context, ev E) error) func(ctx context.Context, ev E) error {
	site, life := s.site()
	return func(ctx context.Context, ev E) error {
		l := life
		if l == nil { // wrapped before Open
			l = s.newest()
		}
		if !l.enter() {
			return errDied
		}
		defer l.leave()
		call := s.call(l, site, ev.Identity())
		sleep(ctx, l.died, call.before)
		if l.isDead() {
			return errDied
		}
		switch call.fault {
		case failBefore:
			return ErrFlaky
		case panicBefore:
			panic(ErrFlaky)
		}
		if err := fn(ctx, ev); err != nil {
			return err
		}
		sleep(ctx, l.died, call.after)
		if l.point("after the call of " + call.name) {
			return errDied
		}
		switch call.fault {
		case failAfter:
			return ErrFlaky
		case panicAfter:
			panic(ErrFlaky)
		}
		return nil
	}
}

type fault string

const (
	failBefore  fault = "fails before"
	failAfter   fault = "fails after"
	panicBefore fault = "panics before"
	panicAfter  fault = "panics after"
)

// flakyCall is what happens to one call of a wrapped function.
type flakyCall struct {
	name          string
	before, after time.Duration
	fault         fault // or none
}

// site numbers the wrapped functions of a life, which setup wraps in the same order each
// time. A function belongs to that life, so that what is left of a dead one fails.
func (s *Sim) site() (int, *life) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sites++
	return s.sites, s.life
}

func (s *Sim) call(l *life, site int, event string) flakyCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := fmt.Sprintf("function %d with %s", site, event)
	s.attempts[name]++
	attempt := s.attempts[name]
	draw := s.draw(fmt.Sprintf("%d %s, attempt %d", l.n, name, attempt))
	slow := time.Millisecond
	if draw.IntN(8) == 0 {
		slow = 2 * time.Second
	}
	c := flakyCall{
		name:   name,
		before: time.Duration(draw.Int64N(int64(slow))) + 1,
		after:  time.Duration(draw.Int64N(int64(time.Millisecond))) + 1,
	}
	faults := []fault{failBefore, failAfter, panicBefore, panicAfter}
	if i := draw.IntN(4 * len(faults)); attempt <= 2 && i < len(faults) {
		c.fault = faults[i]
		s.noteLocked("%s the call of %s, attempt %d", c.fault, name, attempt)
	}
	return c
}
