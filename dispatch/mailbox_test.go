package dispatch_test

import (
	"sync"
	"testing"

	"github.com/weirstore/weir/dispatch"
)

// Whoever reads the fill while the handler leaves and joins sees a number that can be.
func TestMailboxFillIsNeverNegative(t *testing.T) {
	m := dispatch.NewMailbox()
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for !isClosed(done) {
				if n := m.Fill(); n > 8 {
					t.Errorf("fill is %d", int64(n))
					return
				}
			}
		})
	}
	for pos := uint64(0); pos < 80_000; pos += 8 {
		m.Reset(pos, pos)
		m.Offer(pos+1, pos+8, 8)
		m.Handled(pos+8, 8)
	}
	close(done)
	wg.Wait()
}
