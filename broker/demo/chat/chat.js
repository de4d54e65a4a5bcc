// Rooms, each a topic. One subscription a room, read by `for await`: what this page does not take waits at the broker.

import { Client } from "/client.js";
import { duration, showConnection } from "/demo/connection.js";

const ROOMS = [
  { topic: "chat.room.harbour", name: "Harbour", note: "The log keeps a day." },
  { topic: "chat.room.kitchen", name: "Kitchen", note: "The log keeps a day." },
  // Small bounds, so that ten seconds without reading already mean: read on from the log.
  { topic: "chat.brief.gauge", name: "Gauge", note: "The log keeps 15 seconds: stay away for longer, and there is a gap.", limits: { limit: 8, credit: 2 } },
];
const FIRST = 30;
const PAGE = 30;
const NAMES = ["Ines", "Jonas", "Kofi", "Lena", "Mateo", "Nadia", "Oskar", "Priya", "Rosa", "Samir", "Tove", "Yuki"];

/** What was said before is history, and not unread. */
const started = Date.now();

const $ = (id) => document.getElementById(id);
const client = new Client();
showConnection(client);

class Room {
  /** Of the oldest message shown; older ones are asked for by it. */
  oldest = Infinity;
  isAtStart = false;
  unread = 0;
  /** Messages of mine that are not back yet. */
  pending = new Map();
  /** Where to go on after being offline. */
  positions = [];
  /** The line "you were away", and until when what comes belongs to it. */
  away = undefined;
  #isLoading = false;

  constructor({ topic, name, note, limits }) {
    Object.assign(this, { topic, name, note, limits });
    this.list = document.createElement("ol");
    this.list.hidden = true;
    this.button = document.createElement("button");
    this.button.type = "button";
    this.button.append(name, Object.assign(document.createElement("span"), { className: "unread" }));
    this.button.addEventListener("click", () => open(this));
  }

  /** Reads until the connection is closed: from the last messages at first, later from where it was. */
  async read() {
    const from = this.positions.length ? this.positions : { last: FIRST };
    const subscription = client.subscribe(this.topic, { from, overflow: "catch_up", ...this.limits });
    this.subscription = subscription;
    for await (const item of subscription) {
      await awake;
      // What was taken just before going offline belongs to the past subscription, and comes again with the next.
      if (this.subscription !== subscription) return;
      this.show(item);
      this.positions = subscription.positions;
    }
  }

  show(item) {
    const follows = isAtEnd();
    if (item.type === "message") this.#add(item);
    else if (item.type === "gap") this.notice(gapText(item), "gap");
    else if (item.type === "resumed") this.notice("Connected again. What was said meanwhile follows.");
    else if (item.type === "reset") this.notice("The broker was restarted: its log begins anew.", "gap");
    if (this === opened && follows) toEnd();
  }

  #add(message) {
    this.oldest = Math.min(this.oldest, message.offset);
    const mine = this.pending.get(message.data.id);
    this.pending.delete(message.data.id);
    mine?.remove();
    this.list.append(row(message, this.list.lastElementChild));
    if (this.away && message.time < this.away.until) {
      this.away.count += 1;
      const { count, line, text } = this.away;
      line.textContent = `${text} ${count} ${count === 1 ? "message" : "messages"} came meanwhile:`;
    }
    if (message.time > started && this !== opened) {
      this.unread += 1;
      this.button.lastChild.textContent = this.unread;
    }
    if (this === opened && !isAtEnd()) $("newest").hidden = false;
  }

  notice(text, kind = "") {
    const line = Object.assign(document.createElement("li"), { className: `notice ${kind}`, textContent: text });
    this.list.append(line);
    return line;
  }

  /** The page was away for so long and is back now. */
  back(text) {
    this.away = { text, line: this.notice(`${text} Nothing came meanwhile.`), until: Date.now(), count: 0 };
  }

  /** Puts a page of older messages before the first. */
  async loadOlder() {
    if (this.#isLoading || this.isAtStart || this.oldest === Infinity) return;
    this.#isLoading = true;
    try {
      const page = await client.history(this.topic, { from: { last: PAGE, at: this.oldest - 1 }, limit: PAGE });
      const rows = [];
      for (const message of page.messages) rows.push(row(message, rows.at(-1)));
      this.oldest = page.messages[0]?.offset ?? this.oldest;
      this.isAtStart = page.messages.length < PAGE;
      if (this.isAtStart) {
        rows.unshift(Object.assign(document.createElement("li"), { className: "notice start", textContent: "The log begins here" }));
      }
      const { scrollHeight, scrollTop } = $("room");
      this.list.prepend(...rows);
      if (this === opened) $("room").scrollTop = scrollTop + $("room").scrollHeight - scrollHeight;
    } catch {
      // Offline: the next scroll asks again.
    }
    this.#isLoading = false;
  }

  /** Shows it at once, greyed, until the broker sends it back in its place among the others'. */
  say(text) {
    const data = { id: crypto.randomUUID(), from: name(), text };
    const pending = row({ data, time: Date.now() }, this.list.lastElementChild);
    pending.classList.add("pending");
    this.list.append(pending);
    this.pending.set(data.id, pending);
    toEnd();
    // Without a connection this waits, and goes out with the next one.
    client.publish(this.topic, data).catch(() => pending.classList.replace("pending", "failed"));
  }
}

function row({ data, time }, before) {
  const item = $("message").content.firstElementChild.cloneNode(true);
  const from = String(data?.from ?? "?");
  item.style.setProperty("--turn", [...from].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7));
  item.dataset.from = from;
  item.classList.toggle("goes-on", before?.dataset.from === from);
  item.querySelector(".face").textContent = from.slice(0, 2);
  item.querySelector(".from").textContent = from;
  item.querySelector("time").textContent = new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  item.querySelector(".text").textContent = String(data?.text ?? "");
  return item;
}

function gapText({ count, atMost, reason }) {
  const many = count ?? atMost;
  const what = many === undefined ? "Some messages are" : `${count === undefined ? "Up to " : ""}${many} ${many === 1 ? "message is" : "messages are"}`;
  return `${what} missing here: ${reason === "epoch" ? "the broker was restarted" : "the log no longer has them"}`;
}

// Rooms

const rooms = ROOMS.map((room) => new Room(room));
let opened;

function open(room) {
  opened = room;
  room.unread = 0;
  room.button.lastChild.textContent = "";
  for (const each of rooms) {
    each.list.hidden = each !== room;
    each.button.setAttribute("aria-current", each === room);
  }
  $("room-name").textContent = room.name;
  $("room-note").textContent = room.note;
  $("say").hidden = room.topic.startsWith("chat.brief.");
  toEnd();
}

const isAtEnd = () => $("room").scrollHeight - $("room").scrollTop - $("room").clientHeight < 60;

function toEnd() {
  $("room").scrollTop = $("room").scrollHeight;
  $("newest").hidden = true;
}

$("room").addEventListener("scroll", () => {
  if (isAtEnd()) $("newest").hidden = true;
  if ($("room").scrollTop < 120) opened.loadOlder();
});
$("newest").addEventListener("click", toEnd);

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  $("text").value = "";
  if (text) opened.say(text);
});

// A name of its own for each tab, kept over a reload.
$("name").value = sessionStorage.getItem("name") ?? NAMES[Math.floor(Math.random() * NAMES.length)];
$("name").addEventListener("input", () => sessionStorage.setItem("name", $("name").value));
sessionStorage.setItem("name", $("name").value);
const name = () => $("name").value.trim() || "Somebody";

// Away, in two ways

/** Resolves while this page reads. Each `for await` waits for it, takes nothing more, and its credit runs out. */
let awake = Promise.resolve();
let wake;

toggle($("sleep"), "Read on", {
  start() {
    awake = new Promise((resolve) => (wake = resolve));
  },
  end(away) {
    for (const room of rooms) room.back(`You did not read for ${away}.`);
    wake();
  },
});

toggle($("offline"), "Go online", {
  start() {
    for (const room of rooms) room.subscription = undefined;
    client.close();
    $("text").disabled = true;
  },
  end(away) {
    for (const room of rooms) room.back(`You were offline for ${away}.`);
    $("text").disabled = false;
    client.connect();
    for (const room of rooms) room.read();
  },
});

/** A button that begins and ends something; `end` is told how long it took. */
function toggle(button, textToEnd, { start, end }) {
  const text = button.textContent;
  let since;
  button.addEventListener("click", () => {
    const starts = since === undefined;
    button.setAttribute("aria-pressed", starts);
    button.textContent = starts ? textToEnd : text;
    if (starts) start();
    else end(duration(Date.now() - since));
    since = starts ? Date.now() : undefined;
  });
}

for (const room of rooms) {
  $("room").append(room.list);
  $("rooms").append(document.createElement("li"));
  $("rooms").lastElementChild.append(room.button);
  room.read();
}
open(rooms[0]);
