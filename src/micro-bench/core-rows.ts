// What the scheduler does around a forward pass: block hashes, the block pool, steps, cache queries.
import { createHash } from 'node:crypto';
import { BlockHasher } from '../core/block-hash.js';
import { BlockPool } from '../core/block-pool.js';
import type { Scheduler } from '../core/scheduler.js';
import { checkPrompt } from '../engine/request-check.js';
import { loadNative } from '../native.js';
import { parseBody } from '../server/api/api-body.js';
import { cacheQueryJson } from '../server/api/cache-query-json.js';
import { cacheQuerySchema } from '../server/api/openai-schema.js';
import type { CacheQueryAnswer } from '../wire.js';
import { blockSize, createRequest, createScheduler, promptTokens, step } from './requests.js';
import type { Contest, RowGroup, RowPlan } from './row-plan.js';

const numPromptTokens = 32_768;
const numPromptBlocks = numPromptTokens / blockSize;
/** Of the prompts above: a head and the parent's hash, 3 bytes a token, a null. */
const hashedBytesPerBlock = 36 + 3 * blockSize + 1;
/** As many as a block has tokens: every request fills one in a round. Short, so that rounds seldom lose their core. */
const numSteps = blockSize;

export function coreGroups(): RowGroup[] {
  const rows = [blockHashRow, blockPoolRow, ...[1, 64, 256].map(scheduleRow), cacheQueryRow];
  return rows.map((row) => ({ family: 'core', rows: [row] }));
}

const blockHashRow: RowPlan = {
  name: 'block hash',
  threads: 1,
  unit: 'tokens/s',
  limit: 'plain SHA-256',
  asked: { kind: 'rate', atLeast: 20e6 },
  prepare: () => {
    const hasher = new BlockHasher(blockSize, '0', loadNative().hashBlocks);
    const tokenIds = promptTokens(numPromptTokens);
    return contest(
      numPromptTokens,
      () => hasher.extend({ tokenIds, cacheSalt: null, blockHashes: [] }),
      hashPlainly(),
    );
  },
};

const blockPoolRow: RowPlan = {
  name: 'block pool allocate, free',
  threads: 1,
  unit: 'blocks/s',
  limit: 'array pop, push',
  prepare: () => {
    const pool = new BlockPool(numPromptBlocks + 1, { publish() {}, retract() {} });
    const free = Array.from({ length: numPromptBlocks }, (_, blockId) => ({ blockId }));
    return contest(
      numPromptBlocks,
      () => pool.freeBlocks(pool.getNewBlocks(numPromptBlocks)),
      () => {
        const taken: { readonly blockId: number }[] = [];
        for (let i = 0; i < numPromptBlocks; i += 1) taken.push(free.pop()!);
        for (const block of taken) free.push(block);
      },
    );
  },
};

function scheduleRow(numRequests: number): RowPlan {
  return {
    name: `schedule, update: ${numRequests} decoding`,
    threads: 1,
    unit: 'steps/s',
    limit: 'bare records',
    ...(numRequests === 256 && { asked: { kind: 'time', atMostMs: 0.1 } }),
    prepare: () => {
      let scheduler = createDecoding(numRequests);
      const requestIds = Array.from({ length: numRequests }, (_, i) => `request ${i}`);
      const subject = {
        amount: numSteps,
        before: () => {
          scheduler = createDecoding(numRequests);
        },
        run: () => {
          for (let i = 0; i < numSteps; i += 1) step(scheduler);
        },
      };
      const limit = () => {
        for (let i = 0; i < numSteps; i += 1) moveRecords(requestIds, i);
      };
      return { subject, limit: { amount: numSteps, run: limit }, close() {} };
    },
  };
}

/** All prompts are computed; one block each. */
function createDecoding(numRequests: number) {
  const numBlocks = 1 + numRequests * (2 + numSteps / blockSize);
  const scheduler = createScheduler(numBlocks, 16 * 1024, numRequests);
  for (let i = 0; i < numRequests; i += 1) {
    const promptTokenIds = promptTokens(blockSize - 1, i);
    scheduler.addRequest(createRequest({ requestId: `request ${i}`, promptTokenIds }));
  }
  step(scheduler);
  return scheduler;
}

/** The least that the interfaces on both sides of a step ask for. */
function moveRecords(requestIds: readonly string[], tokenId: number): readonly object[] {
  const scheduled = requestIds.map((requestId) => ({ requestId, numScheduledTokens: 1 }));
  const sampled = new Map<string, number>();
  for (const { requestId } of scheduled) sampled.set(requestId, tokenId);
  return scheduled.map(({ requestId }) => ({ requestId, newTokenIds: [sampled.get(requestId)!] }));
}

const cacheQueryRow: RowPlan = {
  name: 'cache query of 32k tokens',
  threads: 1,
  unit: 'queries/s',
  limit: 'JSON.parse of its body',
  asked: { kind: 'time', atMostMs: 1 },
  prepare: () => {
    const scheduler = createScheduler(numPromptBlocks + 2, numPromptTokens + blockSize);
    const promptTokenIds = promptTokens(numPromptTokens);
    scheduler.addRequest(createRequest({ requestId: 'owner', promptTokenIds }));
    step(scheduler);
    const body = Buffer.from(JSON.stringify({ prompt: promptTokenIds }));
    const parsed: unknown = JSON.parse(body.toString());
    let numQueries = 0;
    const query = () => {
      numQueries += 1;
      const answer = answerQuery(scheduler, parsed, `query ${numQueries}`);
      const found = answer.num_blocks;
      if (found !== numPromptBlocks - 1) throw new Error(`Expected a full hit but found ${found} blocks`);
      cacheQueryJson(answer);
    };
    scheduler.finishRequest('owner', 'FINISHED_ABORTED');
    step(scheduler);
    return contest(1, query, () => {
      JSON.parse(body.toString());
    });
  },
};

/** All that a node does between the parsed body and the answer's text. */
function answerQuery(scheduler: Scheduler, body: unknown, requestId: string): CacheQueryAnswer {
  const { prompt } = parseBody(cacheQuerySchema, body);
  const promptTokenIds = prompt as readonly number[];
  checkPrompt(promptTokenIds, { vocabSize: 1 << 16, maxModelLen: 1 << 20, kvCacheTokens: 1 << 20 });
  scheduler.addRequest(createRequest({ requestId, promptTokenIds, cacheQuery: { lease: false } }));
  return step(scheduler).cacheQueryAnswers[0]!;
}

/** SHA-256 over the bytes that block hashes are made of, in one piece. */
function hashPlainly(): () => void {
  const bytes = Buffer.alloc(numPromptBlocks * hashedBytesPerBlock, 0x5a);
  return () => {
    createHash('sha256').update(bytes).digest();
  };
}

/** Both do the same amount. */
function contest(amount: number, run: () => void, limit: () => void): Contest {
  return { subject: { amount, run }, limit: { amount, run: limit }, close() {} };
}
