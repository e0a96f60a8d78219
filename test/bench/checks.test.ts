// The checks at the end of a run hold for a sound run, and each finds the fault that it is for.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  type Check,
  checkClosedForm,
  checkIdenticalOutputs,
  checkLedgerSums,
  checkNoFailedTurns,
  checkUniDirection,
  failIfBroken,
} from '../../src/bench/checks.js';
import { BenchClient } from '../../src/bench/client.js';
import { checkKvBytes, checkPools, countKvBytes, parseMetric } from '../../src/bench/node-probe.js';
import { expectedColumns, ledgerOf, type TurnRecord } from '../../src/bench/turn-record.js';
import type { VllmPdError } from '../../src/errors.js';
import { createTurn } from './helpers.js';
import { withServer } from './scripted-server.js';

const sound = createTurn({
  turn: 2,
  num_prompt_tokens: 100,
  num_computed_tokens: 30,
  num_recomputed_tokens: 10,
  ledger_local_hit: 70,
  ledger_new: 20,
  ledger_evicted: 10,
  kv_bytes_p_to_d: 512,
});
const inUni: TurnRecord = { ...sound, mode: 'uni' };

function finds(check: Check, message: RegExp): void {
  assert.is(check.ok, false);
  assert.match(check.detail, message);
}

test('a sound pair of turns passes every check', () => {
  const turns = [{ ...sound, ...expectedColumns(ledgerOf(sound)) }, inUni];
  for (const check of [
    checkLedgerSums,
    checkClosedForm,
    checkUniDirection,
    checkIdenticalOutputs,
    checkNoFailedTurns,
  ]) {
    assert.is(check(turns).ok, true, check(turns).detail);
  }
});

test('bins that do not sum to the prompt are found with turn and values', () => {
  finds(checkLedgerSums([{ ...sound, ledger_new: 19 }]), /a turn 2 \(bi\): bins sum to 99 of 100/);
  finds(checkLedgerSums([{ ...sound, num_computed_tokens: 31 }]), /30 of 31 computed/);
  finds(checkLedgerSums([{ ...sound, num_recomputed_tokens: 9 }]), /10 of 9 computed again/);
});

test('a ledger that is not the closed form is found bin by bin', () => {
  const expected = { ...ledgerOf(sound), local_hit: 80, evicted: 0 };
  finds(
    checkClosedForm([{ ...sound, ...expectedColumns(expected) }]),
    /a turn 2 \(bi\): local_hit 70 instead of 80, evicted 10 instead of 0/,
  );
});

test('bytes from D to P in uni are found', () => {
  finds(checkUniDirection([{ ...inUni, kv_bytes_d_to_p: 16 }]), /16 bytes from D to P/);
});

test('an output that differs is found', () => {
  finds(
    checkIdenticalOutputs([inUni, { ...sound, output_sha256: 'beef' }]),
    /a turn 2: 00ff in uni, beef in bi/,
  );
});

test('a failed turn is found with its sentence', () => {
  finds(checkNoFailedTurns([{ ...sound, error: 'It was refused.' }]), /a turn 2 \(bi\): It was refused\./);
});

test('of many faults the first few are told', () => {
  const many = Array.from({ length: 9 }, (_, i) => ({ ...sound, turn: i + 1, error: 'no' }));
  finds(checkNoFailedTurns(many), /and 4 more$/);
});

test('broken checks end a command with CHECK_FAILED and say where the run is', () => {
  failIfBroken([{ name: 'all is well', ok: true, detail: '' }], null);
  assert.throws(
    () => failIfBroken([checkUniDirection([{ ...inUni, kv_bytes_d_to_p: 16 }])], '/results/x'),
    (error: VllmPdError) => error.code === 'CHECK_FAILED' && error.suggestions[0]!.includes('/results/x'),
  );
});

test('samples of one metric are read, not those of longer names', () => {
  const text =
    '# TYPE a counter\na{direction="p_to_d",op="sent"} 12\na{direction="d_to_p",op="x\\"y"} 3e2\na_b{c="d"} 9\na 5\n';
  assert.equal(parseMetric(text, 'a'), [
    { labels: { direction: 'p_to_d', op: 'sent' }, value: 12 },
    { labels: { direction: 'd_to_p', op: 'x\\"y' }, value: 300 },
    { labels: {}, value: 5 },
  ]);
});

const idle = {
  numBlocks: 10,
  numFreeBlocks: 9,
  numCachedBlocks: 4,
  numRunning: 0,
  numWaiting: 0,
  numHolds: 0,
  numPendingLoads: 0,
};

/** A proxy whose one node is itself. */
async function withNode(
  role: string,
  answers: { state?: unknown; sent?: number; received?: number },
  run: (client: BenchClient) => Promise<void>,
): Promise<void> {
  let own = '';
  const { state = idle, sent = 0, received = 0 } = answers;
  await withServer(
    (req, res) => {
      const name = 'vllm_pd:kv_transfer_bytes_total';
      if (req.url === '/nodes') res.end(JSON.stringify({ data: [{ role, url: own, state, error: 'gone' }] }));
      else
        res.end(
          `${name}{direction="p_to_d",op="sent"} ${sent}\n${name}{direction="p_to_d",op="received"} ${received}\n`,
        );
    },
    async (url) => {
      own = url;
      const client = new BenchClient(url, { timeoutMs: 1000 });
      await run(client).finally(() => client.close());
    },
  );
}

const none = { 'p_to_d/sent': 0, 'p_to_d/received': 0, 'd_to_p/sent': 0, 'd_to_p/received': 0 };

test('bytes that were sent, received and reported must be the same', async () => {
  await withNode('prefill', { sent: 600, received: 600 }, async (client) => {
    assert.is((await countKvBytes(client))['p_to_d/received'], 600);
    assert.is(
      (await checkKvBytes(client, 'bi', { ...none, 'p_to_d/sent': 88, 'p_to_d/received': 88 }, [sound])).ok,
      true,
    );
    finds(
      await checkKvBytes(client, 'bi', none, [sound]),
      /p_to_d: 600 bytes sent, 600 received, 512 reported/,
    );
    assert.is((await checkKvBytes(client, 'bi', none, [sound, { ...sound, error: 'x' }])).ok, true);
  });
  await withNode('prefill', { sent: 600, received: 512 }, async (client) => {
    finds(await checkKvBytes(client, 'bi', none, [sound]), /600 bytes sent, 512 received/);
  });
});

test('a pool that is whole passes; a decode node may hold tickets', async () => {
  await withNode('decode', {}, async (client) =>
    assert.is((await checkPools(client, 'bi', 'query')).ok, true),
  );
  const held = { ...idle, numFreeBlocks: 5, numHolds: 2 };
  await withNode('decode', { state: held }, async (client) => {
    assert.is((await checkPools(client, 'bi', 'ticket')).ok, true);
    assert.is((await checkPools(client, 'bi', null)).ok, true);
    finds(await checkPools(client, 'bi', 'query', 150), /decode node .* has 5 of 10 blocks free, 2 holds/);
  });
  await withNode('prefill', { state: held }, async (client) => {
    finds(await checkPools(client, 'bi', 'ticket', 150), /prefill node/);
  });
});

test('a node that is gone breaks the checks instead of ending the run', async () => {
  await withNode('decode', { state: null }, async (client) => {
    finds(await checkPools(client, 'bi', 'query', 150), /does not tell its state: gone/);
  });
  const client = new BenchClient('http://127.0.0.1:1', { timeoutMs: 1000 });
  finds(await checkPools(client, 'bi', 'query', 150), /Cannot reach/);
  finds(await checkKvBytes(client, 'bi', none, []), /Cannot reach/);
  await client.close();
});

test.run();
