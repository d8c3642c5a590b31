package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// requestOp is what a request asks a stream's owner for.
type requestOp uint8

const (
	opAppend requestOp = iota
	opTruncate
	opDelete
	opExecute
	opHold
	opLeave
)

func (o requestOp) String() string {
	switch o {
	case opTruncate:
		return "truncate"
	case opDelete:
		return "delete"
	case opExecute:
		return "execute"
	case opHold:
		return "commit"
	case opLeave:
		return "snapshot"
	}
	return "append"
}

// Truncate removes the events of a stream before a version, which is at most one above that
// of the stream. Positions and versions of what is left do not change, the stream's version stays,
// and numbering goes on: after Truncate(version+1) the stream is empty, and its next event is version+1.
//
// From its return on no read that begins finds them, no handler that has not seen them gets
// them, and their event IDs are forgotten. A handler that has read them already, 64 at most or with
// keyed workers a mailbox, still gets those. The space is given back by [Engine.Compact].
//
// It takes its turn among the stream's appends, and honours ctx as [Engine.Append] does. Before 0 or 1
// there is nothing to remove, nor in a stream that was deleted. Errors: [*InvalidError], [ErrClosed],
// [ErrOutcomeUnknown], and one that wraps [errors.ErrUnsupported] if the backend keeps everything.
func (e *Engine) Truncate(ctx context.Context, stream string, before Version) error {
	return e.change(ctx, opTruncate, stream, Expected{}, before)
}

// Delete removes all events of a stream, and its name for good: later appends, those that
// wait included, fail with a [*StreamDeletedError]. Reading it is no error, and finds nothing. A
// stream that was deleted, or that nobody wrote to, can be deleted.
//
// Expected is checked as in [Engine.Append], unless the stream was deleted. In all else it is
// like [Engine.Truncate].
func (e *Engine) Delete(ctx context.Context, stream string, expected Expected) error {
	if !expected.valid() {
		return invalid("delete "+quote(stream), "expected version", expected, "Any, NoStream, StreamExists or Exactly(n)")
	}
	return e.change(ctx, opDelete, stream, expected, 0)
}

// change makes the stream's owner truncate or delete it.
func (e *Engine) change(ctx context.Context, op requestOp, stream string, expected Expected, before Version) error {
	if err := checkName(op.String(), "stream name", stream); err != nil {
		return err
	}
	if _, err := e.retention(); err != nil {
		return opError(op.String(), stream, err)
	}
	c := call{name: stream}
	if err := e.enter(ctx, &c); err != nil {
		return opError(op.String(), stream, err)
	}
	defer c.leave()
	if ctx.Err() != nil {
		return opError(op.String(), stream, context.Cause(ctx))
	}
	if op == opTruncate && before <= 1 {
		return nil
	}
	r := e.request(&c, op, 0)
	r.expected, r.before = expected, before
	_, err := e.send(ctx, &c, r)
	return err
}

// remove is called by the stream's owner.
func (e *Engine) remove(op requestOp, stream StreamState, before Version) (err error) {
	defer recovered(&err, op.String())
	b, err := e.retention()
	if err != nil {
		return err
	}
	if op == opDelete {
		return b.Delete(e.ctx, stream)
	}
	return b.Truncate(e.ctx, stream, before)
}

// Compact removes what [Options.Retention] says is to go, and gives back the space of all
// that was removed, while everything else goes on. One runs at a time. Nothing calls it but you: once an
// hour, say. It ends early, with ctx's cause, when ctx is done, or when a shutdown runs out of time.
func (e *Engine) Compact(ctx context.Context) (_ Compaction, err error) {
	b, err := e.retention()
	if err != nil {
		return Compaction{}, opError("compact", "", err)
	}
	var c call
	if err := e.enter(ctx, &c); err != nil {
		return Compaction{}, opError("compact", "", err)
	}
	defer c.leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.ctx, func() { cancel(context.Cause(e.ctx)) })()
	began := time.Now()
	done, err := e.compact(ctx, b)
	if err != nil {
		return Compaction{}, opError("compact", "", err)
	}
	done.Took = time.Since(began)
	return done, nil
}

func (e *Engine) compact(ctx context.Context, b Retention) (_ Compaction, err error) {
	defer recovered(&err, "compact")
	defer e.folds.dropAll() // rules may have removed events that are in them
	return b.Compact(ctx, e.opts.Retention)
}

// retention returns the backend as one that can forget.
func (e *Engine) retention() (Retention, error) { return retentionOf(e.backend) }

func retentionOf(b Backend) (Retention, error) {
	if r, ok := b.(Retention); ok {
		return r, nil
	}
	return nil, fmt.Errorf("backend %q keeps every event: %w", b.Caps().Name, errors.ErrUnsupported)
}

// checkRetention says what is wrong with Options.Retention.
func checkRetention(rules []RetentionRule, b Backend) (errs []error) {
	if len(rules) == 0 {
		return nil
	}
	if _, err := retentionOf(b); err != nil {
		errs = append(errs, fmt.Errorf("engine: open: Options.Retention: %w", err))
	}
	seen := make(map[RetentionRule]int) // by what they are for
	for i, r := range rules {
		where := fmt.Sprintf("Options.Retention[%d]", i)
		bad := func(what string, value any, rule string) {
			errs = append(errs, invalid("open", where+what, value, rule))
		}
		subject := RetentionRule{Stream: r.Stream, Category: r.Category}
		switch {
		case (r.Stream == "") == (r.Category == ""):
			bad("", fmt.Sprintf("for stream %s and category %s", quote(r.Stream), quote(r.Category)), "one for a stream or for a category")
		case strings.Contains(r.Category, "-"):
			bad(".Category", r.Category, `what is before the first "-" of a stream's name`)
		default:
			if err := checkName("open", where, r.Stream+r.Category); err != nil {
				errs = append(errs, err)
			}
			if first, twice := seen[subject]; twice {
				bad("", fmt.Sprintf("for the same as Options.Retention[%d]", first), "one rule for each stream and category")
			}
			seen[subject] = i
		}
		if r.MaxAge < 0 {
			bad(".MaxAge", r.MaxAge, "0 for no limit, or more")
		}
		if r.MaxAge == 0 && r.MaxCount == 0 {
			bad("", "without a limit", "MaxAge, MaxCount or both")
		}
	}
	return errs
}
