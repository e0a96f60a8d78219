// POST /v1/cache_query: which blocks of a prompt this node holds, on request under a lease; and the lease's release.
import { z } from 'zod';
import { VllmPdError } from '../../errors.js';
import type { ChatMessage } from '../../model/chat-template.js';
import type { BriefCacheQueryAnswer, CacheQueryAnswer } from '../../wire.js';
import type { RouteContext } from '../http.js';
import { sendJson, sendJsonBytes } from '../http-answer.js';
import { readJson } from '../http-body.js';
import { parseBody } from './api-body.js';
import { type ApiNode, checkModel, encodeChat, encodePrompts, type Prompt, truncated } from './api-node.js';
import { cacheQueryJson } from './cache-query-json.js';
import { cacheQuerySchema } from './openai-schema.js';

const releaseSchema = z.object({ lease_id: z.string().min(1) });

export async function cacheQuery(node: ApiNode, context: RouteContext): Promise<void> {
  const body = parseBody(cacheQuerySchema, await readJson(context.req));
  checkModel(node, body.model);
  const prompts = await promptsOf(node, body);
  const cut = prompts.map((prompt) => truncated(prompt, body, node.engine.maxModelLen - 1));
  await answerCacheQuery(node, context, cut, {
    lease: body.lease ?? false,
    cacheSalt: body.cache_salt ?? null,
    returnTokenIds: body.return_token_ids ?? false,
    returnBlocks: body.return_blocks ?? true,
  });
}

async function promptsOf(node: ApiNode, body: z.output<typeof cacheQuerySchema>): Promise<Prompt[]> {
  const { prompt, messages } = body;
  if (prompt !== undefined && !messages) return encodePrompts(node, prompt, body.add_special_tokens ?? true);
  if (messages && prompt === undefined)
    return [
      await encodeChat(
        node,
        { ...body, messages: messages as ChatMessage[] },
        body.add_special_tokens ?? false,
      ),
    ];
  const message = 'Expected either `prompt` or `messages`.';
  throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'prompt' });
}

export async function answerCacheQuery(
  { engine }: ApiNode,
  { res }: RouteContext,
  prompts: readonly Prompt[],
  options: {
    readonly lease: boolean;
    readonly cacheSalt: string | null;
    readonly returnTokenIds: boolean;
    /** False: counts and transfer parameters only, and stores are not asked. */
    readonly returnBlocks: boolean;
  },
): Promise<void> {
  const [prompt, ...others] = prompts;
  if (!prompt || others.length > 0) {
    const message = `Expected one prompt for a cache query but received ${prompts.length}.`;
    throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'prompt' });
  }
  const { lease, cacheSalt, returnTokenIds, returnBlocks } = options;
  const answer = await engine.cacheQuery(prompt.tokenIds, { lease, cacheSalt, askStores: returnBlocks });
  // Nobody is left to use or release it.
  if (res.destroyed && answer.lease) engine.releaseLease(answer.lease.id);
  const whole = returnTokenIds ? { ...answer, prompt_token_ids: prompt.tokenIds } : answer;
  if (returnBlocks) sendJsonBytes(res, 200, cacheQueryJson(whole));
  else sendJson(res, 200, withoutBlocks(whole));
}

/** Without what has an entry a block; what is leased stays named in `kv_transfer_params`. */
function withoutBlocks(answer: CacheQueryAnswer): BriefCacheQueryAnswer {
  const { block_ids: _, block_hashes: __, block_tiers: ___, ...brief } = answer;
  return brief;
}

/** `released` is false when the lease has been read, released or has expired before. */
export async function releaseLease({ engine }: ApiNode, { req, res }: RouteContext): Promise<void> {
  const { lease_id } = parseBody(releaseSchema, await readJson(req));
  sendJson(res, 200, { object: 'cache_query.release', lease_id, released: engine.releaseLease(lease_id) });
}
