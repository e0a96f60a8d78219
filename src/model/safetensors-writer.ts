// Writes a safetensors file as a stream: it appears under its name only when it is complete.
import { open, rename, rm } from 'node:fs/promises';
import { numElements, type TensorSpec } from './model-tensors.js';
import { bytesPerElement } from './safetensors.js';

export interface TensorSource extends TensorSpec {
  readonly dtype: string;
  /** The tensor's bytes in order, little-endian, in pieces of any size. */
  readonly chunks: () => Iterable<Uint8Array>;
}

/** `onProgress` is told the bytes written so far, header included. */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorSource[],
  onProgress: (numBytes: number) => void = () => {},
): Promise<void> {
  const temporary = `${path}.tmp-${process.pid}`;
  const file = await open(temporary, 'w');
  try {
    const header = headerOf(tensors);
    await file.writeFile(header);
    let written = header.length;
    for (const tensor of tensors) {
      for (const chunk of tensor.chunks()) {
        await file.writeFile(chunk);
        written += chunk.length;
        onProgress(written);
      }
    }
    await file.sync();
    await file.close();
    await rename(temporary, path);
  } catch (error) {
    await file.close().catch(() => {});
    await rm(temporary, { force: true });
    throw error;
  }
}

export function tensorBytes(tensor: { readonly dtype: string; readonly shape: readonly number[] }): number {
  return numElements(tensor.shape) * bytesPerElement[tensor.dtype]!;
}

/** Length prefix and JSON, padded with spaces so that the data begin at a multiple of 8 bytes. */
function headerOf(tensors: readonly TensorSource[]): Buffer {
  let offset = 0;
  const entries = tensors.map((tensor) => {
    const begin = offset;
    offset += tensorBytes(tensor);
    return [tensor.name, { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [begin, offset] }];
  });
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const length = Math.ceil(json.length / 8) * 8;
  const header = Buffer.alloc(8 + length, ' ');
  header.writeBigUInt64LE(BigInt(length));
  json.copy(header, 8);
  return header;
}
