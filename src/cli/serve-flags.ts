// Flags of `serve`, by what they are about, and which of them go together.
import { boolean, integer, option, string } from '@oclif/core/flags';
import type { InferredFlags } from '@oclif/core/interfaces';
import { defaults } from '../engine-options.js';
import { VllmPdError } from '../errors.js';
import { engineFlags } from './engine-flags.js';
import { inHelpGroup, nonNegativeSeconds, shown } from './flag-types.js';
import { nodeCountFlags, routingFlags } from './node-flags.js';

const maxPort = 65_535;

const port = (description: string, shownDefault: string) =>
  integer({ description, min: 0, max: maxPort, ...shown(shownDefault) });

const clusterFlags = {
  ...nodeCountFlags,
  'prefill-port': port('Port of the first prefill node; the others follow it.', 'any free one'),
  'decode-port': port('Port of the first decode node; the others follow it.', 'any free one'),
  ...inHelpGroup('CACHE', {
    'prefill-num-blocks': integer({ description: '--num-blocks of the prefill nodes only.', min: 2 }),
    'decode-num-blocks': integer({ description: '--num-blocks of the decode nodes only.', min: 2 }),
  }),
};

/** Of a proxy alone. */
const nodeUrlFlags = inHelpGroup('PROXY', {
  'prefill-url': string({ description: 'A prefill node for --role proxy.', multiple: true }),
  'decode-url': string({ description: 'A decode node for --role proxy.', multiple: true }),
  'unstreamed-decode': boolean({
    description:
      "Ask decode nodes whose streams carry no tickets, as vLLM's, for whole answers: P can then pull their KV in the " +
      "conversation's next turn, but clients get streams in one piece, at their end.",
  }),
});

/** Of any proxy. */
const proxyFlags = inHelpGroup('PROXY', {
  ...routingFlags,
  'trust-kv-transfer-params': boolean({
    description: 'Pass kv_transfer_params of clients on instead of dropping them.',
  }),
});

const singleNodeFlags = {
  ...inHelpGroup('KV TRANSFER', {
    'side-channel-host': string({
      description: "Where peers reach this node's KV blocks.",
      ...shown('the value of --host'),
    }),
    'side-channel-port': port('Port of the side channel; 0 = any free one.', '0'),
  }),
  ...inHelpGroup('SECURITY', {
    'insecure-kv-transfer': boolean({
      description: 'Let a node that other hosts reach exchange KV without a key.',
    }),
    'kv-peer': string({
      description:
        'Where this node may fetch KV: host, host:port, address/prefix, or * for anywhere. May be given again.',
      multiple: true,
      ...shown('this machine'),
    }),
  }),
};

const keyFlags = inHelpGroup('SECURITY', {
  'api-key': string({
    description:
      'Clients must send it (Authorization: Bearer). May be given again. Better as VLLM_PD_API_KEY, separated by commas: ' +
      'command lines are no place for secrets.',
    multiple: true,
  }),
  'kv-transfer-key': string({
    description:
      'Secret that nodes prove to each other before KV moves, the same on all of them; a cluster makes its own.',
    env: 'VLLM_PD_KV_TRANSFER_KEY',
  }),
});

export const serveFlags = {
  role: option({
    options: ['prefill', 'decode', 'both', 'proxy'] as const,
    description: 'Start this alone. both: one node that prefills and decodes by itself.',
  })(),
  ...clusterFlags,
  host: string({
    description: 'Address that the proxy, or the node with --role, listens on.',
    default: defaults.sideChannelHost,
  }),
  port: port(
    'Port of the proxy, or of the node with --role; 0 = any free one.',
    '8000; --role prefill: 8100, decode: 8200',
  ),
  'drain-timeout': nonNegativeSeconds({
    description:
      'How long answers under way may go on after Ctrl-C or SIGTERM, in seconds; a second one ends all at once.',
    ...shown(defaults.drainTimeoutMs / 1000),
  }),
  ...nodeUrlFlags,
  ...proxyFlags,
  ...singleNodeFlags,
  ...keyFlags,
  ...engineFlags,
};

export type ServeFlags = InferredFlags<typeof serveFlags>;

/** What of the engine's flags a proxy alone understands. */
const engineFlagsOfProxies = ['kv-transfer', 'kv-lookup', 'first-token', 'max-waiting'];

/** Throws INVALID_ARGUMENT for the first flag that says something about what is not started. */
export function refuseForeignFlags(flags: ServeFlags): void {
  const { role } = flags;
  if (role !== undefined) refuse(flags, clusterFlags, 'is for a cluster and does not go with --role');
  if (role !== 'proxy') refuse(flags, nodeUrlFlags, 'needs --role proxy');
  if (role === undefined || role === 'proxy') {
    refuse(flags, singleNodeFlags, 'is for one node: it needs --role prefill, decode or both');
  }
  if (role === 'proxy') {
    const engineOnly = { ...engineFlags } as Record<string, unknown>;
    for (const name of engineFlagsOfProxies) delete engineOnly[name];
    refuse(flags, engineOnly, 'is for nodes: a proxy alone runs no model');
  } else if (role !== undefined) {
    refuse(flags, proxyFlags, 'is for a proxy and does not go with a single node');
  }
}

/**
 * Ports of a cluster's processes, the proxy's `defaultPort` unless one was given: each is one, and nobody's else. Throws
 * INVALID_ARGUMENT.
 */
export function refuseClashingPorts(flags: ServeFlags, defaultPort: number): void {
  const {
    port = defaultPort,
    prefill = 1,
    decode = 1,
    'prefill-port': prefillPort = 0,
    'decode-port': decodePort = 0,
  } = flags;
  const taken = new Map<number, string>();
  const firstPorts = {
    port: [port, 1],
    'prefill-port': [prefillPort, prefill],
    'decode-port': [decodePort, decode],
  };
  for (const [name, [first, count]] of Object.entries(firstPorts) as [string, [number, number]][]) {
    if (first === 0) continue;
    for (let number = first; number < first + count; number += 1) {
      const by = taken.get(number);
      if (number <= maxPort && by === undefined) {
        taken.set(number, name);
        continue;
      }
      const what = count === 1 ? `--${name} ${first}` : `--${name} ${first} and the ${count - 1} behind it`;
      const why = by === undefined ? `ends above ${maxPort}` : `clashes with --${by}: both take ${number}`;
      throw new VllmPdError('INVALID_ARGUMENT', `${what} ${why}.`, { param: name });
    }
  }
}

function refuse(flags: ServeFlags, foreign: object, why: string): void {
  const name = Object.keys(foreign).find((candidate) => candidate in flags);
  if (name) throw new VllmPdError('INVALID_ARGUMENT', `--${name} ${why}.`, { param: name });
}
