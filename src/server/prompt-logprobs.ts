// Whether a request wants log probabilities of its prompt: for the node that computes them, and for the proxy, which must
// have the prompt computed on one node then.

interface Asked {
  readonly prompt_logprobs?: unknown;
  readonly echo?: unknown;
  readonly logprobs?: unknown;
  readonly top_logprobs?: unknown;
  readonly stream?: unknown;
}

/** How many alternatives it wants of each token of its prompt, as vLLM understands it; null = nothing of the prompt. */
export function wantedPromptLogprobs(body: Asked): number | null {
  // A number of them is how completions ask, chats have `top_logprobs`.
  const ofAnswer = typeof body.logprobs === 'number' ? body.logprobs : body.top_logprobs;
  const isEchoed = body.echo === true && typeof body.logprobs === 'number';
  // A stream has no other place for them.
  if (body.stream === true && !isEchoed) return null;
  const wanted = body.prompt_logprobs ?? (body.echo === true ? ofAnswer : null);
  return typeof wanted === 'number' ? wanted : null;
}
