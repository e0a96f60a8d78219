// The server's own router and a bare node:http server that answer the same.
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createHttpServer } from '../server/http.js';
import { sendJson } from '../server/http-answer.js';
import { readJson } from '../server/http-body.js';
import { SseWriter } from '../server/sse.js';

export interface HttpPeerAddress {
  readonly routerUrl: string;
  readonly bareUrl: string;
}

export const numSseChunks = 256;

const chunk = {
  id: 'cmpl-1',
  object: 'text_completion',
  created: 1,
  model: 'default',
  choices: [{ index: 0, text: ' word', logprobs: null, finish_reason: null }],
};

export async function serveHttp(): Promise<void> {
  const router = await createHttpServer(
    [
      {
        method: 'POST',
        path: '/json',
        handler: async ({ req, res }) => sendJson(res, 200, await readJson(req)),
      },
      {
        method: 'POST',
        path: '/sse',
        handler: async ({ req, res }) => {
          await readJson(req);
          const sse = new SseWriter(res);
          for (let i = 0; i < numSseChunks; i += 1) await sse.write(chunk);
          await sse.done();
        },
      },
    ],
    { host: '127.0.0.1', port: 0 },
  );
  const bare = createServer((req, res) => {
    const parts: Buffer[] = [];
    req.on('data', (part: Buffer) => parts.push(part));
    req.on('end', () => {
      const body: unknown = JSON.parse(Buffer.concat(parts).toString());
      if (req.url === '/sse') return streamPlainly(res);
      res.writeHead(200, { 'content-type': 'application/json' });
      res.end(JSON.stringify(body));
    });
  });
  bare.listen(0, '127.0.0.1', () => {
    const { port } = bare.address() as AddressInfo;
    process.send?.({
      routerUrl: router.url,
      bareUrl: `http://127.0.0.1:${port}`,
    } satisfies HttpPeerAddress);
  });
}

function streamPlainly(res: ServerResponse): void {
  res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
  for (let i = 0; i < numSseChunks; i += 1) res.write(`data: ${JSON.stringify(chunk)}\n\n`);
  res.end('data: [DONE]\n\n');
}
