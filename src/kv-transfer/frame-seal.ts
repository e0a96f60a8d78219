// What both ends put behind every frame once they know each other: nobody else can change, drop, repeat or reorder one.
// Frames on data connections are sealed and opened natively (native/data_request.cc).
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { VllmPdError } from '../errors.js';
import { loadNative } from '../native.js';
import { type Exchange, openKey } from './authentication.js';
import { encodeFrame, type Frame, type FrameType } from './frames.js';

/** HMAC-SHA256, cut to so many bytes. */
export const sealBytes = 16;

/** `reads`: what the reader asks for on its data connections. */
export type Sender = 'owner' | 'reader' | 'reads';

/** Of one direction alone. `key` null = none was given: what is damaged is noticed all the same, what is forged is not. */
export function sealKey(from: Sender, key: string | null, { hello, ownerNonce }: Exchange): Buffer {
  return createHmac('sha256', key ?? openKey)
    .update(`vllm-pd-kv frames of the ${from} ${ownerNonce} `)
    .update(createHash('sha256').update(hello).digest())
    .digest();
}

/** One direction of one connection; both ends count its frames. */
export class FrameSeal {
  readonly #key: Buffer;
  #numFrames = 0n;

  constructor(from: Sender, key: string | null, exchange: Exchange) {
    this.#key = sealKey(from, key, exchange);
  }

  /** The direction's next frame. */
  seal(type: FrameType, body: Buffer): Buffer {
    return encodeFrame(type, Buffer.concat([body, this.#next(type, body)]));
  }

  /** The frame without its seal. Throws PEER_FAILED unless it is the direction's next one, as it was sent. */
  open({ type, body: sealed }: Frame): Frame {
    const body = sealed.subarray(0, Math.max(0, sealed.length - sealBytes));
    const seal = sealed.subarray(body.length);
    if (seal.length !== sealBytes || !timingSafeEqual(seal, this.#next(type, body))) {
      throw new VllmPdError('PEER_FAILED', `Expected a ${type} as it was sent but received another one.`);
    }
    return { type, body };
  }

  #next(type: FrameType, body: Buffer): Buffer {
    this.#numFrames += 1n;
    const message = Buffer.concat([Buffer.from(`${this.#numFrames} ${type} `), body]);
    // Node's own takes ten times as long when it has not been used for a while, which is when reads come.
    return loadNative().hmacSha256(this.#key, message).subarray(0, sealBytes);
  }
}
