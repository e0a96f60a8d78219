// Answers a completion call, whole or streamed; what differs between the endpoints is their dialect.
import type { RequestOutput } from '../../engine/request-output.js';
import { VllmPdError } from '../../errors.js';
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
  /** Entries of `choices` for one piece, one chunk each. */
  deltas(choice: Choice, piece: RequestOutput, isFirst: boolean): readonly object[];
}

export interface Call {
  readonly node: ApiNode;
  readonly body: GenerationBody;
  readonly input: GenerationInput;
  readonly dialect: Dialect;
}

export async function answerCall({ res }: RouteContext, call: Call): Promise<void> {
  const { node, body, input } = call;
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
  const chunk = envelope(call, dialect.chunkObject);

  const streamChoice = async (choice: Choice) => {
    for await (const piece of choice.stream) {
      const isFirst = latest[choice.index] === undefined;
      latest[choice.index] = piece;
      const deltas = dialect.deltas(choice, piece, isFirst);
      for (const [index, delta] of deltas.entries()) {
        const isLast = piece.finishReason !== null && index === deltas.length - 1;
        await sse.write({
          ...chunk,
          choices: [delta],
          ...(usageInEveryChunk && { usage: usageOf([piece], input.kvTransferParams, 1) }),
          ...(isLast && lastFields(body, piece)),
        });
      }
    }
  };

  try {
    await Promise.all(choices.list.map(streamChoice));
    if (body.stream_options?.include_usage && latest.length === choices.list.length) {
      await sse.write({
        ...chunk,
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

/** vLLM's streams never carry the ticket; without it a proxy cannot offer this node's blocks to the next turn. */
function lastFields(body: GenerationBody, { kvTransferParams, prefillStats }: RequestOutput): object {
  return {
    ...(kvTransferParams && { kv_transfer_params: kvTransferParams }),
    ...(body.return_prefill_stats && { prefill_stats: prefillStats }),
  };
}
