// What a process holds of the system, as Linux tells: open files, and memory of KV pools that it has mapped.
import { readdirSync, readFileSync } from 'node:fs';

export interface Footprint {
  /** Sockets, files, pipes: all descriptors. */
  readonly numFiles: number;
  /** Pools, its own included: each is an anonymous file, told apart by its inode. */
  readonly numPools: number;
  readonly numThreads: number;
}

/** As native/kv_cache.cc names them. */
const poolMapping = /^\S+ \S+ \S+ \S+ (\d+) +\/memfd:vllm-pd-kv/gm;

/** Null when there is no such process (any more). */
export function footprintOf(pid: number): Footprint | null {
  try {
    const maps = readFileSync(`/proc/${pid}/maps`, 'utf8');
    return {
      numFiles: readdirSync(`/proc/${pid}/fd`).length,
      numPools: new Set([...maps.matchAll(poolMapping)].map(([, inode]) => inode)).size,
      numThreads: readdirSync(`/proc/${pid}/task`).length,
    };
  } catch {
    return null;
  }
}

/** Connections come and go with the requests; a leak of one for every few turns goes beyond this in any soak worth the name. */
const maxMoreFiles = 24;
const maxMoreThreads = 12;

/** Why `now` is more than a process should hold that once held `before`; null if it is not. */
export function growthOf(before: Footprint, now: Footprint, maxPools: number): string | null {
  if (now.numPools > maxPools) return `has ${now.numPools} pools mapped where ${maxPools} live`;
  if (now.numFiles > before.numFiles + maxMoreFiles)
    return `has ${now.numFiles} files open, ${now.numFiles - before.numFiles} more than at first`;
  if (now.numThreads > before.numThreads + maxMoreThreads)
    return `has ${now.numThreads} threads, ${now.numThreads - before.numThreads} more than at first`;
  return null;
}
