// Between the proxy and one node: passes HTTP hops on, stops at each step of a turn to let a fault strike.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Pool } from 'undici';
import type { Side, Step } from './fault.js';

/** What a fault does to the hop that it struck. */
export type HopVerdict = 'go on' | 'cut';

/** Idle connections go soon, whatever the node offers: what a burst of retries has opened would pass for a leak of the node. */
const poolOptions = {
  headersTimeout: 0,
  bodyTimeout: 0,
  keepAliveTimeout: 1000,
  keepAliveMaxTimeout: 1000,
} as const;

export interface HopRelayOptions {
  readonly side: Side;
  /** Called when a hop gets to a step; the hop waits for the verdict. */
  readonly onStep: (step: Step) => Promise<HopVerdict>;
  /** The relay before the node's side channel: what answers name as `remote_host` and `remote_port`. */
  readonly sideChannel: { readonly host: string; readonly port: number };
}

/** Keeps its address while the node behind it comes and goes. */
export class HopRelay {
  readonly #options: HopRelayOptions;
  readonly #server: Server;
  #pool: Pool | null = null;

  private constructor(options: HopRelayOptions) {
    this.#options = options;
    this.#server = createServer((req, res) => void this.#relay(req, res));
  }

  static async open(options: HopRelayOptions): Promise<HopRelay> {
    const relay = new HopRelay(options);
    await new Promise<void>((resolve) => relay.#server.listen(0, '127.0.0.1', resolve));
    return relay;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** From now on hops go to the node at `url`; null = there is none, and hops lose their connections. */
  async connectTo(url: string | null): Promise<void> {
    const previous = this.#pool;
    this.#pool = url === null ? null : new Pool(url, poolOptions);
    await previous?.destroy();
  }

  async close(): Promise<void> {
    await this.connectTo(null);
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #relay(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const left = new AbortController();
    res.once('close', () => left.abort());
    try {
      const chunks: Buffer[] = [];
      for await (const chunk of req) chunks.push(chunk as Buffer);
      await this.#pass(req, Buffer.concat(chunks), res, left.signal);
    } catch {
      // The node has gone, or the proxy: either way this hop has no more to say.
      res.destroy();
    }
  }

  async #pass(req: IncomingMessage, body: Buffer, res: ServerResponse, signal: AbortSignal): Promise<void> {
    const { before, after } = stepsOf(this.#options.side, req.url ?? '');
    if (!this.#pool || (before && (await this.#options.onStep(before)) === 'cut')) return void res.destroy();
    const response = await this.#pool.request({
      method: req.method as 'GET' | 'POST',
      path: req.url ?? '/',
      headers: forwarded(req),
      body: body.length > 0 ? body : null,
      signal,
    });
    const isStream = String(response.headers['content-type']).startsWith('text/event-stream');
    const { 'content-length': _, 'transfer-encoding': __, connection: ___, ...headers } = response.headers;
    if (isStream) {
      res.writeHead(response.statusCode, headers);
      for await (const events of wholeEvents(response.body)) {
        if (after && (await this.#options.onStep(after)) === 'cut') return void res.destroy();
        res.write(this.#throughRelay(events));
      }
      res.end();
    } else {
      const text = await response.body.text();
      if (after && (await this.#options.onStep(after)) === 'cut') return void res.destroy();
      res.writeHead(response.statusCode, headers).end(this.#throughRelay(text));
    }
  }

  #throughRelay(text: string): string {
    const { host, port } = this.#options.sideChannel;
    return text
      .replace(/"remote_host":\s*"[^"]*"/g, `"remote_host":"${host}"`)
      .replace(/"remote_port":\s*\d+/g, `"remote_port":${port}`);
  }
}

/** The step at which a hop is before it reaches the node, and the one once the node has answered. */
function stepsOf(side: Side, path: string): { readonly before: Step | null; readonly after: Step | null } {
  if (path.startsWith('/v1/cache_query')) return { before: 'before_query', after: 'after_query' };
  if (!path.endsWith('/completions')) return { before: null, after: null };
  return side === 'prefill'
    ? { before: 'during_prefill', after: 'after_prefill' }
    : { before: 'during_hand_over', after: 'mid_stream' };
}

function forwarded(req: IncomingMessage): Record<string, string> {
  const {
    host: _,
    connection: __,
    'content-length': ___,
    'transfer-encoding': ____,
    ...headers
  } = req.headers;
  return headers as Record<string, string>;
}

/** A stream's text, cut behind events only. */
async function* wholeEvents(body: AsyncIterable<Buffer>): AsyncGenerator<string> {
  let rest = '';
  for await (const chunk of body) {
    rest += chunk.toString('latin1');
    const end = rest.lastIndexOf('\n\n') + 2;
    if (end < 2) continue;
    yield Buffer.from(rest.slice(0, end), 'latin1').toString('utf8');
    rest = rest.slice(end);
  }
  if (rest !== '') yield Buffer.from(rest, 'latin1').toString('utf8');
}
