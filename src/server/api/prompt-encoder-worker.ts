// The thread behind PromptEncoder: loads the tokenizer once and encodes what it is sent.
import { parentPort, workerData } from 'node:worker_threads';
import { messageOf } from '../../errors.js';
import { Tokenizer } from '../../model/tokenizer.js';

export interface EncodeTask {
  readonly id: number;
  readonly text: string;
  readonly addSpecialTokens: boolean;
}

export type EncodeReply =
  | { readonly kind: 'ready' }
  | { readonly kind: 'encoded'; readonly id: number; readonly tokenIds: Int32Array }
  | { readonly kind: 'too_long'; readonly id: number; readonly length: number; readonly maxLength: number }
  | { readonly kind: 'failed'; readonly id: number; readonly message: string };

/** Tokenizers may shrink a text before they split it (Unicode composition, repeated spaces). */
const shrinkage = 4;

const { modelPath, maxTokens } = workerData as { readonly modelPath: string; readonly maxTokens: number };
const tokenizer = await Tokenizer.load(modelPath);
const maxLength = shrinkage * maxTokens * longestToken();

function longestToken(): number {
  const tokens = tokenizer.tokenStrings(Array.from({ length: tokenizer.vocabSize }, (_, id) => id));
  return tokens.reduce((longest, token) => Math.max(longest, token.length), 1);
}

function encode({ id, text, addSpecialTokens }: EncodeTask): EncodeReply {
  if (text.length > maxLength) return { kind: 'too_long', id, length: text.length, maxLength };
  try {
    return { kind: 'encoded', id, tokenIds: Int32Array.from(tokenizer.encode(text, { addSpecialTokens })) };
  } catch (error) {
    return { kind: 'failed', id, message: `The prompt cannot be tokenized: ${messageOf(error)}` };
  }
}

parentPort?.on('message', (task: EncodeTask) => {
  const reply = encode(task);
  parentPort?.postMessage(reply, reply.kind === 'encoded' ? [reply.tokenIds.buffer as ArrayBuffer] : []);
});
parentPort?.postMessage({ kind: 'ready' } satisfies EncodeReply);
