// Turns one request's core outputs into pieces of its answer: text, stop strings, logprobs with text.
import { Detokenizer } from '../model/detokenizer.js';
import type { Tokenizer } from '../model/tokenizer.js';
import type { EngineCoreOutput, TokenLogprobs } from '../outputs.js';
import type { FinishedStatus, Request } from '../request.js';
import type { FinishReason, RequestOutput, TextLogprob, TokenTextLogprobs } from './request-output.js';
import { StopChecker } from './stop-checker.js';

const finishReasons: Partial<Record<FinishedStatus, FinishReason>> = {
  FINISHED_STOPPED: 'stop',
  FINISHED_LENGTH_CAPPED: 'length',
  FINISHED_ABORTED: 'abort',
  FINISHED_HANDED_OVER: 'hand_over',
};

export class Answer {
  readonly #request: Request;
  readonly #tokenizer: Tokenizer;
  readonly #detokenizer: Detokenizer;
  readonly #stopChecker: StopChecker;
  #numOutputTokens = 0;
  #prefillStats: RequestOutput['prefillStats'] = null;

  constructor(request: Request, tokenizer: Tokenizer) {
    const { stop, includeStopStrInOutput, skipSpecialTokens } = request.samplingParams;
    this.#request = request;
    this.#tokenizer = tokenizer;
    this.#detokenizer = new Detokenizer(tokenizer, { skipSpecialTokens });
    this.#stopChecker = new StopChecker(stop, includeStopStrInOutput);
  }

  get numOutputTokens(): number {
    return this.#numOutputTokens;
  }

  /**
   * The next piece, and the stop string in it if there is one: then the piece ends before it, and the caller has to
   * end the request and pass what that returned to `finish`, unless the output was the last one anyway.
   */
  add(output: EngineCoreOutput): { readonly piece: RequestOutput; readonly stop: string | null } {
    const { text, stop } = this.#textOf(output);
    this.#numOutputTokens += output.newTokenIds.length;
    this.#prefillStats = output.prefillStats ?? this.#prefillStats;
    const finishReason = output.finished && (finishReasons[output.finished] ?? 'abort');
    const piece: RequestOutput = {
      requestId: this.#request.requestId,
      numPromptTokens: this.#request.numPromptTokens,
      text,
      tokenIds: output.newTokenIds,
      logprobs: output.newLogprobs.map((entry) => this.#withText(entry)),
      promptLogprobs: output.promptLogprobs?.map((entry) => this.#withText(entry)) ?? null,
      numOutputTokens: this.#numOutputTokens,
      finishReason: stop === null ? finishReason : 'stop',
      stopReason: stop ?? output.stopReason,
      kvTransferParams: output.kvTransferParams,
      prefillStats: this.#prefillStats,
    };
    return { piece, stop };
  }

  #textOf(output: EngineCoreOutput): { text: string; stop: string | null } {
    const { includeStopStrInOutput, minTokens } = this.#request.samplingParams;
    // The token that ended the answer is no part of its text, whether it is special or a stop token.
    const endsWithStopToken = output.finished === 'FINISHED_STOPPED' && !includeStopStrInOutput;
    let text = '';
    for (const [index, tokenId] of output.newTokenIds.entries()) {
      if (endsWithStopToken && index === output.newTokenIds.length - 1) break;
      const piece = this.#detokenizer.push([tokenId]);
      if (this.#numOutputTokens + index < minTokens) {
        text += this.#stopChecker.pass(piece);
        continue;
      }
      const check = this.#stopChecker.push(piece);
      text += check.text;
      if (check.stop !== null) return { text, stop: check.stop };
    }
    // What is held back belongs to who goes on.
    if (output.finished === null || output.finished === 'FINISHED_HANDED_OVER') return { text, stop: null };
    const last = this.#stopChecker.push(this.#detokenizer.flush());
    return { text: text + last.text + this.#stopChecker.flush(), stop: last.stop };
  }

  #withText({ tokenId, logprob, rank, top }: TokenLogprobs): TokenTextLogprobs {
    return {
      ...this.#logprob(tokenId, logprob),
      rank,
      top: top.map((entry) => this.#logprob(entry.tokenId, entry.logprob)),
    };
  }

  #logprob(tokenId: number, logprob: number): TextLogprob {
    return { tokenId, token: tokenText(this.#tokenizer, tokenId), logprob };
  }
}

/** A token's own text; U+FFFD where it is not whole characters. */
export function tokenText(tokenizer: Tokenizer, tokenId: number): string {
  const piece = tokenizer.piece(tokenId);
  return piece.kind === 'text'
    ? piece.text
    : new TextDecoder('utf-8', { ignoreBOM: true }).decode(piece.bytes);
}
