/**
 * The client behind a proxy that lets no WebSocket through and gathers what a response carries, against the real broker.
 *
 * How to extend: a habit of the proxy's is a member of `Habit`, which `startProxy` asks for at each response; `habit` may
 * be changed while it runs. Nothing here waits for a time: what is awaited is an event of the client's.
 */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, it, type TestContext } from 'node:test';

import { Client, type ClientEvents } from '../src/client.js';
// @ts-expect-error: no types
import { startBroker } from './browser/broker.mjs';

/** What the proxy keeps back until the response ends or `GATHERED` bytes have come: nothing, the body, or the head too. */
type Habit = 'pass' | 'hold the events' | 'hold the answer';

const GATHERED = 16_384;

let broker: { port: number; kill(): Promise<void> };

before(async () => {
  broker = await startBroker();
});

after(() => broker.kill());

async function startProxy(t: TestContext, habit: Habit) {
  const proxy = { habit, url: '' };
  const server = createServer((asked, answer) => {
    if (asked.headers.upgrade) return void answer.writeHead(403).end();
    const { method, url, headers } = asked;
    const inner = request({ port: broker.port, method, path: url, headers }, (response) => {
      const { habit } = proxy;
      let held: Buffer[] = [];
      const release = () => {
        for (const piece of held.splice(0)) answer.write(piece);
      };
      answer.writeHead(response.statusCode!, response.headers);
      // Else it goes with the first piece.
      if (habit != 'hold the answer') answer.flushHeaders();
      response.on('data', (piece: Buffer) => {
        held.push(piece);
        if (habit == 'pass' || Buffer.concat(held).length >= GATHERED) release();
      });
      response.on('end', () => {
        release();
        answer.end();
      });
      response.on('error', () => answer.destroy());
    });
    inner.on('error', () => answer.destroy());
    answer.on('close', () => inner.destroy());
    asked.pipe(inner);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  proxy.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return proxy;
}

/** A client, and what it tells. */
function connect(t: TestContext, url: string) {
  const client = new Client(url, { connectTimeout: 500 });
  t.after(() => client.close());
  const errors: string[] = [];
  client.on('error', ({ name, message }) => errors.push(`${name}: ${message}`));
  const became = (is: (event: ClientEvents['state']) => unknown) =>
    new Promise<void>((resolve) => {
      const off = client.on('state', (event) => {
        if (!is(event)) return;
        off();
        resolve();
      });
    });
  return { client, errors, became };
}

for (const [habit, told] of [
  ['hold the events', ['buffered: text/event-stream is buffered on the way']],
  // Nothing at all came: that may be the network as well.
  ['hold the answer', []],
] as const) {
  it(`says what is wrong behind a proxy that would ${habit}, and goes on once it does not`, async (t) => {
    const proxy = await startProxy(t, habit);
    const { client, errors, became } = connect(t, proxy.url);
    const items = client.subscribe('buffering', { from: 'beginning' })[Symbol.asyncIterator]();
    await became(({ state, code, reason }) => state == 'connecting' && code == 1006 && reason == 'sse timeout');
    // Errors are told behind states.
    await new Promise((done) => setImmediate(done));
    assert.deepEqual(errors, told);
    proxy.habit = 'pass';
    await became(({ state, transport }) => state == 'connected' && transport == 'sse');
    const { offset } = await client.publish('buffering', habit);
    for (;;) {
      const { value } = await items.next();
      if (value?.type == 'message' && value.offset == offset) break;
    }
  });
}
