// What the agent tests are arranged with: a small pool, an agent on it, and blocks that are known by sight.
import { createHash } from 'node:crypto';
import type { AgentKind } from '../../src/config.js';
import type { TransferAgent } from '../../src/kv-transfer/agent.js';
import { createTransferAgent } from '../../src/kv-transfer/create-agent.js';
import { PeerPolicy } from '../../src/kv-transfer/peer-policy.js';
import type { PullConnectorWorker } from '../../src/kv-transfer/pull-worker.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import type { KvPoolLayout } from '../../src/native/kv-pool-layout.js';
import { loadNative } from '../../src/native.js';
import type { FinishedSend, KVConnectorOutput, PullSpec, RemoteBlocks } from '../../src/outputs.js';

/** 4 KiB a block. */
export const layout: KvPoolLayout = {
  numBlocks: 64,
  numLayers: 2,
  numKvHeads: 2,
  blockSize: 16,
  headDim: 8,
  dtype: 'float32',
};

export interface TransferNode {
  readonly engineId: string;
  readonly pool: KvPool;
  readonly agent: TransferAgent;
  readonly notifs: readonly FinishedSend[];
  close(): Promise<void>;
}

export interface TransferNodeOptions {
  readonly engineId: string;
  readonly kind: AgentKind;
  readonly layout?: KvPoolLayout;
  readonly compatibility?: string;
  readonly port?: number;
  readonly key?: string;
  readonly peerTimeoutMs?: number;
  /** Whom it may connect to; default: this machine. */
  readonly peers?: readonly string[];
  /** What readers may read, by hold; default: all of the pool, under the id that `remoteOf` names. */
  readonly holds?: Readonly<Record<string, readonly number[]>>;
}

export async function startNode(options: TransferNodeOptions): Promise<TransferNode> {
  const pool = loadNative().createPool(options.layout ?? layout);
  const agent = await createTransferAgent({
    config: {
      agent: options.kind,
      sideChannelHost: '127.0.0.1',
      sideChannelPort: options.port ?? 0,
      key: options.key ?? null,
      kvPeerTimeoutMs: options.peerTimeoutMs ?? 5000,
    },
    engineId: options.engineId,
    pool,
    compatibility: options.compatibility ?? 'tiny model, seed 0',
    peers: new PeerPolicy(options.peers),
  }).catch((error) => {
    pool.close();
    throw error;
  });
  const all = Array.from({ length: pool.layout.numBlocks }, (_, id) => id);
  for (const [id, blockIds] of Object.entries(options.holds ?? { held: all })) {
    agent.holds.grant(id, blockIds, Number.POSITIVE_INFINITY);
  }
  const notifs: FinishedSend[] = [];
  agent.onNotif((notif) => {
    notifs.push(notif);
    return true;
  });
  return {
    engineId: options.engineId,
    pool,
    agent,
    notifs,
    close: async () => {
      await agent.close();
      pool.close();
    },
  };
}

/** For workers on nodes without a scheduler. */
export const holdsNothing = () => false;

/** Starts an owner and a reader, and closes both whatever becomes of `use`. */
export async function withNodes(
  ownerOptions: Partial<TransferNodeOptions>,
  readerOptions: Partial<TransferNodeOptions>,
  use: (owner: TransferNode, reader: TransferNode) => Promise<void>,
): Promise<void> {
  const owner = await startNode({ engineId: 'owner', kind: 'auto', ...ownerOptions });
  const reader = await startNode({ engineId: 'reader', kind: 'auto', ...readerOptions });
  try {
    await use(owner, reader);
  } finally {
    await Promise.all([reader.close(), owner.close()]);
  }
}

export function hashOf(name: string): string {
  return createHash('sha256').update(name).digest('hex');
}

/** Fills the block with bytes that only it has, and publishes it under `hashOf('block <id>')`. */
export function fillBlock(pool: KvPool, blockId: number): void {
  const seed = createHash('sha512').update(`bytes of ${blockId}`).digest();
  const block = pool.block(blockId);
  for (let at = 0; at < block.length; at += seed.length) block.set(seed, at);
  pool.publish(blockId, hashOf(`block ${blockId}`));
}

export function remoteOf(agent: { host: string; port: number }, engineId: string): RemoteBlocks {
  return { engineId, host: agent.host, port: agent.port, requestId: 'held' };
}

/** A pull of the owner's blocks into the reader's blocks 1, 2, …, each expected to be what `fillBlock` made of it. */
export function pullOf(remote: RemoteBlocks, remoteBlockIds: readonly number[]): PullSpec {
  return {
    requestId: 'pull',
    remote,
    remoteBlockIds,
    localBlockIds: remoteBlockIds.map((_, i) => i + 1),
    blockHashes: remoteBlockIds.map((id) => hashOf(`block ${id}`)),
  };
}

/** What the worker has to report next, as the engine collects it. */
export async function nextReport(worker: PullConnectorWorker): Promise<KVConnectorOutput> {
  let report: KVConnectorOutput | null = null;
  await until(() => {
    report ??= worker.getFinished();
    return report !== null;
  }, 'a report');
  return report!;
}

/** Resolves when `condition` holds; rejects after five seconds. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const givenUpAt = performance.now() + 5000;
  while (!condition()) {
    if (performance.now() > givenUpAt) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
