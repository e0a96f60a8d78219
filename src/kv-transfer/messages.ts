// What side-channel frames carry, and the checks that a peer's bytes pass before anything is done with them.
import { z } from 'zod';
import { VllmPdError } from '../errors.js';
import type { FinishedSend } from '../outputs.js';
import type { BlockHash } from '../wire.js';

/** Raised whenever a frame or the meaning of a field changes. */
export const protocolVersion = 1;

/** Most block bytes in one `blocks` frame; a single block may be larger. */
const maxChunkBytes = 4 * 2 ** 20;
/** Most blocks in one `read` frame. */
export const maxBlocksPerRead = 4096;
/** Longest JSON body. */
export const maxJsonBytes = 16 * 2 ** 10;

const hashBytes = 32;
const bytesPerBlockRef = 4 + hashBytes;
/** Longest body that an owner accepts from a reader. */
export const maxReadBodyBytes = 8 + maxBlocksPerRead * bytesPerBlockRef;

/** Blocks of `blockBytes` that one `read` frame may ask for. */
export function maxBlocksPerChunk(blockBytes: number): number {
  return Math.min(maxBlocksPerRead, Math.max(1, Math.floor(maxChunkBytes / blockBytes)));
}

/** Longest body that a reader accepts from an owner. */
export function maxBlocksBodyBytes(blockBytes: number): number {
  return Math.max(maxJsonBytes, 8 + maxBlocksPerChunk(blockBytes) * (blockBytes + 1));
}

// ---------------------------------------------------------------------------------------------- handshake, JSON

const text = z.string().min(1).max(512);
const count = z.int().min(0);

const hello = z.object({
  protocol: z.literal('vllm-pd-kv'),
  version: count,
  compatibility_hash: text,
  engine_id: text,
  /** From `kv_transfer_params`; another one answering means that the peer was restarted. */
  expected_engine_id: text,
});
export type Hello = z.infer<typeof hello>;

const welcome = z.object({
  compatibility_hash: text,
  engine_id: text,
  /** Readers with the same one can see this node's process under `/proc`. */
  host_identity: text,
  pid: count,
  pool_fd: count,
  num_blocks: z
    .int()
    .min(1)
    .max(2 ** 31),
});
export type Welcome = z.infer<typeof welcome>;

const refusal = z.object({ reason: z.string().max(2048) });

const notif = z.object({
  request_id: text,
  num_blocks: count,
  /** Bytes read one-sided since the last notification, which the owner could not see. */
  num_unseen_bytes: count,
});

export interface Notif extends FinishedSend {
  readonly seq: number;
  readonly numUnseenBytes: number;
}

function parseJson<T>(what: string, schema: z.ZodType<T>, body: Buffer): T {
  try {
    return schema.parse(JSON.parse(body.toString('utf8')));
  } catch (cause) {
    throw new VllmPdError('PEER_FAILED', `Expected ${what} but received something else.`, { cause });
  }
}

export const encodeJson = (message: Hello | Welcome | { reason: string }): Buffer =>
  Buffer.from(JSON.stringify(message));
export const decodeHello = (body: Buffer): Hello => parseJson('a hello', hello, body);
export const decodeWelcome = (body: Buffer): Welcome => parseJson('a welcome', welcome, body);
export const decodeRefusal = (body: Buffer): string => parseJson('a reason', refusal, body).reason;

// ---------------------------------------------------------------------------------------------- requests and replies

function sequenced(seq: number, rest: Buffer): Buffer {
  const head = Buffer.allocUnsafe(4);
  head.writeUInt32BE(seq, 0);
  return Buffer.concat([head, rest]);
}

export function encodeNotif({ seq, requestId, numBlocks, numUnseenBytes }: Notif): Buffer {
  const json = { request_id: requestId, num_blocks: numBlocks, num_unseen_bytes: numUnseenBytes };
  return sequenced(seq, Buffer.from(JSON.stringify(json)));
}

export function decodeNotif(body: Buffer): Notif {
  if (body.length < 4) throw new VllmPdError('PEER_FAILED', 'Expected a numbered notification.');
  const fields = parseJson('a notification', notif, body.subarray(4));
  return {
    seq: body.readUInt32BE(0),
    requestId: fields.request_id,
    numBlocks: fields.num_blocks,
    numUnseenBytes: fields.num_unseen_bytes,
  };
}

export function encodeAck(seq: number, wasHeld: boolean): Buffer {
  return sequenced(seq, Buffer.of(wasHeld ? 1 : 0));
}

/** Whether the hold that the notification ended still stood. */
export function decodeAck(body: Buffer): boolean {
  if (body.length !== 5)
    throw new VllmPdError('PEER_FAILED', `Expected an ack of 5 bytes but received ${body.length}.`);
  return body[4] === 1;
}

export interface ReadRequest {
  readonly seq: number;
  readonly blockIds: readonly number[];
  readonly hashes: readonly BlockHash[];
}

/** seq, n, then n block ids (u32), then n hashes (32 bytes). */
export function encodeRead({ seq, blockIds, hashes }: ReadRequest): Buffer {
  const body = Buffer.allocUnsafe(8 + blockIds.length * bytesPerBlockRef);
  body.writeUInt32BE(seq, 0);
  body.writeUInt32BE(blockIds.length, 4);
  for (const [i, id] of blockIds.entries()) body.writeUInt32BE(id, 8 + 4 * i);
  for (const [i, hash] of hashes.entries()) {
    body.write(hash, 8 + 4 * blockIds.length + hashBytes * i, hashBytes, 'hex');
  }
  return body;
}

/** Throws PEER_FAILED unless the ids lie in a pool of `numBlocks` and no more blocks are asked for than fit a frame. */
export function decodeRead(body: Buffer, numBlocks: number, maxBlocks: number): ReadRequest {
  const n = body.length < 8 ? 0 : body.readUInt32BE(4);
  if (n < 1 || n > maxBlocks || body.length !== 8 + n * bytesPerBlockRef) {
    throw new VllmPdError(
      'PEER_FAILED',
      `Expected a read of 1 to ${maxBlocks} blocks but received one of ${n}.`,
    );
  }
  const blockIds = Array.from({ length: n }, (_, i) => body.readUInt32BE(8 + 4 * i));
  const tooLarge = blockIds.find((id) => id >= numBlocks);
  if (tooLarge !== undefined) {
    throw new VllmPdError('PEER_FAILED', `Expected block ids below ${numBlocks} but received ${tooLarge}.`);
  }
  const hashes = Array.from({ length: n }, (_, i) => {
    const start = 8 + 4 * n + hashBytes * i;
    return body.toString('hex', start, start + hashBytes);
  });
  return { seq: body.readUInt32BE(0), blockIds, hashes };
}

/** What stands in a `blocks` body before the bytes of its valid blocks: seq, n, n validity bytes. */
export function encodeBlocksHead(seq: number, valid: Uint8Array): Buffer {
  const head = Buffer.allocUnsafe(8 + valid.length);
  head.writeUInt32BE(seq, 0);
  head.writeUInt32BE(valid.length, 4);
  head.set(valid, 8);
  return head;
}

/** Throws PEER_FAILED unless the reply is to `numBlocks` blocks and carries the bytes of the valid ones, no more, no less. */
export function decodeBlocks(
  body: Buffer,
  numBlocks: number,
  blockBytes: number,
): { readonly valid: Uint8Array; readonly data: Uint8Array } {
  const n = body.length < 8 ? 0 : body.readUInt32BE(4);
  const valid = body.subarray(8, 8 + numBlocks);
  const data = body.subarray(8 + numBlocks);
  const isFlags = valid.length === numBlocks && valid.every((flag) => flag <= 1);
  if (n !== numBlocks || !isFlags || data.length !== countValid(valid) * blockBytes) {
    throw new VllmPdError(
      'PEER_FAILED',
      `Expected ${numBlocks} blocks but received a reply of ${body.length} bytes.`,
    );
  }
  return { valid, data };
}

export function countValid(valid: Uint8Array): number {
  let numValid = 0;
  for (const flag of valid) if (flag === 1) numValid += 1;
  return numValid;
}
