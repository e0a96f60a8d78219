// What side-channel frames carry, and the checks that a peer's bytes pass before anything is done with them.
import { z } from 'zod';
import { VllmPdError } from '../errors.js';
import type { FinishedSend } from '../outputs.js';

/** Raised whenever a frame or the meaning of a field changes. */
export const protocolVersion = 6;

/** Most block bytes that one `read` frame asks for; a single block may be larger. */
const maxChunkBytes = 16 * 2 ** 20;
/** Most blocks in one `read` frame. */
export const maxBlocksPerRead = 4096;
/** Longest JSON body. */
export const maxJsonBytes = 16 * 2 ** 10;

/** Blocks of `blockBytes` that one `read` frame may ask for. */
export function maxBlocksPerChunk(blockBytes: number): number {
  return Math.min(maxBlocksPerRead, Math.max(1, Math.floor(maxChunkBytes / blockBytes)));
}

// ---------------------------------------------------------------------------------------------- handshake, JSON

const text = z.string().min(1).max(512);
const count = z.int().min(0);

const hexBytes = z.string().regex(/^[0-9a-f]{64}$/);

const anyHello = z.object({ protocol: z.literal('vllm-pd-kv'), version: count });

const hello = anyHello.extend({
  /** The reader's part of what both proofs are made over. */
  nonce: hexBytes,
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

const challenge = z.object({ nonce: hexBytes, proof: hexBytes });
export type Challenge = z.infer<typeof challenge>;

const proof = z.object({ proof: hexBytes });

const opened = z.object({ port: z.int().min(1).max(65_535), secret: hexBytes });

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

export const encodeJson = (
  message: Hello | Welcome | Challenge | { proof: string } | { reason: string },
): Buffer => Buffer.from(JSON.stringify(message));
export const decodeVersion = (body: Buffer): number => parseJson('a hello', anyHello, body).version;
export const decodeHello = (body: Buffer): Hello => parseJson('a hello', hello, body);
export const decodeWelcome = (body: Buffer): Welcome => parseJson('a welcome', welcome, body);
export const decodeChallenge = (body: Buffer): Challenge => parseJson('a challenge', challenge, body);
export const decodeProof = (body: Buffer): string => parseJson('a proof', proof, body).proof;
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

export function encodeOpen(seq: number): Buffer {
  return sequenced(seq, Buffer.alloc(0));
}

export function decodeOpen(body: Buffer): number {
  if (body.length !== 4)
    throw new VllmPdError('PEER_FAILED', `Expected a number but received ${body.length} bytes.`);
  return body.readUInt32BE(0);
}

/** Where data connections are opened, and the secret (64 hex digits) that each begins with. */
export interface DataAddress {
  readonly port: number;
  readonly secret: string;
}

export function encodeOpened(seq: number, { port, secret }: DataAddress): Buffer {
  return sequenced(seq, Buffer.from(JSON.stringify({ port, secret })));
}

/** Of a body whose number has been looked at. */
export const decodeOpened = (body: Buffer): DataAddress => parseJson('a port', opened, body.subarray(4));

export function countValid(valid: Uint8Array): number {
  let numValid = 0;
  for (const flag of valid) if (flag === 1) numValid += 1;
  return numValid;
}
