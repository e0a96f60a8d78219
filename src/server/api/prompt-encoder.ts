// Text → token ids beside the event loop: short prompts at once, long ones on a thread, the latest ones remembered.
import { Worker } from 'node:worker_threads';
import { VllmPdError } from '../../errors.js';
import { createLogger } from '../../log.js';
import type { Tokenizer } from '../../model/tokenizer.js';
import type { EncodeReply, EncodeTask } from './prompt-encoder-worker.js';

const log = createLogger('prompt-encoder');

/** Unknown characters that are encoded within about 2 ms; the tokenizer is synchronous JavaScript. */
const shortLength = 2000;
/** Characters for which the event loop may be held up once, while the thread is still starting. */
const bearableLength = 4000;
/** Characters that are encoded here when the thread has ended, some 100 ms; longer ones may be what it ended of. */
const recoverableLength = 100_000;
/** A cache query and the request behind it bring the same text. */
const maxRemembered = 32;

export interface PromptEncoderOptions {
  readonly tokenizer: Tokenizer;
  readonly modelPath: string;
  /** Texts that cannot be this short in tokens are refused without being encoded. */
  readonly maxTokens: number;
}

interface Waiting {
  /** Null: the thread has ended. */
  readonly resolve: (tokenIds: readonly number[] | null) => void;
  readonly reject: (error: unknown) => void;
}

export class PromptEncoder {
  readonly #options: PromptEncoderOptions;
  readonly #remembered = new Map<string, Promise<readonly number[]>>();
  readonly #waiting = new Map<number, Waiting>();
  #numTasks = 0;
  #worker: Worker | null = null;
  #isReady = false;
  #isClosed = false;

  constructor(options: PromptEncoderOptions) {
    this.#options = options;
  }

  /** Starts the thread ahead of the first long prompt, which would otherwise wait for it some 100 ms. */
  warmUp(): void {
    this.#worker ??= this.#startWorker();
  }

  /** Rejects with PROMPT_TOO_LONG when the text is longer than any that fits. */
  async encode(text: string, addSpecialTokens: boolean): Promise<readonly number[]> {
    const numUnknown = this.#options.tokenizer.numUnknownCharacters(text, { addSpecialTokens });
    if (numUnknown <= shortLength) return this.#encodeHere(text, addSpecialTokens);
    const key = `${addSpecialTokens}${text}`;
    const known = this.#remembered.get(key);
    this.#remembered.delete(key);
    const tokenIds = known ?? this.#encodeLong(text, addSpecialTokens);
    this.#remembered.set(key, tokenIds);
    if (this.#remembered.size > maxRemembered) this.#forget(this.#remembered.keys().next().value!);
    try {
      return await tokenIds;
    } catch (error) {
      this.#forget(key);
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#worker?.terminate();
  }

  async #encodeLong(text: string, addSpecialTokens: boolean): Promise<readonly number[]> {
    this.#worker ??= this.#startWorker();
    if (!this.#isReady && text.length <= bearableLength) return this.#encodeHere(text, addSpecialTokens);
    const tokenIds = await this.#encodeThere(this.#worker, text, addSpecialTokens);
    if (tokenIds) return tokenIds;
    if (this.#isClosed || text.length > recoverableLength) {
      throw new VllmPdError('OVERLOADED', 'The tokenizer thread has ended.');
    }
    return this.#encodeHere(text, addSpecialTokens);
  }

  #encodeThere(worker: Worker, text: string, addSpecialTokens: boolean): Promise<readonly number[] | null> {
    const task: EncodeTask = { id: this.#numTasks++, text, addSpecialTokens };
    return new Promise((resolve, reject) => {
      this.#waiting.set(task.id, { resolve, reject });
      worker.ref();
      worker.postMessage(task);
    });
  }

  #encodeHere(text: string, addSpecialTokens: boolean): readonly number[] {
    return this.#options.tokenizer.encode(text, { addSpecialTokens });
  }

  #startWorker(): Worker {
    const { modelPath, maxTokens } = this.#options;
    const worker = new Worker(new URL('./prompt-encoder-worker.js', import.meta.url), {
      workerData: { modelPath, maxTokens },
    });
    worker.unref();
    worker.on('message', (reply: EncodeReply) => this.#take(reply));
    worker.on('error', (error) => log.warn({ err: error }, 'the tokenizer thread failed'));
    worker.on('exit', () => this.#giveBack());
    return worker;
  }

  #take(reply: EncodeReply): void {
    if (reply.kind === 'ready') {
      this.#isReady = true;
      return;
    }
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    // An idle thread keeps no process alive.
    if (this.#waiting.size === 0) this.#worker?.unref();
    if (reply.kind === 'encoded') waiting?.resolve(Array.from(reply.tokenIds));
    else waiting?.reject(refusal(reply, this.#options.maxTokens));
  }

  /** The next long prompt starts a new thread. */
  #giveBack(): void {
    this.#worker = null;
    this.#isReady = false;
    for (const { resolve } of this.#waiting.values()) resolve(null);
    this.#waiting.clear();
  }

  #forget(key: string): void {
    this.#remembered.delete(key);
  }
}

function refusal(reply: Exclude<EncodeReply, { kind: 'ready' | 'encoded' }>, maxTokens: number): VllmPdError {
  if (reply.kind === 'failed') return new VllmPdError('INVALID_ARGUMENT', reply.message, { param: 'prompt' });
  const message =
    `This model's maximum context length is ${maxTokens} tokens, which cannot stand for more than ` +
    `${reply.maxLength} characters, but the prompt has ${reply.length}.`;
  return new VllmPdError('PROMPT_TOO_LONG', message, { param: 'prompt' });
}
