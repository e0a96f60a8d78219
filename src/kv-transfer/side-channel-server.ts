// The owner's end of the side channel: answers handshakes, opens data connections, and takes notifications.
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { hasCode, messageOf, VllmPdError } from '../errors.js';
import type { Logger } from '../log.js';
import type { DataServer } from '../native/data-channel.js';
import type { HoldTable } from '../native/hold-table.js';
import type { KvPool } from '../native/kv-pool.js';
import { loadNative } from '../native.js';
import type { FinishedSend } from '../outputs.js';
import { sealBytes } from './frame-seal.js';
import { encodeFrame, type Frame, FrameDecoder, type FrameType } from './frames.js';
import { Greeting, type Seals } from './greeting.js';
import {
  type DataAddress,
  decodeNotif,
  decodeOpen,
  encodeAck,
  encodeJson,
  encodeOpened,
  maxJsonBytes,
  type Welcome,
} from './messages.js';

/** A connection that has not said hello by then is closed. */
const helloTimeoutMs = 5000;
const maxConnections = 1024;
/** Before the JSON of frames behind the handshake. */
const numberBytes = 4;

/** One reader's connection. */
interface Session {
  /** Null until the reader is known. */
  seals: Seals | null;
  /** Of its data connections; null until it asks for them. */
  id: number | null;
}

export interface SideChannelServerOptions {
  readonly pool: KvPool;
  /** What readers may read over tcp. */
  readonly holds: HoldTable;
  readonly identity: Welcome;
  readonly logger: Logger;
  /** What readers must know; null = none was given. */
  readonly key: string | null;
}

export class SideChannelServer {
  readonly #pool: KvPool;
  readonly #holds: HoldTable;
  readonly #identity: Welcome;
  readonly #logger: Logger;
  readonly #key: string | null;
  readonly #server: Server;
  readonly #connections = new Map<Socket, Promise<void>>();
  #listener: (notif: FinishedSend) => boolean = () => false;
  /** Read one-sided, as readers told. */
  #bytesRead = 0;
  #host = '';
  #data: DataServer | null = null;

  constructor({ pool, holds, identity, logger, key }: SideChannelServerOptions) {
    this.#pool = pool;
    this.#holds = holds;
    this.#identity = identity;
    this.#logger = logger;
    this.#key = key;
    this.#server = createServer({ noDelay: true }, (socket) => this.#accept(socket));
    this.#server.maxConnections = maxConnections;
  }

  /** Resolves to the port. Rejects with ADDRESS_IN_USE, or INVALID_ARGUMENT when the host is not this machine's. */
  async listen(host: string, port: number): Promise<number> {
    this.#host = host;
    try {
      this.#server.listen(port, host);
      await once(this.#server, 'listening');
    } catch (cause) {
      if (hasCode(cause, 'EADDRINUSE')) {
        throw new VllmPdError(
          'ADDRESS_IN_USE',
          `The KV side channel cannot use ${host}:${port}, it is taken.`,
          {
            cause,
            suggestions: ['Choose another side channel port, or 0 for any free one.'],
          },
        );
      }
      throw new VllmPdError(
        'INVALID_ARGUMENT',
        `The KV side channel cannot listen on ${host}:${port}: ${messageOf(cause)}.`,
        { cause },
      );
    }
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : port;
  }

  onNotif(listener: (notif: FinishedSend) => boolean): void {
    this.#listener = listener;
  }

  get bytesSent(): number {
    return this.#bytesRead + (this.#data?.bytesSent ?? 0);
  }

  async close(): Promise<void> {
    const closed = this.#server.listening ? once(this.#server, 'close') : null;
    this.#server.close();
    for (const socket of this.#connections.keys()) socket.destroy();
    await Promise.all(this.#connections.values());
    await closed;
    this.#data?.close();
  }

  #accept(socket: Socket): void {
    const session: Session = { seals: null, id: null };
    const done = this.#serve(socket, session)
      .catch((error) => this.#logger.info(`Side channel connection closed: ${messageOf(error)}`))
      .finally(() => {
        socket.destroy();
        if (session.id !== null) this.#data?.closeSession(session.id);
        this.#connections.delete(socket);
      });
    this.#connections.set(socket, done);
  }

  /** One connection, from hello to end. Throwing closes this connection and no other. */
  async #serve(socket: Socket, session: Session): Promise<void> {
    const decoder = new FrameDecoder(maxJsonBytes);
    const greeting = new Greeting(this.#identity, this.#key);
    // From the first byte to the last: one that sends a byte now and then does not stay either.
    const tooLate = setTimeout(() => socket.destroy(), helloTimeoutMs);
    socket.once('close', () => clearTimeout(tooLate));
    for await (const chunk of socket) {
      for (const frame of decoder.push(chunk as Buffer)) {
        if (session.seals) {
          this.#answer(socket, session, session.seals, frame);
        } else {
          const step = greeting.next(frame);
          if (step.kind === 'refuses') {
            const { reason } = step;
            await ended(socket, encodeFrame('refuse', encodeJson({ reason })));
            throw new VllmPdError('PEER_FAILED', reason);
          }
          socket.write(step.answer);
          if (step.kind === 'welcomes') {
            session.seals = step.seals;
            decoder.maxBodyBytes = maxJsonBytes + numberBytes + sealBytes;
            clearTimeout(tooLate);
          }
        }
        if (socket.writableNeedDrain) await drained(socket);
      }
    }
  }

  #answer(socket: Socket, session: Session, { sent, received, readKey }: Seals, frame: Frame): void {
    const { type, body } = received.open(frame);
    const reply = (replyType: FrameType, replyBody: Buffer) => socket.write(sent.seal(replyType, replyBody));
    if (type === 'open') {
      const seq = decodeOpen(body);
      reply('opened', encodeOpened(seq, this.#openSession(session, readKey)));
    } else if (type === 'notif') {
      const { seq, requestId, numBlocks, numUnseenBytes } = decodeNotif(body);
      this.#bytesRead += numUnseenBytes;
      const wasHeld = this.#listener({ requestId, numBlocks });
      reply('ack', encodeAck(seq, wasHeld));
    } else {
      throw new VllmPdError('PEER_FAILED', `Expected a notification but received ${type}.`);
    }
  }

  /** The listener is made for the first peer that wants it: where pools are mapped, nobody needs it. */
  #openSession(session: Session, readKey: Buffer): DataAddress {
    if (session.id !== null) throw new VllmPdError('PEER_FAILED', 'Expected one session a connection.');
    this.#data ??= loadNative().createDataServer(this.#pool, this.#holds, this.#host);
    const { id, secret } = this.#data.openSession(readKey);
    session.id = id;
    return { port: this.#data.port, secret };
  }
}

function ended(socket: Socket, lastFrame: Buffer): Promise<void> {
  return new Promise((resolve) => {
    socket.once('close', resolve);
    socket.end(lastFrame, resolve);
  });
}

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      socket.off('drain', done);
      socket.off('close', done);
      resolve();
    };
    socket.once('drain', done);
    socket.once('close', done);
  });
}
