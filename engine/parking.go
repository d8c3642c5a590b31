package engine

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/weirstore/weir/dispatch"
)

// The longest error text and stack that are kept of a parked event. Both are for people, and
// backends may write the whole list each time that checkpoints are stored.
const (
	maxParkedError = 4 << 10
	maxParkedStack = 8 << 10
)

// parking keeps a named handler's parked list in the backend.
func (e *Engine) parking(c *handlerConfig, start Position, kept *keptHandler) dispatch.Parking[Event] {
	name, afresh := c.Name, c.afresh
	// A change is durable with the next save, which is then due whether anything moves or not.
	changed := func(err error) error {
		if err == nil {
			e.checkpoints.parkedChanged(kept)
		}
		return err
	}
	unpark := func(pos Position) error { return changed(e.unpark(name, pos)) }
	return dispatch.Parking[Event]{
		Load: func() ([]Parked, error) {
			if !afresh {
				return e.loadParked(name, unpark)
			}
			// What lies behind the new beginning comes again. The checkpoint has gone back there
			// already, so a crash between the two loses nothing.
			if err := e.dropParked(name, start, unpark); err != nil {
				return nil, err
			}
			return e.loadParked(name, unpark)
		},
		Park: func(p Parked) (err error) {
			defer recovered(&err, "park")
			rec := ParkedRecord{
				Position: p.Event.Position,
				Key:      p.Key,
				Stack:    cutText(p.Stack, maxParkedStack),
				Attempts: p.Attempts,
				Time:     p.Time,
				Held:     p.Held,
			}
			if p.Err != nil {
				rec.Error = cutText(p.Err.Error(), maxParkedError)
			}
			return changed(e.backend.Park(e.ctx, name, rec))
		},
		Unpark: func(pos uint64) error { return unpark(Position(pos)) },
	}
}

// cutText cuts a text that is too long between two characters, and says that it did.
func cutText(s string, most int) string {
	if len(s) <= most {
		return s
	}
	const mark = " …"
	i := most - len(mark)
	for i > 0 && !utf8.RuneStart(s[i]) {
		i--
	}
	return s[:i] + mark
}

func (e *Engine) unpark(handler string, pos Position) (err error) {
	defer recovered(&err, "unpark")
	return e.backend.Unpark(e.ctx, handler, pos)
}

func (e *Engine) parkedRecords(handler string) (_ []ParkedRecord, err error) {
	defer recovered(&err, "load the parked list")
	return e.backend.Parked(e.ctx, handler)
}

// dropParked takes off the list what lies behind a position.
func (e *Engine) dropParked(handler string, after Position, unpark func(Position) error) error {
	records, err := e.parkedRecords(handler)
	if err != nil {
		return err
	}
	for _, rec := range records {
		if rec.Position <= after {
			continue
		}
		if err := unpark(rec.Position); err != nil {
			return err
		}
	}
	return nil
}

// loadParked returns the list that a handler of that name has left. An event that is not in
// the log any more is dropped: there is nothing left to handle.
func (e *Engine) loadParked(handler string, unpark func(Position) error) ([]Parked, error) {
	records, err := e.parkedRecords(handler)
	if err != nil {
		return nil, err
	}
	var list []Parked
	for _, rec := range records {
		ev, there, err := e.eventAt(rec.Position)
		switch {
		case err != nil:
			return nil, fmt.Errorf("read the parked event at position %d: %w", rec.Position, err)
		case !there:
			e.opts.Logger.Warn("weir: parked event was removed from the log, and is dropped", "handler", handler,
				"position", rec.Position, "attempts", rec.Attempts, "err", rec.Error)
			if err := unpark(rec.Position); err != nil {
				return nil, err
			}
			continue
		}
		p := Parked{Event: ev, Key: rec.Key, Stack: rec.Stack, Attempts: rec.Attempts, Time: rec.Time, Held: rec.Held}
		if !rec.Held {
			p.Err = errors.New(rec.Error)
		}
		list = append(list, p)
	}
	return list, nil
}

// eventAt returns the event at a position, and false if the log does not have it.
func (e *Engine) eventAt(pos Position) (_ Event, there bool, err error) {
	defer recovered(&err, "read")
	if pos == 0 || pos > e.Head() {
		return Event{}, false, nil
	}
	var ev [1]Event
	n, _, err := logView{e.backend}.Read(e.ctx, uint64(pos-1), uint64(pos), nil, ev[:])
	return ev[0], n == 1, err
}
