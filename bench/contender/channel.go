package contender

import "sync"

var roundTrip = Entry{
	Name: "channel round trip", Kind: Limit,
	Can:  Deliver | Concurrent,
	Note: "a request to a goroutine and its reply; stores nothing",
	Open: func(c Config) (Bus, error) { return newOwner(c), nil },
}

// owner is the usual actor: a goroutine that takes requests from a channel and answers each.
type owner struct {
	requests chan *ownerRequest
	wg       sync.WaitGroup
}

type ownerRequest struct {
	events []Event
	done   chan struct{} // capacity 1: the owner never waits for a producer
}

func newOwner(c Config) *owner {
	o := &owner{requests: make(chan *ownerRequest, 64)}
	o.wg.Go(func() {
		for r := range o.requests {
			call(c.Handlers, r.events)
			r.done <- struct{}{}
		}
	})
	return o
}

// call calls all handlers with all events.
func call(handlers []Handler, events []Event) {
	for _, ev := range events {
		for _, handler := range handlers {
			handler(ev)
		}
	}
}

func (o *owner) Producer() Producer {
	return &ownerProducer{o.requests, &ownerRequest{done: make(chan struct{}, 1)}}
}

type ownerProducer struct {
	requests chan<- *ownerRequest
	request  *ownerRequest
}

func (p *ownerProducer) Append(_ int, events []Event) error {
	p.request.events = events
	p.requests <- p.request
	<-p.request.done
	return nil
}

func (o *owner) Close() error {
	close(o.requests)
	o.wg.Wait()
	return nil
}

var hop = Entry{
	Name: "channel hop", Kind: Limit,
	Can:  Deliver | Concurrent | Apart | Submits,
	Note: "one send an event and handler, no reply; stores nothing",
	Open: func(c Config) (Bus, error) { return newHops(c), nil },
}

// hops is the usual fan-out: a buffered channel for each handler.
type hops struct {
	chans []chan Event
	wg    sync.WaitGroup
}

func newHops(c Config) *hops {
	h := &hops{}
	for _, handler := range c.Handlers {
		ch := make(chan Event, 1024)
		h.chans = append(h.chans, ch)
		h.wg.Go(func() {
			for ev := range ch {
				handler(ev)
			}
		})
	}
	return h
}

func (h *hops) Producer() Producer { return h }

func (h *hops) Append(_ int, events []Event) error {
	for _, ev := range events {
		for _, ch := range h.chans {
			ch <- ev
		}
	}
	return nil
}

// Submit is Append: there is no reply that could be awaited.
func (h *hops) Submit(stream int, events []Event) error { return h.Append(stream, events) }

func (h *hops) Flush() error { return nil }

func (h *hops) Close() error {
	for _, ch := range h.chans {
		close(ch)
	}
	h.wg.Wait()
	return nil
}
