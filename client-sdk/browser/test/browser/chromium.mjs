// Debian's Chromium, and tabs in it that write down what the SDK gives them (`pages/tab.js`).

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import { faultsOfWholeFlow } from "./tally.mjs";

const EXECUTABLE = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // A page of another site, on this machine.
  "--host-resolver-rules=MAP *.example 127.0.0.1",
  "--enable-precise-memory-info",
];
/** Playwright turns these off, which no user does. */
const AS_USERS_HAVE_IT = ["--disable-back-forward-cache", "--disable-background-timer-throttling"];
/** So slow is no machine; whoever waits longer waits for nothing. */
export const TIMEOUT = 120_000;

export async function startChromium() {
  return chromium.launch({ executablePath: EXECUTABLE, args: FLAGS, ignoreDefaultArgs: AS_USERS_HAVE_IT, timeout: TIMEOUT });
}

/**
 * One whose pages can be hidden and frozen, which Playwright otherwise keeps them from (it has each page take itself
 * for the focused one). It has one context.
 */
export async function startFreezableChromium() {
  const profile = await mkdtemp(join(tmpdir(), "chromium-"));
  const flags = [...FLAGS, "--headless", "--remote-debugging-port=0", `--user-data-dir=${profile}`];
  const child = spawn(EXECUTABLE, [...flags, "about:blank"], { stdio: ["ignore", "ignore", "pipe"] });
  const exited = once(child, "exit");
  const address = await new Promise((resolve, reject) => {
    createInterface({ input: child.stderr }).on("line", (line) => {
      const found = line.match(/^DevTools listening on (ws:\S+)/);
      if (found) resolve(found[1]);
    });
    child.once("error", reject);
    exited.then(([code]) => reject(new Error(`Chromium ended with ${code}`)));
  });
  const browser = await chromium.connectOverCDP(address, { noDefaults: true, timeout: TIMEOUT });
  return {
    context: browser.contexts()[0],
    async close() {
      await browser.close();
      child.kill();
      await exited;
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/**
 * Opens `pages/tab.html` of the site, subscribed to `filter` at `url`; `on` is another of the site's origins. `before` is a
 * function that runs in the page before anything else does.
 */
export async function openTab(context, site, { url, filter, options, client, read, codec, before, on = site.url }) {
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => complaints.push(`${message.type()}: ${message.text()}`));
  if (before) await page.addInitScript(before);
  const query = new URLSearchParams({ url, filter, ...(read && { read }), ...(codec && { codec }) });
  if (options) query.set("options", JSON.stringify(options));
  if (client) query.set("client", JSON.stringify(client));
  await page.goto(`${on}/tab.html?${query}`);
  const tab = {
    page,
    /** What the page or the browser said on the console, and exceptions. */
    complaints,
    /** Until `condition` holds in the page; `argument` is its second. The test says what it waits for. */
    async until(what, condition, argument) {
      const source = `(argument) => globalThis.tab !== undefined && (${condition})(tab, argument)`;
      try {
        await page.waitForFunction(`(${source})(${JSON.stringify(argument)})`, undefined, { polling: 50 });
      } catch (error) {
        throw new Error(`waited in vain until ${what}: ${await tab.describe()}`, { cause: error });
      }
    },
    connected: () => tab.until("connected", (tab) => tab.client.state === "connected"),
    subscribed: () => tab.until("subscribed", (tab) => tab.subscription.state === "subscribed"),
    reaches: (n) => tab.until(`message ${n}`, (tab, n) => tab.last >= n, n),
    transport: () => page.evaluate(() => tab.client.transport),
    entries: () => page.evaluate(() => tab.entries),
    states: () => page.evaluate(() => tab.states),
    errors: () => page.evaluate(() => tab.errors),
    resets: async () => (await tab.entries()).filter(({ type }) => type === "reset").length,
    describe: () =>
      page
        .evaluate(() => {
          const { client, subscription, last, entries, states, errors } = globalThis.tab;
          return JSON.stringify({
            client: client.state,
            transport: client.transport,
            subscription: subscription.state,
            last,
            entries: entries.length,
            notices: entries.filter(({ type }) => type !== "message").slice(-5),
            states: states.slice(-10),
            errors: errors.slice(-5),
          });
        })
        .catch((error) => `and the page does not answer (${error.message})`)
        .then((text) => `${text}\n${complaints.slice(-10).join("\n")}`),
  };
  return tab;
}

/** Every message from 1 to `last` in order, none lost, none twice. */
export async function assertWhole(tab, last) {
  const faults = faultsOfWholeFlow(await tab.entries(), { last });
  assert.deepEqual(faults, [], `${faults.join("\n")}\n${await tab.describe()}`);
}
