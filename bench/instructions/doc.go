// Instructions counts the machine instructions that an event takes, with valgrind. Times on a machine that others use
// go up and down by a factor of two; this number is the same twice, so it shows a change of one part in a hundred. It
// says nothing of what an instruction costs: of caches, of processors that wait for each other, of first touches of memory.
//
//	go run ./instructions                     # a table
//	go run ./instructions -work append -top 30   # and where they are
//
// It needs valgrind (Debian: apt-get install valgrind). Each work runs twice under it, in a process of its own on one
// processor, without garbage collections, with different numbers of events: the difference is what the events take.
package main
