// The proxy: one OpenAI-style address in front of prefill and decode nodes.
import type { FirstToken, KvLookup, KvTransferMode, RoutingPolicy } from '../../config.js';
import { defaults } from '../../engine-options.js';
import { VllmPdError } from '../../errors.js';
import { createHttpServer, type HttpOptions, lastWordsMs, type Route, type RouteContext } from '../http.js';
import { disconnectSignal } from '../http-answer.js';
import { readJson } from '../http-body.js';
import { adminRoutes } from './admin.js';
import { ConversationTable } from './conversations.js';
import { release } from './lookup.js';
import { ProxyMetrics } from './metrics.js';
import { ProxyNode } from './node.js';
import { NodeChooser } from './node-chooser.js';
import { Openings } from './openings.js';
import { parseTurnRequest, type TurnRequest } from './request.js';
import { ProxyRouter } from './routing.js';
import { TurnPlayer } from './turn.js';
import { WaitingRoom } from './waiting-room.js';

export interface ProxyOptions {
  readonly host: string;
  /** 0 = any free one. */
  readonly port: number;
  readonly prefillUrls: readonly string[];
  readonly decodeUrls: readonly string[];
  readonly mode: KvTransferMode;
  readonly lookup: KvLookup;
  /** Default prefill, where both nodes of a turn are this project's; between others it is always decode. */
  readonly firstToken?: FirstToken;
  /** Which of several prefill nodes plays a turn; default session. */
  readonly prefillRouting?: RoutingPolicy | undefined;
  /** Which of several decode nodes plays a turn; default session. */
  readonly decodeRouting?: RoutingPolicy | undefined;
  /** Turns whose answer has not begun; more are refused with 429. Default 1024. */
  readonly maxWaiting?: number | undefined;
  /**
   * Default false. Otherwise decode nodes whose streams carry no tickets are asked for whole answers, and clients get what
   * they wanted streamed in one piece.
   */
  readonly unstreamedDecode?: boolean;
  /** Default false: `kv_transfer_params` of clients are dropped, since they name peers and blocks. */
  readonly trustKvTransferParams?: boolean;
  /** Default 2000. */
  readonly queryTimeoutMs?: number;
  /** Default 2000. */
  readonly connectTimeoutMs?: number;
  /** How often a node with work is asked whether it is alive; default 5000. */
  readonly watchIntervalMs?: number;
  /** Default 2000. */
  readonly probeTimeoutMs?: number;
  /** Of these a client must have one; the first one also opens the nodes. None = clients bring the nodes' own keys. */
  readonly apiKeys?: readonly string[] | undefined;
  readonly limits?: HttpOptions['limits'];
}

export interface ProxyServer {
  readonly url: string;
  readonly host: string;
  readonly port: number;
  /** Takes no more turns and resolves when those under way are answered, after `timeoutMs` at the latest. */
  drain(timeoutMs: number): Promise<void>;
  /** Its nodes are being stopped: that they no longer answer is then no news. */
  expectNodesToLeave(): void;
  close(): Promise<void>;
}

/** Throws ADDRESS_IN_USE, or INVALID_ARGUMENT for a node's address that is none. */
export async function startProxy(options: ProxyOptions): Promise<ProxyServer> {
  const prefillNodes = options.prefillUrls.map((url) => createNode('prefill', url, options));
  const decodeNodes = options.decodeUrls.map((url) => createNode('decode', url, options));
  const nodes = [...prefillNodes, ...decodeNodes];
  const metrics = new ProxyMetrics();
  const player = createPlayer(options, prefillNodes, decodeNodes, metrics);
  const room = new WaitingRoom(options.maxWaiting ?? defaults.maxWaiting, () => performance.now());
  const routes: Route[] = [
    ...(['/v1/completions', '/v1/chat/completions'] as const).map((path) =>
      turnRoute(path, player, metrics, room, options.trustKvTransferParams ?? false),
    ),
    ...adminRoutes(nodes),
    { method: 'GET', path: '/metrics', handler: (context) => sendMetrics(metrics, context) },
  ];
  const closeNodes = () => Promise.all(nodes.map((node) => node.close()));
  try {
    const server = await createHttpServer(routes, options, options);
    await Promise.all(nodes.map((node) => node.probe()));
    return {
      url: server.url,
      host: server.host,
      port: server.port,
      drain: (timeoutMs) => server.drain(timeoutMs),
      expectNodesToLeave() {
        for (const node of nodes) node.expectToLeave();
      },
      async close() {
        // Turns that have not ended by now end with an error that their clients can see.
        const over = server.drain(lastWordsMs);
        await closeNodes();
        await over;
        await server.close();
      },
    };
  } catch (error) {
    await closeNodes();
    throw error;
  }
}

function createNode(role: 'prefill' | 'decode', address: string, options: ProxyOptions): ProxyNode {
  const url = URL.canParse(address) ? new URL(address) : null;
  if (url?.protocol !== 'http:' || (url.pathname !== '/' && url.pathname !== '')) {
    const message = `Expected the address of a ${role} node as http://HOST:PORT but received \`${address}\`.`;
    throw new VllmPdError('INVALID_ARGUMENT', message, { param: `${role}-url` });
  }
  const { connectTimeoutMs = 2000, watchIntervalMs = 5000, probeTimeoutMs = 2000 } = options;
  const apiKey = options.apiKeys?.[0] ?? null;
  return new ProxyNode({ role, url: url.origin, connectTimeoutMs, watchIntervalMs, probeTimeoutMs, apiKey });
}

function createPlayer(
  options: ProxyOptions,
  prefillNodes: readonly ProxyNode[],
  decodeNodes: readonly ProxyNode[],
  metrics: ProxyMetrics,
): TurnPlayer {
  const { mode, lookup, trustKvTransferParams = false, queryTimeoutMs = 2000 } = options;
  const conversations = new ConversationTable({
    clock: () => performance.now(),
    onDrop: ({ node, params }) => {
      if (params.remote_request_id) release(node, params.remote_request_id);
    },
  });
  const { prefillRouting = defaults.routing, decodeRouting = defaults.routing } = options;
  const router = new ProxyRouter({
    prefill: new NodeChooser({ nodes: prefillNodes, policy: prefillRouting, timeoutMs: queryTimeoutMs }),
    decode: new NodeChooser({ nodes: decodeNodes, policy: decodeRouting, timeoutMs: queryTimeoutMs }),
    conversations,
    metrics,
  });
  return new TurnPlayer({
    router,
    conversations,
    metrics,
    lookup: { mode, lookup, queryTimeoutMs, openings: new Openings() },
    firstToken: options.firstToken ?? defaults.firstToken,
    unstreamedDecode: options.unstreamedDecode ?? false,
    // A node of another kind may give a ticket before it was first asked for anything else.
    keepsTicketsOf: (node) =>
      mode === 'bi' &&
      !trustKvTransferParams &&
      (lookup === 'ticket' || !node.answersCacheQueries || !node.passesFirstTokens),
  });
}

function turnRoute(
  path: TurnRequest['path'],
  player: TurnPlayer,
  metrics: ProxyMetrics,
  room: WaitingRoom,
  trustKvTransferParams: boolean,
): Route {
  return {
    method: 'POST',
    path,
    async handler({ req, res }) {
      const signal = disconnectSignal(res);
      metrics.turnStarted();
      res.once('close', () => metrics.turnEnded(path, signal.aborted ? clientClosedRequest : res.statusCode));
      room.enter(res);
      const turn = parseTurnRequest(path, req, await readJson(req), trustKvTransferParams);
      try {
        await player.play(turn, res, signal);
      } catch (error) {
        if (!signal.aborted) throw error;
      }
    },
  };
}

/** nginx's status for a client that did not wait. */
const clientClosedRequest = 499;

async function sendMetrics(metrics: ProxyMetrics, { res }: RouteContext): Promise<void> {
  const text = await metrics.registry.metrics();
  res.writeHead(200, { 'content-type': metrics.registry.contentType }).end(text);
}
