// A completion call from its choices' start to their end: answered in full, or on P up to its first token.
import { VllmPdError } from '../../errors.js';
import type { KvTransferParams } from '../../wire.js';
import type { RouteContext } from '../http.js';
import { disconnectSignal } from '../http-answer.js';
import { SseWriter } from '../sse.js';
import { answerFirstToken } from './first-token-answer.js';
import { Choices } from './generation.js';
import { type Call, stream, whole } from './openai-answer.js';

export async function answerCall({ res }: RouteContext, asked: Call): Promise<void> {
  const { node, body } = asked;
  const input = { ...asked.input, kvTransferParams: believedParams(asked) };
  const call = { ...asked, input };
  if (body.stream_options && !body.stream) {
    const message = 'Expected `stream` to be true when `stream_options` is given.';
    throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'stream_options' });
  }
  const handsOver = input.kvTransferParams?.do_remote_decode && input.kvTransferParams.return_first_token;
  const played = handsOver ? { ...input, numSamples: 1 } : input;
  const choices = new Choices(node.engine, played, disconnectSignal(res));
  try {
    if (handsOver) await answerFirstToken(res, call, choices.list[0]!);
    else if (body.stream) await stream(new SseWriter(res), call, choices);
    else await whole(res, call, choices.list);
  } finally {
    choices.stop();
  }
}

/** Usage repeats what the prefill node said, so that must be what it said. */
function believedParams({ node, input }: Call): KvTransferParams | null {
  const [prompt] = input.prompts;
  return prompt ? node.engine.believed(input.kvTransferParams, prompt.tokenIds) : input.kvTransferParams;
}
