package engine

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/weirstore/weir/dispatch"
)

// timekeeper appends the events of a process's timers when they are due. A handler of its own tells it
// what is set and what is not any more; a goroutine, which lives as long as the process's handler, waits
// and appends.
type timekeeper struct {
	e       *Engine
	process string
	prefix  string
	handler *Handler

	notes int // since a beginning was saved; owner: the handler's goroutine

	wake chan struct{} // cap 1: another alarm is the next

	mu     sync.Mutex // pure memory work
	alarms map[alarmKey]*alarm
	next   alarmHeap // all of alarms but those that are being appended
}

type alarmKey struct{ stream, timer string }

// alarm is a timer that is set. Only place is changed, under timekeeper.mu, and due, by the goroutine while
// the alarm is not in the heap.
type alarm struct {
	stream string
	timer  *timer
	by     Position // of the event that it was set for
	noted  Position // of the note that says so
	due    time.Time
	tries  int
	place  int // in the heap; -1 if it is not there
}

// keepTime starts the timekeeper of a process whose handler is h.
func (e *Engine) keepTime(process string, h *Handler) error {
	k := &timekeeper{
		e: e, process: process, prefix: processStream(process, ""),
		wake: make(chan struct{}, 1), alarms: make(map[alarmKey]*alarm),
	}
	c := handlerConfig{op: "manage " + quote(process), begin: "StartAfter", typeNames: []string{timersType, dueType}}
	c.Name, c.Handle, c.After, c.Overflow = "timers of "+process, k.handle, dispatch.Stop, CatchUp
	var err error
	if c.start, err = k.beginning(); err != nil {
		return opError("manage", process, err)
	}
	if k.handler, err = e.handle(c, nil, nil); err != nil {
		return err
	}
	if !e.group.Go("timers", process, func() { k.run(h.h.Gone()) }) {
		return fmt.Errorf("engine: manage %q: %w", process, ErrClosed)
	}
	return nil
}

// notesPerSave is how many notes are read before the beginning is saved: so many, and those behind the oldest
// timer that is set, are read again after a restart.
const notesPerSave = 1024

// checkpoint is the name by which the backend keeps the beginning.
func (k *timekeeper) checkpoint() string { return "$timers of " + k.process }

// beginning returns a position up to which no timer is set any more.
func (k *timekeeper) beginning() (pos Position, err error) {
	defer recovered(&err, "load checkpoint")
	pos, _, err = k.e.backend.LoadCheckpoint(k.e.ctx, k.checkpoint())
	return min(pos, k.e.Head()), err
}

// save stores the beginning, when everything up to a position was read.
func (k *timekeeper) save(pos Position) {
	k.mu.Lock()
	for _, a := range k.alarms {
		pos = min(pos, a.noted-1)
	}
	k.mu.Unlock()
	if err := k.e.checkpoints.store(k.e.ctx, []Checkpoint{{k.checkpoint(), pos}}); err != nil {
		k.e.opts.Logger.Warn("weir: timers: where to begin after a restart is not saved", "process", k.process, "err", err)
	}
}

// handle runs in the handler's goroutine.
func (k *timekeeper) handle(_ context.Context, ev Event) error {
	if !strings.HasPrefix(ev.Stream, k.prefix) {
		return nil
	}
	n, err := noteOf(ev)
	if err != nil {
		return err
	}
	k.note(ev, n)
	if k.notes++; k.notes == notesPerSave {
		k.notes = 0
		k.save(ev.Position)
	}
	return nil
}

func (k *timekeeper) note(ev Event, n *note) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n.Due != "" {
		k.dropLocked(k.alarms[alarmKey{ev.Stream, n.Due}])
	}
	for _, name := range n.Cancelled {
		k.dropLocked(k.alarms[alarmKey{ev.Stream, name}])
	}
	for _, t := range n.Set {
		k.dropLocked(k.alarms[alarmKey{ev.Stream, t.Name}])
		a := &alarm{stream: ev.Stream, timer: t, by: n.Handled, noted: ev.Position, due: t.At}
		k.alarms[a.key()] = a
		k.pushLocked(a)
	}
}

func (a *alarm) key() alarmKey { return alarmKey{a.stream, a.timer.Name} }

func (k *timekeeper) pushLocked(a *alarm) {
	heap.Push(&k.next, a)
	if a.place == 0 {
		select {
		case k.wake <- struct{}{}:
		default: // it is told already
		}
	}
}

func (k *timekeeper) dropLocked(a *alarm) {
	if a == nil {
		return
	}
	delete(k.alarms, a.key())
	if a.place >= 0 {
		heap.Remove(&k.next, a.place)
	}
}

// longest is how long the timekeeper sleeps at most while something is set: the wall clock may be
// set forward meanwhile.
const longest = time.Minute

// run is the timekeeper's goroutine.
func (k *timekeeper) run(gone <-chan struct{}) {
	defer k.handler.Remove(k.e.ctx)
	// What the log says of timers is known before any is looked at: most of them were due long ago.
	if !k.known(gone) {
		return
	}
	timer := time.NewTimer(longest)
	defer timer.Stop()
	for {
		due, wait := k.take(time.Now())
		if len(due) > 0 {
			k.fire(due)
			continue
		}
		if wait > 0 {
			timer.Reset(wait)
		} else {
			timer.Stop() // nothing is set: an engine at rest costs nothing
		}
		select {
		case <-timer.C:
		case <-k.wake:
		case <-gone:
			return
		case <-k.e.ctx.Done():
			return
		}
	}
}

// known waits until the handler has read what the log says of timers, and returns false if there is
// nothing to do any more. If the log cannot be read the handler has stopped, which is logged and which
// Engine.Stats shows, and whoever makes it resume has the timers back, within a minute.
func (k *timekeeper) known(gone <-chan struct{}) bool {
	for {
		err := k.handler.h.Wait(k.e.ctx, uint64(k.e.Head()))
		if _, stopped := errors.AsType[*StoppedError](err); !stopped {
			return err == nil
		}
		again := time.NewTimer(longest)
		select {
		case <-again.C:
		case <-gone:
			again.Stop()
			return false
		case <-k.e.ctx.Done():
			again.Stop()
			return false
		}
	}
}

// batchOfTimers is how many are taken at once, and lanes how many of these are appended at once where an append
// waits for a device.
const (
	batchOfTimers = 256
	lanes         = 16
)

// take returns what is due, or else how long to wait, 0 for ever.
func (k *timekeeper) take(now time.Time) (due []*alarm, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.next) > 0 && len(due) < batchOfTimers {
		a := k.next[0]
		if wait := a.due.Sub(now); wait > 0 {
			return due, min(wait, longest)
		}
		heap.Pop(&k.next)
		due = append(due, a)
	}
	return due, 0
}

// fire appends the events of some timers.
func (k *timekeeper) fire(due []*alarm) {
	n := 1
	if !k.e.caps.Prompt {
		n = min(lanes, len(due))
	}
	var done sync.WaitGroup
	for lane := range n {
		done.Add(1)
		run := func() {
			defer done.Done()
			for i := lane; i < len(due); i += n {
				k.fireOne(due[i])
			}
		}
		if lane == n-1 || !k.e.group.Go("timers", k.process, run) {
			run()
		}
	}
	done.Wait()
}

// fireOne appends the event of a timer, unless that is no more. If it fails it is tried again later.
// Once it is appended, it is the note of that which makes handle forget it: until then a crash could undo it.
func (k *timekeeper) fireOne(a *alarm) {
	appended, err := k.tryFire(a)
	if appended || errors.Is(err, ErrClosed) {
		return
	}
	if _, deleted := errors.AsType[*StreamDeletedError](err); deleted || err == nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.alarms[a.key()] == a {
			k.dropLocked(a)
		}
		return
	}
	k.e.opts.Logger.Error("weir: timer is due and cannot be appended", "process", k.process, "stream", a.stream, "timer", a.timer.Name, "err", err)
	a.due = time.Now().Add(min(time.Second<<min(a.tries, 10), longest))
	a.tries++
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.alarms[a.key()] == a { // else it was cancelled meanwhile, or another of the name was set
		k.pushLocked(a)
	}
}

func (k *timekeeper) tryFire(a *alarm) (appended bool, err error) {
	ev, err := a.timer.event(k.e, a.by)
	if err != nil {
		return false, err
	}
	res, err := Execute(k.e.ctx, k.e, fireTimer, a.stream, dueTimer{k.e, a, ev})
	return res.First > 0, err
}

type dueTimer struct {
	e  *Engine
	a  *alarm
	ev NewEvent
}

// fireTimer decides, in the owner of the instance's stream, whether a timer is still set. Its state is
// the event that each timer was set for.
var fireTimer = &Decider[map[string]Position, dueTimer]{
	Initial: func() map[string]Position { return make(map[string]Position) },
	Evolve: func(set map[string]Position, ev Event) map[string]Position {
		n, err := noteOf(ev)
		if err != nil {
			panic(err)
		}
		if n == nil {
			return set
		}
		if n.Due != "" && set[n.Due] == n.SetBy {
			delete(set, n.Due)
		}
		for _, name := range n.Cancelled {
			delete(set, name)
		}
		for _, t := range n.Set {
			set[t.Name] = n.Handled
		}
		return set
	},
	Decide: func(set map[string]Position, due dueTimer) ([]NewEvent, error) {
		name := due.a.timer.Name
		if set[name] != due.a.by {
			return nil, nil
		}
		return []NewEvent{(&note{Due: name, SetBy: due.a.by}).event(due.e), due.ev}, nil
	},
}

// alarmHeap is a [heap.Interface], the next to be due first.
type alarmHeap []*alarm

func (h alarmHeap) Len() int           { return len(h) }
func (h alarmHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h alarmHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *alarmHeap) Push(x any) {
	a := x.(*alarm)
	a.place = len(*h)
	*h = append(*h, a)
}

func (h *alarmHeap) Pop() any {
	old := *h
	a := old[len(old)-1]
	a.place = -1
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return a
}
