// What both completion endpoints do with the engine: start the choices of one call, stop them when the client leaves.
import { randomBytes } from 'node:crypto';
import type { Engine } from '../../engine/engine.js';
import type { RequestOutput } from '../../engine/request-output.js';
import type { RequestStream } from '../../engine/request-stream.js';
import { SampleGroup } from '../../engine/sample-group.js';
import { VllmPdError } from '../../errors.js';
import type { SamplingParams } from '../../request.js';
import type { KvTransferParams } from '../../wire.js';
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
  readonly priority: number;
  readonly kvTransferParams: KvTransferParams | null;
  /** Nobody is told of what is generated: only the prompt was asked for. */
  readonly isPromptOnly?: boolean;
  /** Told each answer that came to its end; what it returns goes along with the answer's ticket. */
  readonly onAnswer?: ((text: string, tokenIds: readonly number[]) => Partial<KvTransferParams>) | null;
}

export interface Choice {
  readonly index: number;
  readonly prompt: Prompt;
  /** What a first token says that a peer has sampled; it comes before what `stream` says. */
  readonly firstPiece: RequestOutput | null;
  readonly stream: AsyncGenerator<RequestOutput, void, void>;
}

/** The choices of one call. Aborts all of them when `gone` fires. */
export class Choices {
  readonly list: readonly Choice[];
  readonly #engine: Engine;
  readonly #input: GenerationInput;
  readonly #started: RequestStream[] = [];
  #isStopped = false;

  /** Starts all choices, or throws what the engine throws and starts none. */
  constructor(engine: Engine, input: GenerationInput, gone: AbortSignal) {
    this.#engine = engine;
    this.#input = input;
    if (input.kvTransferParams && input.prompts.length > 1) {
      const message =
        'Expected one prompt together with kv_transfer_params, which describe the blocks of one prompt, ' +
        `but received ${input.prompts.length}.`;
      throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'kv_transfer_params' });
    }
    checkBatch(engine, input);
    try {
      const list = input.prompts.flatMap((prompt, i) => this.#samplesOf(prompt, i * input.numSamples));
      this.list = list.map((choice) => ({ ...choice, stream: told(choice, input) }));
    } catch (error) {
      this.stop();
      throw error;
    }
    gone.addEventListener('abort', () => this.stop(), { once: true });
    if (gone.aborted) this.stop();
  }

  /** Aborts what has not ended. */
  stop(): void {
    this.#isStopped = true;
    for (const stream of this.#started) void stream.return();
  }

  #samplesOf(prompt: Prompt, firstIndex: number): Choice[] {
    const { numSamples, kvTransferParams } = this.#input;
    const samples = new SampleGroup(numSamples);
    const params = this.#input.samplingParams(prompt);
    const first = this.#start(prompt, params, firstIndex, 0, samples, kvTransferParams);
    // One sample says what there is to say about the prompt.
    const others = { ...params, promptLogprobs: null };
    const waits = kvTransferParams !== null || params.promptLogprobs != null;
    const { firstPiece } = first;
    const choices: Choice[] = [{ index: firstIndex, prompt, firstPiece, stream: first }];
    for (let sample = 1; sample < numSamples; sample++) {
      const index = firstIndex + sample;
      const start = () => this.#start(prompt, others, index, sample, samples, null);
      // What a peer holds can be fetched once; the other samples find it in the cache behind the first.
      const stream = waits ? this.#startBehind(first, start) : start();
      choices.push({ index, prompt, firstPiece: null, stream });
    }
    return choices;
  }

  #start(
    prompt: Prompt,
    params: Partial<SamplingParams>,
    index: number,
    sample: number,
    samples: SampleGroup,
    kvTransferParams: KvTransferParams | null,
  ): RequestStream {
    const { id, cacheSalt, sessionId } = this.#input;
    // Samples of one prompt must differ, and still be the same ones when the call is repeated.
    const seed = params.seed == null ? null : params.seed + sample;
    const stream = this.#engine.generate({
      requestId: `${id}-${index}-${randomBytes(4).toString('hex')}`,
      promptTokenIds: prompt.tokenIds,
      samplingParams: { ...params, seed },
      cacheSalt,
      sessionId,
      kvTransferParams,
      priority: this.#input.priority,
      samples,
    });
    this.#started.push(stream);
    return stream;
  }

  async *#startBehind(
    first: RequestStream,
    start: () => RequestStream,
  ): AsyncGenerator<RequestOutput, void, void> {
    await first.begun;
    if (this.#isStopped) return;
    let { promptLogprobs } = first;
    for await (const piece of start()) {
      yield { ...piece, promptLogprobs };
      promptLogprobs = null;
    }
  }
}

/** What could not be queued on an idle node either will not be queued later. */
function checkBatch({ config: { scheduler } }: Engine, { prompts, numSamples }: GenerationInput): void {
  const limit = scheduler.maxNumSeqs + scheduler.maxWaiting;
  const numChoices = prompts.length * numSamples;
  if (numChoices <= limit) return;
  const message = `Expected at most ${limit} choices in one request to this node but received ${numChoices}.`;
  throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'n' });
}

/** What is told of a choice. */
function told(choice: Choice, { onAnswer, isPromptOnly }: GenerationInput): Choice['stream'] {
  if (isPromptOnly) return unanswered(choice.stream);
  return onAnswer ? watched(choice, onAnswer) : choice.stream;
}

async function* watched(
  { firstPiece, stream }: Choice,
  onAnswer: NonNullable<GenerationInput['onAnswer']>,
): Choice['stream'] {
  const texts = [firstPiece?.text ?? ''];
  const tokenIds = [...(firstPiece?.tokenIds ?? [])];
  for await (const piece of stream) {
    texts.push(piece.text);
    tokenIds.push(...piece.tokenIds);
    // Before the piece that ends the answer is passed on: the next turn may be quick.
    const isLast = piece.finishReason !== null && piece.finishReason !== 'hand_over';
    yield isLast ? withTicketFields(piece, onAnswer(texts.join(''), tokenIds)) : piece;
  }
}

async function* unanswered(stream: Choice['stream']): Choice['stream'] {
  for await (const piece of stream) {
    const finishReason = piece.finishReason === 'stop' ? 'length' : piece.finishReason;
    yield {
      ...piece,
      text: '',
      tokenIds: [],
      logprobs: [],
      numOutputTokens: 0,
      finishReason,
      stopReason: null,
    };
  }
}

function withTicketFields(piece: RequestOutput, fields: Partial<KvTransferParams>): RequestOutput {
  const ticket = piece.kvTransferParams;
  return ticket?.do_remote_decode ? { ...piece, kvTransferParams: { ...ticket, ...fields } } : piece;
}

/** Everything that a choice said, as one piece. Null when it was aborted before it said anything. */
export async function collect({ firstPiece, stream }: Choice): Promise<RequestOutput | null> {
  const pieces: RequestOutput[] = firstPiece ? [firstPiece] : [];
  for await (const piece of stream) pieces.push(piece);
  const last = pieces.at(-1);
  if (!last) return null;
  return {
    ...last,
    text: pieces.map((piece) => piece.text).join(''),
    tokenIds: pieces.flatMap((piece) => piece.tokenIds),
    logprobs: pieces.flatMap((piece) => piece.logprobs),
    promptLogprobs: pieces.find((piece) => piece.promptLogprobs)?.promptLogprobs ?? null,
  };
}
