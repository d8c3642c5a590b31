package contender

import (
	"runtime"
	"sync"
)

// Grouped is for logs that do not themselves let one sync serve all who wait: a writer
// goroutine takes whatever requests are there, and commits them together. This is what a program that
// uses such a log for many appenders would write.
type Grouped struct {
	Config   Config
	requests chan *GroupRequest
	commit   func(group []*GroupRequest) error
	wg       sync.WaitGroup
}

// GroupRequest is an append that waits for its answer.
type GroupRequest struct {
	Stream int
	Events []Event
	done   chan error // capacity 1: the writer never waits for a producer
}

// NewGrouped starts the writer. commit is called by it alone, and stores a group or returns the error
// that all of its producers get.
func NewGrouped(c Config, commit func(group []*GroupRequest) error) *Grouped {
	g := &Grouped{Config: c, commit: commit, requests: make(chan *GroupRequest, max(1, c.Producers))}
	g.wg.Go(g.runWriter)
	return g
}

func (g *Grouped) runWriter() {
	var group []*GroupRequest
	for r := range g.requests {
		group = append(group[:0], r)
		if g.Config.Producers > 1 {
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
func (g *Grouped) drain(group []*GroupRequest) []*GroupRequest {
	for before := 0; before < len(group) && len(group) < g.Config.Producers; {
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

func (g *Grouped) Producer() Producer {
	return &groupedProducer{g.requests, GroupRequest{done: make(chan error, 1)}}
}

type groupedProducer struct {
	requests chan<- *GroupRequest
	request  GroupRequest
}

func (p *groupedProducer) Append(stream int, events []Event) error {
	p.request.Stream, p.request.Events = stream, events
	p.requests <- &p.request
	return <-p.request.done
}

// Stop ends the writer, when all producers have their answers.
func (g *Grouped) Stop() {
	close(g.requests)
	g.wg.Wait()
}
