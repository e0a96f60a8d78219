// Writes the answer of a completion call, whole or streamed; what differs between the endpoints is their dialect.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { mergeOutputs, type RequestOutput } from '../../engine/request-output.js';
import type { RouteContext } from '../http.js';
import { sendJsonBytes } from '../http-answer.js';
import type { SseWriter } from '../sse.js';
import type { ApiNode } from './api-node.js';
import { type Choice, type Choices, collect, type GenerationInput } from './generation.js';
import type { GenerationBody } from './openai-schema.js';
import { usageOf } from './openai-usage.js';

/** One endpoint's way of writing choices. */
export interface Dialect {
  /** `object` of a whole answer, and of a chunk. */
  readonly object: string;
  readonly chunkObject: string;
  choice(choice: Choice, output: RequestOutput): object;
  /** Fields of a whole answer beside its choices, by the first of these. */
  fields(choice: Choice, output: RequestOutput): object;
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

/** Fields that a whole answer and every chunk begin with. */
export interface Envelope {
  readonly id: string;
  readonly object: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly model: string;
}

export function envelope({ node, input }: Call, object: string): Envelope {
  return {
    id: input.id,
    object,
    created: input.kvTransferParams?.remote_first_token?.created ?? Math.floor(Date.now() / 1000),
    model: node.engine.config.servedModelName,
  };
}

/** Answers when all choices are complete. */
export async function whole(res: RouteContext['res'], call: Call, list: readonly Choice[]): Promise<void> {
  const { body, input, dialect } = call;
  const outputs = await Promise.all(list.map(collect));
  // Aborted before it said anything: the client is gone.
  if (!outputs.every((output) => output !== null)) return;
  const choices: string[] = [];
  for (const [index, choice] of list.entries()) {
    const output = outputs[index]!;
    // What is said of a long prompt takes some milliseconds to write, and a batch has many.
    if (output.promptLogprobs) await nextTurn();
    choices.push(JSON.stringify(dialect.choice(choice, output)));
  }
  const head = JSON.stringify(envelope(call, dialect.object));
  const rest = JSON.stringify({
    ...dialect.fields(list[0]!, outputs[0]!),
    usage: usageOf(outputs, input.kvTransferParams, input.numSamples),
    service_tier: null,
    system_fingerprint: null,
    kv_transfer_params: outputs[0]?.kvTransferParams ?? null,
    ...(body.return_prefill_stats && { prefill_stats: outputs[0]?.prefillStats ?? null }),
  });
  const json = `${head.slice(0, -1)},"choices":[${choices.join(',')}],${rest.slice(1)}`;
  sendJsonBytes(res, 200, Buffer.from(json));
}

export async function stream(
  sse: SseWriter,
  call: Call,
  choices: Pick<Choices, 'list' | 'stop'>,
): Promise<void> {
  const { body, input, dialect } = call;
  const latest: RequestOutput[] = [];
  const head = envelope(call, dialect.chunkObject);

  const streamChoice = async (choice: Choice) => {
    const { firstPiece } = choice;
    if (firstPiece) {
      latest[choice.index] = firstPiece;
      // Made even if the client has them already: the dialect goes on from here.
      const chunks = chunksOf(call, head, choice, firstPiece, true);
      const isSaid = input.kvTransferParams?.remote_first_token?.streamed;
      if (!isSaid) for (const chunk of chunks) await sse.write(chunk);
    }
    for await (const piece of inIntervals(choice.stream, body.stream_interval ?? 1, firstPiece === null)) {
      const isFirst = latest[choice.index] === undefined;
      latest[choice.index] = piece;
      for (const chunk of chunksOf(call, head, choice, piece, isFirst)) await sse.write(chunk);
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

/** What one piece of a stream becomes. */
export function chunksOf(
  call: Call,
  head: object,
  choice: Choice,
  piece: RequestOutput,
  isFirst: boolean,
): object[] {
  const { body, input, dialect } = call;
  const usageInEveryChunk = body.stream_options?.include_usage && body.stream_options.continuous_usage_stats;
  return dialect.chunks(choice, piece, isFirst).map((part) => {
    const counted = part.saysNothing ? { ...piece, numOutputTokens: 0 } : piece;
    return {
      ...head,
      choices: [part.choice],
      ...part.fields,
      ...(usageInEveryChunk && { usage: usageOf([counted], input.kvTransferParams, 1) }),
      ...(piece.finishReason !== null && !part.saysNothing && lastFields(body, piece)),
    };
  });
}

/** Pieces of at least `numTokens` tokens, but for the answer's first and last one, which do not wait. */
async function* inIntervals(
  stream: AsyncIterable<RequestOutput>,
  numTokens: number,
  beginsAnswer: boolean,
): AsyncGenerator<RequestOutput, void, void> {
  let held: RequestOutput | null = null;
  let isFirst = beginsAnswer;
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
