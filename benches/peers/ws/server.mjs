// A fan-out server on `ws`, as its manual's broadcast example: a set of sockets for each topic, no compression. Its
// protocol is that of ../bun/server.ts.
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.TIDEGATE_PEERS, "npm/"));
const { WebSocketServer } = require("ws");

const topics = new Map();

function subscribe(topic, socket) {
  let sockets = topics.get(topic);
  if (!sockets) topics.set(topic, (sockets = new Set()));
  sockets.add(socket);
  socket.on("close", () => sockets.delete(socket));
}

// `binary` as it came: a message that came as text goes out as text.
function publish(topic, payload, binary) {
  for (const socket of topics.get(topic) ?? []) socket.send(payload, { binary });
}

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  perMessageDeflate: false,
  // The manual's advice where the peers are trusted to send valid UTF-8.
  skipUTF8Validation: true,
  // More than the load generator ever opens at once.
  backlog: 4096,
});

server.on("connection", (socket, request) => {
  const [, kind, topic] = request.url.split("/");
  socket.on("error", () => socket.terminate());
  if (kind === "subscribe") subscribe(topic, socket);
  socket.on("message", (message, binary) => {
    if (kind === "publish") {
      publish(topic, message, binary);
      return;
    }
    const end = message.indexOf(10);
    if (end >= 0) {
      publish(message.toString("utf8", 0, end), message.subarray(end + 1), binary);
      return;
    }
    // Beyond ten listeners Node warns: one for each topic is meant here.
    socket.setMaxListeners(0);
    for (const name of message.toString().split(",")) subscribe(name, socket);
    socket.send("ready");
  });
});
