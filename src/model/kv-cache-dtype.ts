// Which type K and V are kept as on this machine.
import type { Backend, KvCacheDtype, KvCacheDtypeChoice } from '../config.js';
import { VllmPdError } from '../errors.js';

/**
 * `defaultDtype` is what weights are on this chip if nobody says otherwise; KV follows them. Throws INVALID_ARGUMENT
 * for bfloat16 on ONNX Runtime, whose graphs keep K and V in float32, and for float32 on a GPU.
 */
export function resolveKvCacheDtype(
  choice: KvCacheDtypeChoice,
  backend: Backend,
  defaultDtype: KvCacheDtype,
): KvCacheDtype {
  if (backend === 'onnx') {
    if (choice !== 'bfloat16') return 'float32';
    throw new VllmPdError(
      'INVALID_ARGUMENT',
      'Expected --kv-cache-dtype auto or float32 with --backend onnx but received bfloat16.',
    );
  }
  if (backend === 'cuda') {
    if (choice !== 'float32') return 'bfloat16';
    throw new VllmPdError(
      'INVALID_ARGUMENT',
      'Expected --kv-cache-dtype auto or bfloat16 with --backend cuda but received float32.',
    );
  }
  return choice === 'auto' ? defaultDtype : choice;
}
