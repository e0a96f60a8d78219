// OPERATIONS.md names flags that there are, with their defaults, and metrics that nodes and proxy have.
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import Serve from '../../commands/serve.js';

const root = new URL('../../../', import.meta.url);
const guide = readFileSync(new URL('OPERATIONS.md', root), 'utf8');
const rows = [...guide.matchAll(/^\| `--([a-z-]+)` \| ([^|]+) \|/gm)].map(
  ([, name, value]) => [name!, value!] as const,
);

/** As `--help` shows it; – for none. */
async function defaultOf(name: string): Promise<string> {
  const flag = (Serve.flags as Record<string, Record<string, unknown>>)[name];
  assert.ok(flag, `there is no flag --${name}`);
  const { default: value, defaultHelp: help, type } = flag;
  if (typeof help === 'function') return String(await (help as () => Promise<unknown>)());
  if (value !== undefined) return value === false ? 'off' : String(value);
  if (type !== 'boolean') return '–';
  return flag.allowNo ? 'on' : 'off';
}

test('every knob exists, once, with the default that is said', async () => {
  assert.ok(rows.length > 30, `only ${rows.length} knobs were found`);
  for (const [name, value] of rows) assert.is(value, await defaultOf(name), `--${name}`);
  assert.is(new Set(rows.map(([name]) => name)).size, rows.length);
});

test('what is to be watched is what is counted', () => {
  const sources = (readdirSync(new URL('src/', root), { recursive: true, encoding: 'utf8' }) as string[])
    .filter((file) => file.endsWith('.ts'))
    .map((file) => readFileSync(new URL(`src/${file}`, root), 'utf8'))
    .join('\n');
  const named = new Set(guide.match(/vllm(?:_pd)?:[a-z_]+/g));
  assert.ok(named.size >= 8);
  for (const metric of named) assert.ok(sources.includes(`'${metric}'`), `nothing counts ${metric}`);
});

test.run();
