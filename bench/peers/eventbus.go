package peers

import (
	EventBus "github.com/asaskevich/EventBus"

	"github.com/weirstore/weir/bench/contender"
)

var eventBus = contender.Entry{
	Name: "asaskevich/EventBus", Kind: contender.Buses,
	Can:  contender.Deliver | contender.Concurrent,
	Note: "stores nothing; handlers run on the publisher, under the bus's lock",
	Open: openEventBus,
}

// callBus publishes synchronously: the asynchronous way starts a goroutine an event and handler,
// which is slower and keeps no order.
type callBus struct{ bus EventBus.Bus }

func openEventBus(c contender.Config) (contender.Bus, error) {
	b := callBus{EventBus.New()}
	for _, handler := range c.Handlers {
		if err := b.bus.Subscribe(topic, func(ev *contender.Event) { handler(*ev) }); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b callBus) Producer() contender.Producer { return b }

func (b callBus) Append(_ int, events []contender.Event) error {
	for i := range events {
		b.bus.Publish(topic, &events[i])
	}
	return nil
}

func (callBus) Close() error { return nil }
