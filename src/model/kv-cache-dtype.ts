// Which type K and V are kept as on this machine.
import type { Backend, Dtype, KvCacheDtype, KvCacheDtypeChoice } from '../config.js';
import { VllmPdError } from '../errors.js';
import { loadNative } from '../native.js';

/**
 * KV follows `weights`: on a GPU what they are, elsewhere what they are on this chip if nobody says otherwise. Throws
 * INVALID_ARGUMENT for what the backend does not keep KV as, NOT_SUPPORTED for fp8 on a GPU that does not have it.
 */
export function resolveKvCacheDtype(
  choice: KvCacheDtypeChoice,
  backend: Backend,
  weights: Dtype,
): KvCacheDtype {
  const kept = keptAs(backend, weights);
  if (choice === 'auto') return kept[0]!;
  if (!kept.includes(choice)) {
    throw new VllmPdError(
      'INVALID_ARGUMENT',
      `Expected --kv-cache-dtype ${['auto', ...kept].join(', ')} with --backend ${backend}${
        backend === 'cuda' ? ` and weights in ${weights}` : ''
      } but received ${choice}.`,
      { param: 'kv-cache-dtype' },
    );
  }
  if (choice === 'fp8') checkFp8();
  return choice;
}

/** The default first. ONNX Runtime's graphs keep K and V in float32. */
function keptAs(backend: Backend, weights: Dtype): readonly KvCacheDtype[] {
  if (backend === 'onnx') return ['float32'];
  if (backend === 'cuda') return [weights, 'fp8'];
  return weights === 'bfloat16' ? ['bfloat16', 'float32'] : ['float32', 'bfloat16'];
}

/** fp8 is for chips that have it. */
function checkFp8(): void {
  const [device] = loadNative().cudaFacts().devices;
  if (device && Number(device.capability) >= 8.9) return;
  throw new VllmPdError(
    'NOT_SUPPORTED',
    `Expected a GPU of compute capability 8.9 or above for --kv-cache-dtype fp8 but ${device?.name} has ${device?.capability}.`,
    { param: 'kv-cache-dtype', suggestions: ['Leave --kv-cache-dtype at auto.'] },
  );
}
