//go:build race

package filestore_test

// underRace says that the race detector is on, which makes the crash tests ten times slower and
// finds nothing in them: what they vary is the disk, not the schedule. They are short then, and `make
// test` runs them once more without it.
const underRace = true
