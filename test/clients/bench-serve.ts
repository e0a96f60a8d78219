// What `vllm bench serve` (vllm/benchmarks/lib/endpoint_request_func.py) sends, and how it reads streams and times them.
import { request } from 'undici';

export interface BenchCall {
  readonly url: string;
  readonly model: string;
  readonly prompt: string | readonly number[];
  readonly outputLen: number;
  readonly ignoreEos?: boolean;
  /** Completions only. */
  readonly logprobs?: number;
  readonly requestId?: string;
}

export interface BenchOutput {
  readonly generatedText: string;
  /** Until the first chunk with choices, whatever is in it. */
  readonly ttftMs: number;
  readonly itlsMs: readonly number[];
  /** From the usage chunk; null when none came. */
  readonly outputTokens: number | null;
  readonly promptLen: number | null;
  /** Chunks with choices, in order. */
  readonly chunks: readonly Chunk[];
}

interface Chunk {
  readonly choices?: readonly {
    readonly text?: string;
    readonly delta?: { readonly role?: string; readonly content?: string | null };
    readonly finish_reason: string | null;
  }[];
  readonly usage?: { readonly completion_tokens: number; readonly prompt_tokens: number } | null;
}

/** `--backend vllm` and `openai` */
export function benchCompletions(call: BenchCall): Promise<BenchOutput> {
  const body = {
    model: call.model,
    prompt: call.prompt,
    repetition_penalty: 1.0,
    max_tokens: call.outputLen,
    logprobs: call.logprobs ?? null,
  };
  return stream(call, '/v1/completions', body, (chunk) => chunk.choices![0]!.text);
}

/** `--backend openai-chat` */
export function benchChat(call: BenchCall): Promise<BenchOutput> {
  const body = {
    model: call.model,
    messages: [{ role: 'user', content: [{ type: 'text', text: call.prompt }] }],
    max_completion_tokens: call.outputLen,
  };
  return stream(call, '/v1/chat/completions', body, (chunk) => chunk.choices![0]!.delta!.content);
}

async function stream(
  { url, ignoreEos, requestId }: BenchCall,
  path: string,
  body: object,
  textOf: (chunk: Chunk) => string | null | undefined,
): Promise<BenchOutput> {
  const sentAt = performance.now();
  const response = await request(`${url}${path}`, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(requestId !== undefined && { 'x-request-id': requestId }),
    },
    body: JSON.stringify({
      ...body,
      stream: true,
      stream_options: { include_usage: true },
      ...(ignoreEos && { ignore_eos: true }),
    }),
  });
  if (response.statusCode !== 200) throw new Error(`${response.statusCode}: ${await response.body.text()}`);
  const handler = new StreamedResponseHandler();
  const chunks: Chunk[] = [];
  const arrivals: number[] = [];
  let usage: Chunk['usage'] = null;
  let generatedText = '';
  for await (const bytes of response.body as AsyncIterable<Buffer>) {
    for (const message of handler.push(bytes)) {
      if (message.startsWith(':')) continue;
      const data = message.replace(/^data: /, '');
      if (data === '[DONE]') continue;
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.choices && chunk.choices.length > 0) {
        arrivals.push(performance.now());
        chunks.push(chunk);
        generatedText += textOf(chunk) ?? '';
      } else if (chunk.usage) {
        usage = chunk.usage;
      }
    }
  }
  const [first] = arrivals;
  if (first === undefined) throw new Error('Never received a valid chunk to calculate TTFT.');
  return {
    generatedText,
    ttftMs: first - sentAt,
    itlsMs: arrivals.slice(1).map((at, i) => at - arrivals[i]!),
    outputTokens: usage?.completion_tokens ?? null,
    promptLen: usage?.prompt_tokens ?? null,
    chunks,
  };
}

/** Strips what it reads before it looks for the blank line, and takes what then remains for whole as soon as it parses. */
class StreamedResponseHandler {
  readonly #decoder = new TextDecoder();
  #buffer = '';

  push(bytes: Buffer): string[] {
    this.#buffer += this.#decoder.decode(bytes, { stream: true }).trim();
    const messages = this.#buffer.split('\n\n').map((message) => message.trim());
    this.#buffer = messages.pop()!;
    if (isWhole(this.#buffer)) {
      messages.push(this.#buffer);
      this.#buffer = '';
    }
    return messages.filter((message) => message !== '');
  }
}

function isWhole(message: string): boolean {
  if (!message.startsWith('data: ')) return false;
  const data = message.slice('data: '.length).trim();
  if (data === '[DONE]') return true;
  try {
    JSON.parse(data);
    return true;
  } catch {
    return false;
  }
}
