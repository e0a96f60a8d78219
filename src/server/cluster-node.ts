// One node process of a cluster: started with the constructor, waited for, watched, stopped.
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { NodeRole } from '../config.js';
import { defaults, type EngineOptions } from '../engine-options.js';
import { VllmPdError } from '../errors.js';
import { engineArgs, engineEnv } from './cluster-args.js';
import type { NodeMessage, ParentMessage } from './node-process.js';

const entry = fileURLToPath(new URL('../bin.js', import.meta.url));

const maxLastLines = 20;

export interface ClusterNodeOptions {
  readonly role: NodeRole;
  readonly engine: EngineOptions;
  /** 0 = any free one. */
  readonly port: number;
  /** Node logs also go to this process's stderr. */
  readonly forwardLogs: boolean;
  /** Between SIGTERM and SIGKILL. */
  readonly stopGraceMs: number;
  /** Of these a client must have one; default: no client needs any. */
  readonly apiKeys?: readonly string[];
  /** Default 5000. */
  readonly drainTimeoutMs?: number;
  /** Beyond this process's own. */
  readonly env?: Readonly<Record<string, string>>;
}

export class ClusterNode {
  readonly role: NodeRole;
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #stopGraceMs: number;
  readonly #exited: Promise<void>;
  readonly #lastLines: string[] = [];
  #ready: Extract<NodeMessage, { readonly type: 'ready' }> | null = null;
  #stopping: Promise<void> | null = null;

  constructor(options: ClusterNodeOptions) {
    const { role, engine, port } = options;
    const args = [
      'serve',
      `--role=${role}`,
      '--host=127.0.0.1',
      `--port=${port}`,
      `--drain-timeout=${(options.drainTimeoutMs ?? defaults.drainTimeoutMs) / 1000}`,
      ...engineArgs(engine),
    ];
    this.#child = fork(entry, args, {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: [],
      env: {
        ...process.env,
        ...options.env,
        ...engineEnv(engine),
        VLLM_PD_API_KEY: (options.apiKeys ?? []).join(','),
      },
    });
    this.role = role;
    this.#stopGraceMs = options.stopGraceMs;
    this.pid = this.#child.pid ?? 0;
    this.#exited = new Promise((resolve) => {
      this.#child.once('close', () => resolve());
      this.#child.once('error', () => resolve());
    });
    this.#child.stderr?.on('data', (chunk: Buffer) => this.#keepLines(chunk, options.forwardLogs));
  }

  get url(): string {
    return this.#ready?.url ?? '';
  }

  get engineId(): string {
    return this.#ready?.engineId ?? '';
  }

  get sideChannel(): string {
    return this.#ready?.sideChannel ?? '';
  }

  /**
   * Resolves when the node serves. `onPacked` is told which share of the weights it has packed, where it has to. Throws
   * what it died of, or TIMED_OUT; it is to be stopped then all the same.
   */
  async untilReady(timeoutMs: number, onPacked?: (fraction: number) => void): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    try {
      this.#ready = await new Promise((resolve, reject) => {
        this.#child.on('message', (message: NodeMessage) => {
          if (message.type === 'ready') resolve(message);
          else if (message.type === 'packing') onPacked?.(message.fraction);
          else reject(this.#startFailure(message));
        });
        void this.#exited.then(() => reject(this.#lastWords()));
        timer = setTimeout(() => {
          const limit = `within ${timeoutMs / 1000} s`;
          reject(new VllmPdError('TIMED_OUT', `The ${this.#name} did not start ${limit}.${this.#tail()}`));
        }, timeoutMs);
      });
    } finally {
      clearTimeout(timer);
    }
  }

  /** Tells the node where its peers are; it connects to nobody else from then on. */
  introduce(peers: readonly string[]): void {
    this.#tell({ type: 'peers', peers });
  }

  /** Calls `listener` when the process ends without having been told to. */
  onDeath(listener: (error: VllmPdError) => void): void {
    void this.#exited.then(() => {
      if (!this.#stopping) listener(this.#lastWords());
    });
  }

  /**
   * Tells it to stop once what runs has ended, after `drainTimeoutMs` at the latest (default: what it was started with),
   * then SIGKILL; resolves when the process is gone. Idempotent.
   */
  stop(drainTimeoutMs?: number): Promise<void> {
    this.#stopping ??= this.#stop(drainTimeoutMs);
    return this.#stopping;
  }

  async #stop(drainTimeoutMs: number | undefined): Promise<void> {
    // Before it serves it knows of signals only.
    if (drainTimeoutMs === undefined || !this.#ready) this.#child.kill('SIGTERM');
    else this.#tell({ type: 'stop', drainTimeoutMs });
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), this.#stopGraceMs);
    await this.#exited;
    clearTimeout(timer);
  }

  #tell(message: ParentMessage): void {
    // Of a process that is going meanwhile, `#exited` tells.
    if (this.#child.connected) this.#child.send(message, () => {});
  }

  get #name(): string {
    return `${this.role} node (pid ${this.pid})`;
  }

  #startFailure({ code, message, suggestions }: Extract<NodeMessage, { readonly type: 'failed' }>) {
    return new VllmPdError(code, `The ${this.role} node could not start: ${message}`, { suggestions });
  }

  #lastWords(): VllmPdError {
    const { exitCode, signalCode } = this.#child;
    const how = signalCode ? `was ended by ${signalCode}` : `ended with exit code ${exitCode}`;
    return new VllmPdError('NODE_UNREACHABLE', `The ${this.#name} ${how}.${this.#tail()}`);
  }

  #tail(): string {
    return this.#lastLines.length > 0 ? ` Its last lines:\n${this.#lastLines.join('\n')}` : '';
  }

  #keepLines(chunk: Buffer, forward: boolean): void {
    if (forward) process.stderr.write(chunk);
    const lines = chunk.toString('utf8').split('\n').filter(Boolean);
    this.#lastLines.push(...lines);
    this.#lastLines.splice(0, this.#lastLines.length - maxLastLines);
  }
}
