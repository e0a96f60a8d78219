// A prefill and a decode engine in one process, and the hops of a turn through them as a proxy would make them.
import type { KvTransferConfig } from '../../src/config.js';
import type { Engine } from '../../src/engine/engine.js';
import { remoteDecodeParams } from '../../src/kv-transfer/params.js';
import type { KvPool } from '../../src/native/kv-pool.js';
import type { KvPoolLayout } from '../../src/native/kv-pool-layout.js';
import { loadNative } from '../../src/native.js';
import type { KvTransferParams } from '../../src/wire.js';
import { assertWhole, type Generated, generate, startEngine, type TestEngineOptions } from './test-engine.js';

export const numAnswerTokens = 60;

export interface PairOptions {
  readonly kvTransfer?: Partial<KvTransferConfig>;
  readonly p?: TestEngineOptions;
}

export class NodePair {
  readonly p: Engine;
  readonly d: Engine;
  isDecodeGone = false;

  constructor(p: Engine, d: Engine) {
    this.p = p;
    this.d = d;
  }

  async stopDecode(): Promise<void> {
    this.isDecodeGone = true;
    await this.d.shutdown();
  }

  /** What D offers for the prompt, as a proxy hands it to P. */
  async ask(ids: readonly number[]): Promise<KvTransferParams> {
    const answer = await this.d.cacheQuery(ids, { lease: true });
    return answer.kv_transfer_params ?? remoteDecodeParams(true);
  }

  /** P's answer to hop 1, as a proxy hands it to D. */
  async prefill(ids: readonly number[], params: KvTransferParams): Promise<KvTransferParams> {
    const { last } = await generate(this.p, ids, { maxTokens: 1 }, { kvTransferParams: params });
    if (!last.kvTransferParams) throw new Error('P did not hold its blocks');
    return last.kvTransferParams;
  }

  decode(ids: readonly number[], kvTransferParams: KvTransferParams): Promise<Generated> {
    return generate(this.d, ids, { maxTokens: numAnswerTokens }, { kvTransferParams });
  }

  /** One turn; in `bi` D is asked first. */
  async turn(ids: readonly number[]): Promise<Generated> {
    const isBi = this.d.config.kvTransfer.mode === 'bi';
    return this.decode(ids, await this.prefill(ids, isBi ? await this.ask(ids) : remoteDecodeParams()));
  }
}

/** Both pools are whole again behind the body. */
export async function withPair(options: PairOptions, body: (pair: NodePair) => Promise<void>): Promise<void> {
  const common = { kvTransfer: { kvRecomputeThreshold: 16, ...options.kvTransfer } };
  const p = await startEngine({ ...common, ...options.p, role: 'prefill' });
  const d = await startEngine({ ...common, role: 'decode' });
  const pair = new NodePair(p, d);
  try {
    await body(pair);
    await assertWhole(p);
    if (!pair.isDecodeGone) await assertWhole(d);
  } finally {
    await p.shutdown();
    await d.shutdown();
  }
}

/** The pools that are made from now on, in order: what lies in them can be changed behind their engines' backs. */
export function watchPools(): KvPool[] {
  const pools: KvPool[] = [];
  const native = loadNative();
  const createPool = native.createPool.bind(native);
  Object.defineProperty(native, 'createPool', {
    configurable: true,
    value: (layout: KvPoolLayout) => {
      const pool = createPool(layout);
      pools.push(pool);
      return pool;
    },
  });
  return pools;
}
