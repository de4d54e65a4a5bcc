// Stacked areas over the last minute.

import { fit } from "/demo/dashboard/tiles.js";

const LOOKS = 120;
const RULE = 5000;

export class Chart {
  #canvas;
  #looks = [];

  /** @param colours custom properties of the page, from the bottom up */
  constructor(canvas, colours) {
    this.#canvas = canvas;
    this.colours = colours;
  }

  push(values) {
    this.#looks.push(values);
    if (this.#looks.length > LOOKS) this.#looks.shift();
    this.#draw();
  }

  #draw() {
    fit(this.#canvas);
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const context = this.#canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const sums = this.#looks.map((values) => values.reduce((sum, value) => sum + value, 0));
    const most = Math.max(12_000, ...sums);
    const x = (look) => width - (this.#looks.length - 1 - look) * (width / (LOOKS - 1));
    const y = (value) => height - (value / most) * (height - 2);
    context.clearRect(0, 0, width, height);
    let below = sums.map(() => 0);
    this.colours.forEach((colour, at) => {
      const above = below.map((value, look) => value + this.#looks[look][at]);
      context.beginPath();
      above.forEach((value, look) => context.lineTo(x(look), y(value)));
      for (let look = below.length - 1; look >= 0; look -= 1) context.lineTo(x(look), y(below[look]));
      context.fillStyle = style.getPropertyValue(colour);
      context.globalAlpha = at === 0 ? 0.85 : 0.5;
      context.fill();
      below = above;
    });
    context.globalAlpha = 1;
    context.font = "11px system-ui, sans-serif";
    for (let rule = RULE; rule < most; rule += RULE) {
      context.fillStyle = style.getPropertyValue("--line");
      context.fillRect(0, Math.round(y(rule)), width, 1);
      context.fillStyle = style.getPropertyValue("--soft");
      context.fillText(rule.toLocaleString("en"), 2, y(rule) - 3);
    }
  }
}
