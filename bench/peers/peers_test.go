package peers_test

import (
	"testing"

	"github.com/weirstore/weir/bench/peers"
	"github.com/weirstore/weir/bench/work/worktest"
)

// There is no goleak here: what the peers leave behind is theirs, and ends with the child process
// that ran them.
func TestEveryPeerDoesEveryWork(t *testing.T) { worktest.Run(t, peers.All()) }
