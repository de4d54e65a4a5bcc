// A page that subscribes as its address asks, and writes down every item it is given, in order, in `tab.entries`.
//
//   url       the broker's address
//   filter    what to subscribe to
//   options   of `subscribe`, as JSON
//   client    options of the client, as JSON
//   read      "iterator" (default), "callbacks", or "pulled": an iterator that takes an item only when the test says so
//   codec     "bincode" or JSON
//
// It keeps its place over a reload, but where it is pulled: its positions as it goes, and what it wrote down when it is
// left.

const ask = new URLSearchParams(location.search);
const asked = (name) => JSON.parse(ask.get(name) ?? "{}");
const read = ask.get("read") ?? "iterator";
const { Client } = await import("/sdk/index.js");
const codec = ask.get("codec") === "bincode" ? { codec: (await import("/sdk/bincode.js")).bincode } : {};

const positions = JSON.parse(sessionStorage.getItem("positions") ?? "null");
const entries = JSON.parse(sessionStorage.getItem("entries") ?? "[]");
if (read !== "pulled") addEventListener("pagehide", () => sessionStorage.setItem("entries", JSON.stringify(entries)));

const client = new Client(ask.get("url"), { ...asked("client"), ...codec });
const subscription = client.subscribe(ask.get("filter"), { ...asked("options"), ...(positions && { from: positions }) });

/** What the tests read. */
const tab = {
  client,
  subscription,
  entries,
  /** The number of the last message, over a reload too. */
  last: entries.findLast(({ type }) => type === "message")?.n ?? 0,
  states: [],
  errors: [],
  /** `pageshow` events of a page that came back from the back/forward cache. */
  restored: 0,
  /** At which message the page is to reload itself: in the midst of a burst. */
  reloadAt: undefined,
  pull,
};
globalThis.tab = tab;

client.on("state", (event) => tab.states.push(JSON.parse(JSON.stringify(event))));
client.on("error", ({ code, name, message }) => tab.errors.push({ code, name, message }));
addEventListener("pageshow", ({ persisted }) => (tab.restored += persisted ? 1 : 0));

function take(item) {
  const entry = item.type === "message" ? { type: "message", n: item.data, offset: item.offset } : { ...item };
  // A test's own fault, to prove that the test would notice.
  const written = globalThis.sabotage?.(entry) ?? [entry];
  entries.push(...written);
  if (item.type === "message") tab.last = item.data;
  if (read !== "pulled") sessionStorage.setItem("positions", JSON.stringify(subscription.positions));
  if (item.type === "message" && item.data === tab.reloadAt) location.reload();
}

/** Takes so many items, or as many as there are up to the message numbered `last`. */
async function pull(count, last) {
  while (count-- > 0 && tab.last !== last) {
    const { value, done } = await tab.iterator.next();
    if (done) return;
    take(value);
  }
}

if (read === "callbacks") {
  for (const type of ["message", "gap", "resumed", "reset"]) subscription.on(type, take);
} else if (read === "pulled") {
  tab.iterator = subscription[Symbol.asyncIterator]();
} else {
  // What a page does with an item takes it a turn of the event loop or more: others come meanwhile, and wait.
  const turn = new MessageChannel();
  for await (const item of subscription) {
    take(item);
    await new Promise((resolve) => {
      turn.port1.onmessage = resolve;
      turn.port2.postMessage(undefined);
    });
  }
}
