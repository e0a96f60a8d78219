// Checks what is about to cross into the native module, and brings it into the form in which it crosses.
import { isAbsolute } from 'node:path';
import { type KvCacheDtype, kvElementBytes } from '../config.js';
import { VllmPdError } from '../errors.js';
import type { KvPoolLayout } from './kv-pool-layout.js';
import type { CudaModelOptions, NativeModelConfig, NativeWeights, TensorLocation } from './model-config.js';

const maxInt32 = 2 ** 31 - 1;
const hashBytes = 32;
/** Bytes of one block: JavaScript sees blocks as views, and Node ends the process on an external one beyond 4 GiB. */
const maxBlockBytes = 2 ** 31;

function show(value: unknown): string {
  return typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? typeof value);
}

function invalid(message: string): VllmPdError {
  return new VllmPdError('INVALID_ARGUMENT', message);
}

export function wholeNumber(name: string, value: unknown, min: number, max: number = maxInt32): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value;
  const range = max === maxInt32 ? `of at least ${min}` : `from ${min} to ${max}`;
  throw invalid(`Expected a whole number ${range} for ${name} but received ${show(value)}.`);
}

function positiveNumber(name: string, value: unknown): void {
  if (typeof value === 'number' && Number.isFinite(value) && value > 0) return;
  throw invalid(`Expected a positive number for ${name} but received ${show(value)}.`);
}

/** In the order of KvDtype in native/kv_cache.h. */
const kvDtypes: readonly KvCacheDtype[] = ['float32', 'bfloat16', 'float16', 'fp8'];

/** The number under which the native module knows it. */
export function kvDtypeNumber(dtype: unknown): number {
  const number = (kvDtypes as readonly unknown[]).indexOf(dtype);
  if (number >= 0) return number;
  throw invalid(`Expected one of ${kvDtypes.join(', ')} for dtype but received ${show(dtype)}.`);
}

export function blockBytesOf({ numLayers, numKvHeads, blockSize, headDim, dtype }: KvPoolLayout): number {
  return numLayers * 2 * numKvHeads * blockSize * headDim * kvElementBytes[dtype];
}

/** The layout's six numbers, in the order in which they are declared. */
export function checkLayout(layout: KvPoolLayout): readonly number[] {
  const numbers = (['numBlocks', 'numLayers', 'numKvHeads', 'blockSize', 'headDim'] as const).map((name) =>
    wholeNumber(name, layout?.[name], 1),
  );
  const dtype = kvDtypeNumber(layout.dtype);
  const blockBytes = blockBytesOf(layout);
  if (blockBytes > maxBlockBytes || blockBytes * numbers[0]! > Number.MAX_SAFE_INTEGER) {
    throw invalid(
      `Expected blocks of at most ${maxBlockBytes} bytes but ${show(layout)} asks for blocks of ${blockBytes}.`,
    );
  }
  return [...numbers, dtype];
}

function checkLength(name: string, length: number, expected: number | undefined): void {
  if (expected === undefined || length === expected) return;
  throw invalid(`Expected ${expected} elements in ${name} but received ${length}.`);
}

export function toBlockIds(
  name: string,
  blockIds: readonly number[],
  numBlocks: number,
  length?: number,
): Int32Array {
  if (!Array.isArray(blockIds))
    throw invalid(`Expected an array for ${name} but received ${show(blockIds)}.`);
  checkLength(name, blockIds.length, length);
  const ids = new Int32Array(blockIds.length);
  for (let i = 0; i < ids.length; i += 1) {
    const id = blockIds[i]!;
    // The name of a good one is not put together: a read has thousands of them.
    ids[i] = id >>> 0 === id && id < numBlocks ? id : wholeNumber(`${name}[${i}]`, id, 0, numBlocks - 1);
  }
  return ids;
}

/** 32 bytes a hash, one after the other. */
export function toHashBytes(hashes: readonly string[], length?: number): Uint8Array {
  if (!Array.isArray(hashes)) throw invalid(`Expected an array for hashes but received ${show(hashes)}.`);
  checkLength('hashes', hashes.length, length);
  for (const hash of hashes) if (!hasHashLength(hash)) throw notHash(hash);
  // Copied before the call returns, so memory of Node's pool will do, which costs a third.
  const bytes = Buffer.allocUnsafe(hashes.length * hashBytes);
  // All at once: a read has thousands of them, and each call into the runtime costs more than what it converts.
  if (bytes.write(hashes.join(''), 'hex') !== bytes.length)
    throw notHash(hashes.find((hash) => !isHash(hash)));
  return bytes;
}

function hasHashLength(hash: unknown): boolean {
  return typeof hash === 'string' && hash.length === 2 * hashBytes;
}

/** Decoding ends at the first character that is no hex digit. */
function isHash(hash: string): boolean {
  return hasHashLength(hash) && Buffer.from(hash, 'hex').length === hashBytes;
}

function notHash(hash: unknown): VllmPdError {
  return invalid(`Expected a hash of 64 hex digits but received ${show(hash)}.`);
}

export function checkByteLength(name: string, data: Uint8Array, expected: number): void {
  if (!(data instanceof Uint8Array))
    throw invalid(`Expected a Uint8Array for ${name} but received ${typeof data}.`);
  if (data.length !== expected) {
    throw invalid(`Expected ${expected} bytes in ${name} but received ${data.length}.`);
  }
}

export function checkModelConfig(config: NativeModelConfig): void {
  const sizes = [
    'vocabSize',
    'hiddenSize',
    'intermediateSize',
    'numLayers',
    'numHeads',
    'numKvHeads',
    'headDim',
  ] as const;
  for (const name of sizes) wholeNumber(name, config[name], 1, 2 ** 24);
  const { outputBias = false, mlpBias = false } = config;
  const flags = { qkNorm: config.qkNorm, attentionBias: config.attentionBias, outputBias, mlpBias };
  for (const [name, value] of Object.entries({ ...flags, tieWordEmbeddings: config.tieWordEmbeddings })) {
    if (typeof value === 'boolean') continue;
    throw invalid(`Expected true or false for ${name} but received ${show(value)}.`);
  }
  positiveNumber('rmsNormEps', config.rmsNormEps);
  positiveNumber('ropeAttentionScaling', config.ropeAttentionScaling);
  checkSlidingWindows(config);
  if (config.numHeads % config.numKvHeads !== 0) {
    throw invalid(
      `Expected numHeads to be a multiple of numKvHeads but received ${config.numHeads} and ${config.numKvHeads}.`,
    );
  }
  if (config.headDim % 2 !== 0) {
    throw invalid(`Expected an even number for headDim but received ${config.headDim}.`);
  }
  const { invFreq } = config;
  if (!(invFreq instanceof Float32Array) || invFreq.length < 1 || invFreq.length > config.headDim / 2) {
    throw invalid(
      `Expected a Float32Array of 1 to ${config.headDim / 2} elements for invFreq but received ${invFreq?.length ?? 'none'}.`,
    );
  }
  for (const layer of config.noRopeLayers ?? []) {
    wholeNumber('a layer of noRopeLayers', layer, 0, config.numLayers - 1);
  }
}

function checkSlidingWindows({ slidingWindows, numLayers }: NativeModelConfig): void {
  if (slidingWindows === undefined) return;
  if (!Array.isArray(slidingWindows)) {
    throw invalid(`Expected an array for slidingWindows but received ${show(slidingWindows)}.`);
  }
  checkLength('slidingWindows', slidingWindows.length, numLayers);
  for (const window of slidingWindows) wholeNumber('an element of slidingWindows', window, 0);
}

export function checkTensors(tensors: readonly TensorLocation[]): void {
  if (!Array.isArray(tensors)) throw invalid(`Expected an array for tensors but received ${show(tensors)}.`);
  for (const { name, path, dtype, shape, offset, length } of tensors) {
    if (typeof name !== 'string' || typeof path !== 'string' || path.includes('\0')) {
      throw invalid(`Expected a name and a path of a tensor but received ${show(name)} and ${show(path)}.`);
    }
    if (!['F32', 'BF16', 'F16'].includes(dtype)) {
      throw invalid(`Expected F32, BF16 or F16 for the dtype of ${name} but received ${show(dtype)}.`);
    }
    if (!Array.isArray(shape))
      throw invalid(`Expected an array for the shape of ${name} but received ${show(shape)}.`);
    for (const size of shape) wholeNumber(`a dimension of ${name}`, size, 0);
    wholeNumber(`the offset of ${name}`, offset, 0, Number.MAX_SAFE_INTEGER);
    wholeNumber(`the length of ${name}`, length, 0, Number.MAX_SAFE_INTEGER);
  }
}

export function checkCudaOptions(options: CudaModelOptions): void {
  if (options.dtype !== 'bfloat16' && options.dtype !== 'float16') {
    throw invalid(`Expected bfloat16 or float16 for dtype but received ${show(options.dtype)}.`);
  }
  kvDtypeNumber(options.kvDtype);
  for (const id of options.suppressTokenIds ?? []) wholeNumber('a suppressed token', id, 0);
  if (typeof options.batchInvariant !== 'boolean') {
    throw invalid(`Expected true or false for batchInvariant but received ${show(options.batchInvariant)}.`);
  }
  for (const name of ['maxTokens', 'maxRequests', 'maxPositions'] as const) {
    wholeNumber(name, options[name], 1);
  }
}

export function checkWeights({ dtype, quantization, cache }: NativeWeights): void {
  if (dtype !== 'float32' && dtype !== 'bfloat16') {
    throw invalid(`Expected float32 or bfloat16 for dtype but received ${show(dtype)}.`);
  }
  if (quantization !== 'int8' && quantization !== null) {
    throw invalid(`Expected int8 or null for quantization but received ${show(quantization)}.`);
  }
  if (cache === undefined) return;
  if (typeof cache.key !== 'string' || cache.key.length > 180) {
    throw invalid(`Expected at most 180 characters for cache.key but received ${show(cache.key)}.`);
  }
  for (const file of cache.paths) {
    if (typeof file === 'string' && isAbsolute(file) && !file.includes('\0')) continue;
    throw invalid(`Expected absolute paths for cache.paths but received ${show(file)}.`);
  }
}
