// What this machine has, which backends and ways to transfer KV work on it, and why others do not: for `vllm-pd info`.
import { readFileSync } from 'node:fs';
import os from 'node:os';
import { type HostInfo, hostInfo } from '../bench/host.js';
import type { Backend } from '../config.js';
import { messageOf } from '../errors.js';
import { importOnnxRuntime } from '../model/onnx-runtime.js';
import type { CudaFacts } from '../native/facts.js';
import { loadNative, type Native } from '../native.js';
import { packageVersion } from '../version.js';

/** Something that works, or a whole sentence that says why it does not. */
export interface Availability {
  readonly works: boolean;
  readonly why_not: string | null;
  /** What it would run on; null where there is nothing to add. */
  readonly detail: string | null;
}

export interface MachineReport {
  readonly version: string;
  readonly machine: HostInfo & {
    readonly memory_available_bytes: number;
    /** What the processor has of what matters to kernels, as the kernel names it. */
    readonly cpu_features: readonly string[];
    /** `always`, `madvise` or `never`; null where it cannot be read. Weights ask for huge pages. */
    readonly transparent_huge_pages: string | null;
  };
  readonly native: {
    readonly loads: boolean;
    readonly why_not: string | null;
    /** The instruction set whose kernels were chosen. */
    readonly isa: string | null;
    readonly compiler: string | null;
    readonly nvcc: string | null;
    readonly fatbin_bytes: number;
  };
  readonly cuda: {
    readonly driver_version: string | null;
    readonly devices: readonly {
      readonly name: string;
      readonly capability: string;
      readonly multiprocessors: number;
      readonly memory_bytes: number;
    }[];
    readonly cublaslt: Availability;
  };
  readonly backends: Readonly<Record<Backend, Availability>>;
  readonly kv_agents: Readonly<Record<'shm' | 'tcp', Availability>>;
}

const features = new Set(
  'avx2 fma f16c avx512f avx512bw avx512vl avx512dq avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_bf16 amx_int8 asimd sve sve2 bf16 i8mm'.split(
    ' ',
  ),
);

export async function machineReport(): Promise<MachineReport> {
  const native = attempt(loadNative);
  const cuda = native.value?.cudaFacts();
  return {
    version: packageVersion(),
    machine: {
      ...hostInfo(),
      memory_available_bytes: availableBytes(),
      cpu_features: cpuFeatures(),
      transparent_huge_pages: transparentHugePages(),
    },
    native: {
      loads: native.value !== undefined,
      why_not: native.whyNot,
      isa: native.value?.isa ?? null,
      compiler: native.value?.build.compiler ?? null,
      nvcc: native.value?.build.nvcc ?? null,
      fatbin_bytes: cuda?.fatbinBytes ?? 0,
    },
    cuda: cudaReport(cuda, native.whyNot),
    backends: {
      cpu: native.value
        ? working(`${native.value.isa} kernels on ${os.availableParallelism()} cores`)
        : failing(native.whyNot),
      onnx: await onnxAvailability(native.whyNot),
      cuda: cudaAvailability(cuda, native.whyNot),
    },
    kv_agents: { shm: shmAvailability(native.value, native.whyNot), tcp: working(null) },
  };
}

function working(detail: string | null): Availability {
  return { works: true, why_not: null, detail };
}

function failing(whyNot: string | null): Availability {
  return { works: false, why_not: whyNot, detail: null };
}

function attempt<T>(work: () => T): { readonly value: T | undefined; readonly whyNot: string | null } {
  try {
    return { value: work(), whyNot: null };
  } catch (error) {
    return { value: undefined, whyNot: messageOf(error) };
  }
}

function cudaReport(facts: CudaFacts | undefined, whyNoModule: string | null): MachineReport['cuda'] {
  const version = facts?.driverVersion ?? 0;
  return {
    driver_version: version > 0 ? `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}` : null,
    devices: (facts?.devices ?? []).map((device) => ({
      name: device.name,
      capability: device.capability,
      multiprocessors: device.numMultiprocessors,
      memory_bytes: device.memoryBytes,
    })),
    cublaslt: facts?.whyNoCublasLt === '' ? working(null) : failing(facts?.whyNoCublasLt ?? whyNoModule),
  };
}

function cudaAvailability(facts: CudaFacts | undefined, whyNoModule: string | null): Availability {
  if (!facts) return failing(whyNoModule);
  if (facts.whyNot !== '') return failing(facts.whyNot);
  return working(facts.devices[0]?.name ?? null);
}

async function onnxAvailability(whyNoModule: string | null): Promise<Availability> {
  // Pools are the native module's, whatever runs the model.
  if (whyNoModule !== null) return failing(whyNoModule);
  try {
    const { env } = await importOnnxRuntime();
    return working(`ONNX Runtime ${env.versions.node ?? env.versions.common}`);
  } catch (error) {
    return failing(`ONNX Runtime does not load: ${messageOf(error)}`);
  }
}

/** Makes a pool of one block and maps it as a peer would. */
function shmAvailability(native: Native | undefined, whyNoModule: string | null): Availability {
  if (!native) return failing(whyNoModule);
  const layout = {
    numBlocks: 1,
    numLayers: 1,
    numKvHeads: 1,
    blockSize: 1,
    headDim: 8,
    dtype: 'float32',
  } as const;
  const { value, whyNot } = attempt(() => {
    const pool = native.createPool(layout);
    try {
      native.openPeerPool(process.pid, pool.fd, layout).close();
      return true;
    } finally {
      pool.close();
    }
  });
  return value ? working('memfds can be mapped through /proc') : failing(whyNot);
}

function readText(file: string): string {
  return attempt(() => readFileSync(file, 'utf8')).value ?? '';
}

/** What the kernel thinks could be had without swapping; free memory where it does not say. */
function availableBytes(): number {
  const kib = /^MemAvailable:\s+(\d+) kB$/m.exec(readText('/proc/meminfo'))?.[1];
  return kib === undefined ? os.freemem() : Number(kib) * 1024;
}

function cpuFeatures(): readonly string[] {
  const line = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(readText('/proc/cpuinfo'))?.[1] ?? '';
  return line.split(' ').filter((name) => features.has(name));
}

function transparentHugePages(): string | null {
  return /\[(\w+)\]/.exec(readText('/sys/kernel/mm/transparent_hugepage/enabled'))?.[1] ?? null;
}
