// Answers a completion call, whole or streamed; what differs between the endpoints is their dialect.
import { mergeOutputs, type RequestOutput } from '../../engine/request-output.js';
import { VllmPdError } from '../../errors.js';
import type { KvTransferParams } from '../../wire.js';
import { disconnectSignal, type RouteContext, sendJson } from '../http.js';
import { SseWriter } from '../sse.js';
import type { ApiNode } from './api-node.js';
import { type Choice, Choices, collect, type GenerationInput } from './generation.js';
import type { GenerationBody } from './openai-schema.js';
import { usageOf } from './openai-usage.js';

/** One endpoint's way of writing choices. */
export interface Dialect {
  /** `object` of a whole answer, and of a chunk. */
  readonly object: string;
  readonly chunkObject: string;
  choice(choice: Choice, output: RequestOutput): object;
  /** Fields of a whole answer beside its choices, by the first of these. */
  fields(choice: Choice): object;
  /** What one piece becomes, in order. */
  chunks(choice: Choice, piece: RequestOutput, isFirst: boolean): readonly Chunk[];
}

export interface Chunk {
  /** The one entry of `choices`. */
  readonly choice: object;
  /** Fields beside `choices`. */
  readonly fields?: object;
  /** It comes before the first token, so that counts of tokens are still 0. */
  readonly saysNothing?: boolean;
}

export interface Call {
  readonly node: ApiNode;
  readonly body: GenerationBody;
  readonly input: GenerationInput;
  readonly dialect: Dialect;
}

export async function answerCall({ res }: RouteContext, asked: Call): Promise<void> {
  const { node, body } = asked;
  const input = { ...asked.input, kvTransferParams: believedParams(asked) };
  const call = { ...asked, input };
  if (body.stream_options && !body.stream) {
    const message = 'Expected `stream` to be true when `stream_options` is given.';
    throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'stream_options' });
  }
  const choices = new Choices(node.engine, input, disconnectSignal(res));
  try {
    if (body.stream) await stream(new SseWriter(res), call, choices);
    else await whole(res, call, choices);
  } finally {
    choices.stop();
  }
}

/** Usage repeats what the prefill node said, so that must be what it said. */
function believedParams({ node, input }: Call): KvTransferParams | null {
  const [prompt] = input.prompts;
  return prompt ? node.engine.believed(input.kvTransferParams, prompt.tokenIds) : input.kvTransferParams;
}

function envelope({ node, input }: Call, object: string): object {
  return {
    id: input.id,
    object,
    created: Math.floor(Date.now() / 1000),
    model: node.engine.config.servedModelName,
  };
}

async function whole(res: RouteContext['res'], call: Call, { list }: Choices): Promise<void> {
  const { body, input, dialect } = call;
  const outputs = await Promise.all(list.map((choice) => collect(choice.stream)));
  // Aborted before it said anything: the client is gone.
  if (!outputs.every((output) => output !== null)) return;
  sendJson(res, 200, {
    ...envelope(call, dialect.object),
    choices: list.map((choice, index) => dialect.choice(choice, outputs[index]!)),
    ...dialect.fields(list[0]!),
    usage: usageOf(outputs, input.kvTransferParams, input.numSamples),
    service_tier: null,
    system_fingerprint: null,
    kv_transfer_params: outputs[0]?.kvTransferParams ?? null,
    ...(body.return_prefill_stats && { prefill_stats: outputs[0]?.prefillStats ?? null }),
  });
}

async function stream(sse: SseWriter, call: Call, choices: Choices): Promise<void> {
  const { body, input, dialect } = call;
  const latest: RequestOutput[] = [];
  const usageInEveryChunk = body.stream_options?.include_usage && body.stream_options.continuous_usage_stats;
  const head = envelope(call, dialect.chunkObject);

  const streamChoice = async (choice: Choice) => {
    for await (const piece of inIntervals(choice.stream, body.stream_interval ?? 1)) {
      const isFirst = latest[choice.index] === undefined;
      latest[choice.index] = piece;
      for (const part of dialect.chunks(choice, piece, isFirst)) {
        const counted = part.saysNothing ? { ...piece, numOutputTokens: 0 } : piece;
        await sse.write({
          ...head,
          choices: [part.choice],
          ...part.fields,
          ...(usageInEveryChunk && { usage: usageOf([counted], input.kvTransferParams, 1) }),
          ...(piece.finishReason !== null && !part.saysNothing && lastFields(body, piece)),
        });
      }
    }
  };

  try {
    await Promise.all(choices.list.map(streamChoice));
    if (body.stream_options?.include_usage && latest.length === choices.list.length) {
      await sse.write({
        ...head,
        choices: [],
        usage: usageOf(latest, input.kvTransferParams, input.numSamples),
      });
    }
    await sse.done();
  } catch (error) {
    choices.stop();
    await sse.fail(error);
  }
}

/** Pieces of at least `numTokens` tokens, but for the first and the last one, which do not wait. */
async function* inIntervals(
  stream: AsyncIterable<RequestOutput>,
  numTokens: number,
): AsyncGenerator<RequestOutput, void, void> {
  let held: RequestOutput | null = null;
  let isFirst = true;
  for await (const piece of stream) {
    held = held ? mergeOutputs(held, piece) : piece;
    if (!isFirst && held.tokenIds.length < numTokens && held.finishReason === null) continue;
    yield held;
    held = null;
    isFirst = false;
  }
}

/** vLLM's streams never carry the ticket; without it a proxy cannot offer this node's blocks to the next turn. */
function lastFields(body: GenerationBody, { kvTransferParams, prefillStats }: RequestOutput): object {
  return {
    ...(kvTransferParams && { kv_transfer_params: kvTransferParams }),
    ...(body.return_prefill_stats && { prefill_stats: prefillStats }),
  };
}
