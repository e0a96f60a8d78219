// What vLLM's KV events say, and how they look on the wire: MessagePack of `vllm/distributed/kv_events.py`.
import type { KvEventFormat } from '../config.js';
import type { BlockHash } from '../wire.js';
import { MsgpackWriter } from './msgpack-writer.js';

export interface BlockStored {
  readonly type: 'BlockStored';
  /** One behind the other in one sequence. */
  readonly blockHashes: readonly BlockHash[];
  /** Null = they begin the sequence. */
  readonly parentBlockHash: BlockHash | null;
  /** Of all these blocks. */
  readonly tokenIds: readonly number[];
  readonly blockSize: number;
  /** What beside the tokens went into the hash of each block; null = nothing. */
  readonly extraKeys: readonly (readonly string[] | null)[];
}

export interface BlockRemoved {
  readonly type: 'BlockRemoved';
  readonly blockHashes: readonly BlockHash[];
}

export interface AllBlocksCleared {
  readonly type: 'AllBlocksCleared';
}

export type KvEvent = BlockStored | BlockRemoved | AllBlocksCleared;

export interface KvEventEncoding {
  /** `map`: events as maps with their `type` (vLLM since June 2026). `array`: fields by place, the tag first (before). */
  readonly format: KvEventFormat;
  /** True: the low 64 bits of a block hash as an integer, vLLM's default; false: its 32 bytes. */
  readonly intBlockHashes: boolean;
}

/** The pool that blocks are computed in, whatever its memory is made of. */
const medium = 'GPU';

type WriteValue = (writer: MsgpackWriter) => void;
type Field = readonly [name: string, write: WriteValue];

/** An `EventBatch`: [seconds since 1970, events, data-parallel rank]. */
export function encodeEventBatch(
  timestampSeconds: number,
  events: readonly KvEvent[],
  encoding: KvEventEncoding,
): Buffer {
  const writer = new MsgpackWriter();
  writer.array(3).float64(timestampSeconds).array(events.length);
  for (const event of events) writeEvent(writer, event, encoding);
  return writer.int(0).finish();
}

function writeEvent(
  writer: MsgpackWriter,
  event: KvEvent,
  { format, intBlockHashes }: KvEventEncoding,
): void {
  const fields = fieldsOf(event, intBlockHashes ? writeIntHash : writeRawHash);
  if (format === 'map') {
    writer
      .map(fields.length + 1)
      .str('type')
      .str(event.type);
    for (const [name, write] of fields) write(writer.str(name));
  } else {
    writer.array(fields.length + 1).str(event.type);
    for (const [, write] of fields) write(writer);
  }
}

/** In vLLM's order: by place, an array knows no other. */
function fieldsOf(event: KvEvent, writeHash: (writer: MsgpackWriter, hash: BlockHash) => void): Field[] {
  const nil: WriteValue = (writer) => writer.nil();
  const listOf =
    <Item>(items: readonly Item[], write: (writer: MsgpackWriter, item: Item) => void): WriteValue =>
    (writer) => {
      writer.array(items.length);
      for (const item of items) write(writer, item);
    };
  switch (event.type) {
    case 'AllBlocksCleared':
      return [];
    case 'BlockRemoved':
      return [
        ['block_hashes', listOf(event.blockHashes, writeHash)],
        ['medium', (writer) => writer.str(medium)],
        ['group_idx', (writer) => writer.int(0)],
      ];
    case 'BlockStored': {
      const { parentBlockHash: parent } = event;
      return [
        ['block_hashes', listOf(event.blockHashes, writeHash)],
        ['parent_block_hash', parent === null ? nil : (writer) => writeHash(writer, parent)],
        ['token_ids', listOf(event.tokenIds, (writer, tokenId) => writer.int(tokenId))],
        ['block_size', (writer) => writer.int(event.blockSize)],
        ['lora_id', nil],
        ['medium', (writer) => writer.str(medium)],
        ['lora_name', nil],
        ['extra_keys', listOf(event.extraKeys, writeExtraKeys)],
        ['group_idx', (writer) => writer.int(0)],
        ['kv_cache_spec_kind', (writer) => writer.str('full_attention')],
      ];
    }
  }
}

function writeExtraKeys(writer: MsgpackWriter, keys: readonly string[] | null): void {
  if (keys === null) {
    writer.nil();
    return;
  }
  writer.array(keys.length);
  for (const key of keys) writer.str(key);
}

/** The low 64 bits of the big-endian number that the hash is. */
function writeIntHash(writer: MsgpackWriter, hash: BlockHash): void {
  writer.int(BigInt(`0x${hash.slice(-16)}`));
}

function writeRawHash(writer: MsgpackWriter, hash: BlockHash): void {
  writer.bin(Buffer.from(hash, 'hex'));
}
