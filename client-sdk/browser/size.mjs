// Fails where dist/index.js has grown beyond what a page is promised to load.
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const MOST = 8192;

for (const name of ['index.js', 'bincode.js', 'react.js']) {
  const code = readFileSync(new URL(`dist/${name}`, import.meta.url));
  const size = gzipSync(code, { level: 9 }).length;
  console.log(`${name.padEnd(10)} ${String(code.length).padStart(6)} bytes, gzipped ${String(size).padStart(5)}`);
  if (name == 'index.js' && size > MOST) {
    console.error(`FAILED: ${MOST} bytes gzipped are the most for ${name}`);
    process.exitCode = 1;
  }
}
