// Which addresses a node may connect to for KV: `kv_transfer_params` name one, and anybody may have written them.
import { BlockList, isIP } from 'node:net';
import { VllmPdError } from '../errors.js';

/** Names and addresses of this machine. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

interface Rule {
  matches(host: string): boolean;
  /** Null = any. */
  readonly port: number | null;
}

/**
 * Peers as users write them: `host`, `host:port`, `[v6]:port`, a subnet such as `10.0.0.0/24`, or `*` for every address.
 * Names are compared as they are and never looked up for this. With no peer at all, those of this machine are allowed.
 */
export class PeerPolicy {
  #rules: readonly Rule[];

  /** Throws INVALID_ARGUMENT for a peer that is none. */
  constructor(peers: readonly string[] = []) {
    this.#rules = rulesOf(peers);
  }

  /** From now on these, in place of the former ones. */
  replace(peers: readonly string[]): void {
    this.#rules = rulesOf(peers);
  }

  allows(host: string, port: number): boolean {
    return this.#rules.some((rule) => (rule.port === null || rule.port === port) && rule.matches(host));
  }
}

function rulesOf(peers: readonly string[]): Rule[] {
  return peers.length === 0 ? [{ matches: isLoopback, port: null }] : peers.map(ruleOf);
}

function ruleOf(peer: string): Rule {
  if (peer === '*') return { matches: () => true, port: null };
  const [address = '', prefix] = peer.split('/');
  if (prefix !== undefined) return { matches: subnet(peer, address, Number(prefix)), port: null };
  // An address of IPv6 is full of colons, so a port behind it needs brackets around it.
  const [, host = '', port] =
    isIP(peer) === 6
      ? [peer, peer]
      : (/^(?:\[([^\]]+)\]|([^:[\]\s]+))(?::(\d{1,5}))?$/.exec(peer) ?? []).filter(isText);
  if (host === '' || Number(port ?? 1) < 1 || Number(port ?? 1) > 65_535) throw refusal(peer);
  return { matches: (candidate) => candidate === host, port: port === undefined ? null : Number(port) };
}

function isText(part: string | undefined): part is string {
  return part !== undefined;
}

function subnet(peer: string, address: string, prefix: number): (host: string) => boolean {
  const family = isIP(address);
  const isPrefix = Number.isInteger(prefix) && prefix >= 0 && prefix <= (family === 4 ? 32 : 128);
  if (family === 0 || !isPrefix) throw refusal(peer);
  const list = new BlockList();
  list.addSubnet(address, prefix, family === 4 ? 'ipv4' : 'ipv6');
  return (host) => isIP(host) === family && list.check(host, family === 4 ? 'ipv4' : 'ipv6');
}

function refusal(peer: string): VllmPdError {
  const message = `Expected a KV peer as host, host:port, address/prefix or * but received \`${peer}\`.`;
  return new VllmPdError('INVALID_ARGUMENT', message, { param: 'kv-peer' });
}
