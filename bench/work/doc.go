// Package work holds the works of the benchmark, and runs one with one contender. Every run
// verifies that the work was done: each handler has had every event of each key once and in order, and
// a store gives them all back.
package work
