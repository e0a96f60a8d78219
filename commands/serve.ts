// vllm-pd serve: proxy, prefill and decode nodes on this machine, or one of them alone.
import { boolean, integer, option, string } from '@oclif/core/flags';
import type { InferredFlags } from '@oclif/core/interfaces';
import { apiKeysOf } from '../src/cli/api-keys.js';
import { BaseCommand } from '../src/cli/base-command.js';
import { engineFlags, engineOptions } from '../src/cli/engine-flags.js';
import { nonNegativeSeconds } from '../src/cli/flag-types.js';
import { onInterrupt } from '../src/cli/interrupt.js';
import {
  defaults,
  type EngineOptions,
  mergeEngineOptions,
  type NodeRole,
  routingPolicies,
} from '../src/config.js';
import { VllmPdError } from '../src/errors.js';
import type { NodeOptions } from '../src/server/node-process.js';

const defaultPorts = { proxy: 8000, both: 8000, prefill: 8100, decode: 8200 } as const;

const port = (description: string, shownDefault: string) =>
  integer({ description, min: 0, max: 65_535, defaultHelp: async () => shownDefault });

const routing = (role: 'prefill' | 'decode') =>
  option({
    options: routingPolicies,
    description:
      `Which of several ${role} nodes plays a turn: where its conversation was (session), who holds most of its ` +
      'prompt (prefix), who has least to do (least-loaded), or each in its turn (round-robin).',
    defaultHelp: async () => defaults.routing,
    helpGroup: 'PROXY',
  })();

const clusterFlags = [
  'prefill',
  'decode',
  'prefill-port',
  'decode-port',
  'prefill-num-blocks',
  'decode-num-blocks',
];

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

  static override readonly flags = {
    role: option({
      options: ['prefill', 'decode', 'both', 'proxy'] as const,
      description: 'Start this alone. both: one node that prefills and decodes by itself.',
    })(),
    prefill: integer({
      description: 'Prefill nodes to start.',
      min: 1,
      max: 64,
      defaultHelp: async () => '1',
    }),
    decode: integer({ description: 'Decode nodes to start.', min: 1, max: 64, defaultHelp: async () => '1' }),
    host: string({
      description: 'Address that the proxy, or the node with --role, listens on.',
      default: defaults.sideChannelHost,
    }),
    port: port(
      'Port of the proxy, or of the node with --role; 0 = any free one.',
      '8000; --role prefill: 8100, decode: 8200',
    ),
    'prefill-port': port('Port of the first prefill node; the others follow it.', 'any free one'),
    'decode-port': port('Port of the first decode node; the others follow it.', 'any free one'),
    'prefill-num-blocks': integer({
      description: '--num-blocks of the prefill nodes only.',
      min: 2,
      helpGroup: 'CACHE',
    }),
    'decode-num-blocks': integer({
      description: '--num-blocks of the decode nodes only.',
      min: 2,
      helpGroup: 'CACHE',
    }),
    'prefill-url': string({
      description: 'A prefill node for --role proxy.',
      multiple: true,
      helpGroup: 'PROXY',
    }),
    'decode-url': string({
      description: 'A decode node for --role proxy.',
      multiple: true,
      helpGroup: 'PROXY',
    }),
    'prefill-routing': routing('prefill'),
    'decode-routing': routing('decode'),
    'trust-kv-transfer-params': boolean({
      description: 'Pass kv_transfer_params of clients on instead of dropping them.',
      helpGroup: 'PROXY',
    }),
    'side-channel-host': string({
      description: "Where peers reach this node's KV blocks.",
      defaultHelp: async () => 'the value of --host',
      helpGroup: 'KV TRANSFER',
    }),
    'side-channel-port': integer({
      description: 'Port of the side channel; 0 = any free one.',
      min: 0,
      max: 65_535,
      defaultHelp: async () => '0',
      helpGroup: 'KV TRANSFER',
    }),
    'drain-timeout': nonNegativeSeconds({
      description:
        'How long answers under way may go on after Ctrl-C or SIGTERM, in seconds; a second one ends all at once.',
      defaultHelp: async () => String(defaults.drainTimeoutMs / 1000),
    }),
    'api-key': string({
      description:
        'Clients must send it (Authorization: Bearer). May be given again. Better as VLLM_PD_API_KEY, separated by commas: ' +
        'command lines are no place for secrets.',
      multiple: true,
      helpGroup: 'SECURITY',
    }),
    'kv-transfer-key': string({
      description:
        'Secret that nodes prove to each other before KV moves, the same on all of them; a cluster makes its own.',
      env: 'VLLM_PD_KV_TRANSFER_KEY',
      helpGroup: 'SECURITY',
    }),
    'insecure-kv-transfer': boolean({
      description: 'Let a node that other hosts reach exchange KV without a key.',
      helpGroup: 'SECURITY',
    }),
    'kv-peer': string({
      description:
        'Where this node may fetch KV: host, host:port, address/prefix, or * for anywhere. May be given again.',
      multiple: true,
      defaultHelp: async () => 'this machine',
      helpGroup: 'SECURITY',
    }),
    ...engineFlags,
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(Serve);
    const { role } = flags;
    // The flags may hold secrets, and everybody on this machine can read them.
    process.title = 'vllm-pd serve';
    refuseFlags(flags, role !== undefined, clusterFlags, 'is for a cluster and does not go with --role');
    refuseFlags(flags, role !== 'proxy', ['prefill-url', 'decode-url'], 'needs --role proxy');
    refuseFlags(
      flags,
      role === undefined || role === 'proxy',
      ['side-channel-host', 'side-channel-port', 'insecure-kv-transfer', 'kv-peer'],
      'is for one node: it needs --role prefill, decode or both',
    );
    const needless = Object.keys(engineFlags).filter(
      (name) => !['kv-transfer', 'kv-lookup', 'first-token', 'max-waiting'].includes(name),
    );
    refuseFlags(flags, role === 'proxy', needless, 'is for nodes: a proxy alone runs no model');
    refuseFlags(
      flags,
      role !== undefined && role !== 'proxy',
      ['trust-kv-transfer-params', 'prefill-routing', 'decode-routing'],
      'is for a proxy and does not go with a single node',
    );
    // In a process that a cluster started, the cluster decides about signals.
    if (role && role !== 'proxy' && process.send) {
      const { runUnderParent } = await import('../src/server/node-process.js');
      await runUnderParent(nodeOptions(role, flags));
      return;
    }
    const controller = new AbortController();
    const forget = onInterrupt(() => controller.abort());
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
    const { startCluster } = await import('../src/server/cluster.js');
    const percent = 100;
    const progress = await this.startProgress('making the model', percent);
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
      signal,
    }).finally(() => progress.stop());
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
    const node = await startNode(options);
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

type ServeFlags = InferredFlags<typeof Serve.flags>;

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

function refuseFlags(flags: object, isWrong: boolean, names: readonly string[], why: string): void {
  const name = names.find((candidate) => candidate in flags);
  if (!isWrong || !name) return;
  throw new VllmPdError('INVALID_ARGUMENT', `--${name} ${why}.`, { param: name });
}
