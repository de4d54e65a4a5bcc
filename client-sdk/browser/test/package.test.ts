// What npm would publish, installed elsewhere: a page's three lines type-check against it, and Node loads it.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const TSC = join(ROOT, 'node_modules/typescript/bin/tsc');
let folder: string;
let files: string[];

const run = (cwd: string, command: string, ...args: string[]): string =>
  execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });

describe('the package', () => {
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'tidegate-client-'));
    run(ROOT, process.execPath, 'build.mjs');
    const [packed] = JSON.parse(run(ROOT, 'npm', 'pack', '--json', '--pack-destination', folder));
    files = packed.files.map(({ path }: { path: string }) => path);
    const installed = join(folder, 'node_modules/@tidegate/client');
    mkdirSync(installed, { recursive: true });
    run(folder, 'tar', '-xzf', packed.filename, '--strip-components=1', '-C', installed);
    writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
  });

  after(() => rmSync(folder, { recursive: true }));

  it('holds what was built and nothing else', () => {
    for (const name of ['index', 'bincode', 'react']) {
      assert.ok(files.includes(`dist/${name}.js`) && files.includes(`dist/${name}.d.ts`), name);
    }
    const others = files.filter((path) => !/^(package\.json|README\.md|dist\/.*\.d\.ts|dist\/(index|bincode|react)\.js)$/.test(path));
    assert.deepEqual(others, []);
  });

  for (const resolution of ['bundler', 'nodenext']) {
    it(`has types that a strict program is checked by: ${resolution}`, () => {
      check(
        resolution,
        `
        import { Client, TidegateError, type Item } from '@tidegate/client';
        import { bincode } from '@tidegate/client/bincode';
        const client = new Client('ws://127.0.0.1:7400/ws', { codec: bincode });
        for await (const item of client.subscribe<{ text: string }>('chat.>', { from: { last: 20 } })) {
          if (item.type == 'message') item.data.text.toUpperCase();
          if (item.type == 'gap') item.reason.length;
          const same: Item<{ text: string }> = item;
          void same;
        }
        const offset: number | undefined = (await client.publish('chat.room1', { text: 'hi' })).offset;
        const off: () => void = client.on('state', ({ state, code }) => void [state == 'connected', code, offset]);
        off();
        void TidegateError;
        `,
      );
      assert.throws(() =>
        check(resolution, `import { Client } from '@tidegate/client'; new Client().subscribe('a', { overflow: 'block' });`, 'pipe'),
      );
    });
  }

  it('is loaded by Node, each module by itself', () => {
    for (const [entry, name] of [
      ['@tidegate/client', 'Client'],
      ['@tidegate/client/bincode', 'bincode'],
    ]) {
      const program = `import { ${name} } from '${entry}'; if (!${name}) throw new Error('nothing');`;
      run(folder, process.execPath, '--input-type=module', '--eval', program);
    }
  });
});

/** Type-checks a program beside the installed package. */
function check(resolution: string, program: string, errors: 'inherit' | 'pipe' = 'inherit'): void {
  writeFileSync(join(folder, 'program.ts'), program);
  const options = ['--noEmit', '--strict', '--target', 'es2022', '--lib', 'es2022,dom', '--types', ''];
  const module = resolution == 'bundler' ? 'esnext' : 'nodenext';
  execFileSync(process.execPath, [TSC, ...options, '--module', module, '--moduleResolution', resolution, 'program.ts'], {
    cwd: folder,
    stdio: ['ignore', errors == 'pipe' ? 'pipe' : 'inherit', errors],
  });
}
