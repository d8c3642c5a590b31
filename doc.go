// Package weir is an in-process event store for Go. A program appends events to
// streams, reads them back, and registers handlers that react once an event is stored:
// the read models and side effects of a CQRS system.
//
// This package exports nothing. Import [github.com/weirstore/weir/engine].
//
// # Five nouns
//
//   - An event is one recorded fact: a type, a payload, a time. It is never changed.
//   - A stream is the sequence of events of one concrete thing, "customer-1". While it is
//     in use a goroutine of its own takes its appends from a channel, one after the other.
//   - The log is all events of all streams in the order in which they were stored: the one
//     truth from which everything else is derived.
//   - A handler is a function that is called with stored events, in log order. Its mailbox
//     is the window of events that it was given and has not handled.
//   - The dispatcher is the goroutine that tells handlers what is new in the log.
//
// # Guarantees
//
// An append that returned nil is stored, whole, at the position it was told, and reaches
// every handler before Shutdown returns nil. Versions in a stream have no gaps, positions in
// the store neither, and whoever has seen a position has seen everything before it. A handler
// gets the events that concern it in order, none left out and none twice, or is told exactly
// how many it was spared. A slow, failing, panicking handler disturbs nobody else. A handler
// may append, also to the stream and type that it handles, with the smallest mailbox: nothing
// can deadlock. Nothing is ever dropped in silence.
//
// # Packages
//
//	engine              streams, handlers, reading, backends: what programs import
//	engine/backendtest  the conformance suite for storage backends
//	dispatch            the fan-out from a log to handlers; generic, knows nothing of streams
//	actor               mailboxes, actors and goroutine groups; generic, knows nothing of events
//	examples            programs to copy from
package weir
