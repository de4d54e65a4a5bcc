// A boat: how it moves, and how it is on the wire. The bots' `Boat` in Rust is the same struct.

export const WIDTH = 1200;
export const HEIGHT = 700;
const FASTEST = 190;
const TURN = 2.8;

/** Moves a boat by what its helm says: `turn` and `sail` from -1 to 1. */
export function steer(boat, { turn, sail }, seconds) {
  boat.heading = (boat.heading + turn * TURN * seconds + 2 * Math.PI) % (2 * Math.PI);
  const wanted = FASTEST * (sail > 0 ? sail : 0.4 * sail);
  boat.speed += (wanted - boat.speed) * Math.min(1, 2.2 * seconds);
  drift(boat, seconds);
}

/** Moves a boat on as it was heading: between two updates nobody knows better. */
export function drift(boat, seconds) {
  boat.x = Math.min(WIDTH, Math.max(0, boat.x + Math.cos(boat.heading) * boat.speed * seconds));
  boat.y = Math.min(HEIGHT, Math.max(0, boat.y + Math.sin(boat.heading) * boat.speed * seconds));
}

// bincode's standard configuration: a string is its length and its bytes, a u8 a byte, an f32 four, little-endian. A
// length below 251 is one byte, and names are shorter.

const FLOATS = ["x", "y", "heading", "speed"];

export function encode(boat) {
  const name = new TextEncoder().encode(boat.name);
  const bytes = new Uint8Array(2 + name.length + 4 * FLOATS.length);
  const view = new DataView(bytes.buffer);
  bytes[0] = name.length;
  bytes.set(name, 1);
  bytes[1 + name.length] = boat.hue;
  FLOATS.forEach((field, at) => view.setFloat32(2 + name.length + 4 * at, boat[field], true));
  return bytes;
}

/** What anybody published: `undefined` where it is no boat. */
export function decode(bytes) {
  if (!(bytes instanceof Uint8Array) || bytes.length !== 2 + bytes[0] + 4 * FLOATS.length || bytes[0] > 48) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = bytes[0];
  const boat = { name: new TextDecoder().decode(bytes.subarray(1, 1 + length)), hue: bytes[1 + length] };
  FLOATS.forEach((field, at) => (boat[field] = view.getFloat32(2 + length + 4 * at, true)));
  return FLOATS.every((field) => Number.isFinite(boat[field])) ? boat : undefined;
}
