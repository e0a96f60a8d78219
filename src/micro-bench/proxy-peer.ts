// One prefill node, one decode node and a proxy before them, until the process that measures them lets go.
import type { KvTransferMode } from '../config.js';
import { startCluster } from '../server/cluster.js';

export interface ProxyPeerAddress {
  readonly proxyUrl: string;
  readonly prefillUrl: string;
}

export async function serveProxy(modelPath: string, mode: KvTransferMode): Promise<void> {
  const cluster = await startCluster({
    engine: { model: modelPath, numThreads: 1, cache: { numBlocks: 256 }, kvTransfer: { mode } },
    drainTimeoutMs: 1000,
  });
  process.removeAllListeners('disconnect');
  process.once('disconnect', () => void cluster.close().then(() => process.exit()));
  const prefill = cluster.nodes.find(({ role }) => role === 'prefill')!;
  process.send?.({ proxyUrl: cluster.proxyUrl, prefillUrl: prefill.url } satisfies ProxyPeerAddress);
}
