package peers

import "github.com/weirstore/weir/bench/contender"

// All returns the peers: stores, buses, logs.
func All() []contender.Entry {
	return []contender.Entry{
		jetStreamMemory,
		watermillBus, eventBus,
		jetStreamFile, pebbleLog, bboltLog, sqliteLog, walLog,
	}
}
