// Package weirtest is for the tests of programs that use Weir: are the decisions right, do
// handlers append what they should, is it safe that an event comes twice, and does all of it
// hold when calls are slow, fail or panic, and when the process dies in between?
//
//   - [Decide] tests a decider: given these events, when this command comes, then these
//     events are stored, or it is refused. Nothing runs; it calls the decider's functions.
//   - [Handle] tests handlers: given these events, when those are appended, then handlers
//     append these.
//   - [RunTwice] delivers every event to the handlers twice, as a crash can, and compares.
//   - [WaitCaughtUp] waits until handlers have handled everything, in place of sleeping.
//   - [Simulate] runs deciders, handlers and clients many times, each time with other
//     interleavings, failures and crashes, which are drawn from a seed that it prints when
//     something is wrong.
//
// A test of a decider reads
//
//	weirtest.Decide(t, account).
//		Given(Deposited{100}, Withdrawn{70}).
//		When(Withdraw{50}).
//		ThenError(errNotEnough)
//
// and prints, if something else was decided,
//
//	weirtest: when main.Withdraw{Amount:50}
//	  given Deposited {Amount:100}
//	  given Withdrawn {Amount:70}
//	want error: not enough money
//	got events:
//	  + Withdrawn {Amount:50}
//
// # Events
//
// Where events are given or wanted, each is an [engine.NewEvent], or only its payload:
// Deposited{100} stands for engine.New(Deposited{100}). A wanted event is met by one of the same type
// name and an equal payload ([reflect.DeepEqual]). ID, metadata and Extra are compared where the wanted event
// has some, and else are free. In lists of differences - is what was wanted and did not come, and + what came
// and was not wanted.
//
// # What it costs
//
// All engines keep their events in memory, log nothing, and are closed by the end of the
// test. Only Simulate needs a *testing.T, for [synctest.Test]; the others take any [testing.TB], and may be
// used inside a synctest bubble too.
package weirtest
