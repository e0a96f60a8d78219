// P keeps prompts for D while D keeps answers for P, and both are full: what merely saves work gives way, nothing stalls.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { remoteDecodeParams } from '../../src/kv-transfer/params.js';
import { PdPair } from './pd-pair.js';
import { TestNode, tokens } from './test-node.js';

function answerAlone(promptTokenIds: readonly number[], maxTokens: number): number[] {
  return new TestNode().complete({ promptTokenIds, maxTokens }).request.tokenIds.slice(promptTokenIds.length);
}

test('leases of cache queries give way, oldest first, when D could do nothing else', () => {
  const pair = new PdPair('bi', { d: { cache: { numBlocks: 31 } } });
  const { p, d } = pair;
  const labels = ['a', 'b'];
  for (const label of labels) d.complete({ promptTokenIds: tokens(label, 193), maxTokens: 2 });
  const leased = labels.map((label) => pair.query(tokens(label, 200)));
  assert.is(d.scheduler.state().numFreeBlocks, 30 - 24);
  const prompt = tokens('c', 200);
  const request = d.add({
    promptTokenIds: prompt,
    kvTransferParams: pair.prefill(prompt, remoteDecodeParams()),
    maxTokens: 5,
  });
  d.step();
  assert.is(request.status, 'WAITING_FOR_REMOTE_KVS');
  assert.is(d.scheduler.state().numHolds, 1, 'no more were revoked than it took');
  d.run();
  assert.equal(request.tokenIds.slice(200), answerAlone(prompt, 5));
  // P comes for what it was promised, finds part of it, and computes the rest.
  for (const [i, label] of labels.entries()) {
    const longer = tokens(label, 200);
    const { last } = p.complete({ promptTokenIds: longer, kvTransferParams: leased[i]!, maxTokens: 1 });
    assert.is(last.error, null);
    const { ledger } = last.prefillStats!;
    assert.ok(i === 0 ? ledger.pulled_from_d < 192 : ledger.pulled_from_d === 192, label);
    d.run();
  }
  p.nowMs += 30_000;
  pair.assertEmpty();
});

test('nothing is revoked while something runs that may make room', () => {
  const pair = new PdPair('bi', { d: { cache: { numBlocks: 31 } } });
  const { d } = pair;
  d.complete({ promptTokenIds: tokens('a', 193), maxTokens: 2 });
  pair.query(tokens('a', 200));
  const busy = d.add({ promptTokenIds: tokens('busy', 150), maxTokens: 4 });
  d.step();
  const waiting = d.add({ promptTokenIds: tokens('waiting', 200), maxTokens: 4 });
  d.step();
  assert.is(waiting.status, 'WAITING');
  assert.is(d.scheduler.state().numHolds, 1);
  d.run();
  assert.ok(busy.isFinished && waiting.isFinished);
  assert.is(d.scheduler.state().numHolds, 1, 'the end of what ran was enough');
  d.nowMs += 30_000;
  pair.assertEmpty();
});

test('tickets give way too, so that many conversations do not wait for the end of a time to live', () => {
  const node = new TestNode({
    kvTransfer: { engineId: 'D', role: 'decode', lookup: 'ticket' },
    cache: { numBlocks: 31 },
  });
  for (const label of ['a', 'b', 'c', 'd']) {
    const promptTokenIds = tokens(label, 193);
    const { request, last } = node.complete({ promptTokenIds, kvTransferParams: {}, maxTokens: 5 });
    assert.ok(last.kvTransferParams, 'a ticket');
    assert.equal(request.tokenIds.slice(193), answerAlone(promptTokenIds, 5));
  }
  assert.is(node.scheduler.state().numHolds, 2);
  node.nowMs += 480_000;
  node.run();
  node.assertEmpty();
});

test('what P holds for D does not give way', () => {
  const pair = new PdPair('bi', { p: { cache: { numBlocks: 20 } } });
  const prompt = tokens('a', 200);
  const params = pair.prefill(prompt, remoteDecodeParams());
  const waiting = pair.p.add({
    promptTokenIds: tokens('b', 200),
    kvTransferParams: remoteDecodeParams(),
    maxTokens: 1,
  });
  pair.p.run();
  assert.is(waiting.status, 'WAITING');
  assert.is(pair.p.scheduler.state().numHolds, 1);
  pair.decode(prompt, params, 3);
  pair.p.run();
  assert.ok(waiting.isFinished);
  pair.p.nowMs += 30_000;
  pair.assertEmpty();
});

test.run();
