// A prefill and a decode node with their HTTP servers in this process, asked hop by hop.
import { startApiServer } from '../../../src/server/api/api-server.js';
import { type PairOptions, withPair } from '../../engine/node-pair.js';
import { TestApi } from './setup.js';

export async function withApis(
  options: PairOptions,
  play: (p: TestApi, d: TestApi) => Promise<void>,
): Promise<void> {
  await withPair(options, async (pair) => {
    const servers = [];
    for (const engine of [pair.p, pair.d])
      servers.push(await startApiServer({ engine, host: '127.0.0.1', port: 0 }));
    try {
      await play(new TestApi(pair.p, servers[0]!.url), new TestApi(pair.d, servers[1]!.url));
    } finally {
      for (const server of servers) await server.close();
    }
  });
}
