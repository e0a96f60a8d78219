// Two engines: turns whose KV goes from P to D and back, and what is lost on the way.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import type { KvTransferParams, PrefillStats } from '../../src/wire.js';
import { type NodePair, numAnswerTokens, watchPools, withPair } from './node-pair.js';
import { assertWhole, generate, prompt, sampling, sleep, withEngine } from './test-engine.js';

const numTurns = 3;
const firstPrompt = prompt(100, 1);
const nextPrompt = (turn: number) => prompt(35, 10 + turn);

/** What an aggregated engine answers, turn by turn, and the prompts that lead there. */
const expected: string[] = [];
const prompts: (readonly number[])[] = [];

test.before(async () => {
  await withEngine({}, async (engine) => {
    let ids: readonly number[] = firstPrompt;
    for (let turn = 0; turn < numTurns; turn++) {
      prompts.push(ids);
      const answer = await generate(engine, ids, { maxTokens: numAnswerTokens });
      expected.push(answer.text);
      ids = [...ids, ...answer.tokenIds, ...nextPrompt(turn)];
    }
  });
});

/** Bins that are not zero. */
function binsOf(stats: PrefillStats | null): Record<string, number> {
  assert.ok(stats);
  const sum = Object.values(stats!.ledger).reduce((total, count) => total + count, 0);
  assert.is(sum, stats!.num_prompt_tokens, 'bins sum to the prompt');
  return Object.fromEntries(Object.entries(stats!.ledger).filter(([, count]) => count > 0));
}

const full = (numTokens: number) => numTokens - (numTokens % 16);

/** Ledger of a turn behind another whose prompt had `before` tokens, all caches warm. */
function closedForm(before: number, isBi: boolean): Record<string, number> {
  const numOnP = full(before);
  const numKnown = before + numAnswerTokens - 1;
  const numOnD = full(numKnown);
  const bins = isBi
    ? { pulled_from_d: numOnD - numOnP, partial_block: numKnown - numOnD }
    : { generated_on_d: numKnown - before, partial_block: before - numOnP };
  const used = { local_hit: numOnP, new: 36, ...bins };
  return Object.fromEntries(Object.entries(used).filter(([, count]) => count > 0));
}

for (const mode of ['uni', 'bi'] as const) {
  for (const agent of ['shm', 'tcp'] as const) {
    test(`${mode} over ${agent}: same text as aggregated, ledger as in closed form, bytes match`, async () => {
      await withPair({ kvTransfer: { mode, agent } }, async (pair) => {
        for (const [turn, ids] of prompts.entries()) {
          const { text, last } = await pair.turn(ids);
          assert.is(text, expected[turn]);
          const bins = turn === 0 ? { new: 100 } : closedForm(prompts[turn - 1]!.length, mode === 'bi');
          assert.equal(binsOf(last.prefillStats), bins);
          assert.is(last.prefillStats!.num_decode_computed_tokens, 1);
        }
        await assertWhole(pair.p);
        const [sent, received] = [pair.p.kvTransferStats(), pair.d.kvTransferStats()];
        assert.ok(sent.bytesSent > 0);
        assert.is(sent.bytesSent, received.bytesReceived);
        assert.is(received.bytesSent, sent.bytesReceived);
        assert.is(received.bytesSent > 0, mode === 'bi');
      });
    });
  }
}

/** The first turn, so that D holds what P may ask for in the second. */
async function firstTurn(pair: NodePair): Promise<void> {
  assert.is((await pair.turn(prompts[0]!)).text, expected[0]);
  await assertWhole(pair.d);
}

test('a lease that expires before the read costs recomputation only', async () => {
  await withPair({ kvTransfer: { kvLeaseDurationMs: 50 } }, async (pair) => {
    await firstTurn(pair);
    const params = await pair.ask(prompts[1]!);
    await sleep(80);
    assert.is(pair.d.resetPrefixCache(), true, 'nothing is held any more');
    const { text, last } = await pair.decode(prompts[1]!, await pair.prefill(prompts[1]!, params));
    assert.is(text, expected[1]);
    const { transfer_failed = 0, lease_expired = 0, pulled_from_d = 0 } = binsOf(last.prefillStats);
    assert.is(transfer_failed + lease_expired, full(159) - full(100));
    assert.is(pulled_from_d, 0);
  });
});

test('a decode node that is gone after the query costs recomputation only', async () => {
  await withPair({ kvTransfer: { kvLeaseDurationMs: 200 } }, async (pair) => {
    await firstTurn(pair);
    const kvTransferParams = await pair.ask(prompts[1]!);
    await pair.stopDecode();
    const answer = await generate(pair.p, prompts[1]!, { maxTokens: numAnswerTokens }, { kvTransferParams });
    assert.is(answer.text, expected[1]);
    assert.is(binsOf(answer.last.prefillStats).transfer_failed, full(159) - full(100));
    // Nobody comes for what P holds now; its lease ends by itself.
    assert.is(pair.p.state().numHolds, 1);
  });
});

test('with the policy `fail` a lost load fails the request, and nothing else', async () => {
  await withPair({ kvTransfer: { kvLoadFailurePolicy: 'fail' } }, async (pair) => {
    await firstTurn(pair);
    const kvTransferParams = await pair.ask(prompts[1]!);
    await pair.stopDecode();
    try {
      await generate(pair.p, prompts[1]!, { maxTokens: 1 }, { kvTransferParams });
      assert.unreachable();
    } catch (error) {
      assert.instance(error, VllmPdError);
      assert.is((error as VllmPdError).code, 'INTERNAL');
    }
    assert.is((await generate(pair.p, prompts[1]!, { maxTokens: numAnswerTokens })).text, expected[1]);
  });
});

test('a prefill node that preempts changes nothing', async () => {
  const p = { cache: { numBlocks: 28 }, scheduler: { maxNumBatchedTokens: 24 } };
  await withPair({ p }, async (pair) => {
    let numPreemptions = 0;
    pair.p.addStatLogger({
      recordStep: (stats) => {
        numPreemptions += stats.numPreemptions;
      },
      recordInterTokenLatency: () => {},
      recordTimeToFirstToken: () => {},
      recordFinished: () => {},
      recordTransfer: () => {},
    });
    await firstTurn(pair);
    const others = [1, 2, 3].map((label) => generate(pair.p, prompt(60, 70 + label), { maxTokens: 60 }));
    assert.is((await pair.turn(prompts[1]!)).text, expected[1]);
    await Promise.all(others);
    assert.ok(numPreemptions > 0, 'the pool was small enough');
  });
});

test('a client that leaves at any point leaves nothing behind on either node', async () => {
  await withPair({ kvTransfer: { kvLeaseDurationMs: 300 } }, async (pair) => {
    const { p, d } = pair;
    await firstTurn(pair);
    const ids = prompts[1]!;
    const start = (engine: typeof p, kvTransferParams: KvTransferParams, maxTokens: number) =>
      engine.generate({ promptTokenIds: ids, samplingParams: sampling({ maxTokens }), kvTransferParams });

    // While P waits for what it pulls from D.
    const prefilling = start(p, await pair.ask(ids), 1);
    await sleep(0);
    await prefilling.return();
    await assertWhole(p);
    await assertWhole(d);

    // Before D was ever asked for P's blocks: P's lease runs out.
    await pair.prefill(ids, await pair.ask(ids));
    assert.is(p.state().numHolds, 1);
    await assertWhole(p);

    // While D waits for what it pulls from P.
    const loading = start(d, await pair.prefill(ids, await pair.ask(ids)), 50);
    await sleep(0);
    await loading.return();
    await assertWhole(p);
    await assertWhole(d);

    // In the middle of the answer.
    for await (const piece of start(d, await pair.prefill(ids, await pair.ask(ids)), 50)) {
      if (piece.numOutputTokens > 2) break;
    }
    await assertWhole(d);
    assert.is((await pair.turn(ids)).text, expected[1]);
  });
});

test('by ticket: D offers every turn to the next one, also when a stop string or the stream ended it', async () => {
  await withPair({ kvTransfer: { lookup: 'ticket', decoderKvBlocksTtlMs: 300 } }, async (pair) => {
    const first = await pair.turn(prompts[0]!);
    const ticket = first.last.kvTransferParams!;
    assert.equal([ticket.do_remote_decode, ticket.remote_num_tokens], [true, 159]);
    const second = await pair.decode(prompts[1]!, await pair.prefill(prompts[1]!, ticket));
    assert.is(second.text, expected[1]);
    // A ticket holds the last block too, which is only partly filled.
    assert.is(binsOf(second.last.prefillStats).pulled_from_d, 159 - full(100));

    const stop = expected[2]!.slice(40, 46);
    const nextTicket = await pair.prefill(prompts[2]!, second.last.kvTransferParams!);
    const stopped = await generate(
      pair.d,
      prompts[2]!,
      { maxTokens: 60, stop: [stop] },
      { kvTransferParams: nextTicket },
    );
    assert.is(stopped.text, expected[2]!.split(stop)[0]);
    const { remote_num_tokens } = stopped.last.kvTransferParams!;
    assert.is(remote_num_tokens, prompts[2]!.length + stopped.tokenIds.length - 1);
  });
});

test('a pulled block altered behind the verification changes the answer: equality has teeth', async () => {
  const pools = watchPools();
  await withPair({}, async (pair) => {
    await firstTurn(pair);
    const params = await pair.ask(prompts[1]!);
    // The last block that P pulls; it has the ones before itself.
    pools[1]!.block(params.remote_block_ids![0]!.at(-1)!).fill(63);
    const { text, last } = await pair.decode(prompts[1]!, await pair.prefill(prompts[1]!, params));
    assert.is(binsOf(last.prefillStats).pulled_from_d, full(159) - full(100));
    assert.is.not(text, expected[1]);
  });
});

test('a pulled block altered in the open is refused and computed instead', async () => {
  const pools = watchPools();
  await withPair({}, async (pair) => {
    await firstTurn(pair);
    const answer = await pair.d.cacheQuery(prompts[1]!, { lease: true });
    const [blockId, hash] = [answer.block_ids.at(-1)!, answer.block_hashes.at(-1)!];
    const block = pools[1]!.block(blockId);
    const before = Buffer.from(block);
    pools[1]!.retract(blockId);
    block.fill(63);
    const handedOver = await pair.prefill(prompts[1]!, answer.kv_transfer_params!);
    // Put back, as D itself would use it next.
    block.set(before);
    pools[1]!.publish(blockId, hash);
    const { text, last } = await pair.decode(prompts[1]!, handedOver);
    assert.is(text, expected[1]);
    assert.is(binsOf(last.prefillStats).transfer_failed, 16);
  });
});

test.run();
