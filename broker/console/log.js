// The message log: what came, newest last. It draws at most once a frame and keeps the newest rows only, so ten
// thousand messages a second cost no more than the eye can use.

import { clock, gapText, payloadText } from "./format.js";

/** Rows kept on the page. */
export const MAX_ROWS = 500;
/** Characters of a payload a row shows until it is opened. */
const PREVIEW = 300;

/** `drawn` is called with the rows of each frame once they are on the page (or known to be too many for it). */
export class MessageLog {
  #list;
  #template;
  #drawn;
  #waiting = [];
  #scheduled = false;
  /** Whether the newest row is kept in view. */
  #follows = true;
  #onFollow;
  #content = new WeakMap();
  #current = null;

  constructor(list, template, { drawn, follows }) {
    this.#list = list;
    this.#template = template;
    this.#drawn = drawn;
    this.#onFollow = follows;
    list.addEventListener("scroll", () => this.#setFollows(this.#atEnd()), { passive: true });
    list.addEventListener("click", ({ target }) => {
      const row = target.closest(".row");
      if (row && !getSelection().toString()) this.#toggle(row);
    });
    list.addEventListener("keydown", (event) => this.#onKey(event));
    document.addEventListener("visibilitychange", () => this.#draw());
  }

  message(frame, subscriptions) {
    this.#push({ kind: "message", frame, subscriptions, at: frame.time });
  }

  gap(gap, subscription) {
    this.#push({ kind: "gap", gap, subscriptions: [subscription], at: Date.now() });
  }

  notice(text) {
    this.#push({ kind: "notice", text, subscriptions: [], at: Date.now() });
  }

  clear() {
    this.#list.replaceChildren();
    this.#current = null;
    this.#setFollows(true);
  }

  /** Shows the newest row and stays with it. */
  follow() {
    this.#setFollows(true);
    this.#list.scrollTop = this.#list.scrollHeight;
  }

  #push(entry) {
    this.#waiting.push(entry);
    if (this.#scheduled) return;
    this.#scheduled = true;
    // Out of sight there are no animation frames and timers are rare, but subscriptions want their credit all the same.
    if (document.hidden) queueMicrotask(() => this.#draw());
    else requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#scheduled = false;
    const entries = this.#waiting;
    this.#waiting = [];
    const rows = document.createDocumentFragment();
    for (const entry of entries.slice(-MAX_ROWS)) rows.append(this.#row(entry));
    const surplus = this.#list.childElementCount + rows.childElementCount - MAX_ROWS;
    if (surplus > 0) this.#dropFirst(surplus);
    this.#list.append(rows);
    if (this.#follows && !document.hidden) this.#list.scrollTop = this.#list.scrollHeight;
    this.#drawn(entries);
  }

  #dropFirst(count) {
    const range = document.createRange();
    range.setStartBefore(this.#list.children[0]);
    range.setEndAfter(this.#list.children[count - 1]);
    range.deleteContents();
    if (this.#current && !this.#current.isConnected) this.#current = null;
  }

  #row({ kind, frame, gap, text, subscriptions, at }) {
    const row = this.#template.content.firstElementChild.cloneNode(true);
    const [time, subs, offset, topic, key, payload] = row.children;
    row.classList.add(kind);
    time.textContent = clock(at);
    subs.append(...subscriptions.map(badge));
    if (kind === "message") {
      offset.textContent = frame.offset ?? "live";
      topic.textContent = frame.topic;
      if (frame.key !== undefined) key.textContent = frame.key;
      payload.textContent = preview(payloadText(frame));
      this.#content.set(row, frame);
    } else if (kind === "gap") {
      topic.textContent = gap.topic ?? "gap";
      payload.textContent = gapText(gap);
    } else {
      payload.textContent = text;
    }
    return row;
  }

  /** Opens a message's row to its whole payload and its headers, or closes it. */
  #toggle(row) {
    this.#setCurrent(row);
    const frame = this.#content.get(row);
    if (!frame) return;
    const open = row.classList.toggle("open");
    const headers = Object.entries(frame.headers ?? {}).map(([name, value]) => `\n${name}: ${value}`);
    const text = payloadText(frame, open);
    row.querySelector(".payload").textContent = open ? text + headers.join("") : preview(text);
  }

  #onKey(event) {
    const rows = this.#list.children;
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step && rows.length > 0) {
      event.preventDefault();
      const from = this.#current ?? rows[rows.length - 1];
      this.#setCurrent((step < 0 ? from.previousElementSibling : from.nextElementSibling) ?? from);
      this.#current.scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter" && this.#current) {
      this.#toggle(this.#current);
    } else if (event.key === "End") {
      event.preventDefault();
      this.follow();
    }
  }

  #setCurrent(row) {
    this.#current?.classList.remove("current");
    this.#current = row;
    row.classList.add("current");
  }

  #atEnd() {
    return this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < 8;
  }

  #setFollows(follows) {
    if (follows === this.#follows) return;
    this.#follows = follows;
    this.#onFollow(follows);
  }
}

/** The mark by which a subscription's rows are known. */
export function badge(subscription) {
  const mark = document.createElement("span");
  mark.className = `badge hue${subscription.key % 8}`;
  mark.textContent = `#${subscription.key}`;
  mark.title = subscription.asked.filter;
  return mark;
}

function preview(text) {
  return text.length > PREVIEW ? `${text.slice(0, PREVIEW)}…` : text;
}
