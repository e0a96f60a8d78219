// One node under test: a real process, with relays before its HTTP address and its side channel that outlive it.
import type { EngineOptions } from '../engine-options.js';
import { ClusterNode } from '../server/cluster-node.js';
import type { Side, Step } from './fault.js';
import { type Footprint, footprintOf, growthOf } from './footprint.js';
import { HopRelay, type HopVerdict } from './hop-relay.js';
import { SideChannelRelay } from './side-channel-relay.js';

const startTimeoutMs = 60_000;
const stopGraceMs = 5000;
/** Its own and its peer's. */
const maxPools = 2;

export interface ChaosNodeOptions {
  readonly engine: EngineOptions;
  /** Beyond this process's own. */
  readonly env: Readonly<Record<string, string>>;
  readonly onStep: (step: Step) => Promise<HopVerdict>;
}

export class ChaosNode {
  readonly side: Side;
  readonly sideChannel: SideChannelRelay;
  readonly #hops: HopRelay;
  readonly #options: ChaosNodeOptions;
  #process: ClusterNode | null = null;
  #starting: Promise<void> | null = null;
  /** Of this process, when it was first looked at. */
  #footprint: Footprint | null = null;

  private constructor(side: Side, options: ChaosNodeOptions, hops: HopRelay, sideChannel: SideChannelRelay) {
    this.side = side;
    this.sideChannel = sideChannel;
    this.#hops = hops;
    this.#options = options;
  }

  /** Resolves when the node serves; nothing is left behind when it does not. */
  static async start(side: Side, options: ChaosNodeOptions): Promise<ChaosNode> {
    const sideChannel = await SideChannelRelay.open();
    const hops = await HopRelay.open({ side, onStep: options.onStep, sideChannel });
    const node = new ChaosNode(side, options, hops, sideChannel);
    try {
      await node.#launch();
      return node;
    } catch (error) {
      await node.close();
      throw error;
    }
  }

  /** What the proxy knows the node by. */
  get url(): string {
    return this.#hops.url;
  }

  /** SIGKILL and a new process with an empty pool; resolves when that serves. Nothing while it is starting already. */
  async kill(): Promise<void> {
    const victim = this.#process;
    if (!victim) return;
    this.#process = null;
    const isGone = new Promise<void>((resolve) => victim.onDeath(() => resolve()));
    process.kill(victim.pid, 'SIGKILL');
    await isGone;
    await this.#disconnect();
    await this.#launch();
  }

  /** What the process has come to hold that it should not, with one peer beside it; null = nothing, or there is none. */
  growth(): string | null {
    const now = this.#process && footprintOf(this.#process.pid);
    if (!now || !this.#process) return null;
    this.#footprint ??= now;
    const growth = growthOf(this.#footprint, now, maxPools);
    return growth && `${this.side} node (pid ${this.#process.pid}) ${growth}`;
  }

  /** SIGSTOP or SIGCONT; nothing while there is no process. */
  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    if (this.#process) process.kill(this.#process.pid, signal);
  }

  async close(): Promise<void> {
    await this.#starting?.catch(() => {});
    this.signal('SIGCONT');
    await this.#process?.stop();
    this.#process = null;
    await this.#hops.close();
    await this.sideChannel.close();
  }

  #launch(): Promise<void> {
    this.#starting = this.#start();
    return this.#starting;
  }

  async #start(): Promise<void> {
    const { engine, env } = this.#options;
    const role = this.side;
    const started = new ClusterNode({ role, engine, env, port: 0, forwardLogs: false, stopGraceMs });
    try {
      await started.untilReady(startTimeoutMs);
    } catch (error) {
      await started.stop();
      throw error;
    }
    this.#process = started;
    this.#footprint = null;
    this.sideChannel.connectTo(started.sideChannel);
    await this.#hops.connectTo(started.url);
  }

  async #disconnect(): Promise<void> {
    this.sideChannel.connectTo(null);
    await this.#hops.connectTo(null);
  }
}
