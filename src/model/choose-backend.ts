// Which backend `auto` is on this machine.
import path from 'node:path';
import type { Backend } from '../config.js';
import type { EngineOptions } from '../engine-options.js';
import { VllmPdError } from '../errors.js';
import { loadNative } from '../native.js';
import { hasCheckpoint } from './checkpoint.js';
import { architectureNames } from './default-model.js';
import { listOnnxFiles } from './onnx-files.js';

type Choice = Pick<EngineOptions, 'backend' | 'dtype' | 'kvCacheDtype' | 'quantization'>;

/**
 * `cuda` where a GPU answers and nothing was asked for that only the CPU has. Throws NOT_SUPPORTED where `cuda` was
 * asked for and cannot be had.
 */
export function chooseBackend({ backend = 'auto', dtype, kvCacheDtype, quantization }: Choice): Backend {
  if (backend !== 'auto' && backend !== 'cuda') return backend;
  const { whyNot } = loadNative().cudaFacts();
  if (backend === 'cuda') {
    if (whyNot === '') return 'cuda';
    throw new VllmPdError('NOT_SUPPORTED', `Backend cuda cannot be used. ${whyNot}`, {
      param: 'backend',
      suggestions: [
        'See what works on this machine: vllm-pd info.',
        'Run the model on the CPU: --backend cpu.',
      ],
    });
  }
  // A GPU keeps KV as its weights are, or in fp8.
  const onlyCpu =
    dtype === 'float32' ||
    quantization === 'int8' ||
    kvCacheDtype === 'float32' ||
    (kvCacheDtype === 'bfloat16' && dtype === 'float16');
  return whyNot === '' && !onlyCpu ? 'cuda' : 'cpu';
}

/**
 * As `chooseBackend`, for a model by its name or folder: `auto` is `onnx` where a graph was named, and where a folder
 * has exported graphs and no safetensors.
 */
export async function chooseBackendFor(
  model: string,
  choice: Choice & Pick<EngineOptions, 'onnxFile'>,
): Promise<Backend> {
  if ((choice.backend ?? 'auto') !== 'auto') return chooseBackend(choice);
  if (choice.onnxFile !== undefined) return 'onnx';
  if (architectureNames.some((name) => name === model)) return chooseBackend(choice);
  const folder = path.resolve(model);
  const isExportOnly = !(await hasCheckpoint(folder)) && (await listOnnxFiles(folder)).length > 0;
  return isExportOnly ? 'onnx' : chooseBackend(choice);
}
