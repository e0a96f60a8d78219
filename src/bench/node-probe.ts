// What the nodes behind a proxy say about themselves: bytes moved, and whether their pools are whole.

import type { KvLookup } from '../config.js';
import { messageOf } from '../errors.js';
import { type Check, result } from './checks.js';
import { BenchClient } from './client.js';
import type { TurnRecord } from './turn-record.js';

type Direction = 'p_to_d' | 'd_to_p';
export type ByteCounts = Readonly<Record<`${Direction}/${'sent' | 'received'}`, number>>;

interface NodeState {
  readonly numBlocks: number;
  readonly numFreeBlocks: number;
  readonly numCachedBlocks: number;
  readonly numRunning: number;
  readonly numWaiting: number;
  readonly numHolds: number;
  readonly numPendingLoads: number;
}

interface ListedNode {
  readonly role: 'prefill' | 'decode';
  readonly url: string;
  readonly state: NodeState | null;
  readonly error: string | null;
}

/** The nodes as the proxy lists them, with their state now. */
export async function listNodes(client: BenchClient): Promise<readonly ListedNode[]> {
  const { data } = (await client.getJson('/nodes')) as { readonly data: readonly ListedNode[] };
  return data;
}

/** Bytes of KV that all nodes behind the proxy counted since they started. */
export async function countKvBytes(client: BenchClient): Promise<ByteCounts> {
  const counts = { 'p_to_d/sent': 0, 'p_to_d/received': 0, 'd_to_p/sent': 0, 'd_to_p/received': 0 };
  for (const { url } of await listNodes(client)) {
    const node = new BenchClient(url, { timeoutMs: 10_000, connections: 1 });
    try {
      for (const { labels, value } of parseMetric(
        await node.getText('/metrics'),
        'vllm_pd:kv_transfer_bytes_total',
      )) {
        const key = `${labels.direction}/${labels.op}`;
        if (key in counts) counts[key as keyof ByteCounts] += value;
      }
    } finally {
      await node.close();
    }
  }
  return counts;
}

export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** The samples of one metric in Prometheus' text format. */
export function parseMetric(text: string, name: string): Sample[] {
  return text.split('\n').flatMap((line) => {
    if (!line.startsWith(name)) return [];
    const match = /^(?:\{(.*)\})? (\S+)/.exec(line.slice(name.length));
    if (!match) return [];
    const pairs = [...(match[1] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)];
    return [
      { labels: Object.fromEntries(pairs.map(([, key, value]) => [key, value])), value: Number(match[2]) },
    ];
  });
}

/** What both ends counted, and what the turns reported, is the same for each direction. */
export async function checkKvBytes(
  client: BenchClient,
  mode: string,
  before: ByteCounts,
  turns: readonly TurnRecord[],
): Promise<Check> {
  const name = `bytes sent equal bytes received (${mode})`;
  try {
    const after = await countKvBytes(client);
    const failed = turns.some(({ error }) => error !== null);
    const scopes: string[] = [];
    const faults = (['p_to_d', 'd_to_p'] as const).flatMap((direction) => {
      const sent = after[`${direction}/sent`] - before[`${direction}/sent`];
      const received = after[`${direction}/received`] - before[`${direction}/received`];
      const reported = turns.reduce((sum, turn) => sum + turn[`kv_bytes_${direction}`], 0);
      scopes.push(`${direction} ${received}`);
      // A turn that failed may have moved bytes that nobody reported.
      if (sent === received && (failed || reported === received)) return [];
      return [`${direction}: ${sent} bytes sent, ${received} received, ${reported} reported by the turns`];
    });
    return result(name, faults, scopes.join(', '));
  } catch (error) {
    return result(name, [messageOf(error)], '');
  }
}

const settleStepMs = 100;

/**
 * No request, load or hold is left and every block is free again. With tickets, and where nobody knows (`lookup`
 * null), decode nodes rightly hold blocks for the next turn. Waits a while for hand-overs that are just ending.
 */
export async function checkPools(
  client: BenchClient,
  mode: string,
  lookup: KvLookup | null,
  settleMs = 10_000,
): Promise<Check> {
  const name = `pools are whole at the end (${mode})`;
  try {
    const end = performance.now() + settleMs;
    for (;;) {
      const nodes = await listNodes(client);
      const faults = nodes.flatMap((node) => faultOf(node, node.role === 'decode' && lookup !== 'query'));
      if (faults.length === 0 || performance.now() > end)
        return result(name, faults, `${nodes.length} nodes`);
      await new Promise((resolve) => setTimeout(resolve, settleStepMs));
    }
  } catch (error) {
    return result(name, [messageOf(error)], '');
  }
}

function faultOf({ role, url, state, error }: ListedNode, mayHold: boolean): string[] {
  if (!state) return [`${role} node ${url} does not tell its state: ${error}`];
  const isIdle = state.numRunning === 0 && state.numWaiting === 0 && state.numPendingLoads === 0;
  const isWhole = state.numFreeBlocks + 1 === state.numBlocks && state.numHolds === 0;
  if (isIdle && (isWhole || mayHold)) return [];
  return [
    `${role} node ${url} has ${state.numFreeBlocks} of ${state.numBlocks} blocks free, ${state.numHolds} holds, ` +
      `${state.numRunning} running, ${state.numWaiting} waiting, ${state.numPendingLoads} loads`,
  ];
}
