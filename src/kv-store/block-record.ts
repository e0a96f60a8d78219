// One block as it lies in a store: a header that says whose and which it is, a checksum over all of it, the bytes.
import { createHash, hash as digest } from 'node:crypto';
import type { BlockHash } from '../wire.js';
import type { ChainPosition, StoredBlock } from './kv-store.js';

//    0   8  'VPDKV001'
//    8  32  block hash
//   40  32  namespace
//   72   4  bytes of payload, little endian
//   76   4  index of the block in its chain
//   80  16  SHA-256 of the chain's name, cut: conversations are told apart, not named
//   96  32  SHA-256 of header (0 … 96) and payload
//  128      payload
const magic = 'VPDKV001';
const checksumAt = 96;

export const recordHeaderBytes = 128;

/** 32 hex digits that stand for a conversation. */
export function chainIdOf(chain: string): string {
  return digest('sha256', chain, 'hex').slice(0, 32);
}

/** `namespace`: 64 hex digits. */
export function encodeRecord(block: StoredBlock, namespace: string): Buffer {
  const record = Buffer.allocUnsafe(recordHeaderBytes + block.data.length);
  record.write(magic, 0, 'latin1');
  record.write(block.hash, 8, 'hex');
  record.write(namespace, 40, 'hex');
  record.writeUInt32LE(block.data.length, 72);
  record.writeUInt32LE(block.index, 76);
  record.write(chainIdOf(block.chain), 80, 'hex');
  record.set(block.data, recordHeaderBytes);
  checksum(record).copy(record, checksumAt);
  return record;
}

/** The payload; null unless the record is whole and is what was asked for. */
export function decodeRecord(
  record: Buffer,
  expected: { readonly hash: BlockHash; readonly namespace: string; readonly blockBytes: number },
): Uint8Array | null {
  const isExpected =
    record.length === recordHeaderBytes + expected.blockBytes &&
    record.toString('latin1', 0, 8) === magic &&
    record.toString('hex', 8, 40) === expected.hash &&
    record.toString('hex', 40, 72) === expected.namespace &&
    record.readUInt32LE(72) === expected.blockBytes;
  if (!isExpected || !checksum(record).equals(record.subarray(checksumAt, recordHeaderBytes))) return null;
  return record.subarray(recordHeaderBytes);
}

/** The chain that a record's header names, by its id; null when this is no header. Nothing is verified. */
export function decodeChain(header: Buffer): ChainPosition | null {
  if (header.length < recordHeaderBytes || header.toString('latin1', 0, 8) !== magic) return null;
  return { chain: header.toString('hex', 80, 96), index: header.readUInt32LE(76) };
}

function checksum(record: Buffer): Buffer {
  return createHash('sha256')
    .update(record.subarray(0, checksumAt))
    .update(record.subarray(recordHeaderBytes))
    .digest();
}
