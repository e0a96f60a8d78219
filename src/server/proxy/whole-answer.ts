// A whole answer as the stream that a client asked for: the chunks that vLLM would have sent, but few of them.
import type { ServerResponse } from 'node:http';
import { SseWriter } from '../sse.js';
import type { JsonObject } from './request.js';

interface Choice extends JsonObject {
  readonly index: number;
  /** Of chats. */
  readonly message?: JsonObject & { readonly tool_calls?: readonly JsonObject[] | null };
}

interface Answer extends JsonObject {
  readonly choices: readonly Choice[];
}

/** The request as one for a whole answer. */
export function unstreamed(body: JsonObject): JsonObject {
  const { stream: _, stream_options: __, stream_interval: ___, ...rest } = body;
  return { ...rest, stream: false };
}

/** Streams `answer` to a client that sent `asked`: for each choice its role, if it has one, then all of it; usage at the end. */
export async function streamAnswer(
  res: ServerResponse,
  answer: JsonObject,
  asked: JsonObject,
): Promise<void> {
  const { choices, usage, id, created, model, object, prompt_token_ids } = answer as Answer;
  const options = (asked.stream_options ?? {}) as JsonObject;
  const isChat = object === 'chat.completion';
  const head = { id, object: isChat ? 'chat.completion.chunk' : object, created, model };
  const sse = new SseWriter(res);
  const send = (choice: JsonObject, more: JsonObject = {}) =>
    sse.write({
      ...head,
      choices: [choice],
      ...more,
      ...(options.continuous_usage_stats ? { usage } : {}),
    });
  if (isChat) {
    for (const { index, message } of choices) {
      const delta = { role: message?.role ?? 'assistant', content: '' };
      await send({ index, delta, logprobs: null, finish_reason: null }, { prompt_token_ids });
    }
  }
  for (const choice of choices) await send(isChat ? asDelta(choice) : choice);
  if (options.include_usage) await sse.write({ ...head, choices: [], usage });
  await sse.done();
}

function asDelta({ message, ...choice }: Choice): JsonObject {
  const { role: _, tool_calls: calls, ...said } = message ?? {};
  const spoken = Object.entries(said).filter(([, value]) => value !== null);
  const called = calls?.length ? { tool_calls: calls.map((call, index) => ({ index, ...call })) } : {};
  return { ...choice, delta: { ...Object.fromEntries(spoken), ...called } };
}
