// One node as the proxy sees it: a connection pool, and whether it is thought to be alive.
import { type Dispatcher, errors, Pool } from 'undici';
import { messageOf, VllmPdError } from '../../errors.js';
import { createLogger } from '../../log.js';
import { productName } from '../../version.js';

const log = createLogger('proxy');

/** Probes in a row that a node with work must miss to be taken for hung; its event loop is free while it computes. */
const maxMissedProbes = 2;
const firstProbeDelayMs = 250;
const lastProbeDelayMs = 5000;

export interface NodeRequest {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  /** Sent as JSON. */
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** Until the answer is complete. */
  readonly timeoutMs?: number;
}

export interface NodeResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Dispatcher.ResponseData['body'];
}

/** An answer that was read to its end. */
export interface WholeResponse {
  readonly status: number;
  readonly headers: NodeResponse['headers'];
  readonly bytes: Buffer;
}

export interface ProxyNodeOptions {
  readonly role: 'prefill' | 'decode';
  /** `http://host:port` */
  readonly url: string;
  readonly connectTimeoutMs: number;
  /** How often a node with work is probed. */
  readonly watchIntervalMs: number;
  readonly probeTimeoutMs: number;
  /** Sent with every request, in place of what a client sent; null = the client's own goes on. */
  readonly apiKey?: string | null;
}

export class ProxyNode {
  readonly role: 'prefill' | 'decode';
  /** `http://host:port` */
  readonly url: string;
  readonly #pool: Pool;
  readonly #watchIntervalMs: number;
  readonly #probeTimeoutMs: number;
  readonly #ownHeaders: Readonly<Record<string, string>>;
  /** Requests whose answers are not complete; aborting one says that the node hangs. */
  readonly #inFlight = new Set<AbortController>();
  #numTurns = 0;
  #healthy = true;
  #answersCacheQueries = true;
  #passesFirstTokens = false;
  #probeTimer: NodeJS.Timeout | null = null;
  #watchTimer: NodeJS.Timeout | null = null;
  #mayLeave = false;
  #closed = false;

  constructor(options: ProxyNodeOptions) {
    const { role, url, connectTimeoutMs, watchIntervalMs, probeTimeoutMs, apiKey = null } = options;
    this.role = role;
    this.url = url;
    this.#watchIntervalMs = watchIntervalMs;
    this.#probeTimeoutMs = probeTimeoutMs;
    this.#ownHeaders = apiKey === null ? {} : { authorization: `Bearer ${apiKey}` };
    // A prefill may rightly take minutes, so only the connecting is bounded.
    this.#pool = new Pool(url, {
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: { timeout: connectTimeoutMs },
    });
  }

  /** Turns that were sent here or will be, as far as this proxy knows. */
  get load(): number {
    return Math.max(this.#numTurns, this.#inFlight.size);
  }

  /** One turn more, from its routing on; what is returned ends it, once. */
  beginTurn(): () => void {
    let isOver = false;
    this.#numTurns += 1;
    return () => {
      if (!isOver) this.#numTurns -= 1;
      isOver = true;
    };
  }

  get healthy(): boolean {
    return this.#healthy;
  }

  /** False once it has said that it has no such path, which vLLM's nodes have not; its tickets are used then. */
  get answersCacheQueries(): boolean {
    return this.#answersCacheQueries;
  }

  /** True if it is one of this project's: these can begin an answer for another node, or go on with one. */
  get passesFirstTokens(): boolean {
    return this.#passesFirstTokens;
  }

  lacksCacheQueries(): void {
    if (this.#answersCacheQueries) log.info({ node: this.url }, 'node answers no cache queries');
    this.#answersCacheQueries = false;
  }

  /**
   * Resolves when the status line has come. Throws NODE_UNREACHABLE (and takes the node for dead until a probe says
   * otherwise) when it does not; rejects with the signal's reason when that fires, and with TIMED_OUT when it took too long.
   */
  async request({ method, path, body, headers, signal, timeoutMs }: NodeRequest): Promise<NodeResponse> {
    const { controller, done } = this.#follow(signal, timeoutMs);
    try {
      const response = await this.#pool.request({
        method,
        path,
        headers: {
          ...headers,
          ...this.#ownHeaders,
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        body: body === undefined ? null : JSON.stringify(body),
        signal: controller.signal,
      });
      // The first that comes: who has read an answer to its end does not find it counted as load.
      for (const over of ['end', 'close']) response.body.once(over, done);
      return { status: response.statusCode, headers: response.headers, body: response.body };
    } catch (error) {
      done();
      throw this.failure(error, signal);
    }
  }

  /** Request and whole answer; failures as in `request`. */
  async fetch(request: NodeRequest): Promise<WholeResponse> {
    return this.read(await this.request(request), request.signal);
  }

  /** Reads an answer to its end; failures as in `request`. */
  async read(response: NodeResponse, signal?: AbortSignal): Promise<WholeResponse> {
    try {
      const { buffer, byteOffset, length } = await response.body.bytes();
      const bytes = Buffer.from(buffer, byteOffset, length);
      return { status: response.status, headers: response.headers, bytes };
    } catch (error) {
      throw this.failure(error, signal);
    }
  }

  /** What to throw for a request or a body that broke: the signal's reason, TIMED_OUT or NODE_UNREACHABLE. */
  failure(error: unknown, signal?: AbortSignal): unknown {
    if (signal?.aborted) return signal.reason;
    // It may take long, for who asked, and be alive all the same.
    if (error instanceof VllmPdError && error.code === 'TIMED_OUT') return error;
    // The request itself was at fault, not the node.
    if (error instanceof errors.InvalidArgumentError) return error;
    if (this.#closed) return new VllmPdError('OVERLOADED', 'The proxy is shutting down.', { cause: error });
    this.#suspect(error);
    const why = error instanceof errors.SocketError ? 'it closed the connection' : messageOf(error);
    return new VllmPdError('NODE_UNREACHABLE', `The ${this.role} node ${this.url} does not answer: ${why}.`, {
      cause: error,
    });
  }

  /** Asks the node now; when it does not answer, goes on asking in the background. */
  async probe(): Promise<boolean> {
    this.#healthy = await this.#answersProbe();
    if (!this.#healthy) this.#probeLater(firstProbeDelayMs);
    return this.#healthy;
  }

  /** It is being stopped: that it no longer answers is then no news. */
  expectToLeave(): void {
    this.#mayLeave = true;
  }

  get mayLeave(): boolean {
    return this.#mayLeave;
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const timer of [this.#probeTimer, this.#watchTimer]) if (timer) clearTimeout(timer);
    await this.#pool.destroy();
  }

  /** A request's own controller: fires with the client's signal, when its time is over, or when the node hangs. */
  #follow(
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
  ): {
    readonly controller: AbortController;
    readonly done: () => void;
  } {
    const controller = new AbortController();
    const abort = () => controller.abort(signal?.reason);
    if (signal?.aborted) abort();
    signal?.addEventListener('abort', abort, { once: true });
    const timer =
      timeoutMs === undefined
        ? undefined
        : setTimeout(() => controller.abort(this.#late(timeoutMs)), timeoutMs);
    this.#inFlight.add(controller);
    this.#watch(0);
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
      this.#inFlight.delete(controller);
    };
    return { controller, done };
  }

  /** A stopped process keeps its connections open: without this, whoever waits for it would wait for ever. */
  #watch(numMissed: number): void {
    if (this.#watchTimer || this.#closed) return;
    this.#watchTimer = setTimeout(async () => {
      const missed = this.#inFlight.size === 0 || (await this.#answersProbe()) ? 0 : numMissed + 1;
      this.#watchTimer = null;
      if (missed >= maxMissedProbes) {
        const hung = new Error(`it missed ${missed} health probes in a row`);
        for (const controller of this.#inFlight) controller.abort(hung);
      } else if (this.#inFlight.size > 0) {
        this.#watch(missed);
      }
    }, this.#watchIntervalMs);
    this.#watchTimer.unref();
  }

  #late(timeoutMs: number): VllmPdError {
    const message = `The ${this.role} node ${this.url} did not answer within ${timeoutMs} ms.`;
    return new VllmPdError('TIMED_OUT', message);
  }

  #suspect(error: unknown): void {
    if (this.#healthy && !this.#mayLeave)
      log.warn({ node: this.url, err: messageOf(error) }, 'node does not answer');
    this.#healthy = false;
    // What comes back may be something else.
    this.#answersCacheQueries = true;
    this.#probeLater(firstProbeDelayMs);
  }

  /** More and more rarely until the node answers; never keeps the process alive. */
  #probeLater(delayMs: number): void {
    if (this.#probeTimer || this.#closed) return;
    this.#probeTimer = setTimeout(async () => {
      const answers = await this.#answersProbe();
      this.#probeTimer = null;
      if (answers) this.#healthy = true;
      else this.#probeLater(Math.min(2 * delayMs, lastProbeDelayMs));
    }, delayMs);
    this.#probeTimer.unref();
  }

  async #answersProbe(): Promise<boolean> {
    try {
      const signal = AbortSignal.timeout(this.#probeTimeoutMs);
      const response = await this.#pool.request({ method: 'GET', path: '/health', signal });
      await response.body.dump();
      this.#passesFirstTokens = String(response.headers.server ?? '').startsWith(`${productName}/`);
      return response.statusCode === 200;
    } catch {
      return false;
    }
  }
}
