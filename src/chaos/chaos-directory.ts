// A shared directory that fails when told to.
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ChaosStore } from './chaos-store.js';
import { type DiskFailure, failingDiskEnv } from './failing-disk-control.js';

export function openDirectory(): ChaosStore {
  const parent = mkdtempSync(path.join(tmpdir(), 'vllm-pd-chaos-'));
  const address = path.join(parent, 'store');
  const away = path.join(parent, 'away');
  const control = path.join(parent, 'failure');
  const fail = async (failure: DiskFailure, ms: number) => {
    writeFileSync(control, failure);
    await sleep(ms);
    rmSync(control, { force: true });
  };
  const stop = async (ms: number) => {
    // One after the other is enough; and a file in its place fails even for those who may write anywhere.
    if (existsSync(away) || !existsSync(address)) return;
    renameSync(address, away);
    writeFileSync(address, '');
    await sleep(ms);
    rmSync(address, { recursive: true, force: true });
    renameSync(away, address);
  };
  const everySecond = () => blocksIn(address).filter((_, i) => i % 2 === 0);
  return {
    address,
    env: failingDiskEnv(address, control),
    async damage() {
      for (const file of everySecond()) unlessGone(() => turnBitOver(file));
    },
    async lose(ms) {
      await stop(ms);
      for (const file of everySecond()) unlessGone(() => rmSync(file));
    },
    stop,
    slow: (ms) => fail('slow', ms),
    fill: (ms) => fail('ENOSPC', ms),
    protect: (ms) => fail('EACCES', ms),
    async close() {
      rmSync(parent, { recursive: true, force: true });
    },
  };
}

function blocksIn(directory: string): readonly string[] {
  try {
    const entries = readdirSync(directory, { recursive: true, encoding: 'utf8' });
    return entries
      .filter((name) => name.endsWith('.kv'))
      .toSorted()
      .map((name) => path.join(directory, name));
  } catch {
    return [];
  }
}

/** In the middle of the file, which is in the middle of the block. */
function turnBitOver(file: string): void {
  const at = Math.floor(statSync(file).size / 2);
  const fd = openSync(file, 'r+');
  try {
    const byte = Buffer.alloc(1);
    readSync(fd, byte, 0, 1, at);
    byte[0]! ^= 4;
    writeSync(fd, byte, 0, 1, at);
  } finally {
    closeSync(fd);
  }
}

/** Nodes evict and replace files at the same time. */
function unlessGone(act: () => void): void {
  try {
    act();
  } catch {
    // It is lost already.
  }
}
