// Lets Node run TypeScript: `node --import ./test/typescript.mjs --test test/*.test.ts`.
import { register } from 'node:module';

register('./typescript-hooks.mjs', import.meta.url);
