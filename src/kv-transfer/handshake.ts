// Who a node is to its peers: what must agree before KV may be exchanged, and on which host it runs.
import { createHash, randomUUID } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import type { KvPoolLayout } from '../native/kv-pool-layout.js';
import { decodeVersion, type Hello, protocolVersion, type Welcome } from './messages.js';

/** Equal on two nodes whose blocks mean the same bytes. The number of blocks may differ. */
export function compatibilityHash(layout: KvPoolLayout, compatibility: string): string {
  const { blockSize, numLayers, numKvHeads, headDim, dtype } = layout;
  const factors = [protocolVersion, blockSize, numLayers, numKvHeads, headDim, dtype, compatibility];
  return createHash('sha256').update(JSON.stringify(factors)).digest('hex');
}

/** Equal for processes that see each other under `/proc`: same boot, same pid namespace. Else unique. */
export function hostIdentity(): string {
  try {
    const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    return `${bootId} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return randomUUID();
  }
}

/** Looked at first: what else is in a hello depends on it. Null if both speak the same one. */
export function versionRefusal(hello: Buffer): string | null {
  const version = decodeVersion(hello);
  if (version === protocolVersion) return null;
  return `Expected side-channel protocol version ${protocolVersion} but received ${version}.`;
}

/** Why the owner must not serve this reader, as a sentence; null if it may. */
export function refusalOf(hello: Hello, own: Welcome): string | null {
  if (hello.expected_engine_id !== own.engine_id) {
    return `Expected engine ${hello.expected_engine_id} but this is ${own.engine_id}: the node was restarted or replaced.`;
  }
  if (hello.compatibility_hash !== own.compatibility_hash) {
    return 'Model, KV shape, KV dtype, block size or hash seed of the two nodes differ.';
  }
  return null;
}

/** The same check from the reader's end, which does not rely on the owner's. */
export function mismatchOf(welcome: Welcome, hello: Hello): string | null {
  if (welcome.engine_id !== hello.expected_engine_id) {
    return `Expected engine ${hello.expected_engine_id} but ${welcome.engine_id} answered: the node was restarted or replaced.`;
  }
  if (welcome.compatibility_hash !== hello.compatibility_hash) {
    return 'Model, KV shape, KV dtype, block size or hash seed of the two nodes differ.';
  }
  return null;
}
