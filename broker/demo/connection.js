// What the four pages share: the line that says how they are connected, a rate to read at, and a few figures.

/** Keeps the line `#status` true. */
export function showConnection(client) {
  const status = document.querySelector("#status");
  const show = ({ state, reason, retry }) => {
    status.dataset.state = state;
    if (state === "connected") status.textContent = client.transport === "sse" ? "Connected over HTTP" : "Connected";
    else if (state === "disconnected") status.textContent = "Cut off";
    else status.textContent = reason ? `Connecting again${retry >= 1000 ? ` in ${Math.round(retry / 1000)} s` : ""}` : "Connecting";
    status.title = reason ?? "";
  };
  client.on("state", show);
  show({ state: client.state });
  client.on("error", (error) => console.error(error));
}

/** Resolves before the next picture is drawn. A hidden tab draws none, and so reads nothing: the broker holds back. */
export const nextFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));

/** Reads at most so many messages a second: `await reading.turn()` after each. */
export class Reading {
  /** Messages a second; `Infinity` is all there are, 0 is none. */
  rate = Infinity;
  #allowed = 0;
  #since = performance.now();

  async turn() {
    this.#allowed -= 1;
    while (this.#allowed < 1 && this.rate < Infinity) {
      await nextFrame();
      const now = performance.now();
      // What was not read in a tenth of a second is not made up for.
      this.#allowed += (Math.min(100, now - this.#since) / 1000) * this.rate;
      this.#since = now;
    }
    if (this.rate === Infinity) this.#allowed = 1;
  }
}

/** How much a counter grew a second, over the last `span` looks. */
export class Rate {
  #looks = [];

  constructor(span = 4) {
    this.span = span;
  }

  look(count, now = performance.now()) {
    this.#looks.push([count, now]);
    if (this.#looks.length > this.span + 1) this.#looks.shift();
    const [[count0, then]] = this.#looks;
    return now > then ? ((count - count0) * 1000) / (now - then) : 0;
  }
}

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 12,345 */
export const whole = (number) => WHOLE.format(Math.round(number));

/** 8 s, 4 min, 2 h */
export function duration(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 100) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
