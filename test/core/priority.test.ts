// Who waits, who goes first and who is refused.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { SchedulerConfig } from '../../src/config.js';
import { PriorityRequestQueue } from '../../src/core/priority-request-queue.js';
import { createRequest, TestNode, tokens } from './test-node.js';

const scheduledIds = (node: TestNode) => node.step().output.scheduled.map(({ request }) => request.requestId);

function nodeWith(scheduler: Partial<SchedulerConfig>, numBlocks = 64): TestNode {
  return new TestNode({ scheduler, cache: { numBlocks } });
}

function add(node: TestNode, requestId: string, priority: number, numPromptTokens = 8): void {
  node.nowMs += 1;
  node.add({ requestId, priority, promptTokenIds: tokens(requestId, numPromptTokens), maxTokens: 2 });
}

test('by priority, lower values go first, and equal ones in the order they came', () => {
  const node = nodeWith({ maxNumSeqs: 1, policy: 'priority' });
  add(node, 'late', 5);
  add(node, 'first', 0);
  add(node, 'second', 0);
  add(node, 'urgent', -3);
  const order: string[] = [];
  for (let i = 0; i < 8; i += 1) order.push(...scheduledIds(node));
  assert.equal([...new Set(order)], ['urgent', 'first', 'second', 'late']);
  node.assertEmpty();
});

test('first come, first served looks at no priority', () => {
  const node = nodeWith({ maxNumSeqs: 1 });
  add(node, 'a', 5);
  add(node, 'b', -5);
  assert.equal(scheduledIds(node), ['a']);
  node.run();
  node.assertEmpty();
});

// Fails without the sort in #scheduleRunning: the last one admitted would go.
test('who is preempted is the one of the highest value, and it comes back behind those before it', () => {
  // Room for both prompts, not for both answers.
  const node = nodeWith({ policy: 'priority' }, 5);
  const promptTokenIds = (label: string) => tokens(label, 30);
  node.add({ requestId: 'idle', priority: 9, promptTokenIds: promptTokenIds('idle'), maxTokens: 20 });
  node.step();
  node.nowMs += 1;
  node.add({ requestId: 'busy', priority: 0, promptTokenIds: promptTokenIds('busy'), maxTokens: 20 });
  const preempted = new Set<string>();
  const ended: string[] = [];
  for (let i = 0; i < 100 && ended.length < 2; i += 1) {
    const { output, outputs } = node.step();
    for (const { request } of output.scheduled)
      if (request.numPreemptions > 0) preempted.add(request.requestId);
    for (const { requestId, finished } of outputs) if (finished) ended.push(requestId);
  }
  assert.equal([...preempted], ['idle']);
  assert.equal(ended, ['busy', 'idle']);
  node.assertEmpty();
});

test('the queue by priority keeps its order whatever is taken out of it', () => {
  const queue = new PriorityRequestQueue();
  const requests = [3, 1, 2, 1, 0, 3].map((priority, i) => createRequest({ requestId: `r${i}`, priority }));
  for (const request of requests) queue.append(request);
  queue.remove(requests[3]!);
  queue.remove(requests[3]!);
  const order: string[] = [];
  for (let head = queue.head; head; head = queue.head) {
    order.push(head.requestId);
    queue.remove(head);
  }
  assert.equal(order, ['r4', 'r1', 'r2', 'r0', 'r5']);
  assert.equal([queue.size, queue.head], [0, null]);
});

test('those count as waiting that found no room, and that came since beyond the free slots', () => {
  const node = nodeWith({ maxNumSeqs: 2 });
  for (const id of ['a', 'b']) add(node, id, 0);
  assert.is(node.scheduler.numQueued, 0, 'there are slots for both');
  add(node, 'c', 0);
  assert.is(node.scheduler.numQueued, 1);
  node.step();
  assert.is(node.scheduler.numQueued, 1, 'c was left behind');
  add(node, 'd', 0);
  assert.is(node.scheduler.numQueued, 2);
  node.scheduler.finishRequest('c', 'FINISHED_ABORTED');
  assert.is(node.scheduler.numQueued, 1);
  node.run();
  assert.is(node.scheduler.numQueued, 0);
  node.assertEmpty();
});

test('without blocks for another one, whoever comes waits', () => {
  const node = nodeWith({}, 5);
  add(node, 'large', 0, 50);
  node.step();
  add(node, 'next', 0, 50);
  node.step();
  assert.is(node.scheduler.numQueued, 1);
  add(node, 'after', 0, 8);
  assert.is(node.scheduler.numQueued, 2, 'nobody overtakes');
  node.run();
  node.assertEmpty();
});

test.run();
