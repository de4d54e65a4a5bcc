// A server of Centrifugo's engine, set up as Centrifugo sets it up by default: its server is not to be had as a Go
// module. With -history every channel keeps messages and is recoverable, which is what Tidegate does for every topic.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/centrifugal/centrifuge"
)

func main() {
	port := flag.Int("port", 0, "port on loopback")
	history := flag.Bool("history", false, "keep messages of every channel, and let clients recover them")
	flag.Parse()

	node, err := centrifuge.New(centrifuge.Config{
		// Centrifugo's defaults are 128 channels a client and 1 MiB of queue a client; both suffice here.
		ClientChannelLimit: 128,
		ClientQueueMaxSize: 1 << 20,
		// Two minutes, as Tidegate's stream; the size below keeps what the scenarios publish in that time.
		HistoryMetaTTL:              10 * time.Minute,
		RecoveryMaxPublicationLimit: 1000,
	})
	if err != nil {
		log.Fatal(err)
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		// Anonymous, as Centrifugo's client.insecure.
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, done centrifuge.SubscribeCallback) {
			done(centrifuge.SubscribeReply{Options: centrifuge.SubscribeOptions{
				EnableRecovery:    *history,
				EnablePositioning: *history,
			}}, nil)
		})
		client.OnPublish(func(event centrifuge.PublishEvent, done centrifuge.PublishCallback) {
			if *history {
				result, err := node.Publish(event.Channel, event.Data, centrifuge.WithHistory(1000, 2*time.Minute))
				done(centrifuge.PublishReply{Result: &result}, err)
				return
			}
			done(centrifuge.PublishReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		// As Centrifugo's defaults: no compression, 64 KiB a message, one second for a write.
		MessageSizeLimit:   65536,
		WriteTimeout:       time.Second,
		UseWriteBufferPool: true,
	}))
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", listener.Addr())
	go func() { log.Fatal(http.Serve(listener, mux)) }()

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
