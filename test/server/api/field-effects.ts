// For every supported field of both endpoints: a value whose effect a client can see, and where in the answer it shows.
import { type Json, parseEvents, text } from './setup.js';

export interface Effect {
  readonly value: unknown;
  /** Fields of both requests; or of one of them, 0 without the field and 1 with it. */
  readonly beside?: object | ((run: number) => object);
  /** What of the answer differs; default: the tokens, texts and endings of all choices. */
  readonly sees?: (answer: Json) => unknown;
  /** Sent first, each time. */
  readonly before?: object;
}

export type Effects = Readonly<Record<string, Effect>>;

export const said = ({ choices }: Json) =>
  choices?.map(({ token_ids, text, message, finish_reason }: Json) => [
    token_ids,
    text ?? message.content,
    finish_reason,
  ]);
const promptTokens = ({ usage }: Json) => usage.prompt_tokens;
const promptIds = ({ prompt_token_ids, choices }: Json) => prompt_token_ids ?? choices[0].prompt_token_ids;
const cachedTokens = ({ usage }: Json) => usage.prompt_tokens_details.cached_tokens;
const refusedField = ({ error }: Json) => error?.param;
const ledger = ({ prefill_stats }: Json) => prefill_stats?.ledger;

const drawn = { temperature: 1, seed: 5 };
const long = { max_tokens: 40 };
const streamed = { stream: true };
/** Words are CVCV; each is a token from 256 on. */
const firstWords = Array.from({ length: 2048 }, (_, i) => 256 + i);

export interface Texts {
  /** The id that ends a sequence. */
  readonly end: number;
  /** Token 300. */
  readonly word: string;
}

/** `history` and `changed` begin alike: within a session the node sees that a history has changed. */
function common({ end, word }: Texts, history: object, changed: object): Effects {
  const inSession = (name: string): Omit<Effect, 'value'> => ({
    before: history,
    beside: (run) => ({ ...changed, return_prefill_stats: true, cache_salt: `${name} ${run}` }),
    sees: ({ prefill_stats }) => prefill_stats.ledger.template_mismatch > 0,
  });
  return {
    model: { value: 'another', sees: ({ error }) => error?.code },
    stream: { value: true, sees: ({ chunks }) => chunks?.length > 1 },
    stream_options: {
      value: { include_usage: true },
      beside: streamed,
      sees: ({ chunks }) => chunks.at(-1).usage?.completion_tokens,
    },
    stream_interval: { value: 4, beside: streamed, sees: ({ chunks }) => chunks.length },
    n: { value: 2 },
    cache_salt: { value: 'salt', sees: cachedTokens },
    request_id: { value: 'mine', sees: ({ id }) => id.endsWith('-mine') },
    session_id: { value: 'a', ...inSession('a') },
    conversation_id: { value: 'b', ...inSession('b') },
    kv_transfer_params: {
      value: { do_remote_decode: true },
      beside: { max_tokens: 1 },
      sees: ({ kv_transfer_params: params }) => params?.do_remote_prefill,
    },
    return_token_ids: { value: true, beside: { return_token_ids: null } },
    return_prefill_stats: { value: true, sees: ledger },
    truncate_prompt_tokens: { value: 9, sees: promptTokens },
    truncation_side: { value: 'right', beside: { truncate_prompt_tokens: 9 }, sees: promptIds },
    response_format: { value: { type: 'xml' }, sees: refusedField },
    priority: { value: 1, sees: refusedField },
    temperature: { value: 2, beside: drawn },
    top_p: { value: 1e-6, beside: drawn },
    top_k: { value: 1, beside: drawn },
    min_p: { value: 1, beside: drawn },
    repetition_penalty: { value: 5, beside: long },
    presence_penalty: { value: 2, beside: long },
    frequency_penalty: { value: 2, beside: long },
    seed: { value: 6, beside: drawn },
    stop: { value: ['a'] },
    stop_token_ids: { value: firstWords },
    include_stop_str_in_output: { value: true, beside: { stop: 'a' } },
    ignore_eos: { value: true, beside: { ignore_eos: null, allowed_token_ids: [end] } },
    min_tokens: { value: 7, beside: { stop_token_ids: firstWords } },
    skip_special_tokens: { value: false, beside: { allowed_token_ids: [end] } },
    logit_bias: { value: { 300: 100 } },
    allowed_token_ids: { value: [300, 301] },
    bad_words: { value: [word], beside: { allowed_token_ids: [300, 301], logit_bias: { 300: 100 } } },
    max_tokens: { value: 3 },
  };
}

/** A history that has become another one in its middle. */
const changedText = text.slice(0, 30) + text.slice(31);

export function effectsOnCompletions(texts: Texts): Effects {
  const topIds = ({ choices }: Json) => choices[0].logprobs.top_logprobs;
  return {
    ...common(texts, { prompt: text }, { prompt: changedText }),
    prompt: { value: 'another one' },
    add_special_tokens: { value: false, sees: promptTokens },
    return_tokens_as_token_ids: {
      value: true,
      beside: { logprobs: 0 },
      sees: ({ choices }) => choices[0].logprobs.tokens,
    },
    logprobs: { value: 2, sees: ({ choices }) => choices[0].logprobs },
    logprob_token_ids: { value: [300, 301, 302], beside: { logprobs: 1 }, sees: topIds },
    prompt_logprobs: { value: 2, sees: ({ choices }) => choices[0].prompt_logprobs },
    echo: { value: true },
    best_of: { value: 2, sees: refusedField },
  };
}

export function effectsOnChats(texts: Texts): Effects {
  const user = (content: string) => [{ role: 'user', content }];
  const begun = { messages: [...user(text), { role: 'assistant', content: 'once' }] };
  const tool = { type: 'function', function: { name: 'weather' } };
  return {
    ...common(texts, { messages: user(text) }, { messages: user(changedText) }),
    messages: { value: user('another one') },
    add_special_tokens: { value: true, sees: promptTokens },
    return_tokens_as_token_ids: {
      value: true,
      beside: { logprobs: true },
      sees: ({ choices }) => choices[0].logprobs.content[0].token,
    },
    logprobs: { value: true, sees: ({ choices }) => choices[0].logprobs },
    top_logprobs: {
      value: 2,
      beside: { logprobs: true },
      sees: ({ choices }) => choices[0].logprobs.content[0].top_logprobs,
    },
    logprob_token_ids: {
      value: [300, 301, 302],
      beside: { logprobs: true, top_logprobs: 1 },
      sees: ({ choices }) => choices[0].logprobs.content[0].top_logprobs,
    },
    prompt_logprobs: { value: 2, sees: ({ prompt_logprobs }) => prompt_logprobs },
    max_completion_tokens: { value: 3 },
    prompt_token_ids: { value: [300, 301], sees: promptIds },
    add_generation_prompt: { value: false, sees: promptIds },
    continue_final_message: { value: true, beside: begun, sees: promptIds },
    chat_template_kwargs: { value: { reasoning_effort: 'low' }, sees: promptIds },
    documents: { value: [{ title: 'one' }], sees: promptIds },
    reasoning_effort: { value: 'low', sees: promptIds },
    tools: { value: [tool], sees: promptIds },
    tool_choice: { value: 'required', beside: { tools: [tool] }, sees: refusedField },
    echo: { value: true, beside: { ...begun, add_generation_prompt: false } },
    return_prompt_text: { value: true, sees: ({ prompt_text }) => prompt_text },
  };
}

/** What every request of the table is, unless an effect needs it otherwise. */
const plainFields = { temperature: 0, max_tokens: 8, ignore_eos: true, return_token_ids: true };

/** Both requests of an effect, without and with the field. */
export function requestsOf(name: string, { value, beside }: Effect): object[] {
  return [{}, { [name]: value }].map((own, run) => ({
    ...plainFields,
    ...(typeof beside === 'function' ? beside(run) : beside),
    ...own,
  }));
}

/** A whole answer as it is, a stream as its chunks. */
export function parseAnswer(body: string): Json {
  return body.startsWith('data: ') ? { chunks: parseEvents(body) } : JSON.parse(body);
}
