package engine

import (
	"context"
	"sync/atomic"
)

// follow yields what is there and then what comes, until ctx or the engine ends. It is
// woken by the dispatcher, and only when it waits and an event of its types has come.
func (p *pager) follow() error {
	watcher, err := p.eng.dispatcher.Watch(p.config.filter.Types)
	if err != nil {
		return err
	}
	defer watcher.Close()
	p.eng.following.enter()
	defer p.eng.following.leave()
	yield := p.yield
	p.yield = func(ev Event, err error) bool {
		p.eng.following.leave() // Shutdown does not wait for the loop's body, which may have called it
		defer p.eng.following.enter()
		return yield(ev, err)
	}
	for {
		closing := false
		select {
		case <-p.eng.closing:
			closing = true // before the last look
		default:
		}
		end, err := p.ends()
		if err != nil && p.ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if more, err := p.upTo(end); !more {
			if err != nil && p.ctx.Err() != nil {
				return nil // the end that the caller has asked for
			}
			return err
		}
		if closing {
			return ErrClosed
		}
		watcher.Arm()
		if now, err := p.ends(); err != nil || now > end {
			watcher.Disarm()
			continue
		}
		select {
		case <-watcher.C():
		case <-p.ctx.Done():
			watcher.Disarm()
			return nil
		case <-p.eng.closing:
			watcher.Disarm()
		}
	}
}

// following counts the readers that follow and are not in their loop's body: at the end
// they are given the time to read what they have not seen.
type following struct {
	n    atomic.Int64
	none chan struct{} // cap 1: the count has fallen to zero
}

func (f *following) enter() { f.n.Add(1) }

func (f *following) leave() {
	if f.n.Add(-1) == 0 {
		select {
		case f.none <- struct{}{}:
		default: // a token is there already
		}
	}
}

// await blocks until the count is zero, or ctx is done.
func (f *following) await(ctx context.Context) {
	for f.n.Load() > 0 {
		select {
		case <-f.none:
		case <-ctx.Done():
			return
		}
	}
}
