// What a process with one node in it does: engine and API server up, word to the parent, orderly end.
import { randomUUID } from 'node:crypto';
import type { NodeRole } from '../config.js';
import { Engine } from '../engine/engine.js';
import { completeEngineConfig, defaults, type EngineOptions } from '../engine-options.js';
import { type ErrorCode, messageOf, VllmPdError } from '../errors.js';
import { endQuietly } from '../log.js';
import { chooseBackendFor } from '../model/choose-backend.js';
import { resolveModel } from '../model/resolve-model.js';
import { startApiServer } from './api/api-server.js';
import { type HttpServer, lastWordsMs } from './http.js';

export interface NodeOptions {
  readonly role: NodeRole;
  readonly engine: EngineOptions;
  readonly host: string;
  /** 0 = any free one. */
  readonly port: number;
  /** Of these a client must have one; none = no client needs any. */
  readonly apiKeys?: readonly string[] | undefined;
  /** How long requests that run may go on after the order to stop. */
  readonly drainTimeoutMs?: number | undefined;
  /** Share, 0–1, of weights that are being packed, as on their first use. */
  readonly onPacked?: (fraction: number) => void;
}

export interface RunningNode {
  readonly role: NodeRole;
  readonly url: string;
  readonly engineId: string;
  /** Where peers reach this node's blocks, as `host:port`. */
  readonly sideChannel: string;
  /** From now on the only addresses that this node fetches KV from. */
  setKvPeers(peers: readonly string[]): void;
  /** Lets what runs end, for so long or as the node was told at its start, then ends everything. Idempotent. */
  close(drainTimeoutMs?: number): Promise<void>;
}

/** What a node process tells its parent, over the IPC channel. */
export type NodeMessage =
  | {
      readonly type: 'ready';
      readonly url: string;
      readonly engineId: string;
      readonly sideChannel: string;
    }
  | { readonly type: 'packing'; readonly fraction: number }
  | {
      readonly type: 'failed';
      readonly code: ErrorCode;
      readonly message: string;
      readonly suggestions: readonly string[];
    };

/** What a parent tells its node: where the other nodes' side channels are, once all of them are known; to stop. */
export type ParentMessage =
  | { readonly type: 'peers'; readonly peers: readonly string[] }
  | { readonly type: 'stop'; readonly drainTimeoutMs: number };

/** Throws what the engine or the server throws on start; nothing is left behind then. */
export async function startNode(node: NodeOptions): Promise<RunningNode> {
  const { role, engine: options, host, port, apiKeys, drainTimeoutMs = defaults.drainTimeoutMs } = node;
  const model = options.model ?? defaults.model;
  const backend = await chooseBackendFor(model, options);
  const modelPath = await resolveModel(model, { backend });
  const engineId = randomUUID();
  const config = completeEngineConfig({ ...options, backend }, { modelPath, engineId, role });
  const engine = await Engine.start(config, node.onPacked);
  try {
    const server = await startApiServer({ engine, host, port, apiKeys });
    let closed: Promise<void> | null = null;
    return {
      role,
      url: server.url,
      engineId,
      sideChannel: `${engine.sideChannel.host}:${engine.sideChannel.port}`,
      setKvPeers: (peers) => engine.setKvPeers(peers),
      close: (timeoutMs = drainTimeoutMs) => {
        closed ??= drainAndClose(engine, server, timeoutMs);
        return closed;
      },
    };
  } catch (error) {
    await engine.shutdown();
    throw error;
  }
}

/** Probes say meanwhile that it drains; what still runs when the time is over ends as aborted. */
async function drainAndClose(engine: Engine, server: HttpServer, timeoutMs: number): Promise<void> {
  await server.drain(timeoutMs);
  await engine.shutdown();
  await server.drain(lastWordsMs);
  await server.close();
}

/**
 * A cluster's node from start to end. The parent is told when it serves, or why it does not. Ends with exit code 0 on
 * SIGTERM or when it is told to stop; at once when the parent is gone, so that no node outlives its cluster.
 */
export async function runUnderParent(options: NodeOptions): Promise<void> {
  process.once('disconnect', () => process.exit(0));
  // Ctrl-C on a terminal reaches the whole process group; the parent is the one who decides what it means.
  process.on('SIGINT', () => {});
  try {
    const onPacked = (fraction: number) => void tellParent({ type: 'packing', fraction });
    const node = await startNode({ ...options, onPacked });
    const stop = (timeoutMs?: number) => void node.close(timeoutMs).finally(() => process.exit(0));
    process.on('message', (message: ParentMessage) => {
      if (message.type === 'peers') return node.setKvPeers(message.peers);
      // The parent stops all of its nodes; SIGTERM may be for this one alone.
      endQuietly();
      stop(message.drainTimeoutMs);
    });
    process.once('SIGTERM', () => stop());
    await tellParent({
      type: 'ready',
      url: node.url,
      engineId: node.engineId,
      sideChannel: node.sideChannel,
    });
  } catch (error) {
    const { code, suggestions } =
      error instanceof VllmPdError ? error : { code: 'INTERNAL' as const, suggestions: [] };
    await tellParent({ type: 'failed', code, message: messageOf(error), suggestions });
    // The parent says it, once.
    process.exit(1);
  }
}

/** Resolves when the message is out: a process that exits before that takes it along. */
function tellParent(message: NodeMessage): Promise<void> {
  return new Promise((resolve) => {
    if (process.send) process.send(message, undefined, undefined, () => resolve());
    else resolve();
  });
}
