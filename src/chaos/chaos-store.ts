// A shared store that fails when told to: what is in it is damaged or lost; for a while it stops, crawls, or takes nothing new.
export const storeKinds = ['none', 'directory', 'redis'] as const;
export type StoreKind = (typeof storeKinds)[number];

export interface ChaosStore {
  /** As `--kv-shared-store` takes it. */
  readonly address: string;
  /** What the nodes' environment needs for it. */
  readonly env: Readonly<Record<string, string>>;
  /** Turns over bits in some of the blocks that are stored. */
  damage(): Promise<void>;
  /** Away for `ms`; then some blocks are gone (directory) or all of them (Redis: SIGKILL, and a new server). */
  lose(ms: number): Promise<void>;
  /** For `ms`, everything that is asked of it fails (directory) or waits (Redis). */
  stop(ms: number): Promise<void>;
  /** For `ms`, answers come late. */
  slow(ms: number): Promise<void>;
  /** For `ms`, what is there can be read, and whatever is written fails: no space left (directory), out of memory (Redis). */
  fill(ms: number): Promise<void>;
  /** The same, since nobody may write: permission denied (directory), too few replicas (Redis). */
  protect(ms: number): Promise<void>;
  /** Nothing of it is left behind. */
  close(): Promise<void>;
}
