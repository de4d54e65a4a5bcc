// A proxy between a browser and the broker, with a network's bad habits, each on command.
//
// # How to use and extend
//
// * `startProxy(port)` listens on a free port of loopback and passes everything on to the broker's port: calm.
// * `proxy.cut()` resets every line that is open now, in both directions.
// * `proxy.down = true`: nobody can connect (each new line is reset) until it is false again.
// * `proxy.silent = true`: lines stay open, but no byte gets through in either direction, and new ones are taken and
//   never answered, as with a network that is gone without a word; what was held goes on its way once it is false.
// * `proxy.delay = 50`: every byte takes so many milliseconds more, each way.
// * `proxy.upgrade`: what becomes of a request for a WebSocket: "pass", "refuse" (answered 403), "swallow" (taken and
//   never answered), "strip" (passed on as a plain request, as a proxy does that knows no Upgrade), "reset". It decides
//   for new lines; `cutWebSockets()` ends those that are open.
// * `proxy.requests` is the request line of every line's first request; a browser opens a line of its own for each
//   WebSocket.
// * A new habit is a property that `carry` or `accept` reads: whoever carries bytes sees it change.

import { createServer, connect } from "node:net";
import { once } from "node:events";

/** A browser's request has less; whoever sends more without its end is no browser. */
const LONGEST_HEAD = 64 * 1024;

export async function startProxy(upstreamPort) {
  const lines = new Set();
  const proxy = {
    down: false,
    delay: 0,
    upgrade: "pass",
    requests: [],
    get silent() {
      return silent;
    },
    set silent(value) {
      silent = value;
      if (silent) return;
      for (const line of lines) line.resume();
      ends.splice(0).forEach((end) => end());
    },
    cut: () => end(() => true),
    cutWebSockets: () => end((line) => line.isWebSocket),
    async stop() {
      proxy.cut();
      server.close();
      await once(server, "close");
    },
  };
  let silent = false;
  /** What the far side would have been told of a line's end, had the network not been silent. */
  const ends = [];
  const heard = (end) => (silent ? void ends.push(end) : end());

  const server = createServer({ noDelay: true }, (client) => {
    client.on("error", () => {});
    if (proxy.down) return client.resetAndDestroy();
    const line = { isWebSocket: false, end: () => client.resetAndDestroy(), resume() {} };
    lines.add(line);
    client.once("close", () => lines.delete(line));
    accept(line, client);
  });

  /** Reads the first request's head, which says what the line is for. */
  function accept(line, client) {
    let head = Buffer.alloc(0);
    client.on("data", function read(bytes) {
      head = Buffer.concat([head, bytes]);
      const end = head.indexOf("\r\n\r\n");
      if (end < 0) {
        if (head.length > LONGEST_HEAD) client.resetAndDestroy();
        return;
      }
      client.off("data", read);
      client.pause();
      const text = head.toString("latin1", 0, end);
      proxy.requests.push(text.slice(0, text.indexOf("\r\n")));
      line.isWebSocket = /^upgrade: *websocket/im.test(text);
      const habit = line.isWebSocket ? proxy.upgrade : "pass";
      if (habit === "reset") client.resetAndDestroy();
      else if (habit === "refuse") client.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
      else if (habit === "swallow") client.resume();
      else if (habit === "strip") join(line, client, Buffer.from(`${withoutUpgrade(text)}\r\n\r\n`, "latin1"));
      else join(line, client, head);
    });
  }

  function join(line, client, head) {
    const upstream = connect({ port: upstreamPort, host: "127.0.0.1", noDelay: true });
    upstream.on("error", () => {});
    upstream.once("close", () => heard(() => client.destroy()));
    client.once("close", () => heard(() => upstream.destroy()));
    line.end = () => {
      client.resetAndDestroy();
      upstream.resetAndDestroy();
    };
    const flows = [carry(client, upstream), carry(upstream, client)];
    line.resume = () => flows.forEach((flow) => flow.resume());
    flows[0].push(head);
    if (!silent) line.resume();
  }

  /** Passes bytes on one way, in order; takes no more than the far side takes. */
  function carry(from, to) {
    let held = [];
    const pass = (bytes) => {
      if (to.destroyed) return;
      if (silent) return void held.push(bytes);
      if (bytes === undefined) return void to.end();
      if (!to.write(bytes)) {
        from.pause();
        to.once("drain", () => silent || from.resume());
      }
    };
    const flow = {
      push(bytes) {
        // In order, since every byte waits as long as the one before it, or longer.
        if (proxy.delay > 0) setTimeout(pass, proxy.delay, bytes).unref();
        else pass(bytes);
      },
      resume() {
        const waiting = held;
        held = [];
        waiting.forEach(pass);
        from.resume();
      },
    };
    from.on("data", (bytes) => {
      if (silent) from.pause();
      flow.push(bytes);
    });
    from.once("end", () => flow.push(undefined));
    return flow;
  }

  function end(which) {
    for (const line of lines) if (which(line)) line.end();
  }

  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  proxy.port = server.address().port;
  proxy.url = `http://127.0.0.1:${proxy.port}`;
  return proxy;
}

/** The head as a proxy passes it on that takes `Upgrade` for a header between it and its client (RFC 9110, 7.6.1). */
function withoutUpgrade(head) {
  return head
    .split("\r\n")
    .map((line) => (/^connection:/i.test(line) ? "Connection: keep-alive" : line))
    .filter((line) => !/^upgrade:/i.test(line))
    .join("\r\n");
}
