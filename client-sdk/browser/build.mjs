// Builds dist/: modules that a page loads without a bundler, each whole in itself, and their types.
import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';

import { build } from 'esbuild';
import { minify } from 'terser';

const root = new URL('.', import.meta.url);

/** Properties that only the modules of index.ts know, which get shorter names. None is of the wire, the API or the DOM. */
const INTERNAL = [
  ...['attend', 'deadline', 'deliver', 'ending', 'expire', 'fail', 'failAll', 'kick', 'readers', 'settle', 'shared', 'stage'],
  ...['ahead', 'answer', 'beginRepair', 'canRefresh', 'exact', 'isFull', 'isIdle', 'isNew', 'make', 'pushes', 'wantsCredit'],
  ...['onAck', 'onAnswer', 'onAttempt', 'onClosed', 'onDisconnected', 'onFrame', 'onGap', 'onHeard', 'onItem', 'onMark'],
  ...['onMessage', 'onOpen', 'onState', 'onTime', 'onWake'],
  ...['ask', 'first', 'fresh', 'hand', 'identity', 'isActive', 'isOpen', 'lost', 'measure', 'missing', 'request', 'start', 'stop', 'take'],
];
const INTERNAL_NAMES = new RegExp(`^(${INTERNAL.join('|')})$`);
for (const file of ['frame', 'item', 'codec', 'transport']) {
  const source = readFileSync(new URL(`src/${file}.ts`, root), 'utf8').replace(/\/\*[^]*?\*\/|\/\/.*/g, '');
  const known = INTERNAL.find((name) => new RegExp(`\\b${name}\\b`).test(source));
  if (known) throw new Error(`${known} is of src/${file}.ts, and others know it`);
}

rmSync(new URL('dist', root), { recursive: true, force: true });
const { outputFiles } = await build({
  absWorkingDir: root.pathname,
  entryPoints: ['src/index.ts', 'src/bincode.ts', 'src/react.ts'],
  outdir: 'dist',
  bundle: true,
  format: 'esm',
  target: 'es2022',
  external: ['react'],
  legalComments: 'none',
  write: false,
});
const tsc = new URL('node_modules/typescript/bin/tsc', root).pathname;
execFileSync(process.execPath, [tsc, '--project', 'tsconfig.build.json'], { cwd: root, stdio: 'inherit' });
for (const { path, text } of outputFiles) {
  // `let` for `const`: one word less to tell apart. terser's names gzip better than esbuild's.
  const { code } = await minify(text.replace(/\bconst (?=[\w${[])/g, 'let '), {
    module: true,
    ecma: 2022,
    compress: { passes: 8, keep_fargs: false, pure_getters: true, unsafe_arrows: true },
    mangle: { properties: path.endsWith('index.js') && { builtins: true, regex: INTERNAL_NAMES } },
  });
  writeFileSync(path, code);
}
