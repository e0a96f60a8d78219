// The thread behind OnnxThread: holds the session, runs what it is sent, ends when it is told to.
import { parentPort, workerData } from 'node:worker_threads';
import { type ErrorCode, messageOf, VllmPdError } from '../errors.js';
import { type OnnxOptions, type OnnxRun, type OnnxRunResult, OnnxSession } from './onnx-session.js';
import type { OnnxSignature } from './onnx-signature.js';

export type OnnxTask = { readonly kind: 'run'; readonly run: OnnxRun } | { readonly kind: 'close' };

export type OnnxReply =
  | { readonly kind: 'ready'; readonly signature: OnnxSignature }
  | { readonly kind: 'ran'; readonly result: OnnxRunResult }
  | {
      readonly kind: 'failed';
      readonly code: ErrorCode;
      readonly message: string;
      readonly suggestions: readonly string[];
    };

const port = parentPort!;

function failed(error: unknown): OnnxReply {
  const { code, suggestions } =
    error instanceof VllmPdError ? error : { code: 'INTERNAL' as const, suggestions: [] };
  return { kind: 'failed', code, message: messageOf(error), suggestions };
}

async function take(session: OnnxSession, task: OnnxTask): Promise<void> {
  if (task.kind === 'close') {
    port.close();
    await session.release();
    return;
  }
  try {
    const result = await session.run(task.run);
    const reply: OnnxReply = { kind: 'ran', result };
    port.postMessage(reply, [result.logits.buffer as ArrayBuffer, result.kv.buffer as ArrayBuffer]);
  } catch (error) {
    port.postMessage(failed(error));
  }
}

try {
  const session = await OnnxSession.load(workerData as OnnxOptions);
  port.on('message', (task: OnnxTask) => void take(session, task));
  port.postMessage({ kind: 'ready', signature: session.signature } satisfies OnnxReply);
} catch (error) {
  port.postMessage(failed(error));
}
