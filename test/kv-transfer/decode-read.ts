// A read as an owner takes it, for owners made by hand; a real one's is native/data_request.cc.
import type { ReadRequest } from '../../src/kv-transfer/messages.js';

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
