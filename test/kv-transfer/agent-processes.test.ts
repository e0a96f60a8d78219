// Two processes: one-sided reads of the other's memory, and an owner that is killed, stopped or wakes up too late.
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { PullConnectorWorker } from '../../src/kv-transfer/pull-worker.js';
import type { KVConnectorOutput, RemoteBlocks } from '../../src/outputs.js';
import {
  fillBlock,
  hashOf,
  holdsNothing,
  layout,
  nextReport,
  pullOf,
  remoteOf,
  startNode,
  type TransferNode,
} from './transfer-node.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';

interface Owner {
  readonly process: ChildProcess;
  readonly remote: RemoteBlocks;
}

/** Runs a test with an owner in another process and a reader here; nothing of both is left behind. */
function processTest(
  name: string,
  kind: 'shm' | 'tcp',
  numBlocks: number,
  use: (owner: Owner, reader: TransferNode) => Promise<void>,
): void {
  test(`${kind}: ${name}`, async () => {
    const child = fork(fileURLToPath(new URL('owner-process.js', import.meta.url)), [String(numBlocks)]);
    const reader = await startNode({ engineId: 'reader', kind, layout: { ...layout, numBlocks } });
    try {
      const [address] = (await once(child, 'message')) as [{ host: string; port: number }];
      await use({ process: child, remote: remoteOf(address, 'owner') }, reader);
    } finally {
      await reader.close();
      const isOver = child.exitCode !== null || child.signalCode !== null;
      if (!isOver) {
        child.kill('SIGKILL');
        await once(child, 'exit');
      }
    }
  });
}

const allIds = (numBlocks: number) => Array.from({ length: numBlocks - 1 }, (_, i) => i + 1);

for (const kind of ['shm', 'tcp'] as const) {
  processTest(
    "another process's blocks arrive, and it learns how many bytes left it",
    kind,
    64,
    async (owner, reader) => {
      const pull = { ...pullOf(owner.remote, [3, 4, 5, 60]), localBlockIds: [3, 4, 5, 60] };
      const result = await reader.agent.read(pull, reader.pool);
      assert.equal([...result.valid], [1, 1, 1, 1]);
      assert.is(reader.agent.transportOf('owner'), kind);
      const twin = await startNode({ engineId: 'twin', kind });
      try {
        for (const id of pull.localBlockIds) {
          fillBlock(twin.pool, id);
          assert.ok(Buffer.from(reader.pool.block(id)).equals(twin.pool.block(id)), `block ${id}`);
        }
      } finally {
        await twin.close();
      }
      await reader.agent.sendNotif(owner.remote, 4);
      owner.process.send('report');
      const [report] = await once(owner.process, 'message');
      assert.equal(report, {
        notifs: [{ requestId: 'held', numBlocks: 4 }],
        bytesSent: reader.agent.bytesReceived,
      });
    },
  );

  processTest(
    'an owner killed between two reads fails the second as soon as its end is noticed',
    kind,
    64,
    async (owner, reader) => {
      const worker = new PullConnectorWorker({
        agent: reader.agent,
        pool: reader.pool,
        isHeld: holdsNothing,
      });
      worker.startLoadKv({ pulls: [pullOf(owner.remote, [1, 2])] });
      assert.is((await nextReport(worker)).finishedRecving[0]?.failure, null);
      owner.process.kill('SIGKILL');
      await once(owner.process, 'exit');
      let report: KVConnectorOutput;
      do {
        // A mapped pool can be read until then: its bytes outlive the process.
        worker.startLoadKv({ pulls: [pullOf(owner.remote, [1, 2])] });
        report = await nextReport(worker);
      } while (report.finishedRecving[0]?.failure === null);
      assert.is(report.finishedRecving[0]?.failure, 'failed');
      assert.equal(report.invalidBlockIds, [1, 2]);
      await worker.close();
    },
  );

  processTest(
    'an owner stopped before the first contact costs a timeout, not a parked request',
    kind,
    64,
    async (owner, reader) => {
      owner.process.kill('SIGSTOP');
      const worker = new PullConnectorWorker({
        agent: reader.agent,
        pool: reader.pool,
        isHeld: holdsNothing,
        readTimeoutMs: 200,
      });
      worker.startLoadKv({ pulls: [pullOf(owner.remote, [1, 2])] });
      const report = await nextReport(worker);
      assert.is(report.finishedRecving[0]?.failure, 'failed');
      assert.equal(report.invalidBlockIds, [1, 2]);
      assert.ok(report.finishedRecving[0]!.transferMs < 2000);
      await worker.close();
    },
  );

  processTest(
    'an owner that ends in order leaves a reader that can end, too',
    kind,
    64,
    async (owner, reader) => {
      await reader.agent.read(pullOf(owner.remote, [1]), reader.pool);
      owner.process.send('close');
      const [code] = await once(owner.process, 'exit');
      assert.is(code, 0, 'no connection keeps it alive');
    },
  );
}

processTest(
  'a known owner that is stopped is read all the same, since it takes no part',
  'shm',
  64,
  async (owner, reader) => {
    await reader.agent.read(pullOf(owner.remote, [1]), reader.pool);
    owner.process.kill('SIGSTOP');
    const result = await reader.agent.read(pullOf(owner.remote, [1, 2, 3]), reader.pool);
    assert.equal([...result.valid], [1, 1, 1]);
  },
);

// 16 MiB: more than the sockets' buffers hold, so that the read cannot have ended before the owner does.
const manyBlocks = 4096;

processTest(
  'an owner killed in the middle of a read fails it, at once',
  'tcp',
  manyBlocks,
  async (owner, reader) => {
    await reader.agent.read(pullOf(owner.remote, [1]), reader.pool);
    owner.process.kill('SIGSTOP');
    const worker = new PullConnectorWorker({ agent: reader.agent, pool: reader.pool, isHeld: holdsNothing });
    worker.startLoadKv({ pulls: [pullOf(owner.remote, allIds(manyBlocks))] });
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.is(worker.getFinished(), null);
    owner.process.kill('SIGKILL');
    const report = await nextReport(worker);
    assert.is(report.finishedRecving[0]?.failure, 'failed');
    assert.is(report.invalidBlockIds.length, manyBlocks - 1);
    await worker.close();
  },
);

processTest(
  'an owner that wakes up after the timeout writes nothing any more',
  'tcp',
  manyBlocks,
  async (owner, reader) => {
    await reader.agent.read({ ...pullOf(owner.remote, [1]), localBlockIds: [0] }, reader.pool);
    owner.process.kill('SIGSTOP');
    const worker = new PullConnectorWorker({
      agent: reader.agent,
      pool: reader.pool,
      isHeld: holdsNothing,
      readTimeoutMs: 100,
    });
    worker.startLoadKv({ pulls: [pullOf(owner.remote, allIds(manyBlocks))] });
    assert.is((await nextReport(worker)).finishedRecving[0]?.failure, 'failed');
    for (const id of allIds(manyBlocks)) reader.pool.block(id).fill(77);
    owner.process.kill('SIGCONT');
    // The owner answers what had reached it; a fresh read shows that it is back.
    const pull = { ...pullOf(owner.remote, [2]), localBlockIds: [0], blockHashes: [hashOf('block 2')] };
    assert.equal([...(await reader.agent.read(pull, reader.pool)).valid], [1]);
    await new Promise((resolve) => setTimeout(resolve, 100));
    for (const id of allIds(manyBlocks)) {
      assert.ok(
        reader.pool.block(id).every((byte) => byte === 77),
        `block ${id}`,
      );
    }
    await worker.close();
  },
);

test.run();
