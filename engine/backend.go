package engine

import (
	"context"
	"time"

	"github.com/weirstore/weir/dispatch"
)

// TypeID is a small dense number that a backend gives to an event type's name; the
// first is 1. Handlers are found by it with an array look-up.
type TypeID = dispatch.Kind

// TypeSet is a set of types; nil holds all of them.
type TypeSet = dispatch.KindSet

// Backend is where the log lives. An engine owns its backend from Open to Close and is
// its only user; the memory backend, [NewMemory], is the default. Package backendtest proves a
// backend right: a new one starts by making that suite pass.
//
// # Concurrency
//
// All methods may be called at once from many goroutines, with one exception that a
// backend may rely on: Commit is never called twice at the same time for one stream.
// Close may come while other calls run; they must then return, with an error if they
// cannot finish. No method may call back into the engine.
//
// # Memory
//
// Slices and *Write values passed in are the engine's again when the call returns. Payloads
// (Record.Data) are handed over: they are immutable from Append on. A backend whose Caps say Encoded
// is given every payload as a [*Payload], bytes that the engine has encoded, and puts one
// into each Event that it returns; the engine decodes it. All reads may return the same *Payload:
// what it is decoded to is then shared too. Others keep the Go value itself.
//
// # Errors
//
// A context that ends makes a call return ctx's cause, and never makes it half done. An
// error that the backend cannot get over is returned from every later call.
type Backend interface {
	// Caps says what the backend promises. It never changes.
	Caps() Caps

	// TypeID returns the number of a type name, giving it the next one at first. A name
	// keeps its number until Close.
	TypeID(name string) (TypeID, error)

	// Load returns the state of a stream: its version (0 if nobody wrote to it), whether it
	// was deleted, and whatever the backend wants to see again in Ref.
	Load(ctx context.Context, stream string) (StreamState, error)

	// Find stores in versions[i] the version of the stream's event whose ID is ids[i], or
	// 0 if it has none.
	Find(ctx context.Context, stream StreamState, ids []string, versions []Version) error

	// Commit stores all writes or none: it is the point at which events come to be.
	//
	// A write's events get the versions that follow Write.After. Two writes of one call may
	// be to the same stream: then the second one's After counts the first one's events in. Positions are given in the order of the writes, and
	// when Commit gives position P, every position before P is readable, now and for
	// ever (no gaps, no late arrivals). Before Commit returns nil, the events are at least as durable as
	// the write that asks for most, Head has reached them, and each write's Position, Time and
	// Durability are set.
	//
	// An error means that nothing is stored, unless errors.Is(err, ErrOutcomeUnknown).
	// A backend that others write to as well (Caps.Shared) returns a
	// *VersionConflictError when a stream is not at the version that the engine believes. A write to
	// a deleted stream fails with a *StreamDeletedError.
	Commit(ctx context.Context, writes []*Write) error

	// Head returns the position of the newest readable event, 0 if there is none. It
	// never goes down, never blocks, and costs no more than an atomic load.
	Head() Position

	// Types stores in dst the types of the events that follow position after, in order,
	// and returns how many: at least one if after < Head. An event that was removed, see [Retention],
	// has type 0. The dispatcher calls it, near the head.
	Types(after Position, dst []TypeID) (int, error)

	// ReadAll stores in dst events that q asks for, in q's order, from q.From on. It returns
	// how many, and the position to go on from: what lies before that in q's order was
	// looked at. Next beyond q.To means that all was (reading backward, 0 is beyond
	// everything); next equal to q.From, that nothing more is there yet.
	ReadAll(ctx context.Context, q Query, dst []Event) (n int, next Position, err error)

	// ReadStream does the same for one stream, in versions. The state is what Load returned.
	ReadStream(ctx context.Context, stream StreamState, q StreamQuery, dst []Event) (n int, next Version, err error)

	// LoadCheckpoint returns the position that SaveCheckpoints was last given for a handler,
	// and false if it never was.
	LoadCheckpoint(ctx context.Context, handler string) (Position, bool, error)
	// SaveCheckpoints stores the positions of some handlers, all or none, as durably as the
	// backend can. What was parked or unparked before is stored no later than they are: an event
	// behind a checkpoint is never lost to the parked list by a crash.
	SaveCheckpoints(ctx context.Context, checkpoints []Checkpoint) error

	// Park adds an event to a handler's parked list, or replaces the entry of its position.
	// Unpark takes one off, and is content if it is not there. Both are durable with the next
	// SaveCheckpoints, or Close.
	Park(ctx context.Context, handler string, parked ParkedRecord) error
	Unpark(ctx context.Context, handler string, pos Position) error
	// Parked returns a handler's list, in the order in which the positions were first parked.
	Parked(ctx context.Context, handler string) ([]ParkedRecord, error)

	// Watch tells the backend what to call when Head has risen without a Commit of this
	// engine's: events of other writers. A backend that is not Shared ignores it. The function
	// never blocks.
	Watch(grown func())

	// Close ends the backend. Afterwards every call returns ErrClosed, a second Close nil.
	Close() error
}

// Caps are the promises of a backend that differ from one to the next.
type Caps struct {
	// Name is for messages: "memory".
	Name string
	// Durable: what Commit stored is there after the process has died.
	Durable bool
	// Prompt: no call waits for a device or a network. Append then waits for the answer
	// whatever its context says, and never returns ErrOutcomeUnknown.
	Prompt bool
	// Shared: others may write to the log while the engine has it open.
	Shared bool
	// Reopen: a new backend over the same place finds everything again.
	Reopen bool
	// Encoded: payloads are kept as bytes, see [Payload].
	Encoded bool
}

// StreamState is what a backend and the engine know of a stream.
type StreamState struct {
	Name    string
	Version Version
	Deleted bool // by Retention.Delete: nothing can be read or appended any more
	Ref     any  // the backend's own: a shortcut to its index, say. May be nil.
}

// Write is a list of events for one stream.
type Write struct {
	Stream *StreamState // Commit may set Ref; the engine counts Version up itself
	After  Version      // the version that the stream is at before this write
	Events []Record     // at least one

	// Durability is what the append asks for; 0 means the most that the backend can do.
	// Commit sets it to what was reached.
	Durability Durability

	// Set by Commit.
	Position Position // of the first event; the others follow without a gap
	UnixNano int64    // when, of all of them
}

// Record is an event on its way to the backend.
type Record struct {
	Type   string
	TypeID TypeID
	ID     string
	Data   any
	Meta   Metadata
}

// rich reports whether an event has what most have not: an ID or metadata.
func (r *Record) rich() bool { return r.ID != "" || !r.Meta.empty() }

// Query says which events of the log a read wants, and in which order.
type Query struct {
	From, To Position // both included; ascending, or descending when Backward
	Backward bool
	Filter   Filter
}

// StreamQuery is a Query within one stream.
type StreamQuery struct {
	From, To Version
	Backward bool
	Filter   Filter
}

// Filter says which events are wanted. The zero value wants all.
type Filter struct {
	Types      *TypeSet
	TypeNames  []string // the same set by name
	Categories []string // streams whose category is one of these; none for all
}

// Checkpoint is the position up to which a named handler is done.
type Checkpoint struct {
	Handler  string
	Position Position
}

// ParkedRecord is what a backend keeps of a parked event. The event itself is in the log.
type ParkedRecord struct {
	Position Position
	Key      string // with keyed workers
	Error    string // the last failure; empty if Held
	Stack    string // of a panic
	Attempts int
	Time     time.Time
	Held     bool // never tried: an earlier one of its key is parked
}

// Retention is implemented by backends that can forget events. Positions and versions of
// what is left never change, and a stream's version does not go down: what is removed leaves gaps.
// Its methods may be called at the same time as all others, with one exception that a backend
// may rely on: Truncate and Delete are never called at the same time as Commit for the same stream.
type Retention interface {
	// Truncate removes a stream's events before a version, which is at most one above the
	// stream's. From its return on no read that begins finds them, Find does not know
	// their IDs, and that is as durable as a Commit.
	Truncate(ctx context.Context, stream StreamState, before Version) error

	// Delete removes all events of a stream for good: its name cannot be used again. A
	// stream that nobody wrote to can be deleted too.
	Delete(ctx context.Context, stream StreamState) error

	// Compact applies rules, as if by Truncate, and gives back the space of what is removed
	// while everything else goes on. One call runs at a time; others wait for it, or for ctx.
	Compact(ctx context.Context, rules []RetentionRule) (Compaction, error)
}

// RetentionRule limits what is kept of one stream, or of each stream of a category.
type RetentionRule struct {
	Stream   string        // either this
	Category string        // or this
	MaxAge   time.Duration // events older than this are removed; 0 for no limit
	MaxCount uint64        // all but the last so many are removed; 0 for no limit
}

// Compaction says what a call of Compact has done.
type Compaction struct {
	Removed uint64 // events that the rules have removed; not those that Truncate and Delete have
	Freed   int64  // bytes given back, as far as the backend knows
	Took    time.Duration
}
