// How many tokens of a prompt are pulled, for every kind of offer, node and local hit.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KvTransferConfig } from '../../src/config.js';
import type { KvTransferParams } from '../../src/wire.js';
import {
  assertIdle,
  createConnector,
  createRequest,
  handOverFromP,
  idsFrom,
  offerFromD,
} from './create-connector.js';

const matches: {
  name: string;
  config?: Partial<KvTransferConfig>;
  numPromptTokens: number;
  params: KvTransferParams | null;
  numLocalTokens: number;
  numExternalTokens: number;
  numRemoteTokens: number | null;
}[] = [
  {
    name: 'a request without params pulls nothing',
    numPromptTokens: 550,
    params: null,
    numLocalTokens: 192,
    numExternalTokens: 0,
    numRemoteTokens: null,
  },
  {
    name: "turn 1's hop 1 pulls nothing and D was not asked",
    numPromptTokens: 200,
    params: { do_remote_decode: true, remote_engine_id: null, remote_block_ids: null },
    numLocalTokens: 0,
    numExternalTokens: 0,
    numRemoteTokens: null,
  },
  {
    name: 'D was asked and had nothing',
    numPromptTokens: 200,
    params: { do_remote_decode: true, remote_num_tokens: 0 },
    numLocalTokens: 0,
    numExternalTokens: 0,
    numRemoteTokens: 0,
  },
  {
    name: "the design's turn 2: 304 tokens behind 192 local ones",
    numPromptTokens: 550,
    params: offerFromD(496),
    numLocalTokens: 192,
    numExternalTokens: 304,
    numRemoteTokens: 496,
  },
  {
    name: 'after eviction on P all of what D holds',
    numPromptTokens: 550,
    params: offerFromD(496),
    numLocalTokens: 0,
    numExternalTokens: 496,
    numRemoteTokens: 496,
  },
  {
    name: "a ticket ends inside a block: the owner's partial block is pulled too",
    numPromptTokens: 550,
    params: offerFromD(499),
    numLocalTokens: 192,
    numExternalTokens: 307,
    numRemoteTokens: 499,
  },
  {
    name: 'a ticket for more than the prompt is cut to whole blocks inside the prompt (trap d)',
    numPromptTokens: 450,
    params: offerFromD(499),
    numLocalTokens: 192,
    numExternalTokens: 448 - 192,
    numRemoteTokens: 499,
  },
  {
    name: 'an offer of the whole prompt leaves the last token: its block is not pulled, its row names more tokens',
    numPromptTokens: 512,
    params: offerFromD(512),
    numLocalTokens: 0,
    numExternalTokens: 496,
    numRemoteTokens: 512,
  },
  {
    name: 'an offer that ends exactly one token before the prompt is pulled with its partial block',
    numPromptTokens: 500,
    params: offerFromD(499),
    numLocalTokens: 0,
    numExternalTokens: 499,
    numRemoteTokens: 499,
  },
  {
    name: 'more tokens declared than blocks listed: only what the blocks cover',
    numPromptTokens: 550,
    params: offerFromD(496, { remote_block_ids: [idsFrom(100, 10)] }),
    numLocalTokens: 0,
    numExternalTokens: 160,
    numRemoteTokens: 160,
  },
  {
    name: 'more blocks listed than tokens declared: only what is declared',
    numPromptTokens: 550,
    params: offerFromD(100, { remote_block_ids: [idsFrom(100, 30)] }),
    numLocalTokens: 0,
    numExternalTokens: 100,
    numRemoteTokens: 100,
  },
  {
    name: 'no count declared: whole blocks',
    numPromptTokens: 550,
    params: offerFromD(160, { remote_num_tokens: undefined }),
    numLocalTokens: 0,
    numExternalTokens: 160,
    numRemoteTokens: 160,
  },
  {
    name: 'one token below the threshold is computed',
    numPromptTokens: 550,
    params: offerFromD(192 + 63),
    numLocalTokens: 192,
    numExternalTokens: 0,
    numRemoteTokens: 255,
  },
  {
    name: 'exactly the threshold is pulled',
    numPromptTokens: 550,
    params: offerFromD(192 + 64),
    numLocalTokens: 192,
    numExternalTokens: 64,
    numRemoteTokens: 256,
  },
  {
    name: 'P holds more than D offers',
    numPromptTokens: 550,
    params: offerFromD(160),
    numLocalTokens: 192,
    numExternalTokens: 0,
    numRemoteTokens: 160,
  },
  {
    name: 'mode uni ignores a ticket (trap f)',
    config: { mode: 'uni' },
    numPromptTokens: 550,
    params: offerFromD(496),
    numLocalTokens: 192,
    numExternalTokens: 0,
    numRemoteTokens: null,
  },
  {
    name: 'a decode node does not pull to prefill for another',
    config: { role: 'decode' },
    numPromptTokens: 550,
    params: offerFromD(496),
    numLocalTokens: 0,
    numExternalTokens: 0,
    numRemoteTokens: null,
  },
  {
    name: 'an aggregated node may',
    config: { role: 'both' },
    numPromptTokens: 550,
    params: offerFromD(496),
    numLocalTokens: 0,
    numExternalTokens: 496,
    numRemoteTokens: 496,
  },
  {
    name: 'a peer named incompletely offers nothing that can be read',
    numPromptTokens: 550,
    params: offerFromD(496, { remote_host: null }),
    numLocalTokens: 0,
    numExternalTokens: 0,
    numRemoteTokens: 0,
  },
  {
    name: 'this very node as the peer',
    numPromptTokens: 550,
    params: offerFromD(496, { remote_engine_id: 'this-engine' }),
    numLocalTokens: 0,
    numExternalTokens: 0,
    numRemoteTokens: null,
  },
  {
    name: 'a cache query loads nothing, whatever else it says',
    numPromptTokens: 550,
    params: offerFromD(496, { cache_query: true }),
    numLocalTokens: 0,
    numExternalTokens: 0,
    numRemoteTokens: null,
  },
  {
    name: 'hand-over: D pulls the whole prompt behind its own hit, partial block included',
    config: { role: 'decode' },
    numPromptTokens: 550,
    params: handOverFromP(550),
    numLocalTokens: 496,
    numExternalTokens: 54,
    numRemoteTokens: 550,
  },
  {
    name: 'hand-over in mode uni is the same',
    config: { role: 'decode', mode: 'uni' },
    numPromptTokens: 550,
    params: handOverFromP(550),
    numLocalTokens: 0,
    numExternalTokens: 550,
    numRemoteTokens: 550,
  },
  {
    name: 'hand-over: the threshold does not apply to D',
    config: { role: 'decode' },
    numPromptTokens: 17,
    params: handOverFromP(17),
    numLocalTokens: 16,
    numExternalTokens: 1,
    numRemoteTokens: 17,
  },
  {
    name: 'hand-over of more than the prompt is cut to whole blocks',
    config: { role: 'decode' },
    numPromptTokens: 40,
    params: handOverFromP(48),
    numLocalTokens: 0,
    numExternalTokens: 32,
    numRemoteTokens: 48,
  },
  {
    name: 'hand-over of fewer tokens than the prompt is taken with its partial block',
    config: { role: 'decode' },
    numPromptTokens: 60,
    params: handOverFromP(41),
    numLocalTokens: 0,
    numExternalTokens: 41,
    numRemoteTokens: 41,
  },
  {
    name: 'hand-over without a count is of the whole prompt',
    config: { role: 'decode' },
    numPromptTokens: 41,
    params: handOverFromP(41, { remote_num_tokens: undefined }),
    numLocalTokens: 0,
    numExternalTokens: 41,
    numRemoteTokens: 41,
  },
  {
    name: 'hand-over without a peer: D prefills by itself',
    config: { role: 'decode' },
    numPromptTokens: 41,
    params: { do_remote_prefill: true },
    numLocalTokens: 0,
    numExternalTokens: 0,
    numRemoteTokens: null,
  },
];

for (const row of matches) {
  test(row.name, () => {
    const { connector } = createConnector(row.config);
    const request = createRequest(row.numPromptTokens, row.params);
    for (const _ of [1, 2, 3]) {
      assert.is(connector.getNumNewMatchedTokens(request, row.numLocalTokens), row.numExternalTokens);
    }
    assert.is(connector.getNumRemoteTokens(request), row.numRemoteTokens);
    assertIdle(connector);
  });
}

test.run();
