// The console: wires the forms, the list of subscriptions and the message log to one session.

import { RateChart } from "./chart.js";
import { milliseconds, number, positionText, reportText } from "./format.js";
import { Rates } from "./rates.js";
import { MAX_WAITING_PUBLISHES, Session, describe } from "./session.js";
import { MessageLog, badge } from "./log.js";

/** How often the figures are written anew, in milliseconds: faster than that nobody reads. */
const FIGURES_EVERY_MS = 250;
/** The rate is an average over this time, in milliseconds. */
const RATE_OVER_MS = 1000;

/** What a subscriber that keeps up never notices, a paused one soon does. */
const POLICIES = ["catch_up", "drop_oldest", "drop_newest", "latest"];

const byId = (id) => document.getElementById(id);

const totals = { received: 0, gaps: 0 };
const rates = new Rates();
const chart = new RateChart(byId("chart"), byId("hues"));
const cards = new Map();

const log = new MessageLog(byId("log"), byId("row"), {
  drawn(entries) {
    const shown = new Map();
    for (const { kind, subscriptions } of entries) {
      if (kind !== "message") continue;
      for (const subscription of subscriptions) shown.set(subscription, (shown.get(subscription) ?? 0) + 1);
    }
    for (const [subscription, count] of shown) session.shown(subscription, count);
  },
  follows(follows) {
    byId("follow").hidden = follows;
  },
});

const session = new Session(socketUrl(), {
  status: drawStatus,
  changed: drawSubscriptions,
  message(frame, subscriptions) {
    totals.received += 1;
    log.message(frame, subscriptions);
  },
  gap(gap, subscription) {
    totals.gaps += 1;
    log.gap(gap, subscription);
  },
  notice(text) {
    log.notice(text);
  },
  refused(subscription, error) {
    say("subscribe-result", `${subscription.asked.filter}: ${describe(error)}`, true);
  },
});

wireSubscribe(byId("subscribe"));
wirePublish(byId("publish"));
wireButtons();
setInterval(drawFigures, FIGURES_EVERY_MS);
session.open();

function socketUrl() {
  const url = new URL("ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = url.hash = "";
  return url.href;
}

function wireSubscribe(form) {
  const { from, number: count, position } = form.elements;
  const showFields = () => {
    const needs = { last: count, since: count, position }[from.value];
    for (const field of [count, position]) {
      field.disabled = field !== needs;
      field.closest("label").hidden = field !== needs;
    }
    byId("from-number").firstChild.data = from.value === "since" ? "Seconds" : "How many";
  };
  from.addEventListener("change", showFields);
  form.addEventListener("reset", () => queueMicrotask(showFields));
  showFields();
  const { filter, overflow, limit, credit } = form.elements;
  const subscribe = (policy) => {
    session.subscribe({
      filter: filter.value.trim(),
      from: start(from.value, count.valueAsNumber, position.value),
      overflow: policy || undefined,
      limit: limit.value ? limit.valueAsNumber : undefined,
      credit: credit.valueAsNumber,
    });
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    say("subscribe-result", "");
    subscribe(overflow.value);
  });
  byId("compare").addEventListener("click", () => {
    if (!form.reportValidity()) return;
    POLICIES.forEach(subscribe);
    say("subscribe-result", "Pause them, publish more than the queue limit and the credit hold, and resume: each tells what it did.");
  });
}

/** The `from` of a subscribe frame. */
function start(kind, count, position) {
  switch (kind) {
    case "last":
      return { last: count };
    case "since":
      return { since: Date.now() - count * 1000 };
    case "position": {
      const [epoch, offset] = position.split(":");
      return { epoch, offset: Number(offset) };
    }
    default:
      return kind;
  }
}

function wirePublish(form) {
  const { topic, payload, kind, key, times, report } = form.elements;
  const button = form.querySelector("button");
  payload.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const content = { kind: kind.value, text: payload.value };
    const fault = payloadFault(content);
    if (fault) return say("publish-result", fault, true);
    const count = Math.min(times.valueAsNumber, MAX_WAITING_PUBLISHES);
    const options = { key: key.value || undefined, report: report.checked };
    button.disabled = true;
    say("publish-result", "waiting for the ack …");
    const began = performance.now();
    const answers = await Promise.allSettled(
      Array.from({ length: count }, () => session.publish(topic.value.trim(), content, options)),
    );
    button.disabled = false;
    tellAnswers(answers, performance.now() - began);
  });
}

/** What is wrong with a payload, in words, before it is sent. */
function payloadFault({ kind, text }) {
  try {
    if (kind === "json") JSON.parse(text);
    if (kind === "binary") atob(text);
  } catch (error) {
    return kind === "json" ? `The payload is not JSON: ${error.message}` : "The payload is not base64";
  }
  return "";
}

function tellAnswers(answers, took) {
  const acks = answers.filter(({ status }) => status === "fulfilled").map(({ value }) => value);
  const refused = answers.find(({ status }) => status === "rejected");
  const parts = [];
  const last = acks.at(-1);
  if (last) {
    const where = last.offset === undefined ? "live only, in no stream" : `at offset ${last.offset}`;
    parts.push(`${acks.length === 1 ? "Acknowledged" : `${number(acks.length)} acknowledged, the last`} ${where}`);
    parts.push(milliseconds(took));
    if (last.report) parts.push(reportText(last.report));
  }
  if (refused) {
    const many = answers.length - acks.length;
    parts.push(`${many === 1 ? "Refused" : `${number(many)} refused`}: ${describe(refused.reason)}`);
  }
  say("publish-result", parts.join(" · "), Boolean(refused));
}

function wireButtons() {
  byId("connect").addEventListener("click", () => {
    if (session.status.state === "closed" || session.status.state === "waiting") session.open();
    else session.close();
  });
  byId("pause").addEventListener("click", () => {
    const paused = byId("pause").getAttribute("aria-pressed") !== "true";
    for (const subscription of session.subscriptions) session.pause(subscription, paused);
  });
  byId("clear").addEventListener("click", () => log.clear());
  byId("follow").addEventListener("click", () => log.follow());
  const retry = () => {
    if (session.status.state === "waiting" && !document.hidden) session.open();
  };
  addEventListener("online", retry);
  document.addEventListener("visibilitychange", retry);
}

function drawStatus() {
  const { state, connection, roundTrip } = session.status;
  byId("status").dataset.state = state;
  byId("connection").textContent = connection ?? "–";
  byId("round-trip").textContent = roundTrip === undefined ? "–" : milliseconds(roundTrip);
  byId("connect").textContent = { closed: "Connect", waiting: "Connect now" }[state] ?? "Disconnect";
  drawStatusText();
}

function drawStatusText() {
  const { state, code, reason, retryAt } = session.status;
  // 1006 is the browser's word for "no close frame came": it hides why.
  const why = code === undefined ? "" : code === 1006 ? "the connection was lost or refused" : `${code} ${reason}`.trim();
  const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  const text = {
    connected: "Connected",
    connecting: why ? `Connecting again: ${why}` : "Connecting",
    waiting: `Away: ${why}; next try in ${seconds} s`,
    closed: why ? `Closed: ${why}` : "Not connected",
  }[state];
  if (byId("status-text").textContent !== text) byId("status-text").textContent = text;
}

/** Makes the list's cards those of the session's subscriptions. */
function drawSubscriptions() {
  const { subscriptions } = session;
  for (const [subscription, card] of cards) {
    if (subscriptions.includes(subscription)) continue;
    card.remove();
    cards.delete(subscription);
  }
  for (const subscription of subscriptions) {
    if (cards.has(subscription)) continue;
    const card = newCard(subscription);
    cards.set(subscription, card);
    byId("subscriptions").append(card);
  }
  byId("no-subscriptions").hidden = subscriptions.length > 0;
  const allPaused = subscriptions.length > 0 && subscriptions.every(({ paused }) => paused);
  byId("pause").setAttribute("aria-pressed", allPaused);
  byId("pause").textContent = allPaused ? "Resume" : "Pause";
  byId("pause").disabled = subscriptions.length === 0;
  drawCards();
}

function newCard(subscription) {
  const card = byId("subscription").content.firstElementChild.cloneNode(true);
  card.querySelector(".mark").replaceWith(badge(subscription));
  card.querySelector(".filter").textContent = subscription.asked.filter;
  card.querySelector(".pause").addEventListener("click", () => session.pause(subscription, !subscription.paused));
  card.querySelector(".unsubscribe").addEventListener("click", () => session.unsubscribe(subscription));
  return card;
}

function drawCards() {
  for (const [subscription, card] of cards) drawCard(subscription, card);
}

function drawCard(subscription, card) {
  const set = (name, text) => {
    const node = card.querySelector(`.${name}`);
    if (node.textContent !== text) node.textContent = text;
  };
  const { received, gaps, missed, missedUnknown, latency, terms, paused, positions } = subscription;
  const lag = lagOf(subscription);
  card.querySelector(".lag").dataset.lag = lag.state;
  set("lag", lag.text);
  set("received", number(received));
  set("gaps", gaps === 0 ? "0" : `${number(gaps)} (${missedUnknown ? "≥ " : ""}${number(missed)} messages)`);
  set("latency", latency === null ? "–" : `${number(latency)} ms`);
  set("policy", terms ? `${terms.overflow}, ${number(terms.limit)}` : "–");
  set("position", positionText(positions) || (terms ? "none: live only" : "–"));
  card.querySelector(".pause").setAttribute("aria-pressed", paused);
  set("pause", paused ? "Resume" : "Pause");
}

/** Where a subscription stands against what was published, as far as this page can know. */
function lagOf(subscription) {
  if (subscription.state !== "active") return { state: "waiting", text: subscription.state };
  if (subscription.paused) return { state: "paused", text: subscription.starved ? "paused, credit used up" : "paused" };
  const unread = subscription.unread();
  if (unread > 0) return { state: "behind", text: `catching up, at most ${number(unread)} to go` };
  if (subscription.behind) return { state: "behind", text: "behind" };
  return { state: "live", text: "live" };
}

const rateSamples = [];

function drawFigures() {
  const now = performance.now();
  rateSamples.push({ now, received: totals.received });
  while (rateSamples.length > 2 && now - rateSamples[0].now > RATE_OVER_MS) rateSamples.shift();
  const [first] = rateSamples;
  const rate = now > first.now ? ((totals.received - first.received) * 1000) / (now - first.now) : 0;
  byId("received").textContent = number(totals.received);
  byId("rate").textContent = number(Math.round(rate));
  byId("gaps").textContent = number(totals.gaps);
  rates.sample(now, session.subscriptions);
  if (!document.hidden) chart.draw(rates.lines);
  if (session.status.state === "waiting") drawStatusText();
  drawCards();
}

function say(id, text, isError = false) {
  byId(id).textContent = text;
  byId(id).classList.toggle("error", isError);
}
