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
// (Record.Data) are handed over: they are immutable from Append on.
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

	// Load returns the state of a stream: its version (0 if nobody wrote to it), and
	// whatever the backend wants to see again in Ref.
	Load(ctx context.Context, stream string) (StreamState, error)

	// Find stores in versions[i] the version of the stream's event whose ID is ids[i], or
	// 0 if it has none.
	Find(ctx context.Context, stream StreamState, ids []string, versions []Version) error

	// Commit stores all writes or none: it is the point at which events come to be.
	//
	// A write's events get the versions that follow Write.After. Two writes of one call may
	// be to the same stream: then the second one's After counts the first one's events in. Positions are given in the order of the writes, and
	// when Commit gives position P, every position before P is readable, now and for
	// ever (no gaps, no late arrivals). Before Commit returns nil, the events are as durable as Caps
	// says, Head has reached them, and each write's Position and Time are set.
	//
	// An error means that nothing is stored, unless errors.Is(err, ErrOutcomeUnknown).
	// A backend that others write to as well (Caps.Shared) returns a
	// *VersionConflictError when a stream is not at the version that the engine believes.
	Commit(ctx context.Context, writes []*Write) error

	// Head returns the position of the newest readable event, 0 if there is none. It
	// never goes down, never blocks, and costs no more than an atomic load.
	Head() Position

	// Types stores in dst the types of the events that follow position after, in order,
	// and returns how many: at least one if after < Head. The dispatcher calls it, near the head.
	Types(after Position, dst []TypeID) (int, error)

	// ReadAll stores in dst events that q asks for, in q's order, from q.From on. It returns
	// how many, and the position to go on from: what lies before that in q's order was
	// looked at. Next beyond q.To means that all was (reading backward, 0 is beyond
	// everything); next equal to q.From, that nothing more is there yet.
	ReadAll(ctx context.Context, q Query, dst []Event) (n int, next Position, err error)

	// ReadStream does the same for one stream, in versions. The state is what Load returned.
	ReadStream(ctx context.Context, stream StreamState, q StreamQuery, dst []Event) (n int, next Version, err error)

	// LoadCheckpoint returns the position that SaveCheckpoint was last given for a handler,
	// and false if it never was.
	LoadCheckpoint(ctx context.Context, handler string) (Position, bool, error)
	SaveCheckpoint(ctx context.Context, handler string, pos Position) error

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
}

// StreamState is what a backend and the engine know of a stream.
type StreamState struct {
	Name    string
	Version Version
	Ref     any // the backend's own: a shortcut to its index, say. May be nil.
}

// Write is a list of events for one stream.
type Write struct {
	Stream *StreamState // Commit may set Ref; the engine counts Version up itself
	After  Version      // the version that the stream is at before this write
	Events []Record     // at least one

	// Set by Commit.
	Position Position // of the first event; the others follow without a gap
	Time     time.Time
}

// Record is an event on its way to the backend.
type Record struct {
	Type   string
	TypeID TypeID
	ID     string
	Data   any
	Meta   Metadata
}

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
