// The real broker on loopback, and the publisher of the Rust SDK.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const BINARY = process.env.BROKER_BIN ?? fileURLToPath(new URL("../../../../target/debug/tidegate", import.meta.url));

/**
 * Starts `tidegate serve`; resolves once it says where it listens. `options` are the configuration's, as its
 * environment names them without the prefix: `{SERVER__RECONNECT_WINDOW: '["0s", "1s"]'}`.
 */
export async function startBroker({ port = 0, options = {} } = {}) {
  const environment = Object.entries(options).map(([name, value]) => [`TIDEGATE_${name}`, value]);
  const child = spawn(BINARY, ["serve", "--listen", `127.0.0.1:${port}`], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, ...Object.fromEntries(environment) },
  });
  const exited = once(child, "exit");
  const said = [];
  const url = await new Promise((resolve, reject) => {
    createInterface({ input: child.stderr }).on("line", (line) => {
      said.push(line);
      const found = line.match(/http:\/\/127\.0\.0\.1:\d+/);
      if (found) resolve(found[0]);
    });
    child.once("error", reject);
    exited.then(([code]) => reject(new Error(`the broker ended with ${code} before it listened:\n${said.join("\n")}`)));
  });
  const end = (signal) => async () => {
    child.kill(signal);
    await exited;
  };
  return { url, port: Number(new URL(url).port), said, stop: end("SIGTERM"), kill: end("SIGKILL") };
}

/**
 * `tidegate pub --lines`: the Rust SDK, which publishes again what a lost connection left unacknowledged. `publish`
 * takes numbers, each a message; `end` resolves once every one of them is acknowledged, and rejects where one was not.
 */
export function startPublisher(broker, topic, { keyed = false } = {}) {
  const kind = keyed ? ["--keyed", "--json"] : ["--json"];
  const child = spawn(BINARY, ["pub", topic, "--lines", ...kind, "--url", `${broker.url.replace("http", "ws")}/ws`], {
    stdio: ["pipe", "inherit", "pipe"],
  });
  let said = "";
  child.stderr.on("data", (text) => (said += text));
  child.stdin.on("error", () => {});
  const exited = once(child, "exit");
  return {
    /** Publishes the numbers from `first` to `last`; with `keyed`, `key(n)` is the key of each. */
    publish(first, last, key) {
      let lines = "";
      for (let n = first; n <= last; n++) lines += keyed ? `${key(n)}\t${n}\n` : `${n}\n`;
      child.stdin.write(lines);
    },
    async end() {
      child.stdin.end();
      const [code] = await exited;
      if (code !== 0) throw new Error(`the publisher ended with ${code}: ${said}`);
    },
    async kill() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
