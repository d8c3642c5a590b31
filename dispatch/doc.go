// Package dispatch fans an append-only log out to handlers. It knows nothing of
// streams or of what an event is: it is generic over the event type E and sees the
// log through the [Log] interface.
//
// There are four nouns:
//
//   - The [Log] is the truth. It is also the buffer: no event is ever queued
//     outside it.
//   - The [Dispatcher] is one goroutine that reads what is new in the log, in
//     order, and tells each handler that the new events concern how far it may read.
//     It never waits for a handler.
//   - A mailbox belongs to one handler and holds a range of the log and two
//     counts: events offered and events handled. A full mailbox is a number, not
//     memory, and reading old events or new ones is the same code.
//   - A [Handler] calls the user's function with one event after the other, in its
//     own goroutine, or in K workers that keep the order of each key.
//
// # Guarantees
//
// A handler sees the events of its kinds in log order, without a gap and, while it
// is not stopped and resumed, without a repetition; or, under [Latest], an explicit
// count of what it was spared. A panic, an error, a runtime.Goexit or slowness in one
// handler changes nothing for another. What happens when a mailbox is full is the
// handler's [Overflow] policy, and what happens when its function fails is its
// [Retry] and [AfterRetries].
//
// Waiting is acyclic: producers may wait for handlers in [Dispatcher.Admit],
// handlers wait for nobody, and the dispatcher waits for nobody. A producer that is
// itself a handler is let through.
//
// # Cost
//
// Per event and round the dispatcher does constant work, whatever the number of
// handlers; per round and handler concerned it takes one uncontended lock, and it
// wakes the handler only if that is parked. See BenchmarkFanOut.
package dispatch
