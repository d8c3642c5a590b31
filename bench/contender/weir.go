package contender

import (
	"context"
	"slices"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/filestore"
)

// eventType is the one type name of all events.
const eventType = "Event"

var weirMemory = Entry{
	Name: "weir", Kind: Weir,
	Can:  Deliver | Keep | Concurrent | Apart | Grows | Submits | Reads,
	Open: func(c Config) (Bus, error) { return openWeir(c, nil, false) },
}

var weirFile = Entry{
	Name: "weir filestore", Kind: Weir,
	Can:  Keep | Concurrent | Durable | Submits,
	Note: "keeps a stream index, checks versions",
	Open: func(c Config) (Bus, error) {
		store, err := filestore.Open(c.Dir, filestore.Options{Logger: quiet})
		if err != nil {
			return nil, err
		}
		return openWeir(c, store, true)
	},
}

type weir struct {
	eng     *engine.Engine
	streams []string
	size    int // of a payload in bytes; 0 if Go values are kept
}

func openWeir(c Config, backend engine.Backend, encoded bool) (Bus, error) {
	eng, err := engine.Open(engine.Options{Backend: backend, Logger: quiet})
	if err != nil {
		return nil, err
	}
	w := &weir{eng: eng, streams: c.Streams}
	if encoded {
		w.size = c.Size
	}
	for i, handler := range c.Handlers {
		policy := engine.Block
		if c.SlowFirst && i == 0 {
			policy = engine.CatchUp
		}
		_, err := eng.On(eventType, func(_ context.Context, ev engine.Event) error {
			handler(weirEvent(ev))
			return nil
		}, engine.Overflow(policy))
		if err != nil {
			eng.Close()
			return nil, err
		}
	}
	return w, nil
}

func weirEvent(ev engine.Event) Event {
	if b, ok := ev.Data.([]byte); ok {
		return Decode(b)
	}
	return *ev.Data.(*Event)
}

func (w *weir) Producer() Producer {
	return &weirProducer{weir: w, window: Window[*engine.Pending]{Await: func(p *engine.Pending) error {
		_, err := p.Wait(context.Background())
		return err
	}}}
}

type weirProducer struct {
	*weir
	events []engine.NewEvent
	buf    []byte
	window Window[*engine.Pending]
}

func (p *weirProducer) Append(stream int, events []Event) error {
	p.encode(events)
	_, err := p.eng.Append(context.Background(), p.streams[stream], engine.Any, p.events...)
	return err
}

func (p *weirProducer) Submit(stream int, events []Event) error {
	if err := p.window.Room(); err != nil {
		return err
	}
	p.buf = nil // the one before may not be stored yet
	p.encode(events)
	pending, err := p.eng.Submit(context.Background(), p.streams[stream], engine.Any, p.events...)
	if err != nil {
		return err
	}
	p.window.Add(pending)
	return nil
}

func (p *weirProducer) Flush() error { return p.window.Flush() }

// encode puts events into p.events.
func (p *weirProducer) encode(events []Event) {
	p.events = p.events[:0]
	p.buf = slices.Grow(p.buf[:0], p.size*len(events))
	for i := range events {
		ev := engine.NewEvent{Type: eventType, Data: &events[i]}
		if p.size > 0 {
			at := len(p.buf)
			p.buf = events[i].AppendTo(p.buf, p.size)
			ev.Data = p.buf[at:len(p.buf):len(p.buf)]
		}
		p.events = append(p.events, ev)
	}
}

func (w *weir) Read(fn func(Event)) error {
	for ev, err := range w.eng.ReadAll(context.Background()) {
		if err != nil {
			return err
		}
		fn(weirEvent(ev))
	}
	return nil
}

func (w *weir) Close() error { return w.eng.Close() }
