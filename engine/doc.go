// Package engine is an in-process event store: it keeps streams of events, and calls
// handlers with what was stored.
//
// An [Event] is one fact, with a type name, a payload, and three numbers that place it: the
// [Version] in its stream, the [Position] in the whole store, and the time. A stream is the
// events of one thing; it comes to be with its first event. A handler is a function that
// gets stored events, in order, in a goroutine of its own.
//
//	eng, err := engine.Open(engine.Options{}) // in memory
//	if err != nil { … }
//	defer eng.Close()
//
//	type CustomerCreated struct{ FirstName, LastName string }
//
//	engine.Handle(eng, "greeter", func(ctx context.Context, ev engine.Of[CustomerCreated]) error {
//		fmt.Println("welcome,", ev.Data.FirstName)
//		return nil
//	})
//
//	res, err := eng.Append(ctx, "customer-1", engine.NoStream, engine.New(CustomerCreated{"John", "Smith"}))
//	err = eng.Wait(ctx, res.Position) // welcome, John
//
//	for ev, err := range eng.Read(ctx, "customer-1") {
//		fmt.Println(ev.Version, ev.Type, ev.Data) // 1 CustomerCreated {John Smith}
//	}
//
// # The way of an event
//
// Append passes the front door, where it waits if a handler is too far behind, and goes to
// the stream's owner: the one goroutine at a time that may touch the stream's state. The
// owner checks the expected version, gives versions, and commits to the [Backend], which gives
// positions: that is the moment at which the event exists. Append returns; the dispatcher tells
// each handler that the event concerns how far it may read, and the handler reads the log. No
// event is copied into a queue: the log is the buffer, and a mailbox is a range of it.
//
// # Guarantees
//
//   - What Append acknowledged is stored, whole, and reaches every handler that is neither
//     paused nor stopped before [Engine.Shutdown] returns nil.
//   - Versions and positions have no gaps but those of removed events. Who has seen position P has seen all before it.
//   - A handler sees the events of its types in position order, none missing and, unless it is
//     stopped and resumed or registered anew, none twice; or is told how many it skipped ([Latest]).
//     With [Keyed] the same holds for each key.
//   - A handler may append, read, register and remove handlers, and begin the shutdown. It cannot
//     deadlock the engine, whatever its mailbox size: an append with its context never waits
//     for handlers. What would wait for itself returns [ErrInHandler].
//   - Errors, panics, runtime.Goexit and slowness stay within the handler that has them.
//   - Capacities are bounded, and each has its default in [Options] or beside the option.
//
// Delivery is at least once for named handlers and exactly once, while the engine lives, for
// those of [Engine.On].
//
// # Submitting now, awaiting later
//
// Append waits until its events are stored, which on a disk takes as long as a sync. [Engine.Submit] returns as soon as
// the stream has accepted them, so that one goroutine can have many appends under way, which share a
// sync and are stored in the order in which they were submitted:
//
//	p, err := eng.Submit(ctx, "customer-1", engine.Any, engine.New(CustomerRenamed{"Jane", "Smith"}))
//	…
//	res, err := p.Wait(ctx) // what Append would have returned
//
// How many may be under way is bounded by Options.MaxSubmitted and Options.StreamMailbox; who submits more waits for room.
//
// # Commands
//
// A [Decider] is three functions that say what becomes of a command on a stream: [Execute] runs
// it in the goroutine that owns the stream, on a state that is kept folded, so that commands to one
// stream are decided one after the other, without conflict and without reading the stream again.
// [Load] folds a stream for whoever wants to look. A [SnapshotPolicy] stores folded states, so that
// a long stream need not be read from its beginning; nothing else depends on it. [Engine.Commit] stores events of many streams together, if all
// of them are as expected, and if no event that a [Condition] looks for was stored since it was decided:
// events found by their tags ([NewEvent.WithTags], [Engine.Matching]), in whatever streams they are. [Engine.Settle] waits until everything that a result has led to is handled.
//
// # Processes
//
// A [Process] follows what takes several steps over several streams. [Manage] runs it as a named handler that keeps a
// state for each instance, and stores what it does about an event, at one moment, together with the note that it has done so. Its
// timers are events that are appended when they are due. What it notes is in streams whose names begin with "$", as
// events whose types do: such names are Weir's.
//
// # What happens when a handler is slow or fails
//
// When its mailbox is full: [Block] (the default), [CatchUp], [Latest] or [Fail]. When its
// function fails: [Retry], and then [Park], [Skip] or [Stop]. [Engine.Stats] tells how each
// handler is doing, derived from positions, and the log tells of slow calls, skipped events
// and stops.
//
// # What a restart finds
//
// The backend keeps, for each named handler, the position up to which it is done and the events that
// it has parked. Register it again under its name and it goes on there, or with [IgnoreCheckpoint] from
// the beginning. After [Engine.Close] nothing is handled twice; after a crash at most what was handled within
// Options.CheckpointEvery, and the time of one save, is handled again, and what was redriven or discarded
// within it may be parked again. Nothing is skipped. Of a parked event the error is kept as text, up to
// 4 KiB, and the stack of a panic up to 8 KiB.
//
// # What may be forgotten
//
// [Engine.Truncate] removes the beginning of a stream and [Engine.Delete] a stream with its name.
// Options.Retention says what else may go, by age and count, when [Engine.Compact] is called, which also
// gives the space back. Positions and versions of what is left never change. Handlers and followers pass
// over what is gone, and nobody waits for it.
//
// # Payloads on disk
//
// The memory backend keeps the Go values that were appended. A backend that stores bytes
// ([Caps].Encoded) is given a [Payload]: []byte, string and json.RawMessage as they are, everything else
// by Options.Codec, which is JSON unless said otherwise. What is read is decoded into the Go type that
// the event type stands for, so [Register] the types that a program reads before it appends any;
// without a type, JSON is read as a json.RawMessage. Handlers that are called with one event share its
// value. When the shape of a type changes, [Upcast] says how what is stored becomes what is wanted;
// the log itself never changes. What cannot be decoded is a [*DecodeError], never a guess, and
// [Encoded] reads it nevertheless.
//
// How much an acknowledged event survives is said by [Durability], for the engine by
// Options.Durability and for one append by [WithDurability].
//
// # Limits
//
// Names are 1 to [MaxName] bytes of UTF-8 without control characters. An append has at most
// Options.MaxEvents events and Options.MaxBytes bytes. A store has at most 65,536 event types.
// Payloads are kept, not copied, in memory: whoever appends a pointer must not change what it
// points to, and neither must handlers. Options.GuardPayloads, on by default under the race detector, finds
// handlers and deciders that do: see [MutationError].
//
// # Cost
//
// docs/bench holds measured figures and how to repeat them. In short: an append costs about
// as much as asking another goroutine over a channel; a hundred events in one append cost
// two to three times as much as storing them in a slice; an event takes 50 bytes beyond its payload, and an idle stream under 300
// and no goroutine.
package engine
