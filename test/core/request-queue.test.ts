// Who waits, in which order.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { RequestQueue } from '../../src/core/request-queue.js';
import { createRequest } from './test-node.js';

test('first come, first served, but the latest preempted request before all', () => {
  const queue = new RequestQueue();
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((requestId) => createRequest({ requestId }));
  queue.append(a!);
  queue.append(b!);
  queue.prepend(c!);
  queue.prepend(d!);
  const order: string[] = [];
  for (let request = queue.head; request; request = queue.head) {
    order.push(request.requestId);
    queue.remove(request);
  }
  assert.equal(order, ['d', 'c', 'a', 'b']);
  assert.is(queue.size, 0);
});

test('a request is removed from anywhere, and one that is not there changes nothing', () => {
  const queue = new RequestQueue();
  const [a, b, c] = ['a', 'b', 'c'].map((requestId) => createRequest({ requestId }));
  queue.append(a!);
  queue.append(b!);
  queue.prepend(c!);
  queue.remove(b!);
  queue.remove(c!);
  queue.remove(createRequest());
  assert.is(queue.head, a);
  assert.is(queue.size, 1);
});

test.run();
