// KV events as a subscriber of vLLM's sees them: over real sockets, for real requests.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Dealer, Publisher, Subscriber } from 'zeromq';
import { parseKvEventsConfig } from '../../src/cli/kv-events-config.js';
import type { KvEventsConfig } from '../../src/config.js';
import type { Engine } from '../../src/engine/engine.js';
import { KvEventPublisher } from '../../src/engine/kv-event-publisher.js';
import { encodeEventBatch, type KvEvent } from '../../src/engine/kv-events.js';
import { defaultKvEvents } from '../../src/engine-options.js';
import { type Unpacked, unpack } from './msgpack-reader.js';
import { generate, startEngine, withEngine } from './test-engine.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';

const anyPorts: KvEventsConfig = {
  ...defaultKvEvents,
  endpoint: 'tcp://127.0.0.1:*',
  replay_endpoint: 'tcp://127.0.0.1:*',
  topic: 'kv',
};

interface Batch {
  readonly sequence: bigint;
  readonly events: readonly { readonly [key: string]: Unpacked }[];
}

function toBatch(sequence: Buffer, payload: Buffer): Batch {
  const [seconds, events, rank] = unpack(payload) as [number, Batch['events'], number];
  assert.ok(Math.abs(seconds - Date.now() / 1000) < 600, 'seconds since 1970');
  assert.is(rank, 0);
  return { sequence: sequence.readBigUInt64BE(), events };
}

/** All batches so far, as a subscriber that missed them asks for them. */
async function replay(endpoint: string, from = 0n): Promise<Batch[]> {
  const dealer = new Dealer({ linger: 0, receiveTimeout: 10_000 });
  dealer.connect(endpoint);
  try {
    const wanted = Buffer.alloc(8);
    wanted.writeBigUInt64BE(from);
    await dealer.send(['', 'no number of eight bytes']);
    await dealer.send(['', wanted]);
    const batches: Batch[] = [];
    for (;;) {
      const [delimiter, sequence, payload] = await dealer.receive();
      assert.is(delimiter?.length, 0);
      if (sequence!.readBigInt64BE() === -1n) {
        assert.is(payload?.length, 0);
        return batches;
      }
      batches.push(toBatch(sequence!, payload!));
    }
  } finally {
    dealer.close();
  }
}

/** The cache as a router mirrors it: hashes by what was stored and removed. */
function mirror(batches: readonly Batch[]): Set<bigint> {
  const held = new Set<bigint>();
  for (const event of batches.flatMap(({ events }) => events)) {
    const hashes = ((event.block_hashes ?? []) as (number | bigint)[]).map(BigInt);
    if (event.type === 'BlockStored') for (const hash of hashes) assert.ok(!held.has(hash) && held.add(hash));
    else if (event.type === 'BlockRemoved') for (const hash of hashes) assert.ok(held.delete(hash));
    else held.clear();
  }
  return held;
}

const low64 = (hash: string) => BigInt(`0x${hash.slice(-16)}`);
const prompt = (seed: number, length: number) =>
  Array.from({ length }, (_, i) => 10 + ((seed * 131 + i * 7) % 200));
const afterStep = () => new Promise((resolve) => setTimeout(resolve, 20));
const endpointsOf = (engine: Engine) => {
  const { endpoint, replayEndpoint } = engine.kvEvents!;
  return { endpoint, replayEndpoint: replayEndpoint! };
};

test('a subscriber gets [topic, number, batch] for the blocks of a request', () =>
  withEngine({ kvEvents: anyPorts }, async (engine) => {
    const { endpoint } = endpointsOf(engine);
    const subscriber = new Subscriber({ linger: 0, receiveTimeout: 10_000 });
    subscriber.subscribe('kv');
    subscriber.connect(endpoint);
    try {
      // A subscription takes effect when it has arrived, and nobody says when that is.
      const received: Batch[] = [];
      const reading = (async () => {
        for await (const [topic, sequence, payload] of subscriber) {
          assert.is(String(topic), 'kv');
          received.push(toBatch(sequence!, payload!));
        }
      })();
      for (let seed = 100; received.length === 0 && seed < 300; seed += 1) {
        await generate(engine, prompt(seed, 20), { maxTokens: 1 });
        await afterStep();
      }
      // Batches of before may still be on their way.
      const own = () => {
        const events = received.flatMap((batch) => batch.events);
        const first = events.findIndex(({ extra_keys }) => String(extra_keys).includes('tenant'));
        return first < 0 ? [] : events.slice(first);
      };
      const tokenIds = prompt(1, 40);
      const { tokenIds: answer } = await generate(
        engine,
        tokenIds,
        { maxTokens: 20 },
        { cacheSalt: 'tenant' },
      );
      while (own().length < 2) await afterStep();
      const all = [...tokenIds, ...answer];
      const { block_hashes: hashes } = await engine.cacheQuery(all, { cacheSalt: 'tenant' });
      const [first, second] = own();
      assert.equal(first, {
        type: 'BlockStored',
        block_hashes: hashes.slice(0, 2).map(low64),
        parent_block_hash: null,
        token_ids: all.slice(0, 32),
        block_size: 16,
        lora_id: null,
        medium: 'GPU',
        lora_name: null,
        extra_keys: [['tenant'], null],
        group_idx: 0,
        kv_cache_spec_kind: 'full_attention',
      });
      assert.is(second!.type, 'BlockStored');
      assert.equal(second!.parent_block_hash, low64(hashes[1]!));
      assert.equal(second!.token_ids, all.slice(32, 48));
      subscriber.close();
      await reading;
    } finally {
      subscriber.close();
    }
  }));

test('stores and removals together are exactly what is cached, through evictions and a reset', () =>
  withEngine({ kvEvents: anyPorts, cache: { numBlocks: 24 } }, async (engine) => {
    const { replayEndpoint } = endpointsOf(engine);
    const prompts = [1, 2, 3, 4, 5, 1, 2].map((seed) => prompt(seed, 100));
    for (const one of prompts) await generate(engine, one, { maxTokens: 30 });
    // Two equal prompts in one step: the same contents in two blocks are told of once.
    await Promise.all([9, 9].map((seed) => generate(engine, prompt(seed, 50), { maxTokens: 4 })));
    await afterStep();
    const batches = await replay(replayEndpoint);
    assert.equal(
      batches.map(({ sequence }) => sequence),
      batches.map((_, i) => BigInt(i)),
    );
    const types = batches.flatMap(({ events }) => events.map(({ type }) => type));
    assert.ok(types.includes('BlockRemoved'), 'something was evicted');
    const held = mirror(batches);
    for (const one of prompts) {
      const { block_hashes, num_blocks } = await engine.cacheQuery(one);
      assert.equal(
        block_hashes.slice(0, num_blocks).map((hash) => held.has(low64(hash))),
        block_hashes.slice(0, num_blocks).map(() => true),
      );
    }
    const { numCachedBlocks } = engine.state();
    // The equal prompts hold three blocks twice.
    assert.ok(
      held.size === numCachedBlocks || held.size === numCachedBlocks - 3,
      `${held.size} of ${numCachedBlocks}`,
    );
    assert.ok(engine.resetPrefixCache());
    await afterStep();
    const last = await replay(replayEndpoint, BigInt(batches.length));
    assert.ok(
      last.every(({ sequence }) => sequence >= BigInt(batches.length)),
      'from the number asked for',
    );
    assert.is(last.at(-1)!.events.at(-1)!.type, 'AllBlocksCleared');
    assert.is(mirror([...batches, ...last]).size, 0);
  }));

test('a replay goes back as far as buffer_steps', () =>
  withEngine({ kvEvents: { ...anyPorts, buffer_steps: 3 } }, async (engine) => {
    for (let seed = 0; seed < 9; seed += 1) {
      await generate(engine, prompt(seed, 20), { maxTokens: 1 });
      await afterStep();
    }
    const batches = await replay(endpointsOf(engine).replayEndpoint);
    assert.equal(
      batches.map(({ sequence }) => sequence),
      [6n, 7n, 8n],
    );
  }));

test('a subscriber that reads nothing holds nobody up: it misses batches and sees that by their numbers', async () => {
  const publisher = await KvEventPublisher.start({ ...anyPorts, hwm: 4, replay_endpoint: null });
  const slow = new Subscriber({ linger: 0, receiveHighWaterMark: 1, receiveTimeout: 500 });
  slow.subscribe('');
  slow.connect(publisher.endpoint);
  try {
    const large: KvEvent = {
      type: 'BlockStored',
      blockHashes: ['ab'.repeat(32)],
      parentBlockHash: null,
      tokenIds: prompt(1, 20_000),
      blockSize: 16,
      extraKeys: [null],
    };
    const numBatches = 1000;
    let numPublished = 0;
    // Some time for the subscription, then far more than sockets can take.
    for (let i = 0; i < 20; i += 1, numPublished += 1) {
      publisher.publish([large]);
      await afterStep();
    }
    for (; numPublished < numBatches; numPublished += 1) {
      publisher.publish([large]);
      if (numPublished % 50 === 0) await afterStep();
    }
    const sequences: bigint[] = [];
    await publisher.close();
    try {
      for (;;) sequences.push((await slow.receive())[1]!.readBigUInt64BE());
    } catch {
      // Nothing more comes.
    }
    assert.ok(sequences.length > 0 && sequences.length < numBatches, `${sequences.length} of ${numBatches}`);
    assert.ok(
      sequences.every((sequence, i) => i === 0 || sequence > sequences[i - 1]!),
      'in order',
    );
  } finally {
    slow.close();
    await publisher.close();
  }
});

test('sockets are closed with the engine; an address in use is said so, and nothing is left of that engine', async () => {
  const engine = await startEngine({ kvEvents: anyPorts });
  const { endpoint } = endpointsOf(engine);
  const refused = await startEngine({ kvEvents: { ...anyPorts, endpoint } }).catch((error: unknown) => error);
  assert.is((refused as { code?: string }).code, 'ADDRESS_IN_USE', String(refused));
  const wrong = await startEngine({ kvEvents: { ...anyPorts, endpoint: 'tcp://nowhere' } }).catch(
    (error: unknown) => error,
  );
  assert.is((wrong as { code?: string }).code, 'INVALID_ARGUMENT', String(wrong));
  await engine.shutdown();
  // ZeroMQ closes what listens on a thread of its own.
  const next = new Publisher({ linger: 0 });
  const isFree = () =>
    next.bind(endpoint).then(
      () => true,
      () => false,
    );
  let numTries = 0;
  while (!(await isFree()) && numTries < 500) {
    numTries += 1;
    await afterStep();
  }
  next.close();
  assert.ok(numTries < 500, 'nobody listens any more');
});

test('older consumers get events by place, with hashes as bytes', () => {
  const event: KvEvent = {
    type: 'BlockStored',
    blockHashes: ['01'.repeat(32)],
    parentBlockHash: '02'.repeat(32),
    tokenIds: [1, 300],
    blockSize: 2,
    extraKeys: [null],
  };
  const encoding = { format: 'array', intBlockHashes: false } as const;
  const removed: KvEvent = { type: 'BlockRemoved', blockHashes: event.blockHashes };
  const [seconds, events, rank] = unpack(
    encodeEventBatch(7, [event, removed, { type: 'AllBlocksCleared' }], encoding),
  ) as Unpacked[];
  assert.equal([seconds, rank], [7, 0]);
  const hash = Buffer.alloc(32, 1);
  assert.equal(events, [
    ['BlockStored', [hash], Buffer.alloc(32, 2), [1, 300], 2, null, 'GPU', null, [null], 0, 'full_attention'],
    ['BlockRemoved', [hash], 'GPU', 0],
    ['AllBlocksCleared'],
  ]);
});

test("--kv-events-config takes vLLM's fields, and refuses others by name", async () => {
  const config = await parseKvEventsConfig(
    '{"enable_kv_cache_events": true, "publisher": "zmq", "topic": "t", "hwm": 5}',
  );
  assert.equal(config, { ...defaultKvEvents, topic: 't', hwm: 5 });
  assert.is(await parseKvEventsConfig('{"topic": "t"}'), null, 'off unless enabled, as with vLLM');
  assert.is(await parseKvEventsConfig('{"enable_kv_cache_events": true, "publisher": "null"}'), null);
  for (const [text, name] of [
    ['{"enable_kv_cache_events": true, "endpoint": "127.0.0.1:5557"}', 'endpoint'],
    ['{"enable_kv_cache_events": true, "buffer_steps": 0}', 'buffer_steps'],
    ['{"enable_kv_cache_events": true, "colour": 1}', 'colour'],
    ['{', 'JSON'],
  ] as const) {
    const error = await parseKvEventsConfig(text).catch((reason: unknown) => reason);
    assert.match(String(error), name);
  }
});

test.run();
