// Package driver runs works and contenders in child processes, round by round, so that what one
// leaves behind (a heap, goroutines, files in the page cache) is not the next one's, and
// what the machine does meanwhile falls on all of them.
package driver
