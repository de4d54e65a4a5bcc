// Each tab is a player: it says where its boat is 30 times a second, and reads where the others are.

import { Client } from "/client.js";
import { bincode } from "/client-bincode.js";
import { Rate, nextFrame, showConnection, whole } from "/demo/connection.js";
import { HEIGHT, WIDTH, decode, drift, encode, steer } from "/demo/game/boat.js";
import { draw } from "/demo/game/sea.js";

/** Of a boat, a second. */
const UPDATES = 30;
/** A boat that says nothing for so long has left, in milliseconds. */
const GONE = 3000;
const REACH = 34;
const NAMES = ["Albatross", "Bluefin", "Cormorant", "Dunlin", "Eider", "Fulmar", "Gannet", "Kelpie", "Marlin", "Osprey", "Puffin", "Skua"];

const $ = (id) => document.getElementById(id);
const client = new Client("", { codec: bincode });
showConnection(client);

const random = (n) => Math.floor(Math.random() * n);
const me = crypto.randomUUID();
const boat = { name: "", hue: random(256), x: 100 + random(WIDTH - 200), y: 100 + random(HEIGHT - 200), heading: 6.2 * Math.random(), speed: 0 };
/** The others, by key, each with when it was last heard of. */
const others = new Map();
const counts = { received: 0, merged: 0, frames: 0 };
let buoys = [];

// What comes

let awake = Promise.resolve();

async function readBoats() {
  // Few on their way: what this page does not take waits at the broker, as the newest of each boat.
  const boats = client.subscribe("game.boats", { overflow: "latest", limit: 1024, credit: 64, echo: false });
  for await (const item of boats) {
    await awake;
    if (item.type === "gap" && item.reason === "merged") counts.merged += item.count;
    if (item.type !== "message") continue;
    counts.received += 1;
    const there = decode(item.data);
    if (there && item.key) others.set(item.key, { ...there, heard: performance.now() });
    if (document.hidden) await nextFrame();
  }
}

async function readWorld() {
  for await (const item of client.subscribe("game.world.*", { from: { last: 1 }, overflow: "latest" })) {
    if (item.type !== "message") continue;
    if (item.topic === "game.world.buoys") buoys = item.data;
    else showScores(item.data);
  }
}

// What goes

let sent = 0;

function send(now) {
  if (now - sent < 1000 / UPDATES - 2) return;
  sent = now;
  // A place that finds no room is not worth waiting for: the next is newer.
  const ack = client.state === "connected" && client.tryPublish("game.boats", encode(boat), { key: me, idempotency: false });
  if (ack) ack.catch(() => {});
}

/** Says each time anew that it is at a buoy, until that has moved away. */
function reach() {
  buoys.forEach(({ x, y, round }, buoy) => {
    if (Math.hypot(boat.x - x, boat.y - y) > REACH || client.state !== "connected") return;
    const ack = client.tryPublish("game.catches", { boat: me, name: boat.name, buoy, round }, { idempotency: `${me.slice(0, 8)}-${buoy}-${round}` });
    if (ack) ack.catch(() => {});
  });
}

// The helm: keys, or a pointer that is held down

const keys = new Set();
const KEYS = { ArrowLeft: "left", a: "left", ArrowRight: "right", d: "right", ArrowUp: "ahead", w: "ahead", ArrowDown: "back", s: "back" };
let pointer;

addEventListener("keydown", (event) => {
  const key = KEYS[event.key];
  if (!key || event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey) return;
  keys.add(key);
  event.preventDefault();
});
addEventListener("keyup", ({ key }) => keys.delete(KEYS[key]));
addEventListener("blur", () => keys.clear());

const point = ({ offsetX, offsetY }) => (pointer = { x: (offsetX / $("sea").clientWidth) * WIDTH, y: (offsetY / $("sea").clientHeight) * HEIGHT });
$("sea").addEventListener("pointerdown", (event) => {
  $("sea").setPointerCapture(event.pointerId);
  point(event);
});
$("sea").addEventListener("pointermove", (event) => pointer && point(event));
for (const name of ["pointerup", "pointercancel"]) $("sea").addEventListener(name, () => (pointer = undefined));

function helm() {
  if (pointer) {
    const off = (Math.atan2(pointer.y - boat.y, pointer.x - boat.x) - boat.heading + 3 * Math.PI) % (2 * Math.PI) - Math.PI;
    const isThere = Math.hypot(pointer.x - boat.x, pointer.y - boat.y) < 20;
    return { turn: Math.max(-1, Math.min(1, 2 * off)), sail: isThere ? 0 : 1 };
  }
  return { turn: keys.has("right") - keys.has("left"), sail: keys.has("ahead") - keys.has("back") };
}

// Frames. A hidden tab has none: it neither sends nor reads, and the broker keeps the newest for it.

let before = performance.now();

function frame(now) {
  const seconds = Math.min(100, now - before) / 1000;
  before = now;
  counts.frames += 1;
  steer(boat, helm(), seconds);
  for (const [key, other] of others) {
    if (now - other.heard > GONE) others.delete(key);
    else drift(other, seconds);
  }
  send(now);
  reach();
  draw($("sea"), { now, boat, others, buoys });
  requestAnimationFrame(frame);
}

// Beside the sea

const rates = { frames: new Rate(), received: new Rate() };

setInterval(() => {
  $("count").textContent = others.size + 1;
  $("frames").textContent = whole(rates.frames.look(counts.frames));
  $("received").textContent = whole(rates.received.look(counts.received));
  $("merged").textContent = whole(counts.merged);
  const all = [[me, boat], ...others];
  $("boats").replaceChildren(...all.map(([key, { name, hue, x, y }]) => {
    const item = Object.assign(document.createElement("li"), { textContent: name, className: key === me ? "mine" : "" });
    Object.assign(item.dataset, { boat: key, x: Math.round(x), y: Math.round(y) });
    item.style.setProperty("--hue", hue * 360 / 256);
    return item;
  }));
}, 500);

function showScores(scores) {
  $("scores").replaceChildren(...scores.map(({ boat, name, buoys }) => {
    const item = Object.assign(document.createElement("li"), { textContent: name, className: boat === me ? "mine" : "" });
    item.append(Object.assign(document.createElement("b"), { textContent: buoys }));
    return item;
  }));
}

$("name").value = sessionStorage.getItem("boat") ?? NAMES[random(NAMES.length)];
const rename = () => {
  boat.name = $("name").value.trim() || "Nameless";
  sessionStorage.setItem("boat", boat.name);
};
$("name").addEventListener("input", rename);
rename();

let wake;
$("sleep").addEventListener("click", () => {
  const stops = $("sleep").getAttribute("aria-pressed") === "false";
  $("sleep").setAttribute("aria-pressed", stops);
  $("sleep").textContent = stops ? "Read on" : "Stop reading";
  if (stops) awake = new Promise((resolve) => (wake = resolve));
  else wake();
});

readBoats();
readWorld();
requestAnimationFrame(frame);
