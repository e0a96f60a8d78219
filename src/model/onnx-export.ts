// Writes the weights of a model folder as an ONNX decoder: onnx/model.onnx and onnx/model.onnx_data, float32.
import { type FileHandle, open, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { VllmPdError } from '../errors.js';
import type { TensorDtype, TensorLocation } from '../native/model-config.js';
import { readCheckpoint } from './checkpoint.js';
import { bfloat16ToFloat32, float16ToFloat32 } from './float16.js';
import { readModelConfig } from './model-config.js';
import { buildDecoder, encodeDecoder, outputProjection } from './onnx-decoder.js';
import { writeWholeFolder } from './whole-folder.js';

const graphName = 'model.onnx';
const externalName = `${graphName}_data`;
const embeddingName = 'model.embed_tokens.weight';

/** Node reads and writes less than 2 GiB at once. */
const maxIoBytes = 2 ** 30;

/**
 * Adds `onnx/` to a folder with safetensors. Returns false if it has one already. `onProgress` is told how much, in
 * [0, 1], is written. Throws BAD_FILE for what the native module would refuse too.
 */
export async function exportOnnx(
  modelPath: string,
  onProgress: (fraction: number) => void = () => {},
): Promise<boolean> {
  return writeWholeFolder(path.join(modelPath, 'onnx'), (folder) =>
    writeDecoder(modelPath, folder, onProgress),
  );
}

async function writeDecoder(
  modelPath: string,
  folder: string,
  onProgress: (fraction: number) => void,
): Promise<void> {
  const config = await readModelConfig(modelPath);
  const tensors = new TensorReader(await readCheckpoint(modelPath, config));
  try {
    const vectors = await tensors.readVectors();
    const graph = buildDecoder(config, { vector: (name) => vectors.get(name)! }, externalName);
    await writeFile(path.join(folder, graphName), encodeDecoder(graph));
    const data = await open(path.join(folder, externalName), 'w');
    try {
      for (const [i, { name, offset }] of graph.externalTensors.entries()) {
        const matrix = await tensors.read(
          name === outputProjection && config.tieWordEmbeddings ? embeddingName : name,
        );
        const floats = name === embeddingName ? matrix.floats : transposed(matrix);
        const bytes = new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
        await writeAll(data, bytes, offset);
        onProgress((i + 1) / graph.externalTensors.length);
      }
      await data.sync();
    } finally {
      await data.close();
    }
  } finally {
    await tensors.close();
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array, offset: number): Promise<void> {
  for (let written = 0; written < bytes.length; ) {
    const { bytesWritten } = await file.write(
      bytes,
      written,
      Math.min(maxIoBytes, bytes.length - written),
      offset + written,
    );
    written += bytesWritten;
  }
}

interface Tensor {
  readonly shape: readonly number[];
  readonly floats: Float32Array;
}

/** Tensors of a checkpoint as float32. */
class TensorReader {
  readonly #locations: ReadonlyMap<string, TensorLocation>;
  readonly #files = new Map<string, FileHandle>();

  constructor(locations: readonly TensorLocation[]) {
    this.#locations = new Map(locations.map((location) => [location.name, location]));
  }

  async readVectors(): Promise<ReadonlyMap<string, Float32Array>> {
    const vectors = new Map<string, Float32Array>();
    for (const { name, shape } of this.#locations.values()) {
      if (shape.length === 1) vectors.set(name, (await this.read(name)).floats);
    }
    return vectors;
  }

  async read(name: string): Promise<Tensor> {
    const { path: file, dtype, shape, offset, length } = this.#locations.get(name)!;
    const handle = this.#files.get(file) ?? (await open(file));
    this.#files.set(file, handle);
    const bytes = new Uint8Array(length);
    for (let read = 0; read < length; ) {
      const { bytesRead } = await handle.read(
        bytes,
        read,
        Math.min(maxIoBytes, length - read),
        offset + read,
      );
      if (bytesRead === 0) throw new VllmPdError('BAD_FILE', `${file} ends inside tensor '${name}'.`);
      read += bytesRead;
    }
    return { shape, floats: toFloat32(bytes, dtype) };
  }

  async close(): Promise<void> {
    await Promise.all([...this.#files.values()].map((file) => file.close()));
  }
}

function toFloat32({ buffer }: Uint8Array, dtype: TensorDtype): Float32Array {
  if (dtype === 'F32') return new Float32Array(buffer);
  const halves = new Uint16Array(buffer);
  return dtype === 'BF16' ? bfloat16ToFloat32(halves) : float16ToFloat32(halves);
}

/** Rows and columns are copied in squares, so that both stay in the processor's cache. */
const tile = 32;

/** (rows, columns) → (columns, rows) */
function transposed({ shape, floats }: Tensor): Float32Array {
  const [rows, columns] = shape as [number, number];
  const out = new Float32Array(floats.length);
  for (let top = 0; top < rows; top += tile) {
    for (let left = 0; left < columns; left += tile) {
      const bottom = Math.min(top + tile, rows);
      const right = Math.min(left + tile, columns);
      for (let row = top; row < bottom; row++) {
        for (let column = left; column < right; column++) {
          out[column * rows + row] = floats[row * columns + column]!;
        }
      }
    }
  }
  return out;
}
