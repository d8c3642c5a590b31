// Command bench runs Weir beside what a Go developer would pick instead, and writes what it has
// measured as a table and charts. README.md tells what, how, and how to read it.
//
//	go run .                                  everything, 9 rounds, into ../docs/bench
//	go run . -rounds 1 -factor 0.01 -out DIR  whether all works
//	go run . -works durable -contenders weir,bbolt,file
package main
