package engine

import (
	"errors"
	"fmt"

	"github.com/weirstore/weir/dispatch"
)

// parking keeps a named handler's parked list in the backend.
func (e *Engine) parking(c *handlerConfig, start Position) dispatch.Parking[Event] {
	name, afresh := c.Name, c.afresh
	return dispatch.Parking[Event]{
		Load: func() ([]Parked, error) {
			if !afresh {
				return e.loadParked(name)
			}
			// What lies behind the new beginning comes again. The checkpoint has gone back there
			// already, so a crash between the two loses nothing.
			if err := e.dropParked(name, start); err != nil {
				return nil, err
			}
			return e.loadParked(name)
		},
		Park: func(p Parked) (err error) {
			defer recovered(&err, "park")
			rec := ParkedRecord{
				Position: p.Event.Position,
				Key:      p.Key,
				Stack:    p.Stack,
				Attempts: p.Attempts,
				Time:     p.Time,
				Held:     p.Held,
			}
			if p.Err != nil {
				rec.Error = p.Err.Error()
			}
			return e.backend.Park(e.ctx, name, rec)
		},
		Unpark: func(pos uint64) error { return e.unpark(name, Position(pos)) },
	}
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
func (e *Engine) dropParked(handler string, after Position) error {
	records, err := e.parkedRecords(handler)
	if err != nil {
		return err
	}
	for _, rec := range records {
		if rec.Position <= after {
			continue
		}
		if err := e.unpark(handler, rec.Position); err != nil {
			return err
		}
	}
	return nil
}

// loadParked returns the list that a handler of that name has left. An event that is not in
// the log any more is dropped: there is nothing left to handle.
func (e *Engine) loadParked(handler string) ([]Parked, error) {
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
			if err := e.unpark(handler, rec.Position); err != nil {
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
