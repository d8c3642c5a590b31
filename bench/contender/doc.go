// Package contender holds what the benchmark compares: Weir, what a Go developer would pick
// instead, and limits, which are the least that such work can cost. Each is an [Entry] of
// [All], and lives in a file of its own.
//
// There are three kinds beside the limits. A bus calls handlers and keeps nothing. A store keeps events and
// calls handlers. A log keeps events on disk: when an append returns, they have been synced. All are
// used as their documentation recommends, in the fastest configuration that keeps what the work asks
// for; where a contender does less than the others, its Note says so and the table shows it.
package contender
