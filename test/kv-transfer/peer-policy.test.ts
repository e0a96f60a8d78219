// Whom a node may connect to.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { VllmPdError } from '../../src/errors.js';
import { PeerPolicy } from '../../src/kv-transfer/peer-policy.js';

const allowed = (peers: readonly string[], hosts: readonly [string, number][]) =>
  hosts.map(([host, port]) => new PeerPolicy(peers).allows(host, port));

test('without a list a node goes nowhere but to its own machine', () => {
  const own: [string, number][] = [
    ['127.0.0.1', 1],
    ['127.8.9.1', 2],
    ['localhost', 3],
    ['::1', 4],
  ];
  const others: [string, number][] = [
    ['10.0.0.1', 1],
    ['127.0.0.1.example.org', 1],
    ['127.evil.example', 1],
    ['169.254.169.254', 80],
    ['0.0.0.0', 1],
    ['::ffff:10.0.0.1', 1],
    ['', 1],
  ];
  assert.ok(allowed([], own).every(Boolean));
  assert.ok(!allowed([], others).some(Boolean));
});

test('with a list it is the list, to the port where one is named', () => {
  const hosts: [string, number][] = [
    ['10.0.0.2', 5600],
    ['10.0.0.2', 5601],
    ['node-7', 1],
    ['127.0.0.1', 1],
    ['fd00::7', 9],
  ];
  assert.equal(allowed(['10.0.0.2:5600', 'node-7'], hosts), [true, false, true, false, false]);
  assert.equal(allowed(['[fd00::7]:9', '10.0.0.2'], hosts), [true, true, false, false, true]);
  assert.equal(allowed(['fd00::7'], hosts), [false, false, false, false, true]);
  assert.equal(allowed(['10.0.0.0/24', 'fd00::/8'], hosts), [true, true, false, false, true]);
  assert.equal(allowed(['10.0.1.0/24'], hosts), [false, false, false, false, false]);
  assert.ok(allowed(['*'], hosts).every(Boolean));
});

test('a list can be replaced while the node runs', () => {
  const policy = new PeerPolicy();
  policy.replace(['127.0.0.1:5600']);
  assert.equal([policy.allows('127.0.0.1', 5600), policy.allows('127.0.0.1', 22)], [true, false]);
});

test('what is no peer is refused by name', () => {
  for (const peer of ['', 'a b', '10.0.0.0/33', 'x/8', 'host:0', 'host:99999', 'host:port', '[::1', ':5']) {
    assert.throws(
      () => new PeerPolicy([peer]),
      (error: VllmPdError) => error.code === 'INVALID_ARGUMENT' && error.message.includes(`\`${peer}\``),
    );
  }
});

test.run();
