// The emulated CUDA driver for tests: kernels and all on host memory, in place of a device's driver.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const file = fileURLToPath(new URL('../../../build/libcuda_emulated.so', import.meta.url));

/**
 * Sets VLLM_PD_LIBCUDA for this process and those that it starts; to be called before anything looks for a device.
 * False, with a line that says so, where the emulated driver is not built. A driver that was named already stays.
 */
export function useEmulatedDevice(): boolean {
  if (process.env.VLLM_PD_LIBCUDA) return true;
  if (!existsSync(file)) {
    console.log('skipped: build/libcuda_emulated.so, the emulated CUDA driver, is not built');
    return false;
  }
  process.env.VLLM_PD_LIBCUDA = file;
  return true;
}
