// A Redis server of its own that fails when told to.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient, type RedisClientType } from '@redis/client';
import { VllmPdError } from '../errors.js';
import type { ChaosStore } from './chaos-store.js';
import { someLoopbackAddress } from './loopback-address.js';

const maxDamaged = 20;
/** Behind any record's header. */
const damageAt = 256;
/** A slow server does nothing for so long, then works for so long. */
const slowMs = 120;
const quickMs = 20;

/** Throws NOT_SUPPORTED where neither redis-server nor valkey-server is installed. */
export async function openRedis(): Promise<ChaosStore> {
  const binary = redisBinary();
  if (binary === null) {
    throw new VllmPdError('NOT_SUPPORTED', 'Expected redis-server or valkey-server to be installed.', {
      suggestions: ['apt-get install redis-server', 'Choose --store directory.'],
    });
  }
  // Its own: while the server is away, nobody else is given its port.
  const host = someLoopbackAddress();
  const port = await freePort(host);
  const address = `redis://${host}:${port}`;
  let server = await launch(binary, host, port);
  const kill = async () => {
    if (server.exitCode !== null || server.signalCode !== null) return;
    const ended = once(server, 'exit');
    server.kill('SIGKILL');
    await ended;
  };
  let isStopped = false;
  const stop = async (ms: number) => {
    isStopped = true;
    server.kill('SIGSTOP');
    await sleep(ms);
    server.kill('SIGCONT');
    isStopped = false;
  };
  const configured = async (name: string, value: string, ms: number) => {
    await withClient(address, (client) => client.configSet(name, value));
    await sleep(ms);
    await withClient(address, (client) => client.configSet(name, '0'));
  };
  return {
    address,
    env: {},
    async damage() {
      // It would not be answered.
      if (!isStopped) await withClient(address, damageSome).catch(() => {});
    },
    async lose(ms) {
      isStopped = true;
      await kill();
      await sleep(ms);
      server = await launch(binary, host, port);
      isStopped = false;
    },
    stop,
    async slow(ms) {
      for (let left = ms; left > 0; left -= slowMs + quickMs) {
        await stop(slowMs);
        await sleep(quickMs);
      }
    },
    // Its default is to evict nothing and to refuse what is new.
    fill: (ms) => configured('maxmemory', '1', ms),
    protect: (ms) => configured('min-replicas-to-write', '1', ms),
    close: kill,
  };
}

export function redisBinary(): string | null {
  const runs = (name: string) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0;
  return ['redis-server', 'valkey-server'].find(runs) ?? null;
}

async function damageSome(client: RedisClientType): Promise<void> {
  for (let i = 0; i < maxDamaged; i += 1) {
    // The client's own types take the key for a number.
    const key: unknown = await client.sendCommand(['RANDOMKEY']);
    if (typeof key !== 'string' || (await client.type(key)) !== 'string') continue;
    await client.setRange(key, damageAt, 'damaged');
  }
}

async function withClient(url: string, work: (client: RedisClientType) => Promise<unknown>): Promise<void> {
  const socket = { connectTimeout: 1000, reconnectStrategy: false as const };
  const client: RedisClientType = createClient({ url, socket });
  client.on('error', () => {});
  await client.connect();
  try {
    await work(client);
  } finally {
    client.destroy();
  }
}

async function launch(binary: string, host: string, port: number): Promise<ChildProcess> {
  const args = [`--port ${port}`, `--bind ${host}`, '--save ', '--appendonly no'].flatMap((option) =>
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

async function freePort(host: string): Promise<number> {
  const server = createServer();
  server.listen(0, host);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
