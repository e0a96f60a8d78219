// An exported decoder on a thread of its own, so that a run does not hold up the event loop.
import { Worker } from 'node:worker_threads';
import { VllmPdError } from '../errors.js';
import { disableOnnxTelemetry } from './onnx-runtime.js';
import type { OnnxOptions, OnnxRun, OnnxRunResult } from './onnx-session.js';
import type { OnnxSignature } from './onnx-signature.js';
import type { OnnxReply, OnnxTask } from './onnx-worker.js';

interface Waiting {
  readonly resolve: (reply: OnnxReply) => void;
  readonly reject: (error: VllmPdError) => void;
}

export class OnnxThread {
  readonly #worker: Worker;
  #waiting: Waiting | null = null;
  #ended: VllmPdError | null = null;

  private constructor(options: OnnxOptions) {
    disableOnnxTelemetry();
    this.#worker = new Worker(new URL('./onnx-worker.js', import.meta.url), { workerData: options });
    this.#worker.on('message', (reply: OnnxReply) => this.#take(reply));
    this.#worker.on('error', (cause) =>
      this.#end(new VllmPdError('INTERNAL', `The ONNX Runtime thread failed: ${cause.message}`, { cause })),
    );
    this.#worker.on('exit', () =>
      this.#end(new VllmPdError('INTERNAL', 'The ONNX Runtime thread has ended.')),
    );
  }

  /** Throws what OnnxSession.load throws; the thread is gone then. */
  static async start(options: OnnxOptions): Promise<{ thread: OnnxThread; signature: OnnxSignature }> {
    const thread = new OnnxThread(options);
    const reply = await thread.#reply();
    if (reply.kind === 'ready') return { thread, signature: reply.signature };
    thread.close();
    throw refusal(reply);
  }

  /** One call at a time. Gathered KV is moved to the thread. */
  async run(run: OnnxRun): Promise<OnnxRunResult> {
    if (this.#ended) throw this.#ended;
    const task: OnnxTask = { kind: 'run', run };
    const reply = this.#reply();
    this.#worker.postMessage(task, run.past.kind === 'gathered' ? [run.past.kv.buffer as ArrayBuffer] : []);
    const answered = await reply;
    if (answered.kind === 'ran') return answered.result;
    throw refusal(answered);
  }

  /** The thread frees the session and ends; the process need not wait for it. Idempotent. */
  close(): void {
    if (this.#ended) return;
    this.#end(new VllmPdError('INTERNAL', 'The model has been closed.'));
    this.#worker.postMessage({ kind: 'close' } satisfies OnnxTask);
    this.#worker.unref();
  }

  /** The next one. Only while one is awaited does the thread keep the process alive. */
  async #reply(): Promise<OnnxReply> {
    this.#worker.ref();
    try {
      return await new Promise<OnnxReply>((resolve, reject) => {
        this.#waiting = { resolve, reject };
      });
    } finally {
      this.#worker.unref();
    }
  }

  #take(reply: OnnxReply): void {
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.resolve(reply);
  }

  #end(error: VllmPdError): void {
    this.#ended ??= error;
    this.#waiting?.reject(this.#ended);
    this.#waiting = null;
  }
}

function refusal(reply: OnnxReply): VllmPdError {
  if (reply.kind !== 'failed')
    return new VllmPdError('INTERNAL', `Unexpected '${reply.kind}' from a thread.`);
  return new VllmPdError(reply.code, reply.message, { suggestions: reply.suggestions });
}
