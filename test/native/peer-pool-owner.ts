// A process that owns a KV pool, for tests: obeys messages from its parent.
import { loadNative } from '../../src/native.js';
import { ownerLayout } from './peer-pool-layout.js';

export type OwnerCommand =
  | { readonly kind: 'publish'; readonly blockId: number; readonly hash: string; readonly fill: number }
  | { readonly kind: 'retract'; readonly blockId: number }
  /** Rewrites and republishes the block over and over, each time with the next of `hashes`, until told to stop. */
  | { readonly kind: 'churn'; readonly blockId: number; readonly hashes: readonly string[] }
  | { readonly kind: 'calm' };

const pool = loadNative().createPool(ownerLayout);
let churning: NodeJS.Immediate | undefined;

function publish(blockId: number, hash: string, fill: number): void {
  pool.retract(blockId);
  pool.block(blockId).fill(fill);
  pool.publish(blockId, hash);
}

function churn(blockId: number, hashes: readonly string[], round: number): void {
  for (let i = 0; i < 50; i++)
    publish(blockId, hashes[(round + i) % hashes.length]!, (round + i) % hashes.length);
  churning = setImmediate(churn, blockId, hashes, round + 50);
}

process.on('message', (command: OwnerCommand) => {
  if (command.kind === 'publish') publish(command.blockId, command.hash, command.fill);
  if (command.kind === 'retract') pool.retract(command.blockId);
  if (command.kind === 'churn') churn(command.blockId, command.hashes, 0);
  if (command.kind === 'calm') clearImmediate(churning);
  process.send?.({ done: command.kind });
});
process.on('disconnect', () => process.exit());
process.send?.({ fd: pool.fd });
