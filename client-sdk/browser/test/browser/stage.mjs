// What every test of the 10,000 messages has: a browser, a site, a broker behind a proxy, a publisher and two tabs.

import { after, afterEach, before, beforeEach } from "node:test";
import { startBroker, startPublisher } from "./broker.mjs";
import { openTab, startChromium } from "./chromium.mjs";
import { startProxy } from "./proxy.mjs";
import { startSite } from "./site.mjs";

export const TOPIC = "numbers";
export const LAST = 10_000;
/** It lets go of nothing for its age, however slow the machine is. */
const PATIENT_LOG = '[{name = "default", max_age = "1h"}]';

/** Where a test plays. The browser and the site last for the file, everything else for a test, which begins with `start`. */
export function stage() {
  const here = {
    browser: undefined,
    site: undefined,
    context: undefined,
    broker: undefined,
    proxy: undefined,
    publisher: undefined,

    /** `options` are the broker's, as its environment names them. */
    async start(options = {}) {
      here.broker = await startBroker({ options: { STREAMS: PATIENT_LOG, ...options } });
      here.proxy = await startProxy(here.broker.port);
      here.publisher = startPublisher(here.broker, TOPIC);
    },

    openTab: ({ inside = here.context, ...more } = {}) =>
      openTab(inside, here.site, { url: here.proxy.url, filter: TOPIC, ...more }),

    /** One reads as an iterator, one by callbacks; both by way of the proxy. */
    async twoTabs(more = {}) {
      const tabs = [];
      for (const read of ["iterator", "callbacks"]) {
        const tab = await here.openTab({ read, ...more });
        tabs.push(tab);
        await tab.subscribed();
      }
      return tabs;
    },

    /** The last message goes when all else is there, so that whatever came twice has come before it. */
    async finish(tabs) {
      await reach(tabs, LAST - 1);
      here.publisher.publish(LAST, LAST);
      await reach(tabs, LAST);
      await here.publisher.end();
    },
  };

  before(async () => {
    here.browser = await startChromium();
    here.site = await startSite();
  });
  after(async () => {
    await here.browser?.close();
    await here.site?.stop();
  });
  beforeEach(async () => {
    here.context = await here.browser.newContext();
  });
  afterEach(async () => {
    await here.publisher?.kill();
    await here.context.close();
    await here.proxy?.stop();
    await here.broker?.stop();
    here.publisher = here.proxy = here.broker = undefined;
  });
  return here;
}

export const all = (tabs, does) => Promise.all(tabs.map(does));
export const reach = (tabs, n) => all(tabs, (tab) => tab.reaches(n));
