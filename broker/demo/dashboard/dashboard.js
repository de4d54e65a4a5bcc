// 400 prices in one topic, told apart by their key, with the policy `latest`.

import { Client } from "/client.js";
import { Rate, Reading, duration, showConnection, whole } from "/demo/connection.js";
import { Chart } from "/demo/dashboard/chart.js";
import { Tiles } from "/demo/dashboard/tiles.js";

const $ = (id) => document.getElementById(id);
const client = new Client();
showConnection(client);

const counts = { received: 0, merged: 0, differ: 0, age: 0 };
const reading = new Reading();
const tiles = new Tiles($("prices"));

async function read() {
  // A slot for each price, and little on its way to this page: what it does not take is merged at the broker.
  const prices = client.subscribe("dashboard.prices", { overflow: "latest", limit: 512, credit: 128 });
  for await (const item of prices) {
    if (item.type === "message") {
      counts.received += 1;
      // The newest ones count most.
      counts.age += (Math.max(0, Date.now() - item.time) - counts.age) / 64;
      tiles.set(item.key, item.data.price);
      await reading.turn();
    } else if (item.type === "gap" && item.reason === "merged") {
      counts.merged += item.count;
    }
  }
}

read();
client.subscribe("demo.dashboard", { overflow: "latest" }, ({ data, time }) => {
  $("published").textContent = whole(rates.published.look(data.published, time));
});
client.on("books", () => (counts.differ += 1));

$("rate").addEventListener("change", () => {
  reading.rate = Number(new FormData($("rate")).get("rate"));
});

// Frames: each draws what has changed since the last.

let frames = 0;
let longest = 0;
let before = performance.now();

function draw(now) {
  frames += 1;
  longest = Math.max(longest, now - before);
  before = now;
  tiles.draw();
  requestAnimationFrame(draw);
}
requestAnimationFrame(draw);

// Figures, twice a second

const chart = new Chart($("chart"), ["--tide", "--warn"]);
const rates = { frames: new Rate(), published: new Rate(8), received: new Rate(), merged: new Rate() };

setInterval(() => {
  const received = rates.received.look(counts.received);
  const merged = rates.merged.look(counts.merged);
  $("frames").textContent = whole(rates.frames.look(frames));
  $("longest").textContent = `${whole(longest)} ms`;
  $("received").textContent = whole(received);
  $("received-all").textContent = whole(counts.received);
  $("merged").textContent = whole(merged);
  $("merged-all").textContent = whole(counts.merged);
  $("age").textContent = reading.rate === 0 ? "–" : counts.age < 1000 ? `${whole(counts.age)} ms` : duration(counts.age);
  $("lost").textContent = counts.differ;
  chart.push([received, merged]);
  longest = 0;
}, 500);
