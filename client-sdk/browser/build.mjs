// Builds dist/: modules that a page loads without a bundler, each whole in itself, and their types.
import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';

import { build } from 'esbuild';
import { minify } from 'terser';

const root = new URL('.', import.meta.url);

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
  // esbuild's names gzip worse by 5%.
  const { code } = await minify(text, {
    module: true,
    ecma: 2022,
    compress: { passes: 4, keep_fargs: false, pure_getters: true, unsafe_arrows: true, unsafe_methods: true },
  });
  writeFileSync(path, code);
}
