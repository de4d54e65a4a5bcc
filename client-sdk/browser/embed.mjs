// Puts what was built where the broker carries it from, so that a page can load /client.js and /client-bincode.js.
// With --check it changes nothing, and fails where what the broker carries is not what was built.

import { readFileSync, writeFileSync } from 'node:fs';

const CARRIED = { 'index.js': 'client.js', 'bincode.js': 'client-bincode.js' };

for (const [built, carried] of Object.entries(CARRIED)) {
  const code = readFileSync(new URL(`dist/${built}`, import.meta.url));
  const place = new URL(`../../broker/console/${carried}`, import.meta.url);
  if (!process.argv.includes('--check')) {
    writeFileSync(place, code);
  } else if (!code.equals(readFileSync(place))) {
    console.error(`FAILED: broker/console/${carried} is not what was built: npm run build && node embed.mjs`);
    process.exitCode = 1;
  }
}
