package peers

import (
	"context"
	"sync"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/weirstore/weir/bench/contender"
)

var watermillBus = contender.Entry{
	Name: "watermill gochannel", Kind: contender.Buses,
	Can:   contender.Deliver | contender.Concurrent,
	Note:  "stores nothing; publishing waits for acks, without which order is not kept",
	Share: 0.1,
	Open:  openWatermill,
}

// topic is the one topic of the buses: their handlers want all events.
const topic = "events"

type watermillChannel struct {
	pubsub *gochannel.GoChannel
	wg     sync.WaitGroup
}

func openWatermill(c contender.Config) (contender.Bus, error) {
	w := &watermillChannel{pubsub: gochannel.NewGoChannel(gochannel.Config{
		OutputChannelBuffer: 1024,
		// Else each message is sent by a goroutine of its own, in any order.
		BlockPublishUntilSubscriberAck: true,
	}, watermill.NopLogger{})}
	for _, handler := range c.Handlers {
		messages, err := w.pubsub.Subscribe(context.Background(), topic)
		if err != nil {
			w.Close()
			return nil, err
		}
		w.wg.Go(func() {
			for m := range messages {
				handler(contender.Decode(m.Payload))
				m.Ack()
			}
		})
	}
	return w, nil
}

func (w *watermillChannel) Producer() contender.Producer { return w }

func (w *watermillChannel) Append(_ int, events []contender.Event) error {
	messages := make([]*message.Message, len(events))
	for i, ev := range events {
		// The UUID is for debugging and may be empty, says watermill.
		messages[i] = message.NewMessage("", ev.AppendTo(make([]byte, 0, contender.EventSize), contender.EventSize))
	}
	return w.pubsub.Publish(topic, messages...)
}

func (w *watermillChannel) Close() error {
	err := w.pubsub.Close()
	w.wg.Wait()
	return err
}
