// One node with its HTTP server for tests, asked over a real socket.
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Client, request } from 'undici';
import { Engine } from '../../../src/engine/engine.js';
import { completeEngineConfig, type EngineOptions } from '../../../src/engine-options.js';
import { resolveModel } from '../../../src/model/resolve-model.js';
import { startApiServer } from '../../../src/server/api/api-server.js';
import { assertWhole, startEngine, type TestEngineOptions } from '../../engine/test-engine.js';

// biome-ignore lint/suspicious/noExplicitAny: tests look into JSON of every shape
export type Json = any;

export interface Reply {
  readonly status: number;
  readonly json: Json;
  readonly text: string;
}

export class TestApi {
  readonly engine: Engine;
  readonly url: string;

  constructor(engine: Engine, url: string) {
    this.engine = engine;
    this.url = url;
  }

  async get(path: string): Promise<Reply> {
    return toReply(await request(this.url + path));
  }

  async post(path: string, body: unknown, headers: Record<string, string> = {}): Promise<Reply> {
    return this.postText(path, JSON.stringify(body), headers);
  }

  async postText(path: string, body: string, headers: Record<string, string> = {}): Promise<Reply> {
    const options = {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/json', ...headers },
    } as const;
    return toReply(await request(this.url + path, options));
  }

  /** The chunks of a stream, which must end with [DONE]. */
  async stream(path: string, body: object): Promise<Json[]> {
    const { status, text } = await this.post(path, { ...body, stream: true });
    if (status !== 200) throw new Error(`${status}: ${text}`);
    return parseEvents(text);
  }

  /** A streaming call on a connection of its own, left after `numEvents` events. */
  async leaveAfter(path: string, body: object, numEvents: number): Promise<void> {
    const client = new Client(this.url);
    try {
      const { body: events } = await client.request({
        path,
        method: 'POST',
        body: JSON.stringify({ ...body, stream: true }),
      });
      let seen = '';
      for await (const chunk of events) {
        seen += String(chunk);
        if (seen.split('\n\n').length > numEvents) break;
      }
    } finally {
      await client.destroy();
    }
  }
}

async function toReply(response: Awaited<ReturnType<typeof request>>): Promise<Reply> {
  const text = await response.body.text();
  const isJson = String(response.headers['content-type'] ?? '').startsWith('application/json');
  return { status: response.statusCode, json: isJson ? JSON.parse(text) : null, text };
}

export function parseEvents(text: string): Json[] {
  const events = text.split('\n\n');
  if (events.pop() !== '' || events.pop() !== 'data: [DONE]')
    throw new Error(`No [DONE] at the end: ${text}`);
  return events.map((event) => JSON.parse(event.replace(/^data: /, '')));
}

/** The node is whole again behind the body, and gone behind the call. */
export async function withApi(
  options: TestEngineOptions,
  body: (api: TestApi) => Promise<void>,
): Promise<void> {
  const engine = await startEngine(options);
  const server = await startApiServer({ engine, host: '127.0.0.1', port: 0 });
  try {
    await body(new TestApi(engine, server.url));
    await assertWhole(engine);
  } finally {
    await server.close();
    await engine.shutdown();
  }
}

/** Writes out all that a template is given. */
export const tellingTemplate =
  '{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.tool_calls %}' +
  '{% for c in m.tool_calls %} call {{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}' +
  '{% endif %}{% if m.tool_call_id %} for {{ m.tool_call_id }}{% endif %}; {% endfor %}' +
  '{% if tools %}tools{% for t in tools %} {{ t.function.name }}{% endfor %}; {% endif %}' +
  '{% if documents %}documents{% for d in documents %} {{ d.title }}{% endfor %}; {% endif %}' +
  '{% if reasoning_effort is defined %}effort {{ reasoning_effort }} {{ enable_thinking }}; {% endif %}';

/** A node on the tiny model with some of its files written anew. */
export async function withModelFiles(
  files: Readonly<Record<string, string>>,
  work: (api: TestApi) => Promise<void>,
  choices: EngineOptions = {},
): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'model-files-'));
  await cp(await resolveModel('tiny'), folder, { recursive: true });
  for (const [name, content] of Object.entries(files)) await writeFile(path.join(folder, name), content);
  const options = { numThreads: 1, servedModelName: 'tiny', cache: { numBlocks: 128 }, ...choices };
  const node = { modelPath: folder, engineId: 'files', role: 'both' } as const;
  const engine = await Engine.start(completeEngineConfig(options, node));
  const server = await startApiServer({ engine, host: '127.0.0.1', port: 0 });
  try {
    await work(new TestApi(engine, server.url));
  } finally {
    await server.close();
    await engine.shutdown();
    await rm(folder, { recursive: true });
  }
}

export const text = 'once upon a time there was a king who had three sons and a castle on the hill';
