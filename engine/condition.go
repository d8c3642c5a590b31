package engine

import (
	"context"
	"errors"
	"fmt"
)

// Criterion says which events are meant: those that have all these tags, and one of these
// types if any are given. There is at least one tag.
type Criterion struct {
	Types []string
	Tags  []string
}

// Condition is one of a [Tx]: it fails if an event that one of these criteria means was stored
// after a position. With it a decision can be made on any set of events, of many streams: read them
// with [Engine.Matching], decide, and store on the condition that none has come to them since.
type Condition struct {
	Any   []Criterion
	After Position
}

// MaxCriteria is how many criteria a condition, or a call of [Engine.Matching], may have.
const MaxCriteria = 64

// ConditionError means that a [Condition] of a [Tx] has failed. It is one of the reasons of a [*TxError].
type ConditionError struct {
	Condition int      // which one of the Tx, from 1
	Position  Position // of an event that should not be there; 0 if it was removed meanwhile
}

func (e *ConditionError) Error() string {
	if e.Position == 0 {
		return fmt.Sprintf("engine: condition %d: an event that it looks for was stored", e.Condition)
	}
	return fmt.Sprintf("engine: condition %d: an event that it looks for was stored at position %d", e.Condition, e.Position)
}

// TagMatch is a [Criterion] as a backend sees it.
type TagMatch struct {
	Types *TypeSet // nil for all
	Tags  []string // at least one
}

// Wants reports whether an event of a type with some tags is meant.
func (c *TagMatch) Wants(typ TypeID, tags []string) bool {
	if !c.Types.Has(typ) {
		return false
	}
	for _, want := range c.Tags {
		found := false
		for _, tag := range tags {
			found = found || tag == want
		}
		if !found {
			return false
		}
	}
	return true
}

// TagCondition is a [Condition] as a backend sees it.
type TagCondition struct {
	Any   []TagMatch
	After Position
}

// Tagging is what a backend implements that finds events by their tags ([Metadata.Tags]), at a cost
// that does not grow with the log. Memory and files do.
type Tagging interface {
	// CommitIf is Commit on conditions. They are decided on at the moment at which the events come to
	// be: no other commit comes between. For one that fails it returns a *ConditionError, with the
	// first of them, and nothing is stored. An event that was removed since counts as one that was stored, as far as the
	// backend still knows of it.
	CommitIf(ctx context.Context, writes []*Write, conditions []TagCondition) error
	// Matching stores in dst events after a position that one of the matches means, in the order
	// of positions, and returns how many; there may be more if dst is full. Removed ones are left out.
	Matching(ctx context.Context, any []TagMatch, after, to Position, dst []Event) (n int, err error)
}

// Matching returns the events that one of the criteria means, in the order of positions, and
// the position up to which the log was looked at: what a [Condition] on them is given as After. All of
// them are in memory at once. It costs about as much as there are events with these tags, whatever the
// size of the log.
//
// Errors: [*InvalidError], [*DecodeError], [ErrClosed], ctx's cause, and one that wraps
// [errors.ErrUnsupported] if the backend cannot find events by tags.
func (e *Engine) Matching(ctx context.Context, criteria ...Criterion) (events []Event, upTo Position, err error) {
	matches, err := e.matches("matching", criteria)
	if err != nil {
		return nil, 0, err
	}
	b, err := e.tagging()
	if err != nil {
		return nil, 0, opError("matching", "", err)
	}
	if e.isClosed() {
		return nil, 0, opError("matching", "", ErrClosed)
	}
	upTo = e.Head()
	events, err = e.matching(ctx, b, matches, 0, upTo)
	if err != nil {
		return nil, 0, opError("matching", "", err)
	}
	return events, upTo, nil
}

func (e *Engine) matching(ctx context.Context, b Tagging, matches []TagMatch, after, upTo Position) (events []Event, err error) {
	defer recovered(&err, "matching")
	var buf [chunk]Event
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		n, err := b.Matching(ctx, matches, after, upTo, buf[:])
		if err != nil {
			return nil, err
		}
		for i := range buf[:n] {
			if e.caps.Encoded {
				if err := e.decode(&buf[i], nil); err != nil {
					return nil, err
				}
			}
			events = append(events, buf[i])
			after = buf[i].Position
		}
		if n < len(buf) {
			return events, nil
		}
	}
}

// tagging returns the backend as one that finds events by tags.
func (e *Engine) tagging() (Tagging, error) {
	if b, ok := e.backend.(Tagging); ok {
		return b, nil
	}
	return nil, fmt.Errorf("backend %q does not find events by tags: %w", e.caps.Name, errors.ErrUnsupported)
}

// matches checks criteria and makes them what backends are given.
func (e *Engine) matches(op string, criteria []Criterion) ([]TagMatch, error) {
	switch n := len(criteria); {
	case n == 0:
		return nil, invalid(op, "number of criteria", 0, "at least 1")
	case n > MaxCriteria:
		return nil, invalid(op, "number of criteria", n, fmt.Sprintf("at most %d", MaxCriteria))
	}
	list := make([]TagMatch, len(criteria))
	for i, c := range criteria {
		if len(c.Tags) == 0 || len(c.Tags) > MaxTags {
			return nil, invalid(op, fmt.Sprintf("number of tags of criterion %d", i+1), len(c.Tags), fmt.Sprintf("1 to %d", MaxTags))
		}
		for _, tag := range c.Tags {
			if err := checkName(op, fmt.Sprintf("tag of criterion %d", i+1), tag); err != nil {
				return nil, err
			}
		}
		types, err := e.types.set(op, c.Types)
		if err != nil {
			return nil, err
		}
		list[i] = TagMatch{types, c.Tags}
	}
	return list, nil
}
