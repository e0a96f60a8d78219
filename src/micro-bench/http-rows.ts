// The server's router and event streams against a bare node:http server, both in another process.
import { Pool } from 'undici';
import { type HttpPeerAddress, numSseChunks } from './http-peer.js';
import { startPeer } from './peer.js';
import type { Contest, RowGroup, Work } from './row-plan.js';

const numConnections = 8;
/** As small as a completion's body with a short prompt. */
const body = JSON.stringify({ model: 'default', prompt: 'one two three', max_tokens: 16, stream: false });

export function httpGroups(): RowGroup[] {
  const common = { threads: 1, limit: 'bare node:http' };
  return [
    {
      family: 'server',
      rows: [
        { ...common, name: 'JSON POST', unit: 'requests/s', prepare: () => prepare('/json', 128, 1) },
        { ...common, name: 'SSE', unit: 'chunks/s', prepare: () => prepare('/sse', 16, numSseChunks) },
      ],
    },
  ];
}

async function prepare(path: string, requestsPerRound: number, unitsPerRequest: number): Promise<Contest> {
  const peer = await startPeer<HttpPeerAddress>({ kind: 'http' });
  const pools = [peer.address.routerUrl, peer.address.bareUrl].map(
    (url) => new Pool(url, { connections: numConnections, pipelining: 1 }),
  );
  const work = (pool: Pool): Work => ({
    amount: requestsPerRound * unitsPerRequest,
    run: async () => {
      await Promise.all(Array.from({ length: requestsPerRound }, () => post(pool, path)));
    },
  });
  return {
    subject: work(pools[0]!),
    limit: work(pools[1]!),
    close: async () => {
      await Promise.all(pools.map((pool) => pool.destroy()));
      await peer.close();
    },
  };
}

async function post(pool: Pool, path: string): Promise<void> {
  const headers = { 'content-type': 'application/json' };
  const answer = await pool.request({ method: 'POST', path, headers, body });
  await answer.body.dump({ limit: 1 << 24 });
  if (answer.statusCode !== 200) throw new Error(`Expected status 200 but received ${answer.statusCode}`);
}
