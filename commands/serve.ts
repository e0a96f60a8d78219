// vllm-pd serve: proxy, prefill and decode nodes on this machine, or one of them alone.
import { apiKeysOf } from '../src/cli/api-keys.js';
import { BaseCommand } from '../src/cli/base-command.js';
import { engineOptions } from '../src/cli/engine-flags.js';
import { onInterrupt } from '../src/cli/interrupt.js';
import {
  refuseClashingPorts,
  refuseForeignFlags,
  type ServeFlags,
  serveFlags,
} from '../src/cli/serve-flags.js';
import type { NodeRole } from '../src/config.js';
import { defaults, type EngineOptions, mergeEngineOptions } from '../src/engine-options.js';
import { VllmPdError } from '../src/errors.js';
import type { NodeOptions } from '../src/server/node-process.js';

const percent = 100;
const defaultPorts = { proxy: 8000, both: 8000, prefill: 8100, decode: 8200 } as const;

/** One row of what is printed: the proxy, or a node. */
interface Served {
  readonly role: NodeRole | 'proxy';
  readonly url: string;
  readonly pid: number;
  readonly engine_id: string | null;
  readonly side_channel: string | null;
}

export default class Serve extends BaseCommand {
  static override readonly summary = 'Serve a model on prefill and decode nodes behind one address.';

  static override readonly description =
    'Starts a proxy, prefill nodes and decode nodes on this machine, each node a process of its own, prints their ' +
    'addresses and serves until it is stopped. With --role it is one node or the proxy alone, so that they may stand on ' +
    "different hosts (give nodes --kv-peer with the other's hosts, and all of them one KV transfer key).\n\n" +
    'Ctrl-C or SIGTERM stops everything in order (exit code 0; 130 while it still starts). A node that cannot start or ' +
    'dies stops everything too: exit code 4 for an address in use, 5 for a node that died.';

  static override readonly examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --prefill 2 --decode 1 --port 9000 --kv-transfer uni',
    '<%= config.bin %> <%= command.id %> --role prefill --host 10.0.0.1 --kv-peer 10.0.0.2',
    '<%= config.bin %> <%= command.id %> --role decode --host 10.0.0.2 --kv-peer 10.0.0.1',
    '<%= config.bin %> <%= command.id %> --role proxy --prefill-url http://10.0.0.1:8100 --decode-url http://10.0.0.2:8200',
  ];

  static override readonly flags = serveFlags;

  async run(): Promise<void> {
    const { flags } = await this.parse(Serve);
    const { role } = flags;
    // The flags may hold secrets, and everybody on this machine can read them.
    process.title = 'vllm-pd serve';
    refuseForeignFlags(flags);
    // In a process that a cluster started, the cluster decides about signals.
    if (role && role !== 'proxy' && process.send) {
      const { runUnderParent } = await import('../src/server/node-process.js');
      await runUnderParent(nodeOptions(role, flags));
      return;
    }
    const controller = new AbortController();
    const forget = onInterrupt(() => {
      if (process.stderr.isTTY)
        process.stderr.write('Answers under way may end; Ctrl-C again stops at once.\n');
      controller.abort();
    });
    try {
      if (role === 'proxy') await this.#serveProxy(flags, controller.signal);
      else if (role) await this.#serveNode(nodeOptions(role, flags), controller.signal);
      else await this.#serveCluster(flags, controller.signal);
      // Being stopped is how serving ends.
      process.exitCode = 0;
    } finally {
      forget();
    }
  }

  async #serveCluster(flags: ServeFlags, signal: AbortSignal): Promise<void> {
    refuseClashingPorts(flags, defaultPorts.proxy);
    const { startCluster } = await import('../src/server/cluster.js');
    const progress = await this.startProgress('making the model', percent);
    const packing = await this.startProgress('packing weights', percent);
    const cluster = await startCluster({
      engine: mergeEngineOptions(engineOptions(flags), {
        kvTransfer: { key: flags['kv-transfer-key'] || null },
      }),
      prefill: flags.prefill ?? 1,
      decode: flags.decode ?? 1,
      prefillEngine: poolOf(flags['prefill-num-blocks']),
      decodeEngine: poolOf(flags['decode-num-blocks']),
      host: flags.host,
      apiKeys: apiKeysOf(flags['api-key']),
      drainTimeoutMs: drainTimeoutOf(flags),
      port: flags.port ?? defaultPorts.proxy,
      prefillPort: flags['prefill-port'] ?? 0,
      decodePort: flags['decode-port'] ?? 0,
      proxy: {
        trustKvTransferParams: flags['trust-kv-transfer-params'],
        prefillRouting: flags['prefill-routing'],
        decodeRouting: flags['decode-routing'],
      },
      forwardLogs: true,
      onModelProgress: (fraction) => progress.update(Math.round(fraction * percent)),
      onPacked: (fraction) => {
        progress.stop();
        packing.update(Math.round(fraction * percent));
      },
      signal,
    }).finally(() => {
      progress.stop();
      packing.stop();
    });
    try {
      const death = new Promise<VllmPdError>((resolve) => cluster.onNodeDeath(resolve));
      await this.#printServed([
        { role: 'proxy', url: cluster.proxyUrl, pid: process.pid, engine_id: null, side_channel: null },
        ...cluster.nodes.map((node) => ({
          role: node.role,
          url: node.url,
          pid: node.pid,
          engine_id: node.engineId,
          side_channel: node.sideChannel,
        })),
      ]);
      const reason = await Promise.race([death, aborted(signal)]);
      if (reason) throw reason;
    } finally {
      await cluster.close();
    }
  }

  async #serveNode(options: NodeOptions, signal: AbortSignal): Promise<void> {
    const { startNode } = await import('../src/server/node-process.js');
    const packing = await this.startProgress('packing weights', percent);
    const onPacked = (fraction: number) => packing.update(Math.round(fraction * percent));
    const node = await startNode({ ...options, onPacked }).finally(() => packing.stop());
    const { role, url, engineId, sideChannel } = node;
    await this.#printServed([
      { role, url, pid: process.pid, engine_id: engineId, side_channel: sideChannel },
    ]);
    await aborted(signal);
    await node.close();
  }

  async #serveProxy(flags: ServeFlags, signal: AbortSignal): Promise<void> {
    if (!flags['decode-url']) {
      const message = 'Expected at least one --decode-url with --role proxy but received none.';
      throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'decode-url' });
    }
    const { startProxy } = await import('../src/server/proxy/proxy.js');
    const proxy = await startProxy({
      host: flags.host,
      port: flags.port ?? defaultPorts.proxy,
      prefillUrls: flags['prefill-url'] ?? [],
      decodeUrls: flags['decode-url'],
      mode: flags['kv-transfer'] ?? defaults.kvTransferMode,
      lookup: flags['kv-lookup'] ?? defaults.kvLookup,
      firstToken: flags['first-token'] ?? defaults.firstToken,
      prefillRouting: flags['prefill-routing'],
      decodeRouting: flags['decode-routing'],
      maxWaiting: flags['max-waiting'],
      trustKvTransferParams: flags['trust-kv-transfer-params'],
      unstreamedDecode: flags['unstreamed-decode'],
      apiKeys: apiKeysOf(flags['api-key']),
    });
    await this.#printServed([
      { role: 'proxy', url: proxy.url, pid: process.pid, engine_id: null, side_channel: null },
    ]);
    await aborted(signal);
    await proxy.drain(drainTimeoutOf(flags));
    await proxy.close();
  }

  /** One line of JSON with --json, so that a program that reads it need not wait for the end. */
  async #printServed(served: readonly Served[]): Promise<void> {
    if (this.jsonEnabled()) {
      process.stdout.write(`${JSON.stringify({ served })}\n`);
      return;
    }
    const { default: Table } = await import('cli-table3');
    const table = new Table({
      head: ['role', 'address', 'pid', 'KV side channel'],
      style: { head: [], border: [], compact: true },
    });
    for (const { role, url, pid, side_channel } of served) table.push([role, url, pid, side_channel ?? '']);
    this.log(`${table.toString()}\nCtrl-C stops all of it.`);
  }
}

function nodeOptions(role: NodeRole, flags: ServeFlags): NodeOptions {
  return {
    role,
    host: flags.host,
    port: flags.port ?? defaultPorts[role],
    apiKeys: apiKeysOf(flags['api-key']),
    drainTimeoutMs: drainTimeoutOf(flags),
    engine: mergeEngineOptions(engineOptions(flags), {
      kvTransfer: {
        sideChannelHost:
          flags['side-channel-host'] ?? (isWildcard(flags.host) ? defaults.sideChannelHost : flags.host),
        sideChannelPort: flags['side-channel-port'] ?? 0,
        key: flags['kv-transfer-key'] || null,
        insecure: flags['insecure-kv-transfer'] ?? false,
        peers: flags['kv-peer'] ?? [],
      },
    }),
  };
}

function drainTimeoutOf(flags: ServeFlags): number {
  const seconds = flags['drain-timeout'];
  return seconds === undefined ? defaults.drainTimeoutMs : seconds * 1000;
}

/** Good to listen on, but no address that a peer could be told. */
function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::';
}

function poolOf(numBlocks: number | undefined): EngineOptions {
  return numBlocks === undefined ? {} : { cache: { numBlocks } };
}

/** Resolves to null when the signal fires. */
function aborted(signal: AbortSignal): Promise<null> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(null);
    else signal.addEventListener('abort', () => resolve(null), { once: true });
  });
}
