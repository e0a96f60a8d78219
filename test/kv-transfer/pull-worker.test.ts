// The connector's worker half: every load is reported once, bad blocks no later than it, and the owner is always told.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ReadResult, TransferAgent } from '../../src/kv-transfer/agent.js';
import { PullConnectorWorker } from '../../src/kv-transfer/pull-worker.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import type { FinishedSend, PullSpec, RemoteBlocks } from '../../src/outputs.js';
import { fillBlock, holdsNothing, nextReport, pullOf, remoteOf, withNodes } from './transfer-node.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';

const remote: RemoteBlocks = { engineId: 'owner', host: '127.0.0.1', port: 1, requestId: 'held' };

/** An agent whose reads end as the test says. */
class ScriptedAgent implements TransferAgent {
  readonly host = '127.0.0.1';
  readonly port = 1;
  readonly holds = { grant() {}, end() {} };
  readonly bytesSent = 0;
  readonly bytesReceived = 0;
  readonly bytesReceivedBy = { shm: 0, cuda_ipc: 0, staged: 0, tcp: 0 };
  readonly numDamagedBlocks = 0;
  readonly notified: [requestId: string, numBlocks: number][] = [];
  readonly #read: (pull: PullSpec, signal: AbortSignal) => Promise<ReadResult>;
  notify: (notif: FinishedSend) => boolean = () => false;
  /** What the owner answers to a notification. */
  wasHeld: boolean | null = true;

  constructor(read: (pull: PullSpec, signal: AbortSignal) => Promise<ReadResult>) {
    this.#read = read;
  }

  transportOf(): null {
    return null;
  }
  read(pull: PullSpec, _into: KvPool, signal: AbortSignal): Promise<ReadResult> {
    return this.#read(pull, signal);
  }
  async sendNotif({ requestId }: RemoteBlocks, numBlocks: number): Promise<boolean | null> {
    this.notified.push([requestId, numBlocks]);
    return this.wasHeld;
  }
  onNotif(listener: (notif: FinishedSend) => boolean): void {
    this.notify = listener;
  }
  async close(): Promise<void> {}
}

/** Never touched: the scripted agents move nothing. */
const noPool = {} as KvPool;

function createWorker(
  read: (pull: PullSpec, signal: AbortSignal) => Promise<ReadResult>,
  readTimeoutMs?: number,
) {
  const agent = new ScriptedAgent(read);
  const worker = new PullConnectorWorker({ agent, pool: noPool, isHeld: holdsNothing, readTimeoutMs });
  return { agent, worker };
}

function untilAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('aborted'))));
}

for (const [wasHeld, failure] of [
  [false, 'expired'],
  [true, 'stale'],
  [null, 'stale'],
] as const) {
  test(`stale blocks are ${failure} when the owner says of its hold: ${wasHeld}`, async () => {
    const { agent, worker } = createWorker(async () => ({ valid: Uint8Array.of(1, 0), numBytes: 4096 }));
    agent.wasHeld = wasHeld;
    worker.startLoadKv({ pulls: [pullOf(remote, [5, 6])] });
    assert.is((await nextReport(worker)).finishedRecving[0]?.failure, failure);
    await worker.close();
  });
}

const endings: [
  name: string,
  valid: number[] | Error,
  failure: string | null,
  invalid: number[],
  numBlocks: number,
][] = [
  ['all blocks intact', [1, 1, 1, 1], null, [], 4],
  ['the last block stale', [1, 1, 1, 0], 'stale', [4], 3],
  ['a hole: everything behind it is invalid, too', [1, 0, 1, 1], 'stale', [2, 3, 4], 1],
  ['the first block stale', [0, 1, 1, 1], 'stale', [1, 2, 3, 4], 0],
  ['a dead peer', new Error('connection lost'), 'failed', [1, 2, 3, 4], 0],
];

for (const [name, valid, failure, invalid, numBlocks] of endings) {
  test(`a load that ends with ${name} is reported once and the owner told`, async () => {
    const { agent, worker } = createWorker(async () => {
      if (valid instanceof Error) throw valid;
      return { valid: Uint8Array.from(valid), numBytes: 100 };
    });
    let numWakes = 0;
    worker.onProgress(() => {
      numWakes += 1;
    });
    worker.startLoadKv({ pulls: [pullOf(remote, [10, 11, 12, 13])] });
    assert.is(worker.numPendingLoads, 1);
    assert.is(worker.getFinished(), null);
    const report = await nextReport(worker);
    assert.is(report.finishedRecving.length, 1);
    assert.is(report.finishedRecving[0]?.failure, failure);
    assert.is(report.finishedRecving[0]?.numBlocks, numBlocks);
    assert.is(report.finishedRecving[0]?.numBytes, valid instanceof Error ? 0 : 100);
    assert.equal(report.invalidBlockIds, invalid);
    assert.is(worker.getFinished(), null);
    assert.is(numWakes, 1);
    assert.is(worker.numPendingLoads, 0);
    assert.equal(agent.notified, [['held', numBlocks]]);
    await worker.close();
  });
}

test('a bare notification is sent and not reported', async () => {
  const { agent, worker } = createWorker(() => Promise.reject(new Error('nothing is to be read')));
  worker.startLoadKv({ pulls: [pullOf(remote, [])] });
  assert.is(worker.numPendingLoads, 0);
  await worker.close();
  assert.equal(agent.notified, [['held', 0]]);
  assert.is(worker.getFinished(), null);
});

test("peers' notifications wake the engine and come out in order", async () => {
  const { agent, worker } = createWorker(() => Promise.reject(new Error('nothing is to be read')));
  let numWakes = 0;
  worker.onProgress(() => {
    numWakes += 1;
  });
  agent.notify({ requestId: 'a', numBlocks: 3 });
  agent.notify({ requestId: 'b', numBlocks: 0 });
  assert.is(numWakes, 2);
  assert.equal(worker.getFinished(), {
    finishedSending: [
      { requestId: 'a', numBlocks: 3 },
      { requestId: 'b', numBlocks: 0 },
    ],
    finishedRecving: [],
    invalidBlockIds: [],
  });
  await worker.close();
});

test('a read that takes too long is given up', async () => {
  const { agent, worker } = createWorker((_, signal) => untilAborted(signal), 20);
  worker.startLoadKv({ pulls: [pullOf(remote, [10, 11])] });
  const report = await nextReport(worker);
  assert.is(report.finishedRecving[0]?.failure, 'failed');
  assert.equal(report.invalidBlockIds, [1, 2]);
  assert.equal(agent.notified, [['held', 0]]);
  await worker.close();
});

test('several loads end each in its own way and time', async () => {
  const { worker } = createWorker(async (pull) => {
    await new Promise((resolve) => setTimeout(resolve, pull.remoteBlockIds[0]!));
    return { valid: Uint8Array.from(pull.remoteBlockIds, (id) => (id === 40 ? 0 : 1)), numBytes: 1 };
  });
  worker.startLoadKv({
    pulls: [
      { ...pullOf(remote, [40]), requestId: 'slow and stale' },
      { ...pullOf(remote, [1]), requestId: 'fast' },
    ],
  });
  assert.is(worker.numPendingLoads, 2);
  const first = await nextReport(worker);
  assert.equal(
    first.finishedRecving.map((pull) => pull.requestId),
    ['fast'],
  );
  assert.equal(first.invalidBlockIds, []);
  const second = await nextReport(worker);
  assert.is(second.finishedRecving[0]?.requestId, 'slow and stale');
  assert.equal(second.invalidBlockIds, [1]);
  await worker.close();
});

test('close waits until no read can write any more', async () => {
  let isOver = false;
  const { worker } = createWorker(async (_, signal) => {
    await untilAborted(signal).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 30));
    isOver = true;
    throw new Error('aborted');
  });
  worker.startLoadKv({ pulls: [pullOf(remote, [10])] });
  await worker.close();
  assert.ok(isOver);
});

test('with real agents a load arrives and ends the hold, and the bytes agree', async () => {
  for (const kind of ['shm', 'tcp'] as const) {
    await withNodes({ kind }, { kind }, async (owner, reader) => {
      const sending = new PullConnectorWorker({
        agent: owner.agent,
        pool: owner.pool,
        isHeld: (id) => id === 'held',
      });
      const receiving = new PullConnectorWorker({
        agent: reader.agent,
        pool: reader.pool,
        isHeld: holdsNothing,
      });
      for (const id of [5, 6, 7]) fillBlock(owner.pool, id);
      receiving.startLoadKv({ pulls: [pullOf(remoteOf(owner.agent, 'owner'), [5, 6, 7, 8])] });
      const received = await nextReport(receiving);
      assert.is(received.finishedRecving[0]?.failure, 'stale');
      assert.is(received.finishedRecving[0]?.numBytes, 3 * 4096);
      assert.equal(received.invalidBlockIds, [4]);
      const sent = await nextReport(sending);
      assert.equal(sent.finishedSending, [{ requestId: 'held', numBlocks: 3 }]);
      assert.is(owner.agent.bytesSent, reader.agent.bytesReceived);
      await Promise.all([sending.close(), receiving.close()]);
    });
  }
});

test.run();
