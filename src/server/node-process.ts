// What a process with one node in it does: engine and API server up, word to the parent, orderly end.
import { randomUUID } from 'node:crypto';
import { completeEngineConfig, defaults, type EngineOptions, type NodeRole } from '../config.js';
import { Engine } from '../engine/engine.js';
import { type ErrorCode, messageOf, VllmPdError } from '../errors.js';
import { resolveModel } from '../model/resolve-model.js';
import { startApiServer } from './api/api-server.js';

/** How long requests that run may go on after the order to stop. */
const drainLimitMs = 3000;

export interface NodeOptions {
  readonly role: NodeRole;
  readonly engine: EngineOptions;
  readonly host: string;
  /** 0 = any free one. */
  readonly port: number;
}

export interface RunningNode {
  readonly role: NodeRole;
  readonly url: string;
  readonly engineId: string;
  /** Where peers reach this node's blocks, as `host:port`. */
  readonly sideChannel: string;
  /** From now on the only addresses that this node fetches KV from. */
  setKvPeers(peers: readonly string[]): void;
  /** Lets what runs end, for a while, then ends everything. Idempotent. */
  close(): Promise<void>;
}

/** What a node process tells its parent, over the IPC channel. */
export type NodeMessage =
  | {
      readonly type: 'ready';
      readonly url: string;
      readonly engineId: string;
      readonly sideChannel: string;
    }
  | {
      readonly type: 'failed';
      readonly code: ErrorCode;
      readonly message: string;
      readonly suggestions: readonly string[];
    };

/** What a parent tells its node: where the other nodes' side channels are, once all of them are known. */
export interface PeersMessage {
  readonly type: 'peers';
  readonly peers: readonly string[];
}

/** Throws what the engine or the server throws on start; nothing is left behind then. */
export async function startNode({ role, engine: options, host, port }: NodeOptions): Promise<RunningNode> {
  const modelPath = await resolveModel(options.model ?? defaults.model, { backend: options.backend });
  const engineId = randomUUID();
  const engine = await Engine.start(completeEngineConfig(options, { modelPath, engineId, role }));
  try {
    const server = await startApiServer({ engine, host, port });
    let closed: Promise<void> | null = null;
    return {
      role,
      url: server.url,
      engineId,
      sideChannel: `${engine.sideChannel.host}:${engine.sideChannel.port}`,
      setKvPeers: (peers) => engine.setKvPeers(peers),
      close: () => {
        closed ??= drainAndClose(engine, () => server.close());
        return closed;
      },
    };
  } catch (error) {
    await engine.shutdown();
    throw error;
  }
}

async function drainAndClose(engine: Engine, closeServer: () => Promise<void>): Promise<void> {
  const limit = new AbortController();
  const timer = new Promise<void>((resolve) => {
    const timeout = setTimeout(resolve, drainLimitMs);
    limit.signal.addEventListener('abort', () => {
      clearTimeout(timeout);
      resolve();
    });
  });
  await Promise.race([engine.drain(), timer]);
  limit.abort();
  await closeServer();
  await engine.shutdown();
}

/**
 * A cluster's node from start to end. The parent is told when it serves, or why it does not. Ends with exit code 0 on
 * SIGTERM; at once when the parent is gone, so that no node outlives its cluster.
 */
export async function runUnderParent(options: NodeOptions): Promise<void> {
  process.once('disconnect', () => process.exit(0));
  // Ctrl-C on a terminal reaches the whole process group; the parent is the one who decides what it means.
  process.on('SIGINT', () => {});
  try {
    const node = await startNode(options);
    process.on('message', ({ peers }: PeersMessage) => node.setKvPeers(peers));
    process.once('SIGTERM', () => void node.close().finally(() => process.exit(0)));
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
