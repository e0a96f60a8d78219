// A prefill and a decode node, and what a proxy does between them for each turn of a conversation.
import * as assert from 'uvu/assert';
import type { KvTransferConfig, KvTransferMode } from '../../src/config.js';
import { remoteDecodeParams } from '../../src/kv-transfer/params.js';
import type { KvTransferParams, PrefillStats } from '../../src/wire.js';
import { TestNode, type TestNodeOptions } from './test-node.js';

export interface Turn {
  readonly outputTokenIds: readonly number[];
  readonly stats: PrefillStats;
}

export interface PairOptions {
  readonly transfer?: Partial<KvTransferConfig>;
  readonly p?: Omit<TestNodeOptions, 'kvTransfer'>;
  readonly d?: Omit<TestNodeOptions, 'kvTransfer'>;
}

export class PdPair {
  readonly p: TestNode;
  readonly d: TestNode;
  readonly mode: KvTransferMode;
  #ticket: KvTransferParams | null = null;

  constructor(mode: KvTransferMode, options: PairOptions = {}) {
    this.mode = mode;
    const { transfer } = options;
    this.p = new TestNode({
      ...options.p,
      kvTransfer: { ...transfer, engineId: 'P', role: 'prefill', mode },
    });
    this.d = new TestNode({ ...options.d, kvTransfer: { ...transfer, engineId: 'D', role: 'decode', mode } });
    this.p.connect(this.d);
  }

  /** What the proxy asks D before it calls P; null in ticket mode and in uni. */
  query(promptTokenIds: readonly number[]): KvTransferParams {
    const requestId = `query-${this.d.nowMs}-${promptTokenIds.length}-${Math.random()}`;
    const { last } = this.d.complete({ requestId, promptTokenIds, cacheQuery: { lease: true } });
    return last.kvTransferParams ?? remoteDecodeParams(true);
  }

  /** P's part; its answer's kv_transfer_params. */
  prefill(promptTokenIds: readonly number[], params: KvTransferParams): KvTransferParams {
    const { last } = this.p.complete({
      promptTokenIds,
      kvTransferParams: params,
      maxTokens: 1,
      sessionId: 's',
    });
    assert.is(last.error, null);
    return last.kvTransferParams!;
  }

  decode(promptTokenIds: readonly number[], params: KvTransferParams, numOutputTokens: number): Turn {
    const kvTransferParams = params;
    const { request, last } = this.d.complete({
      promptTokenIds,
      kvTransferParams,
      maxTokens: numOutputTokens,
      sessionId: 's',
    });
    assert.is(last.error, null);
    this.#ticket = last.kvTransferParams;
    // D's notification reaches P.
    this.p.run();
    return { outputTokenIds: request.tokenIds.slice(request.numPromptTokens), stats: last.prefillStats! };
  }

  turn(promptTokenIds: readonly number[], numOutputTokens: number): Turn {
    const ticket = this.#ticket;
    this.#ticket = null;
    const offer = ticket ?? (this.mode === 'bi' ? this.query(promptTokenIds) : remoteDecodeParams());
    const handOver = this.prefill(promptTokenIds, offer);
    // P's notification reaches D.
    this.d.run();
    return this.decode(promptTokenIds, handOver, numOutputTokens);
  }

  assertEmpty(): void {
    this.p.run();
    this.d.run();
    this.p.assertEmpty();
    this.d.assertEmpty();
  }
}
