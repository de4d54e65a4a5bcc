// A grid of tiles, each with a name and a number, coloured by how far the number has moved. Draws what has changed.

const COLUMNS = 20;
/** A change of this much, as a part, has the full colour. */
const FULL = 0.2;

/** Fits a canvas to its place on the page. Whether it has changed. */
export function fit(canvas) {
  const scale = window.devicePixelRatio;
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (canvas.width === width && canvas.height === height) return false;
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").setTransform(scale, 0, 0, scale, 0, 0);
  return true;
}

export class Tiles {
  #canvas;
  #context;
  #tiles = new Map();
  #changed = new Set();
  #colours;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.#colours = undefined));
  }

  set(name, value) {
    let tile = this.#tiles.get(name);
    // One more changes nobody's place but those behind it, by name.
    if (!tile) this.#tiles.set(name, (tile = { name, first: value, isNew: true }));
    tile.value = value;
    this.#changed.add(tile);
  }

  draw() {
    if (fit(this.#canvas) || !this.#colours) this.#drawAll();
    else if ([...this.#changed].some((tile) => tile.isNew)) this.#drawAll();
    for (const tile of this.#changed) this.#draw(tile);
    this.#changed.clear();
  }

  #drawAll() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name);
    this.#colours = { card: colour("--card"), sunk: colour("--sunk"), ink: colour("--ink"), soft: colour("--soft"), up: colour("--up"), down: colour("--down") };
    this.#context.fillStyle = this.#colours.card;
    this.#context.fillRect(0, 0, this.#canvas.clientWidth, this.#canvas.clientHeight);
    const tiles = [...this.#tiles.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    tiles.forEach((tile, place) => Object.assign(tile, { place, isNew: false }));
    this.#changed = new Set(tiles);
  }

  #draw({ name, first, value, place }) {
    const context = this.#context;
    const { card, sunk, ink, soft, up, down } = this.#colours;
    const width = this.#canvas.clientWidth / COLUMNS;
    const height = this.#canvas.clientHeight / COLUMNS;
    const x = (place % COLUMNS) * width;
    const y = Math.floor(place / COLUMNS) * height;
    const change = (value - first) / first;
    const strength = Math.min(1, Math.abs(change) / FULL);
    context.fillStyle = card;
    context.fillRect(x, y, width, height);
    context.fillStyle = sunk;
    context.fillRect(x + 1, y + 1, width - 2, height - 2);
    context.fillStyle = `rgb(${change < 0 ? down : up} / ${0.06 + 0.6 * strength})`;
    context.fillRect(x + 1, y + 1, width - 2, height - 2);
    // Too small to be read: the colour says enough.
    if (width < 40 || height < 24) return;
    context.textAlign = "center";
    context.fillStyle = soft;
    context.font = "10px system-ui, sans-serif";
    context.fillText(name, x + width / 2, y + height / 2 - 3);
    context.fillStyle = ink;
    context.font = "600 11.5px system-ui, sans-serif";
    context.fillText(value.toFixed(2), x + width / 2, y + height / 2 + 10);
  }
}
