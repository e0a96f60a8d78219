// The order of play, against a scripted proxy that answers every turn and writes down what it was asked.
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { BenchClient } from '../../src/bench/client.js';
import type { Conversation } from '../../src/bench/conversation.js';
import { playConversations, type RunPlan, type RunResult } from '../../src/bench/runner.js';
import { contentChunk, event, type Script, sleep, withServer } from './scripted-server.js';

interface Asked {
  readonly conversation_id: string;
  readonly messages: readonly { readonly role: string; readonly content: string }[];
  readonly max_tokens: number;
}

const stats = {
  num_prompt_tokens: 3,
  num_computed_tokens: 3,
  num_recomputed_tokens: 0,
  ledger: { new: 3 },
  kv_bytes_p_to_d: 0,
  kv_bytes_d_to_p: 0,
  kv_transfer_ms_p_to_d: 0,
  kv_transfer_ms_d_to_p: 0,
};

/** Token ids are message lengths: each turn's prompt begins with the one before. */
function promptIds({ messages }: Asked): number[] {
  return messages.map(({ content }) => content.length);
}

interface World {
  log: string[];
  asked: Asked[];
  /** Turns to fail, as `conversation/messages`. */
  failing: Set<string>;
  ledger: object;
  cachedBlocks: number;
  /** How long an answer takes. */
  answerMs: number;
  onTurn?: () => void;
}

function script(world: World, mode: string): Script {
  return async (req, res, body) => {
    if (req.url!.startsWith('/reset_prefix_cache')) {
      world.log.push(`${mode} evict`);
      res.end('{"success":true}');
    } else if (req.url === '/nodes') {
      const numCachedBlocks = Math.max(0, --world.cachedBlocks);
      res.end(
        JSON.stringify({ data: [{ role: 'prefill', url: '', state: { numCachedBlocks }, error: null }] }),
      );
    } else {
      const asked = JSON.parse(body) as Asked;
      if (asked.conversation_id !== 'WARMUP')
        world.log.push(`${mode} ${asked.conversation_id}${asked.messages.length}`);
      world.asked.push(asked);
      world.onTurn?.();
      if (world.failing.has(`${asked.conversation_id}/${asked.messages.length}`)) {
        res.writeHead(500).end('{"error":{"message":"Broken on demand."}}');
        return;
      }
      if (world.answerMs > 0) await sleep(world.answerMs);
      const text = ` answer${asked.messages.length}`;
      res.end(
        event({ choices: [], prompt_token_ids: promptIds(asked) }) +
          event(contentChunk(text, [text.length])) +
          event({
            choices: [],
            usage: { prompt_tokens: 3, completion_tokens: 1 },
            prefill_stats: { ...stats, ledger: world.ledger },
          }) +
          event('[DONE]'),
      );
    }
  };
}

const talk = (id: string, numTurns: number): Conversation => ({
  id,
  turns: Array.from({ length: numTurns }, (_, i) => ({
    messages: [{ role: 'user', content: ` question${i}` }],
    numOutputTokens: 10 + i,
  })),
});

async function play(world: World, plan: Partial<RunPlan>): Promise<RunResult> {
  let played: RunResult | null = null;
  await withServer(script(world, 'uni'), (uniUrl) =>
    withServer(script(world, 'bi'), async (biUrl) => {
      const signal = plan.signal ?? new AbortController().signal;
      const uni = new BenchClient(uniUrl, { timeoutMs: 2000, signal });
      const bi = new BenchClient(biUrl, { timeoutMs: 2000, signal });
      played = await playConversations({
        targets: [
          { mode: 'uni', client: uni, model: 'm' },
          { mode: 'bi', client: bi, model: 'm' },
        ],
        conversations: [talk('a', 2), talk('b', 1), talk('c', 2)],
        sampling: { temperature: 0, max_tokens: 1 },
        numClients: 1,
        evictPrefillBetweenTurns: false,
        limit: null,
        ...plan,
        signal,
      }).finally(() => Promise.all([uni.close(), bi.close()]));
    }),
  );
  return played!;
}

const test = suite<{ world: World }>('runner');
test.before.each((context) => {
  context.world = {
    log: [],
    asked: [],
    failing: new Set(),
    ledger: { local_hit: 2, evicted: 0, new: 1 },
    cachedBlocks: 0,
    answerMs: 0,
  };
});

test('all first turns come before any second one, and the modes alternate in who goes first', async ({
  world,
}) => {
  const { turns, complete } = await play(world, {});
  assert.equal(world.log, [
    ...['uni a1', 'bi a1', 'bi b1', 'uni b1', 'uni c1', 'bi c1'],
    ...['bi a3', 'uni a3', 'uni c3', 'bi c3'],
  ]);
  assert.is(complete, true);
  assert.is(turns.filter(({ warmup }) => !warmup).length, 10);
});

test('a wave has as many turns as there are clients', async ({ world }) => {
  await play(world, { numClients: 2 });
  const waves = [world.log.slice(0, 2), world.log.slice(2, 4), world.log.slice(4, 5), world.log.slice(5, 6)];
  assert.equal(
    waves.map((wave) => wave.sort()),
    [['uni a1', 'uni b1'], ['bi a1', 'bi b1'], ['bi c1'], ['uni c1']],
  );
});

test('the warm-up comes first and is marked', async ({ world }) => {
  const { turns } = await play(world, {});
  assert.equal(
    turns.map(({ warmup }) => warmup),
    [...Array(4).fill(true), ...Array(10).fill(false)],
  );
  assert.is(world.asked[0]!.conversation_id, 'WARMUP');
});

test('the server’s answers are the history, the workload’s lengths the limits', async ({ world }) => {
  const { turns, firstPrompts } = await play(world, {});
  const second = world.asked.find((asked) => asked.conversation_id === 'a' && asked.messages.length === 3)!;
  assert.equal(
    second.messages.map(({ role, content }) => [role, content]),
    [
      ['user', ' question0'],
      ['assistant', ' answer1'],
      ['user', ' question1'],
    ],
  );
  assert.is(second.max_tokens, 11);
  assert.equal(firstPrompts.get('a'), [10]);
  const record = turns.find((turn) => turn.conversation_id === 'a' && turn.turn === 2)!;
  assert.equal([record.num_history_tokens, record.num_matching_history_tokens], [2, 2]);
});

test('the prefill cache is evicted before each round but the first, until nothing is cached', async ({
  world,
}) => {
  world.cachedBlocks = 2;
  await play(world, { evictPrefillBetweenTurns: true });
  assert.equal(world.log.slice(6, 10), ['uni evict', 'uni evict', 'bi evict', 'bi a3']);
  assert.is(world.log.filter((entry) => entry.endsWith('evict')).length, 3);
});

test('a prefill cache that stays in use ends the run with what was measured', async ({ world }) => {
  world.cachedBlocks = Number.POSITIVE_INFINITY;
  const { turns, complete, failure } = await play(world, { evictPrefillBetweenTurns: true });
  assert.is(complete, false);
  assert.match(String(failure), 'could not be evicted');
  assert.is(turns.filter(({ warmup }) => !warmup).length, 6);
});

test('a failed turn is recorded, ends its conversation in that mode, and the run goes on', async ({
  world,
}) => {
  world.failing.add('a/1');
  const { turns, complete } = await play(world, {});
  const failed = turns.filter(({ error }) => error !== null);
  assert.equal(
    failed.map(({ mode, conversation_id, turn }) => [mode, conversation_id, turn]),
    [
      ['uni', 'a', 1],
      ['bi', 'a', 1],
    ],
  );
  assert.match(failed[0]!.error!, 'Broken on demand.');
  assert.is(world.log.includes('uni a3'), false);
  assert.is(world.log.includes('uni c3'), true);
  assert.is(complete, true);
});

const two = { messages: [{ role: 'user', content: ' one two three' }], numOutputTokens: 4 };

test('a full hit is asked for after each follow-up turn in uni, in other words and of no conversation', async ({
  world,
}) => {
  const { turns } = await play(world, {
    asksFullHits: true,
    conversations: [{ id: 'a', turns: [two, two] }],
  });
  assert.equal(world.log, ['uni a1', 'bi a1', 'bi a3', 'uni a3', 'uni undefined3']);
  const asked = world.asked.at(-1)!;
  assert.is(asked.max_tokens, 1);
  assert.is(asked.messages.at(-1)!.content, ' three two one');
  assert.equal(asked.messages.slice(0, 2), world.asked.at(-2)!.messages.slice(0, 2));
  const hits = turns.filter(({ full_hit_ttft_ms }) => full_hit_ttft_ms != null);
  assert.equal(
    hits.map(({ mode, turn }) => [mode, turn]),
    [['uni', 2]],
  );
  assert.is(turns.filter(({ warmup }) => !warmup).length, 4);
});

test('a full hit that was none leaves no figure', async ({ world }) => {
  world.ledger = { local_hit: 2, evicted: 1 };
  const { turns } = await play(world, {
    asksFullHits: true,
    conversations: [{ id: 'a', turns: [two, two] }],
  });
  assert.ok(world.log.includes('uni undefined3'));
  assert.ok(turns.every(({ full_hit_ttft_ms }) => full_hit_ttft_ms === null));
});

test('a limit counts turns of one mode', async ({ world }) => {
  await play(world, { limit: 4 });
  assert.equal(world.log.slice(-2), ['bi a3', 'uni a3']);
  assert.is(world.log.length, 8);
});

const planned = (...turns: readonly (readonly [conversation: number, turn: number, plannedMs: number])[]) =>
  turns.map(([conversation, turn, plannedMs]) => ({ conversation, turn, plannedMs }));

test('an open loop plays one mode to its end, sends turns when they are due and records how late', async ({
  world,
}) => {
  const { turns } = await play(world, { arrivals: planned([0, 1, 0], [2, 1, 20], [0, 2, 40], [1, 1, 60]) });
  assert.equal(
    world.log.map((entry) => entry.split(' ')[0]),
    ['uni', 'uni', 'uni', 'uni', 'bi', 'bi', 'bi', 'bi'],
  );
  const uni = turns.filter(({ mode, warmup }) => mode === 'uni' && !warmup);
  const begin = uni.find(({ conversation_id, turn }) => conversation_id === 'a' && turn === 1)!;
  for (const [id, turn, at] of [
    ['c', 1, 20],
    ['a', 2, 40],
    ['b', 1, 60],
  ] as const) {
    const record = uni.find((one) => one.conversation_id === id && one.turn === turn)!;
    assert.ok(Math.abs(record.planned_start_ms! - begin.planned_start_ms! - at) < 0.01);
    // A timer may be early by less than a millisecond.
    assert.ok(record.start_time_ms >= record.planned_start_ms! - 1);
  }
});

test('an open loop sends no turn before the one before has ended, and counts the wait as lag', async ({
  world,
}) => {
  world.answerMs = 60;
  const { turns } = await play(world, { arrivals: planned([0, 1, 0], [0, 2, 0], [1, 1, 0]) });
  const uni = turns.filter(({ mode, warmup }) => mode === 'uni' && !warmup);
  const [first, second] = uni.filter(({ conversation_id }) => conversation_id === 'a');
  assert.ok(second!.start_time_ms >= first!.start_time_ms + first!.e2el_ms!);
  assert.ok(second!.start_time_ms - second!.planned_start_ms! >= 59);
});

test('time to think comes after the answer, in both kinds of loop, and is no lag', async ({ world }) => {
  const [asked] = talk('a', 1).turns;
  const conversations = [{ id: 'a', turns: [asked!, { ...asked!, delayMs: 80 }] }];
  const pausesOf = ({ turns }: RunResult) =>
    ['uni', 'bi'].map((mode) => {
      const [first, second] = turns.filter((one) => one.mode === mode && !one.warmup);
      return second!.start_time_ms - first!.start_time_ms - first!.e2el_ms!;
    });
  assert.ok(pausesOf(await play(world, { conversations })).every((pause) => pause >= 78));
  const open = await play(world, { conversations, arrivals: planned([0, 1, 0], [0, 2, 10]) });
  assert.ok(pausesOf(open).every((pause) => pause >= 78));
  const [, second] = open.turns.filter((one) => one.mode === 'bi' && !one.warmup);
  assert.ok(
    second!.planned_start_ms! >
      open.turns.find((one) => one.mode === 'bi' && !one.warmup)!.start_time_ms + 78,
  );
});

test('an open loop that is interrupted ends at once, with what was answered', async ({ world }) => {
  const controller = new AbortController();
  world.onTurn = () => {
    if (world.log.length === 1) setTimeout(() => controller.abort(), 30);
  };
  const { turns, complete } = await play(world, {
    signal: controller.signal,
    arrivals: planned([0, 1, 0], [1, 1, 3_600_000]),
  });
  assert.is(complete, false);
  assert.is(turns.filter(({ warmup }) => !warmup).length, 1);
});

test('an interrupt keeps the turns that were answered and drops the one that was cut off', async ({
  world,
}) => {
  const controller = new AbortController();
  world.onTurn = () => {
    if (world.log.length === 4) controller.abort();
  };
  const { turns, complete, failure } = await play(world, { signal: controller.signal });
  assert.is(complete, false);
  assert.is(failure, null);
  assert.is(turns.filter(({ warmup }) => !warmup).length, 3);
  assert.ok(turns.every(({ error }) => error === null));
});

test.run();
