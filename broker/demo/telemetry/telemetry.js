// Devices of a fleet, by wildcard: the last value of each topic first, then what comes, with the policy `latest`.

import { Client } from "/client.js";
import { Rate, Reading, duration, showConnection, whole } from "/demo/connection.js";

const PRESETS = ["fleet.>", "fleet.oslo.>", "fleet.*.*.battery", "fleet.*.d07.*", "fleet.berlin.d13.vibration"];
const FLOOD = "fleet.berlin.d13.vibration";
/** How a metric is shown, and what is cold and warm. */
const METRICS = {
  temperature: { text: (value) => `${value.toFixed(1)}°`, from: -5, to: 38 },
  humidity: { text: (value) => `${Math.round(value)} %`, from: 20, to: 95 },
  battery: { text: (value) => `${Math.round(value)} %`, from: 100, to: 0 },
  vibration: { text: (value) => value.toFixed(1), from: 0, to: 12 },
};
/** A device that has said nothing for so long is shown as silent, in milliseconds. */
const SILENT = 60_000;

const $ = (id) => document.getElementById(id);
const client = new Client();
showConnection(client);

const reading = new Reading();
const counts = { received: 0, flood: 0, others: 0 };
/** What the page knows: by topic, its last value and when it was said. */
let values = new Map();
/** What is to be written with the next frame. */
let changed = new Set();
let metric;
let subscription;

async function subscribe(filter) {
  let chosen;
  try {
    chosen = client.subscribe(filter, { from: { last: 1 }, overflow: "latest", limit: 1024, credit: 64 });
  } catch {
    $("refused").textContent = "Not a filter: tokens with a dot between, * for any one, > at the end for all that follow.";
    return;
  }
  subscription?.unsubscribe();
  subscription = chosen;
  begin(filter);
  const began = Date.now();
  let isLive = false;
  let first = 0;
  for await (const item of chosen) {
    // Another filter was chosen while this one waited for its turn.
    if (subscription !== chosen) return;
    if (item.type === "gap") {
      counts[item.topic === FLOOD ? "flood" : "others"] += item.count ?? 0;
      continue;
    }
    if (item.type !== "message") continue;
    counts.received += 1;
    // The last values come first, one a topic: a topic that comes again is live.
    isLive ||= values.has(item.topic);
    values.set(item.topic, { value: item.data, time: item.time });
    changed.add(item.topic);
    if (isLive) {
      await reading.turn();
    } else {
      first += 1;
      $("first").textContent = whole(first);
      $("first-note").textContent = `at once: ${whole(Date.now() - began)} ms`;
    }
  }
}

function begin(filter) {
  const last = filter.split(".").at(-1);
  metric = last in METRICS ? last : "temperature";
  values = new Map();
  changed = new Set();
  Object.assign(counts, { flood: 0, others: 0 });
  $("cities").replaceChildren();
  $("refused").textContent = "";
  $("first").textContent = "0";
  $("filter").value = filter;
  for (const button of document.querySelectorAll(".presets button")) button.setAttribute("aria-current", button.textContent === filter);
}

client.subscribe("demo.telemetry", { overflow: "latest" }, ({ data, time }) => {
  $("published").textContent = whole(rates.published.look(data.published, time));
});

// The grid

/** The tile of a device; made with its first value, in its alphabetical place. */
function tile(city, device) {
  const place = (parent, id, make) => {
    const there = document.getElementById(id);
    if (there) return there;
    const element = Object.assign(make(), { id });
    parent.insertBefore(element, [...parent.children].find((child) => child.id > id) ?? null);
    return element;
  };
  const block = place($("cities"), `city-${city}`, () => {
    const block = Object.assign(document.createElement("div"), { className: "city" });
    block.append(Object.assign(document.createElement("h3"), { textContent: city }), document.createElement("ul"));
    return block;
  });
  return place(block.lastElementChild, `device-${city}-${device}`, () => {
    const item = Object.assign(document.createElement("li"), { className: "device" });
    item.append(document.createElement("b"), Object.assign(document.createElement("span"), { textContent: device }));
    return item;
  });
}

function draw() {
  for (const topic of changed) {
    const [, city, device, what] = topic.split(".");
    const { value, time } = values.get(topic);
    const { text, from, to } = METRICS[what] ?? {};
    if (!text || typeof value !== "number") continue;
    if (what === "vibration") tile(city, device).classList.add("flooding");
    if (what !== metric) continue;
    const item = tile(city, device);
    item.dataset.time = time;
    item.firstElementChild.textContent = text(value);
    item.style.setProperty("--warmth", Math.min(1, Math.max(0, (value - from) / (to - from))).toFixed(2));
  }
  changed.clear();
  requestAnimationFrame(draw);
}
requestAnimationFrame(draw);

// Figures, twice a second

const rates = { received: new Rate(), published: new Rate() };

setInterval(() => {
  const now = Date.now();
  const times = [...values.values()].map(({ time }) => time);
  const devices = new Set([...values.keys()].map((topic) => topic.split(".").slice(1, 3).join()));
  $("oldest").textContent = times.length ? duration(now - Math.min(...times)) : "–";
  $("received").textContent = whole(rates.received.look(counts.received));
  $("flood-gaps").textContent = whole(counts.flood);
  $("other-gaps").textContent = whole(counts.others);
  $("shown").textContent = `${devices.size} with ${whole(values.size)} topics; shown: ${metric}`;
  for (const item of document.querySelectorAll(".device")) item.classList.toggle("silent", now - item.dataset.time > SILENT);
}, 500);

/** How old the oldest message of the log is: the flood's own, since it fills the log. */
setInterval(async () => {
  if (document.hidden || client.state !== "connected") return;
  try {
    const { messages } = await client.history(FLOOD, { from: "beginning", limit: 1 });
    if (messages.length) $("reach").textContent = duration(Date.now() - messages[0].time);
  } catch {
    // Cut off: the next look tells.
  }
}, 2000);

// Controls

for (const preset of PRESETS) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: preset });
  button.addEventListener("click", () => subscribe(preset));
  document.querySelector(".presets").append(button);
}

$("choose").addEventListener("submit", (event) => {
  event.preventDefault();
  subscribe($("filter").value.trim());
});

const setRate = () => (reading.rate = Number(new FormData($("rate")).get("rate")));
$("rate").addEventListener("change", setRate);
setRate();
subscribe(PRESETS[0]);
