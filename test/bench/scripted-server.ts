// An HTTP server on loopback that does what a test tells it, for the faults that a real proxy does not show on demand.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export type Script = (req: IncomingMessage, res: ServerResponse, body: string) => void | Promise<void>;

export async function withServer(script: Script, run: (url: string) => Promise<void>): Promise<void> {
  const server = createServer(async (req, res) => {
    let body = '';
    for await (const chunk of req) body += String(chunk);
    await script(req, res, body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  try {
    await run(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}

export function event(data: unknown): string {
  return `data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`;
}

export function contentChunk(content: string, tokenIds: readonly number[]): unknown {
  return { choices: [{ index: 0, delta: { content }, token_ids: tokenIds, finish_reason: null }] };
}

export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
