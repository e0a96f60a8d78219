// What both completion endpoints do with the engine: start the choices of one call, stop them when the client leaves.
import { randomBytes } from 'node:crypto';
import type { Engine } from '../engine/engine.js';
import type { RequestOutput } from '../engine/request-output.js';
import type { RequestStream } from '../engine/request-stream.js';
import { VllmPdError } from '../errors.js';
import type { SamplingParams } from '../request.js';
import type { KvTransferParams } from '../wire.js';
import type { Prompt } from './api-node.js';

export interface GenerationInput {
  /** The id of the answer, e.g. `cmpl-…`. */
  readonly id: string;
  readonly prompts: readonly Prompt[];
  /** Answers per prompt. */
  readonly numSamples: number;
  /** Per prompt, because what is left of the context differs. */
  readonly samplingParams: (prompt: Prompt) => Partial<SamplingParams>;
  readonly cacheSalt: string | null;
  readonly sessionId: string | null;
  readonly kvTransferParams: KvTransferParams | null;
}

export interface Choice {
  readonly index: number;
  readonly prompt: Prompt;
  readonly stream: RequestStream;
}

/** Starts all choices, or none when one is refused. They are aborted when `gone` fires. */
export function startChoices(engine: Engine, input: GenerationInput, gone: AbortSignal): Choice[] {
  const { prompts, numSamples, kvTransferParams } = input;
  if (kvTransferParams && prompts.length * numSamples > 1) {
    const message =
      'Expected one prompt and n = 1 together with kv_transfer_params, which describe the blocks of one prompt.';
    throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'kv_transfer_params' });
  }
  const choices: Choice[] = [];
  try {
    for (const prompt of prompts) {
      for (let sample = 0; sample < numSamples; sample++) {
        const index = choices.length;
        choices.push({ index, prompt, stream: start(engine, input, prompt, index, sample) });
      }
    }
  } catch (error) {
    stopChoices(choices);
    throw error;
  }
  gone.addEventListener('abort', () => stopChoices(choices), { once: true });
  if (gone.aborted) stopChoices(choices);
  return choices;
}

export function stopChoices(choices: readonly Choice[]): void {
  for (const { stream } of choices) void stream.return();
}

function start(
  engine: Engine,
  input: GenerationInput,
  prompt: Prompt,
  index: number,
  sample: number,
): RequestStream {
  const params = input.samplingParams(prompt);
  // Samples of one prompt must differ, and still be the same ones when the call is repeated.
  const seed = params.seed == null ? null : params.seed + sample;
  return engine.generate({
    requestId: `${input.id}-${index}-${randomBytes(4).toString('hex')}`,
    promptTokenIds: prompt.tokenIds,
    samplingParams: { ...params, seed },
    cacheSalt: input.cacheSalt,
    sessionId: input.sessionId,
    kvTransferParams: input.kvTransferParams,
  });
}

/** Everything that a choice said, as one piece. Null when it was aborted before it said anything. */
export async function collect(stream: RequestStream): Promise<RequestOutput | null> {
  const pieces: RequestOutput[] = [];
  for await (const piece of stream) pieces.push(piece);
  const last = pieces.at(-1);
  if (!last) return null;
  return {
    ...last,
    text: pieces.map((piece) => piece.text).join(''),
    tokenIds: pieces.flatMap((piece) => piece.tokenIds),
    logprobs: pieces.flatMap((piece) => piece.logprobs),
  };
}
