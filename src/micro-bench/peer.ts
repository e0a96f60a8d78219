// Starts a process that serves until it is let go of.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { KvTransferMode } from '../config.js';
import type { KvPoolLayout } from '../native/kv-pool-layout.js';

export type PeerOptions =
  | { readonly kind: 'http' }
  /** Nodes with this model behind a proxy. */
  | { readonly kind: 'proxy'; readonly modelPath: string; readonly mode: KvTransferMode }
  /** Owns a pool of this shape. */
  | { readonly kind: 'transfer'; readonly layout: KvPoolLayout };

export interface Peer<Address> {
  /** What it said when it was ready. */
  readonly address: Address;
  close(): Promise<void>;
}

/** Rejects when the process ends before it is ready. */
export async function startPeer<Address>(options: PeerOptions): Promise<Peer<Address>> {
  const entry = fileURLToPath(new URL('./peer-process.js', import.meta.url));
  const child = fork(entry, [JSON.stringify(options)]);
  const exited = once(child, 'exit');
  const died = exited.then(([code]) => {
    throw new Error(`Expected a process that serves but it ended with exit code ${code}`);
  });
  died.catch(() => {});
  const [address] = (await Promise.race([once(child, 'message'), died])) as [Address];
  return {
    address,
    close: async () => {
      child.disconnect();
      await exited;
    },
  };
}
