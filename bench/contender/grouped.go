package contender

import (
	"runtime"
	"sync"
)

// grouped is for logs that do not themselves let one sync serve all who wait: a writer
// goroutine takes whatever requests are there, and commits them together. This is what a program that
// uses such a log for many appenders would write.
type grouped struct {
	config   Config
	requests chan *groupRequest
	commit   func(group []*groupRequest) error
	wg       sync.WaitGroup
}

type groupRequest struct {
	stream int
	events []Event
	done   chan error // capacity 1: the writer never waits for a producer
}

func newGrouped(c Config, commit func(group []*groupRequest) error) *grouped {
	g := &grouped{config: c, commit: commit, requests: make(chan *groupRequest, max(1, c.Producers))}
	g.wg.Go(g.runWriter)
	return g
}

func (g *grouped) runWriter() {
	var group []*groupRequest
	for r := range g.requests {
		group = append(group[:0], r)
		if g.config.Producers > 1 {
			group = g.drain(group)
		}
		err := g.commit(group)
		for _, r := range group {
			r.done <- err
		}
	}
}

// drain adds what waits. Producers that were just answered get a chance to ask again, as long as any
// does: else groups would be small after each large one.
func (g *grouped) drain(group []*groupRequest) []*groupRequest {
	for before := 0; before < len(group) && len(group) < g.config.Producers; {
		before = len(group)
		runtime.Gosched()
		for waiting := true; waiting; {
			select {
			case r, ok := <-g.requests:
				if !ok {
					return group
				}
				group = append(group, r)
			default: // not a loss: they are in the next group
				waiting = false
			}
		}
	}
	return group
}

func (g *grouped) Producer() Producer {
	return &groupedProducer{g.requests, groupRequest{done: make(chan error, 1)}}
}

type groupedProducer struct {
	requests chan<- *groupRequest
	request  groupRequest
}

func (p *groupedProducer) Append(stream int, events []Event) error {
	p.request.stream, p.request.events = stream, events
	p.requests <- &p.request
	return <-p.request.done
}

// stop ends the writer, when all producers have their answers.
func (g *grouped) stop() {
	close(g.requests)
	g.wg.Wait()
}
