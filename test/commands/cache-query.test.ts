// vllm-pd cache-query as a process: what it shows of running nodes, and what it says when there are none.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { CacheQueryAnswer } from '../../src/wire.js';
import { runCommand } from '../command-runner.js';
import { withCluster } from '../with-cluster.js';

interface Row {
  readonly url: string;
  readonly role: string | null;
  readonly answer: CacheQueryAnswer | null;
  readonly error: string | null;
}

async function rowsOf(args: readonly string[]): Promise<readonly Row[]> {
  const { exitCode, stdout, stderr } = await runCommand(['cache-query', '--json', ...args]);
  assert.is(exitCode, 0, stderr + stdout);
  return (JSON.parse(stdout) as { readonly nodes: readonly Row[] }).nodes;
}

function held(rows: readonly Row[]): (number | undefined)[] {
  return rows.map((row) => row.answer?.num_tokens);
}

async function withFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(path.join(tmpdir(), 'cache-query-'));
  try {
    await work(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('one row a node: what each holds of text, file, messages and token ids', async () => {
  await withFolder((folder) =>
    withCluster({}, async (cluster) => {
      const { proxyUrl } = cluster;
      const text = 'word '.repeat(40).trim();
      assert.is((await cluster.post('/v1/completions', { prompt: text, max_tokens: 20 })).status, 200);
      const rows = await rowsOf([text, '--url', proxyUrl]);
      assert.equal(
        rows.map(({ role, url }) => ({ role, url })),
        cluster.nodes.map(({ role, url }) => ({ role, url })),
      );
      const [onP, onD] = held(rows);
      assert.ok(onP! > 0 && onP! % 16 === 0);
      assert.is(onD, onP);

      const file = path.join(folder, 'prompt.txt');
      writeFileSync(file, text);
      assert.equal(held(await rowsOf(['--file', file, '--url', proxyUrl])), [onP, onD]);

      const { tokens } = (await (await cluster.post('/tokenize', { prompt: text })).json()) as {
        tokens: number[];
      };
      assert.equal(held(await rowsOf(['--token-ids', tokens.join(','), '--url', proxyUrl])), [onP, onD]);

      const messages = [{ role: 'user', content: text }];
      for (const content of [messages, { messages }]) {
        writeFileSync(file, JSON.stringify(content));
        const [row] = await rowsOf(['--messages', file, '--url', proxyUrl]);
        assert.ok(row!.answer!.num_prompt_tokens > tokens.length);
      }
      await cluster.assertWhole();
    }),
  );
});

test('a single node can be asked; a lease holds its blocks and shows in the table', async () => {
  await withCluster({}, async (cluster) => {
    const text = 'word '.repeat(40).trim();
    await cluster.post('/v1/completions', { prompt: text, max_tokens: 2 });
    await cluster.assertWhole();
    const decode = cluster.decode[0]!;
    const [row, ...others] = await rowsOf([text, '--url', decode.url, '--lease']);
    assert.equal(others, []);
    assert.is((await cluster.stateOf(decode)).numHolds, 1);
    const body = { lease_id: row!.answer!.lease!.id };
    const released = await cluster.post('/v1/cache_query/release', body);
    assert.is(((await released.json()) as { released: boolean }).released, true);
    await cluster.assertWhole();

    const { exitCode, stdout } = await runCommand(['cache-query', text, '--url', cluster.proxyUrl]);
    assert.is(exitCode, 0);
    assert.match(stdout, /node .*role .*tokens held .*blocks .*tier .*lease/);
    assert.match(stdout, new RegExp(`${decode.url} .*decode .*${row!.answer!.num_tokens} of \\d+ .*local`));
  });
});

test('a node that is gone has a row that says so', async () => {
  await withCluster({}, async (cluster) => {
    process.kill(cluster.prefill[0]!.pid, 'SIGKILL');
    const [onP, onD] = await rowsOf(['some words', '--url', cluster.proxyUrl]);
    assert.is(onP!.answer, null);
    assert.match(onP!.error!, `The prefill node ${cluster.prefill[0]!.url} does not answer`);
    assert.is(onD!.error, null);
  });
});

test('a prompt that the nodes refuse ends with exit code 2 and their sentence', async () => {
  await withCluster({}, async (cluster) => {
    for (const url of [cluster.proxyUrl, cluster.decode[0]!.url]) {
      const args = ['cache-query', '--token-ids', '99999999', '--url', url];
      const { exitCode, stderr } = await runCommand(args);
      assert.is(exitCode, 2, stderr);
      assert.match(stderr, /^Error: Expected .*\n/);
    }
  });
});

test('bad input and absent servers: exit code and a sentence', async () => {
  await withFolder(async (folder) => {
    const file = (name: string, content: string) => {
      writeFileSync(path.join(folder, name), content);
      return path.join(folder, name);
    };
    const nobody = ['--url', 'http://127.0.0.1:9'];
    const cases: readonly (readonly [readonly string[], number, RegExp])[] = [
      [[], 2, /Expected one prompt, as TEXT, --file, --messages or --token-ids, but received 0/],
      [['text', '--token-ids', '1'], 2, /but received 2/],
      [['--file', 'a', '--messages', 'b'], 2, /--messages/],
      [['--token-ids', '1,-2'], 2, /numbers separated by commas but received `-2`/],
      [['--token-ids', ''], 2, /but received ``/],
      [['--file', path.join(folder, 'none')], 2, /There is no file/],
      [['--file', folder], 2, /Cannot read/],
      [['--messages', file('half.json', '[{')], 2, /Expected JSON in/],
      [['--messages', file('text.json', '"hi"')], 2, /list of messages/],
      [['--messages', file('empty.json', '[]')], 2, /list of messages/],
      [['text', '--url', 'localhost'], 2, /Expected --url to be an address/],
      [['text', '--url', 'ftp://localhost'], 2, /Expected --url to be an address/],
      [
        ['text', ...nobody],
        5,
        /No server answers at http:\/\/127\.0\.0\.1:9.*\n {2}Start one with `vllm-pd serve`/,
      ],
    ];
    for (const [args, code, sentence] of cases) {
      const { exitCode, stderr } = await runCommand(['cache-query', ...args]);
      assert.is(exitCode, code, `${args.join(' ')}: ${stderr}`);
      assert.match(stderr, /^Error: /);
      assert.match(stderr, sentence);
    }
  });
});

test.run();
