// Packed weights are kept in a file: found again, shared, and never trusted when they are not what was asked for.
import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { NativeWeights, WeightSource } from '../../src/native/model-config.js';
import { loadNative } from '../../src/native.js';
import { createPool, createRandomModel, forwardChunks, type RandomModel } from './random-model.js';

async function withModel(use: (random: RandomModel, folder: string) => Promise<void>): Promise<void> {
  const random = createRandomModel({ hiddenSize: 64, tieWordEmbeddings: false });
  const folder = mkdtempSync(path.join(os.tmpdir(), 'vllm-pd-packed-'));
  try {
    await use(random, folder);
  } finally {
    random.remove();
    rmSync(folder, { recursive: true });
  }
}

interface Loaded {
  readonly source: WeightSource;
  readonly logits: Buffer;
}

async function load(
  random: RandomModel,
  paths: readonly string[],
  weights: NativeWeights = { dtype: 'bfloat16', quantization: null },
  key = 'key',
): Promise<Loaded> {
  const native = loadNative();
  const model = await native.loadModel(random.config, random.tensors, 2, {
    ...weights,
    cache: { paths, key },
  });
  const pool = createPool(random.config, 3, 16);
  const chunk = { tokens: [1, 2, 3, 4, 5], begin: 0, end: 5, blockTable: [1] };
  const rows = await forwardChunks(model, pool, [chunk]);
  const logits = Buffer.concat(rows.map((row) => Buffer.from(row.buffer, row.byteOffset, row.byteLength)));
  const source = model.weightSource;
  model.close();
  pool.close();
  return { source, logits };
}

test('the second start maps what the first one packed, for every type of weights, with the same bits', () =>
  withModel(async (random, folder) => {
    for (const weights of [
      { dtype: 'float32', quantization: null },
      { dtype: 'bfloat16', quantization: null },
      { dtype: 'bfloat16', quantization: 'int8' },
    ] satisfies NativeWeights[]) {
      const file = path.join(folder, 'new', 'folders', `${weights.quantization}-${weights.dtype}`);
      const plain = await load(random, [], weights);
      assert.is(plain.source, 'memory');
      for (const source of ['written', 'mapped'] as const) {
        const loaded = await load(random, [file], weights);
        assert.is(loaded.source, source);
        assert.ok(loaded.logits.equals(plain.logits), `${file}: ${source} weights give other logits`);
      }
    }
    assert.is(readdirSync(path.join(folder, 'new', 'folders')).length, 3, 'something was left behind');
  }));

test('a file that is cut short, damaged, or of other weights is replaced', () =>
  withModel(async (random, folder) => {
    const file = path.join(folder, 'packed');
    const { logits } = await load(random, [file]);
    const whole = readFileSync(file);
    const damaged = (at: number) => {
      const bytes = Buffer.from(whole);
      bytes[at]! ^= 1;
      return bytes;
    };
    const contents: [string, Buffer][] = [
      ['empty', Buffer.alloc(0)],
      ['a header alone', whole.subarray(0, 100)],
      ['zeros', Buffer.alloc(whole.length)],
      ['another magic', damaged(0)],
      ['another key', damaged(17)],
      ['a damaged checksum', damaged(256)],
    ];
    for (const [what, bytes] of contents) {
      writeFileSync(file, bytes);
      const loaded = await load(random, [file]);
      assert.is(loaded.source, 'written', what);
      assert.ok(loaded.logits.equals(logits), what);
      assert.ok(readFileSync(file).equals(whole), what);
    }
    truncateSync(file, whole.length - 4096);
    assert.is((await load(random, [file])).source, 'written', 'cut short');
    assert.is((await load(random, [file], undefined, 'changed')).source, 'written', 'another key');
    assert.is((await load(random, [file])).source, 'written', 'the key of before');
  }));

test('a place that cannot be written to is passed over, and with none the weights stay in memory', () =>
  withModel(async (random, folder) => {
    const inTheWay = path.join(folder, 'file');
    writeFileSync(inTheWay, '');
    const impossible = path.join(inTheWay, 'packed');
    const possible = path.join(folder, 'packed');
    assert.is((await load(random, [impossible])).source, 'memory');
    assert.is((await load(random, [impossible, possible])).source, 'written');
    assert.is((await load(random, [impossible, possible])).source, 'mapped');
    if (process.getuid?.() === 0) return console.log('skipped: root may write to a read-only folder');
    const readOnly = path.join(folder, 'read-only');
    mkdirSync(readOnly);
    chmodSync(readOnly, 0o555);
    assert.is((await load(random, [path.join(readOnly, 'packed')])).source, 'memory');
  }));

/** `[source, hash of logits]` of a process of its own; `limit` is the shell's, in front of it. */
function inProcess(
  { config, tensors }: RandomModel,
  file: string,
  limit = '',
): Promise<readonly [string, string]> {
  const script = fileURLToPath(new URL('./packed-cache-process.js', import.meta.url));
  const command = `${limit} exec "$0" "$@"`;
  const args = ['-c', command, process.execPath, script, JSON.stringify({ config, tensors }), file];
  return new Promise((resolve, reject) => {
    const child = spawn('sh', args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.once('close', (code) => {
      if (code === 0) resolve(JSON.parse(output) as [string, string]);
      else reject(new Error(`the process ended with ${code}`));
    });
  });
}

test('of processes that start at once one packs and the others map, all with the same bits', () =>
  withModel(async (random, folder) => {
    const file = path.join(folder, 'packed');
    const loaded = await Promise.all([0, 1, 2].map(() => inProcess(random, file)));
    assert.equal(loaded.map(([source]) => source).sort(), ['mapped', 'mapped', 'written']);
    assert.is(new Set(loaded.map(([, hash]) => hash)).size, 1);
    assert.equal(readdirSync(folder), ['packed']);
  }));

test('without locks on folders every process packs a file of its own, and the last one stays', () =>
  withModel(async (random, folder) => {
    const compiler = process.env.CXX ?? 'c++';
    if (spawnSync(compiler, ['--version']).status !== 0)
      return console.log(`skipped: there is no compiler ${compiler}`);
    const source = fileURLToPath(new URL('../../../test/native/no-file-locks.cc', import.meta.url));
    const library = path.join(folder, 'no-file-locks.so');
    const args = ['-std=c++17', '-shared', '-fPIC', source, '-o', library, '-ldl'];
    const built = spawnSync(compiler, args, { encoding: 'utf8' });
    assert.is(built.status, 0, built.stderr);
    mkdirSync(path.join(folder, 'shared'));
    const file = path.join(folder, 'shared', 'packed');
    const left = `${file}.tmp.1`;
    writeFileSync(left, 'of a process that was ended');
    utimesSync(left, 0, 0);
    const loaded = await Promise.all(
      [0, 1, 2].map(() => inProcess(random, file, `export LD_PRELOAD=${library};`)),
    );
    assert.equal(
      loaded.map(([where]) => where),
      ['written', 'written', 'written'],
    );
    loaded.push(await inProcess(random, file));
    assert.is(loaded.at(-1)![0], 'mapped');
    assert.is(new Set(loaded.map(([, hash]) => hash)).size, 1);
    assert.equal(readdirSync(path.dirname(file)), ['packed']);
  }));

test('where the disk has no room the weights stay in memory, and nothing is left behind', () =>
  withModel(async (random, folder) => {
    const file = path.join(folder, 'packed');
    // In blocks of 512 bytes: room for some of the matrices.
    const [source] = await inProcess(random, file, 'ulimit -f 100 &&');
    assert.is(source, 'memory');
    assert.equal(readdirSync(folder), []);
  }));

test.run();
