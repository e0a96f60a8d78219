// A read's body by hand, for owners and readers made by hand; what nodes say and take is native/data_request.cc.
import type { BlockHash } from '../../src/wire.js';

export interface ReadRequest {
  readonly seq: number;
  readonly numLanes: number;
  readonly requestId: string;
  readonly blockIds: readonly number[];
  readonly hashes: readonly BlockHash[];
}

export function encodeRead({ seq, numLanes, requestId, blockIds, hashes }: ReadRequest): Buffer {
  const numbers = [seq, blockIds.length, Buffer.byteLength(requestId), numLanes, ...blockIds];
  const head = Buffer.alloc(4 * numbers.length);
  for (const [i, number] of numbers.entries()) head.writeUInt32BE(number, 4 * i);
  return Buffer.concat([head, Buffer.from(hashes.join(''), 'hex'), Buffer.from(requestId)]);
}

export function decodeRead(body: Buffer): ReadRequest {
  const n = body.readUInt32BE(4);
  const hashesStart = 16 + 4 * n;
  const idStart = hashesStart + 32 * n;
  const each = <T>(get: (i: number) => T) => Array.from({ length: n }, (_, i) => get(i));
  return {
    seq: body.readUInt32BE(0),
    numLanes: body.readUInt32BE(12),
    requestId: body.toString('utf8', idStart, idStart + body.readUInt32BE(8)),
    blockIds: each((i) => body.readUInt32BE(16 + 4 * i)),
    hashes: each((i) => body.toString('hex', hashesStart + 32 * i, hashesStart + 32 * (i + 1))),
  };
}
