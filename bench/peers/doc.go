// Package peers holds the products that Weir is compared to, each in a file of its own. It is
// apart from package contender, because to compile the peers takes minutes, and twice as long for the race
// detector.
package peers
