// Watermill's subscriber for Redis Streams, doing nothing with what it gets.
//
//	watermill -address 127.0.0.1:6379 -stream bench-events -group peer
//
// Makes the group at the beginning of the stream if it is not there, acknowledges each message, and runs until it is
// ended. The benchmark counts from outside.
package main

import (
	"context"
	"errors"
	"flag"
	"log"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"
)

// openEdx reads what the other contenders read. Watermill's own format has other fields, and would cost it more: the
// headers are packed with msgpack there.
type openEdx struct{}

func (openEdx) Unmarshal(values map[string]any) (*message.Message, error) {
	id, hasID := values["id"].(string)
	data, hasData := values["event_data"].(string)
	if !hasID || !hasData {
		return nil, errors.New("an entry without id or event_data")
	}
	event := message.NewMessage(id, []byte(data))
	for _, header := range []string{"type", "source", "time"} {
		if value, ok := values[header].(string); ok {
			event.Metadata.Set(header, value)
		}
	}
	return event, nil
}

func main() {
	address := flag.String("address", "127.0.0.1:6379", "of the Redis server")
	stream := flag.String("stream", "", "the key of the stream")
	group := flag.String("group", "", "the consumer group")
	flag.Parse()

	subscriber, err := redisstream.NewSubscriber(
		redisstream.SubscriberConfig{
			Client:        redis.NewClient(&redis.Options{Addr: *address}),
			Unmarshaller:  openEdx{},
			ConsumerGroup: *group,
			OldestId:      "0",
		},
		watermill.NopLogger{},
	)
	if err != nil {
		log.Fatal(err)
	}
	messages, err := subscriber.Subscribe(context.Background(), *stream)
	if err != nil {
		log.Fatal(err)
	}
	for event := range messages {
		event.Ack()
	}
	log.Fatal("the subscriber ended")
}
