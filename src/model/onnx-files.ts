// Where a model folder keeps its exported decoder: the graph file and the weights beside it.
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { VllmPdError } from '../errors.js';

/** As Hugging Face's exports are laid out; a graph in the folder itself comes second. */
const folders = ['onnx', ''];

/** Which of several variants is taken, most exact first; others follow by name. */
const preference = [
  'model',
  'model_fp32',
  'model_fp16',
  'model_int8',
  'model_quantized',
  'model_uint8',
  'model_q8f16',
  'model_q4',
  'model_q4f16',
  'model_bnb4',
];

export interface OnnxFiles {
  /** Absolute path of the graph. */
  readonly graph: string;
  /** Absolute paths of its external weights, such as model.onnx_data. */
  readonly external: readonly string[];
}

/** Every `onnx/model*.onnx`, else every `model*.onnx` of the folder itself, most exact first. */
export async function listOnnxFiles(modelPath: string): Promise<OnnxFiles[]> {
  for (const name of folders) {
    const folder = path.join(modelPath, name);
    const names = (await readdir(folder).catch(() => [])).sort();
    const graphs = names.filter((file) => /^model.*\.onnx$/.test(file)).sort(byPreference);
    if (graphs.length === 0) continue;
    return graphs.map((graph) => ({
      graph: path.join(folder, graph),
      external: names
        .filter((file) => file !== graph && file.startsWith(graph))
        .map((file) => path.join(folder, file)),
    }));
  }
  return [];
}

/** `wanted`: a file's name, or what stands behind `model_`; null = the most exact one. Throws BAD_FILE if there is none. */
export async function requireOnnxFiles(modelPath: string, wanted: string | null = null): Promise<OnnxFiles> {
  const files = await listOnnxFiles(modelPath);
  const names = files.map(({ graph }) => path.basename(graph));
  const chosen = wanted === null ? 0 : names.findIndex((name) => isCalled(name, wanted));
  const found = files[chosen];
  if (found) return found;
  if (files.length > 0) {
    const message = `${modelPath} holds no exported decoder '${wanted}': expected one of ${names.join(', ')}.`;
    throw new VllmPdError('NOT_FOUND', message, { param: 'onnx-file' });
  }
  throw new VllmPdError('BAD_FILE', `${modelPath} holds no exported decoder: no onnx/model*.onnx.`, {
    suggestions: [
      'Run it with --backend cpu, which reads safetensors.',
      'Make a folder with one by `vllm-pd model create FOLDER --format onnx`.',
    ],
  });
}

function isCalled(file: string, wanted: string): boolean {
  const name = path.basename(wanted, '.onnx');
  return [`${name}.onnx`, `model_${name}.onnx`].includes(file);
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
