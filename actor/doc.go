// Package actor gives one goroutine at a time the sole ownership of some state,
// and a bounded channel as the only way in. It knows nothing of events.
//
// There are five types:
//
//   - [Group] starts goroutines: it names, counts and joins them, and turns a
//     panic into a [PanicError] that carries its stack.
//   - [Mailbox] is a bounded channel with many senders and one owner. A gate
//     counts what was accepted and not yet handled, so a mailbox is only ever
//     closed when it is proved that nobody can be sending on it.
//   - [Actor] is a [Receiver] with a mailbox. It owns no goroutine until its
//     first message; it gives the goroutine up when idle, and the next message
//     brings it back. While it has none, whoever has something for it can borrow it.
//   - [System] is what actors of one kind share: limits, the clock by which the
//     idle give up their goroutine, and the end of them all.
//   - [Signal] wakes one goroutine, and costs an atomic load when that goroutine
//     is not asleep.
//
// # Guarantees
//
// At most one goroutine is inside an actor's Receive, or has borrowed it, at any moment, and what one
// turn writes the next one sees, also when another goroutine runs it. Messages
// of one sender arrive in the order sent. A message for which Send returned nil
// is received exactly once, unless [System.Stop] discards it, which hands it to
// the Discard function: none is lost in silence. An actor never waits for its
// senders, so a Receive that does not wait for its own actor cannot deadlock.
//
// # Lifecycle
//
// Three words, three promises: Drain finishes what was accepted, Stop discards
// what has not been begun, and both return a channel that is closed once the
// owner has returned. Who has borrowed an actor is its owner until it gives it back, to the end of an actor; the
// end of a system does not wait for borrowers, and lends nothing more.
//
// # Cost
//
// A passive actor is 48 bytes and no goroutine; an active one adds a goroutine
// and its mailbox (about 3.5 KB). See BenchmarkActor for the price of a message
// beside a plain channel's; docs/bench holds recorded figures.
package actor
