// A node that plays a script, for faults that a real one cannot be made to have at the right moment.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Readable } from 'node:stream';

export interface RecordedCall {
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>>;
  readonly headers: IncomingMessage['headers'];
}

export interface ScriptedNode {
  readonly url: string;
  readonly port: number;
  readonly calls: RecordedCall[];
  /** Calls to one path, in order. */
  callsTo(path: string): RecordedCall[];
  /** Requests whose client went away before the answer was complete. */
  readonly aborted: string[];
  /** Drops the listener and every connection, as a killed process would. */
  die(): void;
  close(): Promise<void>;
}

export type Script = Readonly<
  Record<string, (call: RecordedCall, res: ServerResponse) => void | Promise<void>>
>;

export function json(res: ServerResponse, status: number, body: unknown): void {
  res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

/** Answers by `script`, path → answer; /health is 200 unless it is in there. */
export async function startScriptedNode(script: Script, listenPort = 0): Promise<ScriptedNode> {
  const calls: RecordedCall[] = [];
  const aborted: string[] = [];
  const sockets = new Set<Socket>();
  const server = createServer(async (req, res) => {
    const path = new URL(req.url ?? '/', 'http://localhost').pathname;
    if (path === '/health' && !script[path]) {
      res.writeHead(200).end();
      return;
    }
    const call = { path: req.url ?? '/', body: await bodyOf(req), headers: req.headers };
    calls.push(call);
    res.once('close', () => {
      if (!res.writableFinished) aborted.push(path);
    });
    const answer = script[path];
    if (answer) await answer(call, res);
    else json(res, 404, { error: { message: `no script for ${path}`, type: 'NotFoundError', code: 404 } });
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(listenPort, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const die = () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    calls,
    aborted,
    callsTo: (path) => calls.filter((call) => call.path === path),
    die,
    async close() {
      if (!server.listening) return;
      const closed = new Promise<void>((resolve) => server.once('close', () => resolve()));
      die();
      await closed;
    },
  };
}

async function bodyOf(req: Readable): Promise<Readonly<Record<string, unknown>>> {
  const chunks: Buffer[] = [];
  for await (const chunk of req as AsyncIterable<Buffer>) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString('utf8');
  return text === '' ? {} : (JSON.parse(text) as Record<string, unknown>);
}
