package contender

import EventBus "github.com/asaskevich/EventBus"

var eventBus = Entry{
	Name: "asaskevich/EventBus", Kind: Buses,
	Can:  Deliver | Concurrent,
	Note: "stores nothing; handlers run on the publisher, under the bus's lock",
	Open: openEventBus,
}

// callBus publishes synchronously: the asynchronous way starts a goroutine an event and handler,
// which is slower and keeps no order.
type callBus struct{ bus EventBus.Bus }

func openEventBus(c Config) (Bus, error) {
	b := callBus{EventBus.New()}
	for _, handler := range c.Handlers {
		if err := b.bus.Subscribe(topic, func(ev *Event) { handler(*ev) }); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b callBus) Producer() Producer { return b }

func (b callBus) Append(_ int, events []Event) error {
	for i := range events {
		b.bus.Publish(topic, &events[i])
	}
	return nil
}

func (callBus) Close() error { return nil }
