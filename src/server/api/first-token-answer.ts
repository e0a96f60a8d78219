// P's answer when the client is to get its first token: that token's chunks, and what D needs to go on behind it.
import { VllmPdError } from '../../errors.js';
import { type HandOver, handOverObject } from '../../wire.js';
import type { RouteContext } from '../http.js';
import { sendJson } from '../http-answer.js';
import { SseWriter } from '../sse.js';
import { type Choice, collect } from './generation.js';
import { type Call, chunksOf, envelope, stream, whole } from './openai-answer.js';
import type { GenerationBody } from './openai-schema.js';

/**
 * P's part of a turn: an answer that ends with its first token is answered as anywhere, and nothing is held. Otherwise
 * come the first token's chunks, as the client is to get them, and behind them what D needs to go on.
 */
export async function answerFirstToken(res: RouteContext['res'], call: Call, choice: Choice): Promise<void> {
  const { node, body, input, dialect } = call;
  const output = await collect(choice);
  if (!output) return;
  const { finishReason, kvTransferParams, ...said } = output;
  if (finishReason === 'abort') throw new VllmPdError('OVERLOADED', 'The engine is shutting down.');
  const endsHere = finishReason !== 'hand_over';
  const sse = new SseWriter(res);
  if (endsHere && input.numSamples === 1) {
    if (kvTransferParams?.remote_request_id) node.engine.releaseLease(kvTransferParams.remote_request_id);
    const last = { ...choice, firstPiece: { ...output, kvTransferParams: null }, stream: nothing() };
    if (body.stream) await stream(sse, call, { list: [last], stop: () => {} });
    else await whole(res, call, [last]);
    return;
  }
  const head = envelope(call, dialect.chunkObject);
  const { remote_first_token: token, ...held } = kvTransferParams ?? {};
  const handOver: HandOver = {
    ...head,
    object: handOverObject,
    // Of several samples D makes those that begin with this one's end, and then that one too.
    kv_transfer_params:
      endsHere || !token ? held : { ...held, remote_first_token: { ...token, created: head.created } },
    prompt_token_ids: isEncoded(body) ? null : choice.prompt.tokenIds,
  };
  if (!body.stream || endsHere) {
    sendJson(res, 200, handOver);
    return;
  }
  const piece = { ...said, finishReason: null, kvTransferParams: null };
  for (const chunk of chunksOf(call, head, choice, piece, true)) await sse.write(chunk);
  await sse.write(handOver);
  sse.end();
}

/** The prompt came as token ids, so that nobody needs to be told them. */
function isEncoded(body: GenerationBody): boolean {
  return 'messages' in body ? body.prompt_token_ids != null : Array.isArray(body.prompt);
}

async function* nothing(): Choice['stream'] {}
