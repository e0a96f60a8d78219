// `remote_host` of a node's transfer parameters as the other nodes can reach it.
import type { KvTransferParams } from '../../wire.js';

/** Names that mean "this machine", and say nothing to another one. */
const ownMachine = /^(localhost|127\..*|::1|0\.0\.0\.0|::)$/;

/** vLLM's nodes call themselves `localhost` unless told otherwise; who is on another host is reached where the proxy does. */
export function withReachableHost(params: KvTransferParams, nodeUrl: string): KvTransferParams {
  const nodeHost = new URL(nodeUrl).hostname.replace(/^\[|\]$/g, '');
  if (!params.remote_host || !ownMachine.test(params.remote_host) || ownMachine.test(nodeHost)) return params;
  return { ...params, remote_host: nodeHost };
}
