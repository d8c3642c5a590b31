package worktest

import (
	"context"
	"testing"
	"time"

	"github.com/weirstore/weir/bench/contender"
	"github.com/weirstore/weir/bench/work"
)

// deadline bounds what could hang: far more than anything takes.
const deadline = time.Minute

// Run runs every work with every contender that can do it. A run verifies itself.
func Run(t *testing.T, entries []contender.Entry) {
	for _, e := range entries {
		ran := 0
		for _, w := range work.All(work.Scale{Factor: 0.0005}) {
			if !e.Fits(w.Needs) {
				continue
			}
			ran++
			t.Run(e.Name+"/"+w.Name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(context.Background(), deadline)
				defer cancel()
				res, err := work.Run(ctx, w, e, t.TempDir(), work.Profile{})
				if err != nil {
					t.Fatal(err)
				}
				if res.Events < w.Events || res.Seconds <= 0 {
					t.Errorf("%d events in %v s; want at least %d events", res.Events, res.Seconds, w.Events)
				}
				if appends := w.Read == work.NoRead; appends != (res.P50 > 0) || res.P50 > res.P99 || res.P99 > res.P999 {
					t.Errorf("percentiles %v, %v, %v", res.P50, res.P99, res.P999)
				}
			})
		}
		if ran == 0 {
			t.Errorf("%s does no work", e.Name)
		}
	}
}
