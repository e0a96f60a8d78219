// Frames on the side channel: a length, a type, a body. The decoder is where hostile lengths stop.
import { VllmPdError } from '../errors.js';

const frameTypes = {
  /** Reader → owner, JSON: who I am, whom I expect. The first frame of a connection. */
  hello: 1,
  /** Owner → reader, JSON: who I am, where my pool is. */
  welcome: 2,
  /** Owner → reader, JSON: why not; the owner closes behind it. */
  refuse: 3,
  /** Reader → owner: block ids and the hashes expected in them; asked for and answered on data connections, natively. */
  read: 4,
  /** Reader → owner, JSON behind the sequence number: done with what you hold for me. */
  notif: 6,
  /** Owner → reader: the notification was delivered; was the hold still there? */
  ack: 7,
  /** Reader → owner: I want to open data connections. */
  open: 8,
  /** Owner → reader, JSON behind the sequence number: where, and the secret that each begins with. */
  opened: 9,
  /** Owner → reader, JSON: prove that you know the key, as I do here. */
  challenge: 16,
  /** Reader → owner, JSON: the proof. */
  proof: 17,
} as const;

export type FrameType = keyof typeof frameTypes;

export interface Frame {
  readonly type: FrameType;
  readonly body: Buffer;
}

/**
 * Length (of type and body, 4 bytes, big endian) and type, whose top bit makes the number of ones even: a flipped bit in a
 * length is noticed at once, instead of when bytes that never come are missed.
 */
const headerBytes = 5;
const parityBit = 0x80;

const typeNames = new Map<number, FrameType>(
  Object.entries(frameTypes).map(([name, code]) => [code, name as FrameType]),
);

/** The header of a frame whose body of `numBodyBytes` is written behind it. */
export function frameHeader(type: FrameType, numBodyBytes: number): Buffer {
  const header = Buffer.allocUnsafe(headerBytes);
  header.writeUInt32BE(numBodyBytes + 1, 0);
  header.writeUInt8(frameTypes[type], 4);
  if (!isEven(header)) header[4]! |= parityBit;
  return header;
}

export function encodeFrame(type: FrameType, body: Buffer): Buffer {
  return Buffer.concat([frameHeader(type, body.length), body]);
}

/** Turns a byte stream into frames; holds at most one incomplete frame. */
export class FrameDecoder {
  /** Longest body that is accepted, in bytes; may be raised once the peer is known. */
  maxBodyBytes: number;
  readonly #header = Buffer.alloc(headerBytes);
  #numHeaderBytes = 0;
  /** The frame that is coming in, and how much of its body is there. */
  #frame: Frame | null = null;
  #numBodyBytes = 0;

  constructor(maxBodyBytes: number) {
    this.maxBodyBytes = maxBodyBytes;
  }

  /**
   * Yields what `chunk` completes; its bytes are copied, so the caller may use it again. Throws PEER_FAILED on a length
   * or type that cannot be; the stream is lost then.
   */
  *push(chunk: Buffer): Generator<Frame> {
    for (let at = 0; at < chunk.length; ) {
      if (!this.#frame) {
        const numBytes = chunk.copy(this.#header, this.#numHeaderBytes, at);
        at += numBytes;
        this.#numHeaderBytes += numBytes;
        if (this.#numHeaderBytes < headerBytes) return;
        this.#frame = this.#begin();
      }
      const { body } = this.#frame;
      const numBytes = chunk.copy(body, this.#numBodyBytes, at);
      at += numBytes;
      this.#numBodyBytes += numBytes;
      if (this.#numBodyBytes < body.length) return;
      const frame = this.#frame;
      this.#frame = null;
      this.#numHeaderBytes = 0;
      this.#numBodyBytes = 0;
      yield frame;
    }
  }

  /** The frame of the header that is there, with room for its body. */
  #begin(): Frame {
    const numBodyBytes = this.#header.readUInt32BE(0) - 1;
    const code = this.#header.readUInt8(4) & ~parityBit;
    const type = isEven(this.#header) ? typeNames.get(code) : undefined;
    if (type === undefined || numBodyBytes < 0 || numBodyBytes > this.maxBodyBytes) {
      throw new VllmPdError(
        'PEER_FAILED',
        `Expected a frame of at most ${this.maxBodyBytes} bytes but received type ${code} with ${numBodyBytes} bytes.`,
      );
    }
    return { type, body: Buffer.allocUnsafe(numBodyBytes) };
  }
}

/** Whether an even number of bits is set. */
function isEven(bytes: Buffer): boolean {
  let folded = 0;
  for (const byte of bytes) folded ^= byte;
  folded ^= folded >> 4;
  folded ^= folded >> 2;
  folded ^= folded >> 1;
  return (folded & 1) === 0;
}
