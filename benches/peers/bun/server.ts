// A fan-out server as Bun's manual writes one: native publish/subscribe (uWebSockets), no compression.
//   /subscribe/TOPIC  the messages of a topic          /publish/TOPIC  every message goes to the topic
//   /many             a subscriber's first message names its topics with commas between them; a publisher's messages
//                     are the topic, a line feed and the payload
type Data = { kind: string; topic: string };

Bun.serve<Data>({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  fetch(request, server) {
    const [, kind, topic] = new URL(request.url).pathname.split("/");
    if (server.upgrade(request, { data: { kind, topic } })) return;
    return new Response("WebSocket only", { status: 400 });
  },
  websocket: {
    perMessageDeflate: false,
    // What the manual's default is, stated: a reader that is 16 MiB behind loses messages.
    backpressureLimit: 16 * 1024 * 1024,
    idleTimeout: 120,
    open(socket) {
      if (socket.data.kind === "subscribe") socket.subscribe(socket.data.topic);
    },
    message(socket, message) {
      const { kind, topic } = socket.data;
      if (kind === "publish") {
        socket.publish(topic, message);
        return;
      }
      const text = String(message);
      const end = text.indexOf("\n");
      if (end >= 0) {
        socket.publish(text.slice(0, end), text.slice(end + 1));
        return;
      }
      for (const name of text.split(",")) socket.subscribe(name);
      socket.send("ready");
    },
  },
});
