// Where this user's caches lie.
import { homedir } from 'node:os';
import path from 'node:path';

/** `VLLM_PD_CACHE`, else `vllm-pd` in `XDG_CACHE_HOME`, else `~/.cache/vllm-pd`. */
export function cacheFolder(): string {
  const own = process.env.VLLM_PD_CACHE;
  if (own) return path.resolve(own);
  return path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'vllm-pd');
}
