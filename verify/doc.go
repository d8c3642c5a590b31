// Package verify tries to prove the engine wrong. It exports nothing: its tests are the
// evidence for the rules of DESIGN §3, each looking at the engine from outside, as a user does.
//
//   - Linearizability: what concurrent appenders and readers of a stream were told has an order
//     that a plain list explains (porcupine searches for it), also while the engine shuts down, contexts
//     end, and outcomes are unknown. Planted bugs prove that the search can fail.
//   - Crashes: the same over the file backend, across several processes that are killed (SIGKILL) at random moments:
//     one order of all calls explains what every process was told and what is in the files.
//   - Model: the whole engine against a page of slices, in random sequences of operations (rapid),
//     in virtual time (testing/synctest).
//   - Order: positions, versions, batches and times of one log, seen by readers while 64 goroutines write it.
//   - Hand-over: handlers and followers that join, pause, stop, or are removed and come back in a
//     storm of appends miss nothing, repeat nothing, and reorder nothing. And when there is no storm,
//     no wake-up is lost.
//   - Recordings: real event logs (the folder WEIR_DATA) come back from files as they were, line by line, and give
//     the answers that other programs have found in them.
//   - Shutdown: at any moment, what was acknowledged is in the log and was handled.
//
// TestRegression… are the smallest reproductions of the bugs that these have found.
//
// # Running
//
//	go test -race ./...                                the short form: half a minute
//	WEIR_SOAK=100 go test -race -timeout 0 ./...       a hundred times as much
//	WEIR_SEED=7 go test -race -run '^TestHandOver$' .  one workload, as often as the short form has workloads
//
// A failure prints its seed and such a line. The seed fixes what is done, not how
// goroutines interleave; hence "as often as". Histories that fail are drawn in an HTML file
// whose path is printed.
package verify
