// The reader's end of the side channel: one connection to one owner, requests matched to replies by number.
import { connect, type Socket } from 'node:net';
import { messageOf, VllmPdError } from '../errors.js';
import { isSameProof, proofOf } from './authentication.js';
import { FrameSeal, sealBytes, sealKey } from './frame-seal.js';
import { encodeFrame, type Frame, FrameDecoder, type FrameType } from './frames.js';
import type { Seals } from './greeting.js';
import { mismatchOf } from './handshake.js';
import {
  decodeChallenge,
  decodeRefusal,
  decodeWelcome,
  encodeJson,
  type Hello,
  type Welcome,
} from './messages.js';

/** Read from the socket at once. */
const receiveBufferBytes = 256 * 1024;

export interface PeerConnectionOptions {
  readonly address: { readonly host: string; readonly port: number };
  readonly hello: Hello;
  /** The key that both ends must know; null = none was given. */
  readonly key: string | null;
  /** Longest reply that is accepted, in bytes, unsealed. */
  readonly maxBodyBytes: number;
  /** Of connecting and the handshake together. */
  readonly timeoutMs: number;
  /** Aborting it ends the connection, whatever its state. */
  readonly signal: AbortSignal;
}

interface Waiting {
  readonly replyType: FrameType;
  readonly resolve: (body: Buffer) => void;
  readonly reject: (error: Error) => void;
}

export class PeerConnection {
  /** Resolves when the connection has ended, from whichever side. */
  readonly closed: Promise<void>;
  readonly #hello: Hello;
  readonly #key: string | null;
  readonly #name: string;
  readonly #socket: Socket;
  readonly #decoder: FrameDecoder;
  readonly #waiting = new Map<number, Waiting>();
  /** Null until the owner has proven that it knows the key. */
  #seals: Seals | null = null;
  #welcome: Welcome | null = null;
  #onWelcome: () => void = () => {};
  #failure: Error | null = null;
  #nextSeq = 1;

  private constructor({ address, hello, key, maxBodyBytes }: PeerConnectionOptions) {
    this.#hello = hello;
    this.#key = key;
    this.#name = `${hello.expected_engine_id} at ${address.host}:${address.port}`;
    this.#decoder = new FrameDecoder(maxBodyBytes + sealBytes);
    this.#socket = connect({
      host: address.host,
      port: address.port,
      noDelay: true,
      // Into one buffer again and again: a fresh one for every read would keep the garbage collector busy.
      onread: {
        buffer: Buffer.allocUnsafeSlow(receiveBufferBytes),
        callback: (numBytes, buffer) => {
          this.#digest(Buffer.from(buffer.buffer, buffer.byteOffset, numBytes));
          return true;
        },
      },
    });
    this.#socket.once('connect', () => this.#socket.write(encodeFrame('hello', encodeJson(hello))));
    this.#socket.on('error', (error) => {
      this.#failure = error;
    });
    this.closed = new Promise((resolve) => {
      this.#socket.once('close', () => resolve());
    });
  }

  /** Rejects with PEER_FAILED when the peer cannot be reached, refuses, or is not the one expected. */
  static async open(options: PeerConnectionOptions): Promise<PeerConnection> {
    const connection = new PeerConnection(options);
    const abort = () => connection.destroy();
    options.signal.addEventListener('abort', abort, { once: true });
    const { timeoutMs } = options;
    const timer = setTimeout(() => {
      connection.#socket.destroy(new Error(`no answer to the handshake within ${timeoutMs} ms`));
    }, timeoutMs);
    void connection.closed.then(() => {
      options.signal.removeEventListener('abort', abort);
      for (const { reject } of connection.#waiting.values()) reject(connection.#lost());
      connection.#waiting.clear();
    });
    const welcomed = new Promise<void>((resolve) => {
      connection.#onWelcome = resolve;
    });
    await Promise.race([welcomed, connection.closed]);
    clearTimeout(timer);
    if (connection.isClosed) throw connection.#lost();
    return connection;
  }

  /** Seals what is asked for on data connections. */
  get readKey(): Buffer {
    return this.#seals!.readKey;
  }

  /** What the owner said of itself. */
  get welcome(): Welcome {
    return this.#welcome!;
  }

  get isClosed(): boolean {
    return this.#socket.destroyed;
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /** Sends what `encode` makes of a fresh number; resolves to the reply's body. Rejects when the connection ends. */
  request(type: FrameType, encode: (seq: number) => Buffer, replyType: FrameType): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const seq = this.#post(type, encode);
      this.#waiting.set(seq, { replyType, resolve, reject });
    });
  }

  /** Sends what `encode` makes of a fresh number, which is returned. Throws when the connection has ended. */
  #post(type: FrameType, encode: (seq: number) => Buffer): number {
    if (this.isClosed) throw this.#lost();
    const seq = this.#nextSeq;
    this.#nextSeq = seq === 0xffff_ffff ? 1 : seq + 1;
    this.#socket.write(this.#seals!.sent.seal(type, encode(seq)));
    return seq;
  }

  #digest(chunk: Buffer): void {
    try {
      for (const frame of this.#decoder.push(chunk)) {
        if (this.#welcome) this.#settle(this.#seals!.received.open(frame));
        else this.#enter(frame);
      }
    } catch (error) {
      this.#socket.destroy(error instanceof Error ? error : new Error(messageOf(error)));
    }
  }

  #enter(frame: Frame): void {
    if (frame.type === 'refuse') throw new VllmPdError('PEER_FAILED', decodeRefusal(frame.body));
    const expected = this.#seals ? 'welcome' : 'challenge';
    if (frame.type !== expected) {
      throw new VllmPdError('PEER_FAILED', `expected a ${expected} but received ${frame.type}`);
    }
    if (!this.#seals) {
      this.#prove(frame.body);
      return;
    }
    const welcome = decodeWelcome(this.#seals.received.open(frame).body);
    const mismatch = mismatchOf(welcome, this.#hello);
    if (mismatch !== null) throw new VllmPdError('PEER_FAILED', mismatch);
    this.#welcome = welcome;
    this.#onWelcome();
  }

  /** The owner proves first that it knows the key: who does not, gets nothing that it could pass on. */
  #prove(body: Buffer): void {
    const { nonce, proof } = decodeChallenge(body);
    const exchange = { hello: encodeJson(this.#hello), ownerNonce: nonce };
    if (!isSameProof(proof, proofOf('owner', this.#key, exchange))) {
      throw new VllmPdError('PEER_FAILED', 'The KV transfer keys of the two nodes differ.');
    }
    this.#seals = {
      sent: new FrameSeal('reader', this.#key, exchange),
      received: new FrameSeal('owner', this.#key, exchange),
      readKey: sealKey('reads', this.#key, exchange),
    };
    const answer = { proof: proofOf('reader', this.#key, exchange) };
    this.#socket.write(encodeFrame('proof', encodeJson(answer)));
  }

  #settle({ type, body }: Frame): void {
    const seq = body.length < 4 ? 0 : body.readUInt32BE(0);
    const waiting = this.#waiting.get(seq);
    if (waiting?.replyType !== type) {
      throw new VllmPdError('PEER_FAILED', `expected a reply but received ${type} number ${seq}`);
    }
    this.#waiting.delete(seq);
    waiting.resolve(body);
  }

  #lost(): VllmPdError {
    const why = this.#failure ? messageOf(this.#failure) : 'the connection was closed';
    return new VllmPdError('PEER_FAILED', `Peer ${this.#name}: ${why}`, {
      cause: this.#failure ?? undefined,
    });
  }
}
