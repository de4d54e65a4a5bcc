// The live chart: a line for each subscription, messages a second over the last minute, and below the axis what gaps
// told of.

import { number } from "./format.js";
import { SLICES, SLICE_MS, ceiling } from "./rates.js";

/** Of the height, what lies above the axis. */
const ABOVE = 0.7;
/** Room for the figures at the left and the words below, in CSS pixels. */
const LEFT = 46;
const BELOW = 16;
const DAY_AND_NIGHT = matchMedia("(prefers-color-scheme: dark)");

/** Draws on a canvas in the colours of the page. */
export class RateChart {
  #canvas;
  #hues;
  #inks = null;

  /** `hues` is an element in which the badges' classes give `--hue`. */
  constructor(canvas, hues) {
    this.#canvas = canvas;
    this.#hues = hues;
    DAY_AND_NIGHT.addEventListener("change", () => (this.#inks = null));
  }

  draw(lines) {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const scale = devicePixelRatio;
    // Setting a size clears the canvas, even the same one.
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(height * scale);
    const ink = this.#canvas.getContext("2d");
    ink.scale(scale, scale);
    this.#inks ??= this.#readInks();
    const all = [...lines.values()].flat();
    const most = (of) => ceiling(all.reduce((most, pair) => Math.max(most, pair[of]), 0));
    const frame = { left: LEFT, right: width - 6, top: 8, axis: (height - BELOW) * ABOVE, bottom: height - BELOW };
    const [received, missed] = [most(0), most(1)];
    this.#grid(ink, frame, received, missed);
    const x = (slice) => frame.left + ((frame.right - frame.left) * slice) / (SLICES - 2);
    const up = (value) => frame.axis - ((frame.axis - frame.top) * value) / received;
    const down = (value) => frame.axis + ((frame.bottom - frame.axis) * value) / missed;
    for (const [subscription, line] of lines) {
      const hue = this.#inks.hues[subscription.key % this.#inks.hues.length];
      ink.fillStyle = hue;
      line.forEach(([, lost], slice) => lost > 0 && ink.fillRect(x(slice) - 1.5, frame.axis, 3, down(lost) - frame.axis));
      ink.strokeStyle = hue;
      ink.lineWidth = 1.75;
      ink.lineJoin = "round";
      ink.beginPath();
      line.forEach(([got], slice) => ink.lineTo(x(slice), up(got)));
      ink.stroke();
    }
    this.#canvas.setAttribute("aria-label", describe(lines));
  }

  #grid(ink, { left, right, top, axis, bottom }, received, missed) {
    const { line, soft, font } = this.#inks;
    ink.strokeStyle = line;
    ink.fillStyle = soft;
    ink.font = font;
    ink.textAlign = "right";
    ink.textBaseline = "middle";
    ink.lineWidth = 1;
    const rows = [[top, number(received)], [(top + axis) / 2, ""], [axis, "0"], [bottom, `−${number(missed)}`]];
    for (const [y, text] of rows) {
      ink.beginPath();
      ink.moveTo(left, Math.round(y) + 0.5);
      ink.lineTo(right, Math.round(y) + 0.5);
      ink.stroke();
      ink.fillText(text, left - 6, y);
    }
    ink.textBaseline = "alphabetic";
    ink.textAlign = "left";
    ink.fillText(`${(SLICES * SLICE_MS) / 1000} s ago`, left, bottom + BELOW - 3);
    ink.textAlign = "right";
    ink.fillText("now", right, bottom + BELOW - 3);
  }

  #readInks() {
    const page = getComputedStyle(this.#canvas);
    const hues = Array.from(this.#hues.children, (mark) => getComputedStyle(mark).color);
    const [line, soft] = ["--line", "--soft"].map((name) => page.getPropertyValue(name));
    return { hues, line, soft, font: `11px ${page.getPropertyValue("--mono")}` };
  }
}

/** The chart in words, for those who do not see it. */
function describe(lines) {
  const newest = Array.from(lines, ([{ key }, line]) => {
    const [got, lost] = line.at(-1) ?? [0, 0];
    return `#${key} ${number(got)} a second` + (lost > 0 ? `, ${number(lost)} told by gaps` : "");
  });
  return newest.length > 0 ? `Messages a second: ${newest.join("; ")}` : "Messages a second: no subscription";
}
