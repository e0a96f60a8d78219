// From logits to tokens: penalties, masks, filters, draws.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import { defaultSamplingParams, Request, type SamplingParams } from '../../src/request.js';
import { applyTokenMask, createTokenMask } from '../../src/worker/logits.js';
import { Sampler } from '../../src/worker/sampler.js';

const greedy = { temperature: 0 };

function createRequest(
  params: Partial<SamplingParams>,
  tokens: readonly number[] = [0],
  output: readonly number[] = [],
) {
  const samplingParams = { ...defaultSamplingParams, ...params };
  const init = { requestId: 'r', promptTokenIds: tokens, samplingParams, eosTokenIds: [1] };
  const request = new Request(init, 0);
  request.tokenIds.push(...output);
  return request;
}

function createSampler(suppressTokenIds: readonly number[] = []): Sampler {
  return new Sampler({ suppressTokenIds, seed: 0 });
}

/** Draws at `count` positions with one seed and counts the tokens. */
function histogram(params: Partial<SamplingParams>, logits: readonly number[], count = 4000): number[] {
  const sampler = createSampler();
  const counts = new Array<number>(logits.length).fill(0);
  const request = createRequest({ seed: 7, ...params });
  for (let i = 0; i < count; i++) {
    counts[sampler.sample(request, Float32Array.from(logits)).tokenId]!++;
    request.tokenIds.push(0);
  }
  return counts.map((n) => n / count);
}

/** logits → the token drawn, for what is decided without chance. */
const decided: readonly {
  name: string;
  params: Partial<SamplingParams>;
  logits: readonly number[];
  prompt?: readonly number[];
  output?: readonly number[];
  suppress?: readonly number[];
  token: number;
}[] = [
  { name: 'greedy takes the largest', params: greedy, logits: [1, 2, 5, 3], token: 2 },
  { name: 'greedy ties go to the lowest id', params: greedy, logits: [1, 5, 5, 5], token: 1 },
  { name: 'a tiny temperature is greedy', params: { temperature: 1e-9 }, logits: [1, 2, 5, 4.9], token: 2 },
  { name: 'top-k 1 is greedy', params: { topK: 1 }, logits: [1, 2, 5, 4.99], token: 2 },
  { name: 'top-k 1 with ties takes the lowest id', params: { topK: 1 }, logits: [0, 5, 5], token: 1 },
  { name: 'a tiny top-p keeps one token', params: { topP: 1e-6 }, logits: [1, 2, 5, 4.99], token: 2 },
  { name: 'min-p 1 keeps the best', params: { minP: 1 }, logits: [1, 2, 5, 4.99], token: 2 },
  {
    name: 'a bias moves the choice',
    params: { ...greedy, logitBias: new Map([[0, 100]]) },
    logits: [1, 2, 5],
    token: 0,
  },
  { name: 'suppressed tokens are never taken', params: greedy, suppress: [2], logits: [1, 2, 5], token: 1 },
  {
    name: 'a bias does not bring back a suppressed token',
    params: { ...greedy, logitBias: new Map([[2, 100]]) },
    suppress: [2],
    logits: [1, 2, 5],
    token: 1,
  },
  {
    name: 'min_tokens masks the end of sequence',
    params: { ...greedy, minTokens: 2 },
    logits: [1, 9, 5],
    output: [0],
    token: 2,
  },
  {
    name: 'min_tokens reached lets it through',
    params: { ...greedy, minTokens: 1 },
    logits: [1, 9, 5],
    output: [0],
    token: 1,
  },
  {
    name: 'min_tokens masks stop token ids',
    params: { ...greedy, minTokens: 2, stopTokenIds: [2] },
    logits: [1, 0, 5],
    token: 0,
  },
  {
    name: 'min_tokens cannot mask everything',
    params: { ...greedy, minTokens: 2, stopTokenIds: [0, 2] },
    logits: [1, 0, 5],
    token: 2,
  },
  {
    name: 'only allowed tokens are taken',
    params: { ...greedy, allowedTokenIds: [0, 1] },
    logits: [1, 2, 5],
    token: 1,
  },
  {
    name: 'an allowed token that is suppressed is not taken while another is allowed',
    params: { ...greedy, allowedTokenIds: [0, 2] },
    suppress: [2],
    logits: [1, 2, 5],
    token: 0,
  },
  {
    name: 'a suppressed token is taken when it alone is allowed',
    params: { ...greedy, allowedTokenIds: [2] },
    suppress: [2],
    logits: [1, 2, 5],
    token: 2,
  },
  {
    name: 'a bad word of one token is never taken',
    params: { ...greedy, badWordsTokenIds: [[2]] },
    logits: [1, 2, 5],
    token: 1,
  },
  {
    name: 'a bad word is taken where it does not complete itself',
    params: { ...greedy, badWordsTokenIds: [[0, 1, 2]] },
    logits: [1, 2, 5],
    output: [1, 0],
    token: 2,
  },
  {
    name: 'a bad word is not completed',
    params: { ...greedy, badWordsTokenIds: [[0, 1, 2]] },
    logits: [1, 2, 5],
    output: [2, 0, 1],
    token: 1,
  },
  {
    name: 'the prompt does not begin a bad word',
    params: { ...greedy, badWordsTokenIds: [[0, 2]] },
    logits: [1, 2, 5],
    prompt: [0],
    token: 2,
  },
  {
    name: 'bad words cannot mask everything',
    params: { ...greedy, allowedTokenIds: [1], badWordsTokenIds: [[1]] },
    logits: [1, 2, 5],
    token: 1,
  },
  {
    name: 'repetition penalty divides positive logits of the prompt',
    params: { ...greedy, repetitionPenalty: 2 },
    logits: [6, 1, 4],
    prompt: [0],
    token: 2,
  },
  {
    name: 'repetition penalty multiplies negative logits',
    params: { ...greedy, repetitionPenalty: 3 },
    logits: [-1, -9, -2],
    prompt: [0],
    token: 2,
  },
  {
    name: 'a huge repetition penalty stays finite',
    params: { ...greedy, repetitionPenalty: 1e300 },
    logits: [-1, -9, -2],
    prompt: [0, 1, 2],
    token: 0,
  },
  {
    name: 'presence penalty leaves the prompt alone',
    params: { ...greedy, presencePenalty: 2 },
    logits: [6, 1, 5],
    prompt: [0],
    token: 0,
  },
  {
    name: 'presence penalty counts once',
    params: { ...greedy, presencePenalty: 2 },
    logits: [6, 1, 3.9],
    output: [0, 0, 0],
    token: 0,
  },
  {
    name: 'frequency penalty counts every time',
    params: { ...greedy, frequencyPenalty: 1 },
    logits: [6, 1, 3.9],
    output: [0, 0, 0],
    token: 2,
  },
];

for (const { name, params, logits, prompt, output, suppress, token } of decided) {
  test(name, () => {
    const request = createRequest(params, prompt, output);
    assert.is(createSampler(suppress).sample(request, Float32Array.from(logits)).tokenId, token);
  });
}

/** Expected shares of the tokens; logits are logarithms of shares, so temperature 1 draws exactly these. */
const ln = (shares: readonly number[]) => shares.map(Math.log);
const shares = [0.1, 0.2, 0.3, 0.4];
const drawn: readonly { name: string; params: Partial<SamplingParams>; expected: readonly number[] }[] = [
  { name: 'temperature 1 draws by softmax', params: {}, expected: shares },
  {
    name: 'temperature 0.5 sharpens',
    params: { temperature: 0.5 },
    expected: [1 / 30, 4 / 30, 9 / 30, 16 / 30],
  },
  { name: 'top-k keeps the k most likely', params: { topK: 2 }, expected: [0, 0, 3 / 7, 4 / 7] },
  { name: 'top-k above the vocabulary keeps all', params: { topK: 100 }, expected: shares },
  {
    name: 'top-p keeps the smallest set that reaches it',
    params: { topP: 0.69 },
    expected: [0, 0, 3 / 7, 4 / 7],
  },
  {
    name: 'top-p just above a set takes one more',
    params: { topP: 0.71 },
    expected: [0, 2 / 9, 3 / 9, 4 / 9],
  },
  { name: 'min-p is relative to the best', params: { minP: 0.6 }, expected: [0, 0, 3 / 7, 4 / 7] },
  { name: 'top-p counts what top-k left', params: { topK: 3, topP: 0.5 }, expected: [0, 0, 3 / 7, 4 / 7] },
];

for (const { name, params, expected } of drawn) {
  test(name, () => {
    const seen = histogram(params, ln(shares));
    for (const [token, share] of expected.entries()) {
      assert.ok(Math.abs(seen[token]! - share) < 0.03, `token ${token}: ${seen[token]} instead of ${share}`);
      if (share === 0) assert.is(seen[token], 0);
    }
  });
}

test('top-p on a flat row of many tokens keeps the share, lowest ids first', () => {
  const seen = histogram({ topP: 0.5 }, new Array<number>(10).fill(0), 1000);
  assert.equal(
    seen.map((share) => share > 0),
    [true, true, true, true, true, false, false, false, false, false],
  );
});

test('top-k keeps exactly the k largest of a long row with ties', () => {
  const logits = Array.from({ length: 500 }, (_, i) => (i * 37) % 100);
  const kept = new Set<number>();
  const request = createRequest({ seed: 3, topK: 12, temperature: 100 });
  for (let i = 0; i < 2000; i++) {
    kept.add(createSampler().sample(request, Float32Array.from(logits)).tokenId);
    request.tokenIds.push(0);
  }
  const order = logits.map((_, id) => id).sort((a, b) => logits[b]! - logits[a]! || a - b);
  assert.equal(
    [...kept].sort((a, b) => a - b),
    order.slice(0, 12).sort((a, b) => a - b),
  );
});

test('a draw depends on seed and position only', () => {
  const logits = ln([0.25, 0.25, 0.25, 0.25]);
  const draw = (seed: number, position: number) => {
    const request = createRequest({ seed }, new Array<number>(position).fill(0));
    return createSampler().sample(request, Float32Array.from(logits)).tokenId;
  };
  const row = (seed: number) => Array.from({ length: 32 }, (_, i) => draw(seed, i + 1)).join('');
  assert.is(row(1), row(1));
  assert.is.not(row(1), row(2));
  assert.is.not(row(1), row(1 + 2 ** 33), 'seeds beyond 32 bits count');
  assert.is.not(row(1), row(-1));
});

test('without a seed two requests draw differently and one request draws the same again', () => {
  const row = (requestId: string) => {
    const init = { requestId, promptTokenIds: [0], samplingParams: defaultSamplingParams };
    const request = new Request(init, 0);
    return Array.from({ length: 32 }, () => {
      const { tokenId } = createSampler().sample(request, Float32Array.from(ln(shares)));
      request.tokenIds.push(tokenId);
      return tokenId;
    }).join('');
  };
  assert.is(row('a'), row('a'));
  assert.is.not(row('a'), row('b'));
});

test('logprobs are those of the model, with rank and alternatives', () => {
  const request = createRequest({ ...greedy, logprobs: 2, logitBias: new Map([[1, 100]]) });
  const { tokenId, logprobs } = createSampler().sample(request, Float32Array.from(ln(shares)));
  assert.is(tokenId, 1);
  assert.ok(Math.abs(logprobs!.logprob - Math.log(0.2)) < 1e-6);
  assert.is(logprobs!.rank, 3);
  assert.equal(
    logprobs!.top.map((entry) => entry.tokenId),
    [3, 2],
  );
  assert.ok(Math.abs(logprobs!.top[0]!.logprob - Math.log(0.4)) < 1e-6);
});

test('logprobs 0 reports the sampled token alone, null nothing', () => {
  const sampler = createSampler();
  assert.equal(sampler.sample(createRequest({ logprobs: 0 }), Float32Array.from([0, 1])).logprobs!.top, []);
  assert.is(sampler.sample(createRequest({}), Float32Array.from([0, 1])).logprobs, null);
});

test('logprobs stay numbers that JSON has', () => {
  const request = createRequest({ ...greedy, logprobs: 3 });
  const { logprobs } = createSampler([0]).sample(request, Float32Array.from([5, 1, 2]));
  assert.equal(
    logprobs!.top.map((entry) => entry.tokenId),
    [2, 1, 0],
  );
  assert.is(logprobs!.top[2]!.logprob, -9999);
});

for (const bad of [[Number.NaN, Number.NaN], [Number.NEGATIVE_INFINITY], [Number.POSITIVE_INFINITY, 1]]) {
  test(`a row of ${bad.join(', ')} is an error, not token 0`, () => {
    assert.throws(
      () => createSampler().sample(createRequest(greedy), Float32Array.from(bad)),
      (error: unknown) => error instanceof VllmPdError && error.code === 'INTERNAL',
    );
  });
}

test('a vocabulary of 150k tokens is sampled within milliseconds', () => {
  const logits = Float32Array.from({ length: 150_000 }, (_, i) => Math.sin(i) * 10);
  const request = createRequest({ seed: 1, topK: 50, topP: 0.9 });
  createSampler().sample(request, logits.slice());
  const begun = performance.now();
  for (let i = 0; i < 5; i++) createSampler().sample(request, logits.slice());
  const ms = (performance.now() - begun) / 5;
  assert.ok(ms < 200, `${ms} ms`);
});

test('a mask of scattered ids and long runs hides exactly these, whatever their order', () => {
  const hidden = new Set([0, 2, 3, 7, ...Array.from({ length: 40 }, (_, i) => 20 + i), 99, 500]);
  const logits = Float32Array.from({ length: 100 }, (_, i) => i);
  const mask = createTokenMask([...hidden].reverse().concat(7));
  assert.equal([...mask.runs], [0, 1, 2, 4, 7, 8, 20, 60, 99, 100, 500, 501]);
  applyTokenMask(logits, mask);
  for (const [id, logit] of logits.entries()) {
    assert.is(logit, hidden.has(id) ? Number.NEGATIVE_INFINITY : id);
  }
});

test.run();
