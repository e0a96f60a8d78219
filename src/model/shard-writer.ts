// Writes a checkpoint as published ones come: one safetensors file, or shards of a bounded size with an index.
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type TensorSource, tensorBytes, writeSafetensors } from './safetensors-writer.js';

export interface ShardOptions {
  /** A larger tensor gets a file of its own. */
  readonly maxShardBytes: number;
  /** Told how much of all bytes, in [0, 1], is written. */
  readonly onProgress?: (fraction: number) => void;
}

/** The files' names, the index included. One chunk of one tensor is in memory at a time. */
export async function writeShards(
  folder: string,
  tensors: readonly TensorSource[],
  { maxShardBytes, onProgress = () => {} }: ShardOptions,
): Promise<string[]> {
  const shards = cut(tensors, maxShardBytes);
  const total = totalBytes(tensors);
  const names = shards.map((_, i) => shardName(i, shards.length));
  let before = 0;
  for (const [i, shard] of shards.entries()) {
    await writeSafetensors(path.join(folder, names[i]!), shard, (written) =>
      onProgress(Math.min(1, (before + written) / total)),
    );
    before += totalBytes(shard);
  }
  if (shards.length === 1) return names;
  const weightMap = shards.flatMap((shard, i) => shard.map(({ name }) => [name, names[i]!] as const));
  const index = { metadata: { total_size: total }, weight_map: Object.fromEntries(weightMap) };
  const indexName = 'model.safetensors.index.json';
  await writeFile(path.join(folder, indexName), `${JSON.stringify(index, null, 1)}\n`);
  return [...names, indexName];
}

function cut(tensors: readonly TensorSource[], maxShardBytes: number): TensorSource[][] {
  const shards: TensorSource[][] = [[]];
  let numBytes = 0;
  for (const tensor of tensors) {
    const size = tensorBytes(tensor);
    if (numBytes > 0 && numBytes + size > maxShardBytes) {
      shards.push([]);
      numBytes = 0;
    }
    shards.at(-1)!.push(tensor);
    numBytes += size;
  }
  return shards;
}

function totalBytes(tensors: readonly TensorSource[]): number {
  return tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
}

function shardName(index: number, count: number): string {
  if (count === 1) return 'model.safetensors';
  const padded = (number: number) => String(number).padStart(5, '0');
  return `model-${padded(index + 1)}-of-${padded(count)}.safetensors`;
}
