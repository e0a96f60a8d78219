// Holds end exactly once, whatever reaches them first.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Leases } from '../../src/kv-transfer/leases.js';

test('a hold ends by notification, release or expiry, and is reported once', () => {
  for (const how of ['notified', 'released', 'expired'] as const) {
    const leases = new Leases();
    leases.grant('a', 100);
    if (how === 'expired') leases.expire(100);
    else assert.ok(leases.end('a', how));
    assert.equal(leases.takeEnded(), ['a']);
    assert.equal(leases.takeEnded(), []);
    assert.is(leases.numEnded(how), 1);
    assert.is(leases.size, 0);
  }
});

test('whatever comes second finds nothing to end', () => {
  const leases = new Leases();
  leases.grant('notified first', 100);
  leases.grant('expired first', 50);
  leases.end('notified first', 'notified');
  leases.expire(1000);
  assert.not(leases.end('notified first', 'notified'));
  assert.not(leases.end('expired first', 'notified'));
  assert.not(leases.end('expired first', 'released'));
  leases.expire(2000);
  assert.equal(leases.takeEnded(), ['notified first', 'expired first']);
  assert.is(leases.numEnded('notified'), 1);
  assert.is(leases.numEnded('expired'), 1);
});

test('only holds that were granted so are revoked, the oldest first', () => {
  const leases = new Leases();
  leases.grant('kept', 100);
  for (const id of ['a', 'b', 'c']) leases.grant(id, 100, { isRevocable: true });
  leases.end('a', 'notified');
  assert.ok(leases.revokeOldest());
  assert.ok(leases.revokeOldest());
  assert.not(leases.revokeOldest());
  assert.equal(leases.takeEnded(), ['a', 'b', 'c']);
  assert.is(leases.numEnded('revoked'), 2);
  assert.ok(leases.isHeld('kept', 50));
});

test('whoever wants to know hears of each end once, however a hold ended', () => {
  const ended: string[] = [];
  const leases = new Leases((id) => ended.push(id));
  for (const id of ['told', 'late', 'needed']) leases.grant(id, 100, { isRevocable: id === 'needed' });
  leases.end('told', 'notified');
  leases.end('told', 'released');
  leases.revokeOldest();
  leases.expire(100);
  assert.equal(ended, ['told', 'needed', 'late']);
});

test('a hold lasts until just before its deadline', () => {
  const leases = new Leases();
  leases.grant('a', 100);
  leases.expire(99.9);
  assert.is(leases.size, 1);
  assert.ok(leases.isHeld('a', 99.9));
  assert.not(leases.isHeld('a', 100), 'also before anybody has looked');
  leases.expire(100);
  assert.is(leases.size, 0);
});

test('the next deadline follows the holds, whatever their order', () => {
  const leases = new Leases();
  assert.is(leases.nextDeadlineMs(), null);
  leases.grant('long', 480);
  leases.grant('short', 30);
  leases.grant('middle', 60);
  assert.is(leases.nextDeadlineMs(), 30);
  leases.end('short', 'notified');
  assert.is(leases.nextDeadlineMs(), 60);
  leases.expire(60);
  assert.is(leases.nextDeadlineMs(), 480);
  leases.grant('shorter again', 70);
  assert.is(leases.nextDeadlineMs(), 70);
  leases.expire(1000);
  assert.is(leases.nextDeadlineMs(), null);
  assert.equal(leases.takeEnded(), ['short', 'middle', 'long', 'shorter again']);
});

test('an id that stands cannot be granted again, one that ended can', () => {
  const leases = new Leases();
  assert.ok(leases.grant('a', 100));
  assert.not(leases.grant('a', 900));
  leases.expire(100);
  assert.equal(leases.takeEnded(), ['a'], 'the second grant did not extend the first');
  assert.ok(leases.grant('a', 900));
});

test.run();
