// Publishes KV events over ZeroMQ as vLLM does: a PUB socket, and a ROUTER that replays what a subscriber missed.
import type { Publisher, Router } from 'zeromq';
import type { KvEventsConfig } from '../config.js';
import { hasCode, messageOf, VllmPdError } from '../errors.js';
import { createLogger } from '../log.js';
import { encodeEventBatch, type KvEvent } from './kv-events.js';

const log = createLogger('kv-events');

/** -1 in 8 bytes: behind the last batch of a replay. */
const endOfReplay = Buffer.alloc(8, 0xff);

interface Batch {
  readonly sequence: Buffer;
  readonly payload: Buffer;
}

export class KvEventPublisher {
  /** Where subscribers connect, with the port that was chosen for a `*`; what was configured when this end connects. */
  readonly endpoint: string;
  readonly replayEndpoint: string | null;
  readonly #config: KvEventsConfig;
  readonly #publisher: Publisher;
  readonly #router: Router | null;
  readonly #replaying: Promise<void>;
  /** The last batches, oldest first. */
  readonly #batches: Batch[] = [];
  readonly #queue: Batch[] = [];
  #sending: Promise<void> | null = null;
  #nextSequence = 0n;

  private constructor(config: KvEventsConfig, publisher: Publisher, router: Router | null) {
    this.#config = config;
    this.#publisher = publisher;
    this.#router = router;
    this.endpoint = publisher.lastEndpoint ?? config.endpoint;
    this.replayEndpoint = router?.lastEndpoint ?? null;
    this.#replaying = router ? this.#replay(router) : Promise.resolve();
  }

  /** Throws ADDRESS_IN_USE, INVALID_ARGUMENT for an endpoint that is none, NATIVE_UNAVAILABLE without ZeroMQ. */
  static async start(config: KvEventsConfig): Promise<KvEventPublisher> {
    const { Publisher, Router } = await loadZeroMq();
    const publisher = new Publisher({ sendHighWaterMark: config.hwm, linger: 0 });
    let router: Router | null = null;
    try {
      if (isBound(config)) await open(publisher, config.endpoint, 'endpoint');
      else connect(publisher, config.endpoint);
      if (config.replay_endpoint !== null) {
        router = new Router({ sendHighWaterMark: config.hwm, linger: 0 });
        await open(router, config.replay_endpoint, 'replay_endpoint');
      }
    } catch (error) {
      publisher.close();
      router?.close();
      throw error;
    }
    const started = new KvEventPublisher(config, publisher, router);
    log.info({ endpoint: started.endpoint, replayEndpoint: started.replayEndpoint }, 'publishing KV events');
    return started;
  }

  /** Never waits: a subscriber that does not keep up misses batches, and sees that by their numbers. */
  publish(events: readonly KvEvent[]): void {
    const { block_hashes, event_format: format, buffer_steps, max_queue_size } = this.#config;
    const sequence = Buffer.alloc(8);
    sequence.writeBigUInt64BE(this.#nextSequence);
    this.#nextSequence += 1n;
    const encoding = { format, intBlockHashes: block_hashes === 'int' };
    const batch = { sequence, payload: encodeEventBatch(Date.now() / 1000, events, encoding) };
    this.#batches.push(batch);
    // In bulk: taking out the first one of many each time would move all others.
    if (this.#batches.length > 2 * buffer_steps) this.#batches.splice(0, this.#batches.length - buffer_steps);
    if (this.#queue.length >= max_queue_size) return;
    this.#queue.push(batch);
    this.#sending ??= this.#send().finally(() => {
      this.#sending = null;
    });
  }

  /** Sends what waits, then closes both sockets. */
  async close(): Promise<void> {
    await this.#sending;
    this.#publisher.close();
    this.#router?.close();
    await this.#replaying;
  }

  async #send(): Promise<void> {
    for (let batch = this.#queue.shift(); batch; batch = this.#queue.shift()) {
      try {
        await this.#publisher.send([this.#config.topic, batch.sequence, batch.payload]);
      } catch (error) {
        log.warn({ err: messageOf(error) }, 'a batch of KV events was not sent');
      }
    }
  }

  /** A request is [client, empty, first number wanted]; each answer [client, empty, number, batch], then the end mark. */
  async #replay(router: Router): Promise<void> {
    for await (const frames of router) {
      const [client, delimiter, wanted] = frames;
      if (frames.length !== 3 || !client || delimiter?.length !== 0 || wanted?.length !== 8) {
        log.warn({ numFrames: frames.length }, 'a request for a replay that is none');
        continue;
      }
      try {
        const kept = this.#batches.slice(-this.#config.buffer_steps);
        for (const { sequence, payload } of kept) {
          if (sequence.compare(wanted) >= 0) await router.send([client, '', sequence, payload]);
        }
        await router.send([client, '', endOfReplay, '']);
      } catch (error) {
        if (!router.closed) log.warn({ err: messageOf(error) }, 'a replay broke off');
      }
    }
  }
}

async function loadZeroMq(): Promise<typeof import('zeromq')> {
  try {
    return await import('zeromq');
  } catch (cause) {
    throw new VllmPdError(
      'NATIVE_UNAVAILABLE',
      'KV events need ZeroMQ, which does not load on this machine.',
      {
        cause,
        suggestions: ['Reinstall this package, or leave out --kv-events-config.'],
      },
    );
  }
}

/** As vLLM, wildcards and local sockets are bound and all else is connected to; but loopback is bound, too. */
function isBound({ endpoint, bind }: KvEventsConfig): boolean {
  if (bind !== null) return bind;
  return (
    /^(ipc|inproc):\/\//.test(endpoint) ||
    endpoint.includes('*') ||
    endpoint.includes('::') ||
    /^tcp:\/\/(localhost|127\.\d+\.\d+\.\d+):/.test(endpoint)
  );
}

async function open(socket: Publisher | Router, endpoint: string, param: string): Promise<void> {
  try {
    await socket.bind(endpoint);
  } catch (cause) {
    const isTaken = hasCode(cause, 'EADDRINUSE');
    const message = `Cannot publish KV events on ${endpoint} (${param}): ${messageOf(cause)}.`;
    throw new VllmPdError(isTaken ? 'ADDRESS_IN_USE' : 'INVALID_ARGUMENT', message, {
      cause,
      param: 'kv-events-config',
    });
  }
}

function connect(socket: Publisher, endpoint: string): void {
  try {
    socket.connect(endpoint);
  } catch (cause) {
    const message = `Cannot send KV events to ${endpoint}: ${messageOf(cause)}.`;
    throw new VllmPdError('INVALID_ARGUMENT', message, { cause, param: 'kv-events-config' });
  }
}
