// Where a model folder keeps its exported decoder: the graph file and the weights beside it.
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { VllmPdError } from '../errors.js';

/** As Hugging Face's exports are laid out; a graph in the folder itself comes second. */
const folders = ['onnx', ''];

/** Which of several variants is taken, most exact first; others follow by name. */
const preference = ['model', 'model_fp32', 'model_fp16', 'model_quantized', 'model_int8', 'model_q4'];

export interface OnnxFiles {
  /** Absolute path of the graph. */
  readonly graph: string;
  /** Absolute paths of its external weights, such as model.onnx_data. */
  readonly external: readonly string[];
}

/** Null if the folder holds no `onnx/model*.onnx` and no `model*.onnx`. */
export async function findOnnxFiles(modelPath: string): Promise<OnnxFiles | null> {
  for (const name of folders) {
    const folder = path.join(modelPath, name);
    const names = (await readdir(folder).catch(() => [])).sort();
    const graph = names.filter((file) => /^model.*\.onnx$/.test(file)).sort(byPreference)[0];
    if (graph === undefined) continue;
    const external = names.filter((file) => file !== graph && file.startsWith(graph));
    return {
      graph: path.join(folder, graph),
      external: external.map((file) => path.join(folder, file)),
    };
  }
  return null;
}

/** Throws BAD_FILE if there is none. */
export async function requireOnnxFiles(modelPath: string): Promise<OnnxFiles> {
  const files = await findOnnxFiles(modelPath);
  if (files) return files;
  throw new VllmPdError('BAD_FILE', `${modelPath} holds no exported decoder: no onnx/model*.onnx.`, {
    suggestions: [
      'Run it with --backend cpu, which reads safetensors.',
      'Make a folder with one by `vllm-pd model create FOLDER --format onnx`.',
    ],
  });
}

/** Bytes of graph and weights together. */
export async function onnxBytes({ graph, external }: OnnxFiles): Promise<number> {
  const sizes = await Promise.all([graph, ...external].map(async (file) => (await stat(file)).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}

function byPreference(a: string, b: string): number {
  const rank = (file: string) => {
    const index = preference.indexOf(path.basename(file, '.onnx'));
    return index < 0 ? preference.length : index;
  };
  return rank(a) - rank(b) || (a < b ? -1 : 1);
}
