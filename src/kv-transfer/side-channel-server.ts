// The owner's end of the side channel: answers handshakes and reads, and takes notifications.
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { hasCode, messageOf, VllmPdError } from '../errors.js';
import type { Logger } from '../log.js';
import type { DataServer } from '../native/data-channel.js';
import type { KvPool } from '../native/kv-pool.js';
import { loadNative } from '../native.js';
import type { FinishedSend } from '../outputs.js';
import type { HeldBlocks } from './agent.js';
import { sealBytes } from './frame-seal.js';
import { encodeFrame, type Frame, FrameDecoder, type FrameType } from './frames.js';
import { Greeting, type Seals } from './greeting.js';
import {
  type DataAddress,
  decodeNotif,
  decodeOpen,
  decodeRead,
  encodeAck,
  encodeJson,
  encodeOpened,
  maxBlocksPerChunk,
  maxJsonBytes,
  maxReadBodyBytes,
  type Welcome,
} from './messages.js';

/** A connection that has not said hello by then is closed. */
const helloTimeoutMs = 5000;
const maxConnections = 1024;
const noHash = '0'.repeat(64);

/** One reader's connection. */
interface Session {
  /** Null until the reader is known. */
  seals: Seals | null;
  /** Of its data connections; null until it asks for them. */
  id: number | null;
}

export interface SideChannelServerOptions {
  readonly pool: KvPool;
  readonly identity: Welcome;
  readonly logger: Logger;
  /** What readers must know; null = none was given. */
  readonly key: string | null;
}

export class SideChannelServer {
  readonly #pool: KvPool;
  readonly #identity: Welcome;
  readonly #logger: Logger;
  readonly #key: string | null;
  readonly #server: Server;
  readonly #connections = new Map<Socket, Promise<void>>();
  #listener: (notif: FinishedSend) => boolean = () => false;
  #heldBlocks: HeldBlocks = () => null;
  /** Read one-sided, as readers told. */
  #bytesRead = 0;
  #host = '';
  #data: DataServer | null = null;

  constructor({ pool, identity, logger, key }: SideChannelServerOptions) {
    this.#pool = pool;
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

  guardReads(heldBlocks: HeldBlocks): void {
    this.#heldBlocks = heldBlocks;
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
            decoder.maxBodyBytes = maxReadBodyBytes + sealBytes;
            clearTimeout(tooLate);
          }
        }
        if (socket.writableNeedDrain) await drained(socket);
      }
    }
  }

  #answer(socket: Socket, session: Session, { sent, received }: Seals, frame: Frame): void {
    const { type, body } = received.open(frame);
    const reply = (replyType: FrameType, replyBody: Buffer) => socket.write(sent.seal(replyType, replyBody));
    if (type === 'read') {
      this.#serveRead(session, body);
    } else if (type === 'open') {
      const seq = decodeOpen(body);
      reply('opened', encodeOpened(seq, this.#openSession(session)));
    } else if (type === 'notif') {
      const { seq, requestId, numBlocks, numUnseenBytes } = decodeNotif(body);
      this.#bytesRead += numUnseenBytes;
      const wasHeld = this.#listener({ requestId, numBlocks });
      reply('ack', encodeAck(seq, wasHeld));
    } else {
      throw new VllmPdError('PEER_FAILED', `Expected a read or a notification but received ${type}.`);
    }
  }

  /** Which blocks may be read is decided here; their bytes go from the pool to the data connection natively. */
  #serveRead(session: Session, body: Buffer): void {
    const { layout, blockBytes } = this.#pool;
    const request = decodeRead(body, layout.numBlocks, maxBlocksPerChunk(blockBytes));
    const { seq, numLanes, blockIds, hashes } = request;
    const held = this.#heldBlocks(request.requestId);
    const isHeld = blockIds.every((id) => held?.has(id));
    // No block is ever published under a hash of zeros, so the reply says that none is what was asked for.
    const expected = isHeld ? hashes : hashes.map(() => noHash);
    if (
      !this.#data ||
      session.id === null ||
      !this.#data.send(session.id, numLanes, seq, blockIds, expected)
    ) {
      throw new VllmPdError('PEER_FAILED', `Expected ${numLanes} data connections that can take a reply.`);
    }
  }

  /** The listener is made for the first peer that wants it: where pools are mapped, nobody needs it. */
  #openSession(session: Session): DataAddress {
    if (session.id !== null) throw new VllmPdError('PEER_FAILED', 'Expected one session a connection.');
    this.#data ??= loadNative().createDataServer(this.#pool, this.#host);
    const { id, secret } = this.#data.openSession();
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
