// Writes into another process's KV pool from outside, as broken hardware or a broken owner would.
import { closeSync, openSync, readdirSync, readlinkSync, readSync, writeSync } from 'node:fs';

const pageBytes = 4096;
const rowBytes = 64;

/** See native/kv_cache.h: header page (magic 8, version 8, layout 6 × int64), table of rows, blocks. */
export class PoolTampering {
  readonly #fd: number;
  readonly #blocksOffset: number;
  readonly #blockBytes: number;

  constructor(pid: number) {
    const folder = `/proc/${pid}/fd`;
    const name = readdirSync(folder).find((fd) => readlinkSync(`${folder}/${fd}`).startsWith('/memfd:'));
    if (!name) throw new Error(`process ${pid} has no memfd`);
    this.#fd = openSync(`${folder}/${name}`, 'r+');
    const header = Buffer.alloc(pageBytes);
    readSync(this.#fd, header, 0, pageBytes, 0);
    const [numBlocks, numLayers, numKvHeads, blockSize, headDim, dtype] = [16, 24, 32, 40, 48, 56].map((at) =>
      Number(header.readBigInt64LE(at)),
    ) as [number, number, number, number, number, number];
    this.#blockBytes = numLayers * 2 * numKvHeads * blockSize * headDim * (dtype === 1 ? 2 : 4);
    this.#blocksOffset = pageBytes + Math.ceil((numBlocks * rowBytes) / pageBytes) * pageBytes;
  }

  readBlock(blockId: number): Buffer {
    const bytes = Buffer.alloc(this.#blockBytes);
    readSync(this.#fd, bytes, 0, bytes.length, this.#blockAt(blockId));
    return bytes;
  }

  /** Changes what the block holds and leaves its row as it is. */
  writeBlock(blockId: number, bytes: Buffer): void {
    writeSync(this.#fd, bytes, 0, bytes.length, this.#blockAt(blockId));
  }

  /** Does to the row what its owner does before it writes the block again: an odd generation. */
  retractRow(blockId: number): void {
    const generation = Buffer.alloc(8);
    const at = pageBytes + blockId * rowBytes;
    readSync(this.#fd, generation, 0, 8, at);
    generation.writeBigUInt64LE(generation.readBigUInt64LE() | 1n);
    writeSync(this.#fd, generation, 0, 8, at);
  }

  close(): void {
    closeSync(this.#fd);
  }

  #blockAt(blockId: number): number {
    return this.#blocksOffset + blockId * this.#blockBytes;
  }
}
