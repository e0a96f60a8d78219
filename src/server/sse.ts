// Server-sent events as OpenAI's API streams them: one JSON object per `data:` line, `[DONE]` at the end.
import type { ServerResponse } from 'node:http';
import { drained, errorBody, sendError } from './http-answer.js';

/** The status line goes out with the first event, so that a request that fails before it still gets a real status. */
export class SseWriter {
  readonly #res: ServerResponse;

  constructor(res: ServerResponse) {
    this.#res = res;
  }

  get started(): boolean {
    return this.#res.headersSent;
  }

  /** Resolves when the client has room for more, or is gone. */
  async write(data: unknown): Promise<void> {
    await this.#send(`data: ${JSON.stringify(data)}\n\n`);
  }

  async done(): Promise<void> {
    await this.#send('data: [DONE]\n\n');
    this.end();
  }

  /** Ends it without saying that this was all. */
  end(): void {
    this.#res.end();
  }

  /** Before the first event: a JSON answer with the error's status. After it: the error as an event, then the end. */
  async fail(error: unknown): Promise<void> {
    if (!this.started) {
      sendError(this.#res, error);
      return;
    }
    await this.write(errorBody(error));
    await this.done();
  }

  async #send(text: string): Promise<void> {
    const res = this.#res;
    if (res.destroyed || res.writableEnded) return;
    if (!res.headersSent) {
      res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' });
    }
    if (!res.write(text)) await drained(res);
  }
}
