// The owner's end of the side channel: answers handshakes and reads, and takes notifications.
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { hasCode, messageOf, VllmPdError } from '../errors.js';
import type { Logger } from '../log.js';
import type { KvPool } from '../native.js';
import type { FinishedSend } from '../outputs.js';
import { encodeFrame, type Frame, FrameDecoder, frameHeader } from './frames.js';
import { refusalOf } from './handshake.js';
import {
  countValid,
  decodeHello,
  decodeNotif,
  decodeRead,
  encodeAck,
  encodeBlocksHead,
  encodeJson,
  maxBlocksPerChunk,
  maxJsonBytes,
  maxReadBodyBytes,
  type Welcome,
} from './messages.js';

/** A connection that has not said hello by then is closed. */
const helloTimeoutMs = 5000;
const maxConnections = 1024;

export interface SideChannelServerOptions {
  readonly pool: KvPool;
  readonly identity: Welcome;
  readonly logger: Logger;
}

export class SideChannelServer {
  readonly #pool: KvPool;
  readonly #identity: Welcome;
  readonly #logger: Logger;
  readonly #server: Server;
  readonly #connections = new Map<Socket, Promise<void>>();
  #listener: (notif: FinishedSend) => boolean = () => false;
  #bytesSent = 0;

  constructor({ pool, identity, logger }: SideChannelServerOptions) {
    this.#pool = pool;
    this.#identity = identity;
    this.#logger = logger;
    this.#server = createServer({ noDelay: true }, (socket) => this.#accept(socket));
    this.#server.maxConnections = maxConnections;
  }

  /** Resolves to the port. Rejects with ADDRESS_IN_USE, or INVALID_ARGUMENT when the host is not this machine's. */
  async listen(host: string, port: number): Promise<number> {
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
    return this.#bytesSent;
  }

  async close(): Promise<void> {
    const closed = this.#server.listening ? once(this.#server, 'close') : null;
    this.#server.close();
    for (const socket of this.#connections.keys()) socket.destroy();
    await Promise.all(this.#connections.values());
    await closed;
  }

  #accept(socket: Socket): void {
    const done = this.#serve(socket)
      .catch((error) => this.#logger.info(`Side channel connection closed: ${messageOf(error)}`))
      .finally(() => {
        socket.destroy();
        this.#connections.delete(socket);
      });
    this.#connections.set(socket, done);
  }

  /** One connection, from hello to end. Throwing closes this connection and no other. */
  async #serve(socket: Socket): Promise<void> {
    const decoder = new FrameDecoder(maxJsonBytes);
    let isKnown = false;
    socket.setTimeout(helloTimeoutMs, () => socket.destroy());
    for await (const chunk of socket) {
      for (const frame of decoder.push(chunk as Buffer)) {
        if (isKnown) {
          this.#answer(socket, frame);
        } else {
          const reason = this.#greet(socket, frame);
          if (reason !== null) {
            await ended(socket, encodeFrame('refuse', encodeJson({ reason })));
            throw new VllmPdError('PEER_FAILED', reason);
          }
          isKnown = true;
          socket.setTimeout(0);
          decoder.maxBodyBytes = maxReadBodyBytes;
        }
        if (socket.writableNeedDrain) await drained(socket);
      }
    }
  }

  /** Null when the reader is welcome, else why it was refused. */
  #greet(socket: Socket, { type, body }: Frame): string | null {
    if (type !== 'hello') return `Expected a hello but received ${type}.`;
    const reason = refusalOf(decodeHello(body), this.#identity);
    if (reason === null) socket.write(encodeFrame('welcome', encodeJson(this.#identity)));
    return reason;
  }

  #answer(socket: Socket, { type, body }: Frame): void {
    if (type === 'read') {
      this.#serveRead(socket, body);
    } else if (type === 'notif') {
      const { seq, requestId, numBlocks, numUnseenBytes } = decodeNotif(body);
      this.#bytesSent += numUnseenBytes;
      const wasHeld = this.#listener({ requestId, numBlocks });
      socket.write(encodeFrame('ack', encodeAck(seq, wasHeld)));
    } else {
      throw new VllmPdError('PEER_FAILED', `Expected a read or a notification but received ${type}.`);
    }
  }

  #serveRead(socket: Socket, body: Buffer): void {
    const { layout, blockBytes } = this.#pool;
    const { seq, blockIds, hashes } = decodeRead(body, layout.numBlocks, maxBlocksPerChunk(blockBytes));
    const { data, valid } = this.#pool.copyOut(blockIds, hashes);
    const head = encodeBlocksHead(seq, valid);
    const numDataBytes = countValid(valid) * blockBytes;
    socket.cork();
    socket.write(frameHeader('blocks', head.length + numDataBytes));
    socket.write(head);
    if (numDataBytes === data.length) {
      socket.write(data);
    } else {
      for (const [i, flag] of valid.entries()) {
        if (flag === 1) socket.write(data.subarray(i * blockBytes, (i + 1) * blockBytes));
      }
    }
    socket.uncork();
    this.#bytesSent += numDataBytes;
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
