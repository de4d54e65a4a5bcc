// A real broker on loopback, and a second client to publish with.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import WebSocket from "ws";

const BINARY = process.env.BROKER_BIN ?? fileURLToPath(new URL("../../../target/debug/tidegate", import.meta.url));

/** Starts `tidegate serve`; resolves once it says where it listens. Port 0 lets the kernel choose. */
export async function startBroker(port = 0) {
  const process = spawn(BINARY, ["serve", "--listen", `127.0.0.1:${port}`], { stdio: ["ignore", "ignore", "pipe"] });
  const exited = once(process, "exit");
  const lines = createInterface({ input: process.stderr });
  const said = [];
  const url = await new Promise((resolve, reject) => {
    lines.on("line", (line) => {
      said.push(line);
      const found = line.match(/http:\/\/127\.0\.0\.1:\d+/);
      if (found) resolve(found[0]);
    });
    process.once("error", reject);
    exited.then(([code]) => reject(new Error(`the broker ended with ${code} before it listened:\n${said.join("\n")}`)));
  });
  return {
    url,
    port: Number(new URL(url).port),
    async stop() {
      process.kill("SIGTERM");
      await exited;
    },
  };
}

/** Publishes the frames given (without `op` and `id`), and resolves with their acks once all have come. */
export async function publishFromOutside(url, publishes) {
  const socket = new WebSocket(`${url.replace("http", "ws")}/ws`, "tidegate.v1.json");
  await once(socket, "open");
  const acks = [];
  const settled = new Promise((resolve, reject) => {
    socket.on("message", (data) => {
      for (const line of data.toString().split("\n").filter(Boolean)) {
        const frame = JSON.parse(line);
        if (frame.op === "error") reject(new Error(line));
        if (frame.op === "ack") acks.push(frame);
        if (acks.length === publishes.length) resolve();
      }
    });
    socket.once("close", (code) => reject(new Error(`the publisher's connection ended with ${code}`)));
  });
  socket.send(publishes.map((publish, index) => JSON.stringify({ op: "publish", id: index + 1, ...publish })).join("\n"));
  await settled;
  socket.close();
  return acks;
}
