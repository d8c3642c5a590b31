package peers

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirstore/weir/bench/contender"
)

var jetStreamMemory = contender.Entry{
	Name: "JetStream memory", Kind: contender.Peer,
	Can:   contender.Deliver | contender.Keep | contender.Concurrent | contender.Apart | contender.Submits | contender.Reads,
	Note:  "server in the same process; 100 events an append are not atomic",
	Share: 0.1,
	Open:  func(c contender.Config) (contender.Bus, error) { return openJetStream(c, jetstream.MemoryStorage) },
}

var jetStreamFile = contender.Entry{
	Name: "JetStream file", Kind: contender.Logs,
	Can:   contender.Keep | contender.Concurrent | contender.Durable | contender.Submits,
	Note:  "server in the same process, sync always",
	Share: 0.1,
	Open:  func(c contender.Config) (contender.Bus, error) { return openJetStream(c, jetstream.FileStorage) },
}

// jetStream is a server without a port, and two connections to it: acknowledgements of
// appends do not queue behind deliveries.
type jetStream struct {
	Config             contender.Config
	server             *server.Server
	publish, subscribe *nats.Conn
	js                 jetstream.JetStream
	stream             jetstream.Stream
	consuming          []jetstream.ConsumeContext
}

func openJetStream(c contender.Config, storage jetstream.StorageType) (contender.Bus, error) {
	s, err := server.NewServer(&server.Options{
		JetStream: true, StoreDir: c.Dir, SyncAlways: storage == jetstream.FileStorage,
		DontListen: true, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return nil, err
	}
	j := &jetStream{Config: c, server: s}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		j.Close()
		return nil, fmt.Errorf("contender: the NATS server does not start")
	}
	if err := j.connect(storage); err != nil {
		j.Close()
		return nil, err
	}
	return j, nil
}

func (j *jetStream) connect(storage jetstream.StorageType) (err error) {
	ctx := context.Background()
	if j.publish, err = nats.Connect("", nats.InProcessServer(j.server)); err != nil {
		return err
	}
	if j.subscribe, err = nats.Connect("", nats.InProcessServer(j.server)); err != nil {
		return err
	}
	if j.js, err = jetstream.New(j.publish); err != nil {
		return err
	}
	if _, err := j.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "events", Subjects: []string{"events.>"}, Storage: storage,
	}); err != nil {
		return err
	}
	readers, err := jetstream.New(j.subscribe)
	if err != nil {
		return err
	}
	if j.stream, err = readers.Stream(ctx, "events"); err != nil {
		return err
	}
	for _, handler := range j.Config.Handlers {
		consumer, err := j.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
		if err != nil {
			return err
		}
		consuming, err := consumer.Consume(func(m jetstream.Msg) { handler(contender.Decode(m.Data())) })
		if err != nil {
			return err
		}
		j.consuming = append(j.consuming, consuming)
	}
	return nil
}

func (j *jetStream) Producer() contender.Producer {
	return &jetStreamProducer{j, contender.Window[jetstream.PubAckFuture]{Await: acknowledged}}
}

func acknowledged(f jetstream.PubAckFuture) error {
	select {
	case <-f.Ok():
		return nil
	case err := <-f.Err():
		return err
	}
}

type jetStreamProducer struct {
	*jetStream
	window contender.Window[jetstream.PubAckFuture]
}

func (p *jetStreamProducer) Submit(stream int, events []contender.Event) error {
	for _, ev := range events {
		if err := p.window.Room(); err != nil {
			return err
		}
		future, err := p.js.PublishAsync("events."+p.Config.Streams[stream], ev.AppendTo(nil, p.Config.Size))
		if err != nil {
			return err
		}
		p.window.Add(future)
	}
	return nil
}

func (p *jetStreamProducer) Flush() error { return p.window.Flush() }

func (j *jetStream) Append(stream int, events []contender.Event) error {
	subject := "events." + j.Config.Streams[stream]
	if len(events) == 1 {
		_, err := j.js.Publish(context.Background(), subject, events[0].AppendTo(nil, j.Config.Size))
		return err
	}
	futures := make([]jetstream.PubAckFuture, len(events))
	for i, ev := range events {
		var err error
		if futures[i], err = j.js.PublishAsync(subject, ev.AppendTo(nil, j.Config.Size)); err != nil {
			return err
		}
	}
	for _, f := range futures {
		if err := acknowledged(f); err != nil {
			return err
		}
	}
	return nil
}

func (j *jetStream) Read(fn func(contender.Event)) error {
	ctx := context.Background()
	info, err := j.stream.Info(ctx)
	if err != nil {
		return err
	}
	consumer, err := j.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for range info.State.Msgs {
		m, err := messages.Next()
		if err != nil {
			return err
		}
		fn(contender.Decode(m.Data()))
	}
	return nil
}

func (j *jetStream) Close() error {
	for _, c := range j.consuming {
		c.Stop()
		<-c.Closed()
	}
	for _, conn := range []*nats.Conn{j.publish, j.subscribe} {
		if conn != nil {
			conn.Close()
		}
	}
	j.server.Shutdown()
	j.server.WaitForShutdown()
	return nil
}
