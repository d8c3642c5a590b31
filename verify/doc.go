// Package verify tries to prove the engine wrong. It exports nothing: its tests are the
// evidence for the rules of DESIGN §3, each looking at the engine from outside, as a user does.
//
//   - Linearizability: what concurrent appenders and readers of a stream were told has an order
//     that a plain list explains (porcupine searches for it). Planted bugs prove that the search can fail.
//   - Model: the whole engine against a page of slices, in random sequences of operations (rapid),
//     in virtual time (testing/synctest).
//   - Order: positions, versions, batches and times of one log, seen by readers while 64 goroutines write it.
//   - Hand-overs: handlers and followers that join, pause and resume in a storm of appends miss
//     nothing, repeat nothing, and reorder nothing.
//   - Shutdown: at any moment, what was acknowledged is in the log and was handled.
//
// Regressions holds the smallest reproduction of every bug that these have found.
//
// # Running
//
//	go test -race ./...                    the short form, well under a minute
//	WEIR_SOAK=100 go test -race -timeout 0 ./...   a hundred times as much
//	WEIR_SEED=7 go test -run TestX ./...   one workload again, as often as the short form has workloads
//
// A failure prints its seed and such a line. The seed fixes what is done, not how
// goroutines interleave; hence "as often as". Histories that fail are drawn in an HTML file,
// whose path is printed.
package verify
