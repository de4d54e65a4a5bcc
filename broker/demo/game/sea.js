// Draws the lagoon. Everything is in the world's units; the canvas scales it.

import { HEIGHT, WIDTH } from "/demo/game/boat.js";

const isStill = matchMedia("(prefers-reduced-motion: reduce)");
let colours;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (colours = undefined));

function read() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name);
  colours = { near: colour("--sea-near"), far: colour("--sea-far"), wave: colour("--wave"), deck: colour("--deck"), buoy: colour("--buoy"), ink: colour("--ink"), mine: colour("--tide") };
}

export function draw(canvas, { now, boat, others, buoys }) {
  if (!colours) read();
  const scale = window.devicePixelRatio;
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.setTransform(width / WIDTH, 0, 0, height / HEIGHT, 0, 0);
  const time = isStill.matches ? 0 : now / 1000;
  drawWater(context, time);
  buoys.forEach((buoy, at) => drawBuoy(context, buoy, time + at));
  for (const other of others.values()) drawBoat(context, other, false);
  drawBoat(context, boat, true);
}

function drawWater(context, time) {
  const water = context.createLinearGradient(0, 0, 0, HEIGHT);
  water.addColorStop(0, colours.far);
  water.addColorStop(1, colours.near);
  context.fillStyle = water;
  context.fillRect(0, 0, WIDTH, HEIGHT);
  context.strokeStyle = `rgb(${colours.wave} / 0.35)`;
  context.lineWidth = 2;
  context.beginPath();
  for (let y = 35, row = 0; y < HEIGHT; y += 50, row += 1) {
    for (let x = -60 + (row % 2) * 90; x < WIDTH + 60; x += 180) {
      const at = x + 16 * Math.sin(time * 0.5 + row);
      context.moveTo(at, y);
      context.quadraticCurveTo(at + 14, y - 9, at + 28, y);
      context.quadraticCurveTo(at + 42, y + 9, at + 56, y);
    }
  }
  context.stroke();
}

function drawBuoy(context, { x, y }, time) {
  context.save();
  context.translate(x, y);
  context.strokeStyle = `rgb(${colours.wave} / 0.6)`;
  context.lineWidth = 2;
  context.beginPath();
  context.arc(0, 4, 17 + 2.5 * Math.sin(time * 2), 0, 2 * Math.PI);
  context.stroke();
  context.rotate(0.12 * Math.sin(time * 2));
  context.fillStyle = colours.buoy;
  context.beginPath();
  context.moveTo(-10, 8);
  context.lineTo(-5, -16);
  context.lineTo(5, -16);
  context.lineTo(10, 8);
  context.closePath();
  context.fill();
  context.fillStyle = "#fff";
  context.fillRect(-7.5, -7, 15, 6);
  context.restore();
}

function drawBoat(context, { x, y, heading, speed, hue, name }, isMine) {
  const degrees = (hue * 360) / 256;
  context.save();
  context.translate(x, y);
  context.save();
  context.rotate(heading);
  // Its wake grows with its speed.
  context.strokeStyle = `rgb(${colours.wave} / 0.7)`;
  context.lineWidth = 2.5;
  context.beginPath();
  context.moveTo(-18, -6);
  context.lineTo(-20 - speed * 0.25, -14);
  context.moveTo(-18, 6);
  context.lineTo(-20 - speed * 0.25, 14);
  context.stroke();
  context.fillStyle = `hsl(${degrees} 70% 48%)`;
  context.strokeStyle = `hsl(${degrees} 70% 25%)`;
  context.lineWidth = 1.5;
  context.beginPath();
  context.moveTo(28, 0);
  context.quadraticCurveTo(6, -16, -20, -10);
  context.lineTo(-20, 10);
  context.quadraticCurveTo(6, 16, 28, 0);
  context.fill();
  context.stroke();
  context.fillStyle = colours.deck;
  context.beginPath();
  context.ellipse(-3, 0, 13, 5.5, 0, 0, 2 * Math.PI);
  context.fill();
  // The sail, filled from behind.
  context.fillStyle = "#fff";
  context.strokeStyle = "rgb(0 0 0 / 0.35)";
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(9, 0);
  context.quadraticCurveTo(0, -22, -14, -17);
  context.quadraticCurveTo(-2, -12, 9, 0);
  context.fill();
  context.stroke();
  context.restore();
  if (isMine) {
    context.strokeStyle = colours.mine;
    context.lineWidth = 2;
    context.setLineDash([5, 6]);
    context.beginPath();
    context.arc(0, 0, 38, 0, 2 * Math.PI);
    context.stroke();
    context.setLineDash([]);
  }
  context.fillStyle = isMine ? colours.mine : colours.ink;
  context.font = `${isMine ? 700 : 600} 15px system-ui, sans-serif`;
  context.textAlign = "center";
  context.fillText(name, 0, -44);
  context.restore();
}
