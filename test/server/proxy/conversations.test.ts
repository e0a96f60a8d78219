// Where conversations are at home, and the single use of tickets.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ConversationTable, type Ticket } from '../../../src/server/proxy/conversations.js';
import { ProxyNode } from '../../../src/server/proxy/node.js';

async function withTable(
  work: (setup: {
    readonly table: ConversationTable;
    readonly home: { readonly prefill: ProxyNode; readonly decode: ProxyNode };
    readonly dropped: string[];
    ticket(id: string, ttlMs?: number): Ticket;
    setTime(ms: number): void;
  }) => void,
): Promise<void> {
  let nowMs = 0;
  const dropped: string[] = [];
  const options = { connectTimeoutMs: 100, watchIntervalMs: 1000, probeTimeoutMs: 100 };
  const prefill = new ProxyNode({ role: 'prefill', url: 'http://127.0.0.1:1', ...options });
  const decode = new ProxyNode({ role: 'decode', url: 'http://127.0.0.1:2', ...options });
  const table = new ConversationTable({
    clock: () => nowMs,
    onDrop: ({ params }) => dropped.push(String(params.remote_request_id)),
  });
  work({
    table,
    home: { prefill, decode },
    dropped,
    ticket: (id, ttlMs) => ({
      node: decode,
      params: {
        remote_request_id: id,
        ...(ttlMs === undefined ? {} : { remote_lease_expires_in_ms: ttlMs }),
      },
    }),
    setTime: (ms) => {
      nowMs = ms;
    },
  });
  await Promise.all([prefill.close(), decode.close()]);
}

test('a ticket is given out once', () =>
  withTable(({ table, home, ticket, dropped }) => {
    table.settle('a', home);
    table.keepTicket('a', ticket('t'));
    assert.is(table.takeTicket('b'), null);
    assert.is(table.takeTicket('a')?.params.remote_request_id, 't');
    assert.is(table.takeTicket('a'), null);
    assert.equal(dropped, []);
  }));

test('a ticket is kept for less long than D keeps its blocks', () =>
  withTable(({ table, home, ticket, setTime }) => {
    table.settle('a', home);
    table.keepTicket('a', ticket('short', 480));
    setTime(449);
    assert.is(table.takeTicket('a')?.params.remote_request_id, 'short');
    table.keepTicket('a', ticket('short', 480));
    setTime(449 + 450);
    assert.is(table.takeTicket('a'), null);
    table.keepTicket('a', ticket('default'));
    setTime(449 + 450 + 449_999);
    assert.ok(table.takeTicket('a'));
  }));

test('a newer ticket replaces an older one, whose blocks D may let go', () =>
  withTable(({ table, home, ticket, dropped }) => {
    table.settle('a', home);
    table.keepTicket('a', ticket('old'));
    table.keepTicket('a', ticket('new'));
    assert.equal(dropped, ['old']);
    assert.is(table.takeTicket('a')?.params.remote_request_id, 'new');
  }));

test('a ticket of a conversation that is not known is let go', () =>
  withTable(({ table, ticket, dropped }) => {
    table.keepTicket('nobody', ticket('t'));
    assert.equal(dropped, ['t']);
  }));

test('a new home keeps the ticket', () =>
  withTable(({ table, home, ticket }) => {
    table.settle('a', home);
    table.keepTicket('a', ticket('t'));
    table.settle('a', { ...home, prefill: null });
    assert.is(table.homeOf('a')?.prefill, null);
    assert.ok(table.takeTicket('a'));
  }));

test('the table is bounded: the conversation that was quiet for longest is forgotten, and its ticket let go', () =>
  withTable(({ table, home, ticket, dropped }) => {
    table.settle('first', home);
    table.keepTicket('first', ticket('t'));
    table.settle('second', home);
    table.settle('first', home);
    for (let i = 0; i < 99_999; i++) table.settle(`c${i}`, home);
    assert.is(table.homeOf('second'), null);
    assert.ok(table.homeOf('first'));
    assert.equal(dropped, []);
    table.settle('one more', home);
    assert.is(table.homeOf('first'), null);
    assert.equal(dropped, ['t']);
  }));

test.run();
