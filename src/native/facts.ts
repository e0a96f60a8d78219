// What the native module says about this build and this machine.

/** What this process could use of CUDA. */
export interface CudaFacts {
  /** 13000 is CUDA 13.0; 0 without a driver. */
  readonly driverVersion: number;
  readonly devices: readonly {
    readonly name: string;
    /** Compute capability, e.g. `9.0`. */
    readonly capability: string;
    readonly numMultiprocessors: number;
    readonly memoryBytes: number;
  }[];
  /** Size of the kernels in the module; 0 where it was built without nvcc. */
  readonly fatbinBytes: number;
  /** A whole sentence, or empty where a device can be used. */
  readonly whyNot: string;
  /** Likewise for cuBLASLt. */
  readonly whyNoCublasLt: string;
}

/** How the module was compiled. */
export interface BuildFacts {
  readonly compiler: string;
  /** Version of nvcc; null where the CUDA kernels were left out. */
  readonly nvcc: string | null;
}
