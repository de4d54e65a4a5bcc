// A fan-out server on Socket.IO: a room for each topic. The topics of a subscriber stand in its handshake's `auth`.
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.TIDEGATE_PEERS, "npm/"));
const { createServer } = require("node:http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http, {
  // From the manual's page on performance: WebSocket alone, `ws` without compression, no client files served.
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
});

// From the same page: forget the first request of a connection, which else stays in memory with it.
io.engine.on("connection", (raw) => {
  raw.request = null;
});

io.on("connection", (socket) => {
  const { topics } = socket.handshake.auth;
  if (Array.isArray(topics)) socket.join(topics);
  socket.on("p", (topic, payload) => io.to(topic).emit("m", payload));
  socket.emit("ready");
});

// More than the load generator ever opens at once.
http.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 });
