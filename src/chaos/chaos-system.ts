// A prefill node, a decode node and the proxy, with everything between them in reach of faults.
import { setTimeout as sleep } from 'node:timers/promises';
import { request } from 'undici';
import type { KvLookup, KvTransferMode } from '../config.js';
import { type EngineOptions, mergeEngineOptions } from '../engine-options.js';
import { type ProxyServer, startProxy } from '../server/proxy/proxy.js';
import { ChaosNode } from './chaos-node.js';
import type { ChaosStore, StoreKind } from './chaos-store.js';
import type { Fault, FaultKind, PlannedFault, Side, Step } from './fault.js';
import type { HopVerdict } from './hop-relay.js';
import { someLoopbackAddress } from './loopback-address.js';
import { openStore } from './open-chaos-store.js';

export interface ChaosSystemOptions {
  /** A resolved model folder included. */
  readonly engine: EngineOptions;
  readonly mode: KvTransferMode;
  readonly lookup: KvLookup;
  /** What the nodes share beyond their pools; default `none`. */
  readonly store?: StoreKind;
}

/** Short, because what they wait for is often dead here. */
const proxyTimes = {
  queryTimeoutMs: 1000,
  connectTimeoutMs: 500,
  watchIntervalMs: 500,
  probeTimeoutMs: 1000,
};

export class ChaosSystem {
  readonly #options: ChaosSystemOptions;
  readonly #nodes: Record<Side, ChaosNode | null> = { prefill: null, decode: null };
  #proxy: ProxyServer | null = null;
  /** Its own: while the proxy is away, nobody else is given its port. */
  readonly #host = someLoopbackAddress();
  #port = 0;
  #store: ChaosStore | null = null;
  /** What may not happen to nodes that start and to their store at the same time: one after the other. */
  #exclusive: Promise<void> = Promise.resolve();
  #proxyRestart: Promise<void> = Promise.resolve();
  /** Each strikes at the first hop that gets to its step. */
  #armed: PlannedFault[] = [];
  /** Faults that last for a while. */
  readonly #underWay = new Set<Promise<void>>();
  #failure: unknown = null;
  readonly #struck = new Map<FaultKind, number>();

  private constructor(options: ChaosSystemOptions) {
    this.#options = options;
  }

  /** Throws what the first failing node or the proxy threw; all that had been started is gone by then. */
  static async start(options: ChaosSystemOptions): Promise<ChaosSystem> {
    const system = new ChaosSystem(options);
    try {
      system.#store = await openStore(options.store ?? 'none');
      const shared = system.#store?.address;
      const engine = mergeEngineOptions(options.engine, shared === undefined ? {} : { kvStore: { shared } });
      const onStep = (step: Step) => system.#reached(step);
      const node = { engine, env: system.#store?.env ?? {}, onStep };
      system.#nodes.prefill = await ChaosNode.start('prefill', node);
      system.#nodes.decode = await ChaosNode.start('decode', node);
      await system.#startProxy();
      return system;
    } catch (error) {
      await system.close();
      throw error;
    }
  }

  get proxyUrl(): string {
    return `http://${this.#host}:${this.#port}`;
  }

  /** How many faults of each kind have struck. */
  get struck(): ReadonlyMap<FaultKind, number> {
    return this.#struck;
  }

  arm(fault: PlannedFault): void {
    this.#armed.push(fault);
  }

  /** A fault that lasts for a while is at work. */
  get isStricken(): boolean {
    return this.#underWay.size > 0;
  }

  /** Resolves when no fault is at work any more; what is armed stays armed. Throws what kept a node from coming back. */
  async settle(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.all(this.#underWay);
    if (this.#failure !== null) throw this.#failure;
  }

  /** What nodes hold of the system beyond what they should; empty when nothing. */
  growths(): readonly string[] {
    const growths = [this.#node('prefill').growth(), this.#node('decode').growth()];
    return growths.filter((growth) => growth !== null);
  }

  /** What has not struck by now will not any more. */
  disarm(): void {
    this.#armed = [];
    this.#node('prefill').sideChannel.calm();
    this.#node('decode').sideChannel.calm();
  }

  /** Every process is gone behind it. */
  async close(): Promise<void> {
    this.#armed = [];
    await Promise.allSettled(this.#underWay);
    await this.#proxy?.close();
    await Promise.all([this.#nodes.prefill?.close(), this.#nodes.decode?.close()]);
    await this.#store?.close();
  }

  #node(side: Side): ChaosNode {
    return this.#nodes[side]!;
  }

  async #startProxy(): Promise<void> {
    const { mode, lookup } = this.#options;
    this.#proxy = await startProxy({
      ...proxyTimes,
      host: this.#host,
      port: this.#port,
      prefillUrls: [this.#node('prefill').url],
      decodeUrls: [this.#node('decode').url],
      mode,
      lookup,
    });
    this.#port = this.#proxy.port;
  }

  async #reached(step: Step): Promise<HopVerdict> {
    const at = this.#armed.findIndex((planned) => planned.step === step);
    if (at < 0) return 'go on';
    const [planned] = this.#armed.splice(at, 1);
    const { fault } = planned!;
    this.#struck.set(fault.kind, (this.#struck.get(fault.kind) ?? 0) + 1);
    return this.#strike(fault);
  }

  async #strike(fault: Fault): Promise<HopVerdict> {
    switch (fault.kind) {
      case 'cut_hop':
        return 'cut';
      case 'slow_hop':
        await sleep(fault.ms);
        break;
      case 'kill':
        this.#begin(this.#alone(() => this.#node(fault.side).kill()));
        break;
      case 'stop':
        this.#begin(this.#stop(this.#node(fault.side), fault.ms));
        break;
      case 'evict':
        await this.#evict(this.#node(fault.side));
        break;
      case 'partition':
        this.#begin(this.#node(fault.side).sideChannel.partition(fault.ms));
        break;
      case 'delay':
        this.#begin(this.#node(fault.side).sideChannel.delay(fault.ms));
        break;
      case 'blackhole':
        this.#begin(this.#node(fault.side).sideChannel.blackhole(fault.ms));
        break;
      case 'truncate':
      case 'corrupt':
      case 'reorder':
        this.#node(fault.side).sideChannel.damage(fault.kind, fault.numBytes);
        break;
      case 'restart_proxy':
        this.#begin(this.#restartProxy());
        break;
      case 'store_damage':
        await this.#store?.damage();
        break;
      case 'store_lose':
        this.#begin(this.#alone(async () => this.#store?.lose(fault.ms)));
        break;
      case 'store_stop':
        this.#begin(this.#alone(async () => this.#store?.stop(fault.ms)));
        break;
      case 'store_slow':
        this.#begin(this.#alone(async () => this.#store?.slow(fault.ms)));
        break;
      case 'store_full':
        this.#begin(this.#alone(async () => this.#store?.fill(fault.ms)));
        break;
      case 'store_unwritable':
        this.#begin(this.#alone(async () => this.#store?.protect(fault.ms)));
    }
    return 'go on';
  }

  /** A node that starts looks at its store, and says so when that does not work. */
  #alone(work: () => Promise<void>): Promise<void> {
    if (!this.#store) return work();
    const done = this.#exclusive.then(work);
    this.#exclusive = done.catch(() => {});
    return done;
  }

  #begin(work: Promise<void>): void {
    const tracked = work
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => this.#underWay.delete(tracked));
    this.#underWay.add(tracked);
  }

  async #stop(node: ChaosNode, ms: number): Promise<void> {
    node.signal('SIGSTOP');
    await sleep(ms);
    node.signal('SIGCONT');
  }

  /** A node that is down has nothing to evict. */
  async #evict(node: ChaosNode): Promise<void> {
    const path = '/reset_prefix_cache?only_free=true';
    const response = await request(`${node.url}${path}`, { method: 'POST' }).catch(() => null);
    await response?.body.dump();
  }

  /** One after the other: there is one address. */
  #restartProxy(): Promise<void> {
    this.#proxyRestart = this.#proxyRestart.then(async () => {
      await this.#proxy?.close();
      await this.#startProxy();
    });
    return this.#proxyRestart;
  }
}
