// Package worktest tests contenders with the works of the benchmark, at a tiny size.
package worktest
