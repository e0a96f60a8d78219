// A Redis server of its own that fails when told to.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient } from '@redis/client';
import { VllmPdError } from '../errors.js';
import type { ChaosStore } from './chaos-store.js';

const maxDamaged = 20;
/** Behind any record's header. */
const damageAt = 256;

/** Throws NOT_SUPPORTED where neither redis-server nor valkey-server is installed. */
export async function openRedis(): Promise<ChaosStore> {
  const binary = redisBinary();
  if (binary === null) {
    throw new VllmPdError('NOT_SUPPORTED', 'Expected redis-server or valkey-server to be installed.', {
      suggestions: ['apt-get install redis-server', 'Choose --store directory.'],
    });
  }
  const port = await freePort();
  let server = await launch(binary, port);
  const kill = async () => {
    if (server.exitCode !== null || server.signalCode !== null) return;
    const ended = once(server, 'exit');
    server.kill('SIGKILL');
    await ended;
  };
  let isStopped = false;
  return {
    address: `redis://127.0.0.1:${port}`,
    async damage() {
      // It would not be answered.
      if (!isStopped) await damageSome(port).catch(() => {});
    },
    async lose() {
      await kill();
      server = await launch(binary, port);
    },
    async stop(ms) {
      isStopped = true;
      server.kill('SIGSTOP');
      await sleep(ms);
      server.kill('SIGCONT');
      isStopped = false;
    },
    close: kill,
  };
}

export function redisBinary(): string | null {
  const runs = (name: string) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0;
  return ['redis-server', 'valkey-server'].find(runs) ?? null;
}

async function damageSome(port: number): Promise<void> {
  const socket = { host: '127.0.0.1', port, connectTimeout: 1000, reconnectStrategy: false as const };
  const client = createClient({ socket });
  client.on('error', () => {});
  await client.connect();
  try {
    for (let i = 0; i < maxDamaged; i += 1) {
      // The client's own types take the key for a number.
      const key: unknown = await client.sendCommand(['RANDOMKEY']);
      if (typeof key !== 'string' || (await client.type(key)) !== 'string') continue;
      await client.setRange(key, damageAt, 'damaged');
    }
  } finally {
    client.destroy();
  }
}

async function launch(binary: string, port: number): Promise<ChildProcess> {
  const args = [`--port ${port}`, '--bind 127.0.0.1', '--save ', '--appendonly no'].flatMap((option) =>
    option.split(' '),
  );
  const server = spawn(binary, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.once('exit', (code) =>
      reject(new VllmPdError('INTERNAL', `${binary} ended with exit code ${code}.`)),
    );
    server.stdout.on('data', (text: Buffer) => {
      if (text.includes('Ready to accept connections')) resolve();
    });
  });
  return server;
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
