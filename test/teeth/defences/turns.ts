// Nodes that die, hang, restart or answer nonsense at some step of a turn, and clients that leave.
import type { Defence } from '../defence.js';

const faults = ['test/server/proxy/faults.test.ts'];
const firstToken = ['test/server/proxy/first-token.test.ts'];
const worker = ['test/kv-transfer/pull-worker.test.ts'];
const remote = ['test/core/remote-kv.test.ts'];
const pulls = ['test/kv-transfer/pull-scheduler.test.ts'];

export const turnDefences: readonly Defence[] = [
  {
    against: 'a prefill node that is dead',
    file: 'src/server/proxy/turn.ts',
    text: `      if (!isUnreachable(error)) throw error;
      return { kind: 'failed' };`,
    instead: '      throw error;',
    tests: faults,
  },
  {
    against: 'a prefill node that answers 500',
    file: 'src/server/proxy/turn.ts',
    text: 'response.status >= 500 && response.status !== 501',
    instead: 'response.status >= 600',
    tests: faults,
  },
  {
    against: 'a prefill node that is full',
    file: 'src/server/proxy/turn.ts',
    text: "outcome.kind === 'refused' && outcome.response.status === 429",
    instead: 'false',
    tests: ['test/server/proxy/overload.test.ts', 'test/server/proxy/routing.test.ts'],
  },
  {
    against: 'a prefill answer that is cut off or none',
    file: 'src/server/proxy/prefill-outcome.ts',
    text: `  } catch {
    return { kind: 'failed' };
  }`,
    instead: '  } finally {}',
    tests: firstToken,
  },
  {
    against: 'a decode node that dies before its first word',
    file: 'src/server/proxy/turn.ts',
    text: '          node = next;',
    instead: '          throw error;',
    tests: [...faults, ...firstToken],
  },
  {
    against: 'a decode node that is full or drains',
    file: 'src/server/proxy/turn.ts',
    text: '(response.status === 503 || response.status === 429) && isReplaceable',
    instead: 'response.status === 1 && isReplaceable',
    tests: faults,
  },
  {
    against: 'a decode node that cannot go on behind the token which the client has',
    file: 'src/server/proxy/turn.ts',
    text: 'return node.passesFirstTokens || !handOver?.params.remote_first_token?.streamed;',
    instead: 'return node !== null;',
    tests: firstToken,
  },
  {
    against: "a lease of D's for a P that never came",
    file: 'src/server/proxy/turn.ts',
    text: 'if (!isUsed && offer.hold) release(offer.hold.node, offer.hold.id);',
    instead: '',
    tests: faults,
  },
  {
    against: 'a prompt that P holds for a D that never came',
    file: 'src/server/proxy/turn.ts',
    text: 'if (handOver && id && !isTaken) release(handOver.node, id);',
    instead: '',
    tests: faults,
  },
  {
    against: 'a cache query that is never answered',
    file: 'src/server/proxy/lookup.ts',
    text: 'timeoutMs: options.queryTimeoutMs,',
    instead: '',
    tests: faults,
  },
  {
    against: 'a node that is stopped and keeps its connections',
    file: 'src/server/proxy/node.ts',
    text: 'for (const controller of this.#inFlight) controller.abort(hung);',
    instead: '',
    tests: faults,
  },
  {
    against: 'a slow node that is taken for a hung one',
    file: 'src/server/proxy/node.ts',
    text: 'this.#inFlight.size === 0 || (await this.#answersProbe()) ? 0 : numMissed + 1',
    instead: 'numMissed + 1',
    tests: faults,
  },
  {
    against: 'a node that is back and never asked again',
    file: 'src/server/proxy/node.ts',
    text: 'if (answers) this.#healthy = true;',
    instead: 'if (answers) {}',
    tests: faults,
  },
  {
    against: 'an event that a dying node cut in two',
    file: 'src/server/proxy/relay.ts',
    text: 'const end = cut < 0 ? 0 : cut + eventEnd.length;',
    instead: 'const end = bytes.length;',
    tests: faults,
  },
  {
    against: 'a stream that ends in the middle as if it were complete',
    file: 'src/server/proxy/relay.ts',
    text: `    await new SseWriter(res).fail(failure);
    return 'broken';`,
    instead: `    res.end();
    return 'broken';`,
    tests: faults,
  },
  {
    against: 'a slow client that fills the memory of the proxy',
    file: 'src/server/proxy/relay.ts',
    text: 'await drained(res);',
    instead: '{}',
    tests: faults,
  },
  {
    against: 'a client that has left and whose request runs on',
    file: 'src/server/http-answer.ts',
    text: 'if (!res.writableFinished) controller.abort();',
    instead: '',
    tests: faults,
  },
  {
    against: 'a ticket for blocks that D has given up',
    file: 'src/server/proxy/conversations.ts',
    text: 'return this.#clock() < conversation.ticketExpiresAtMs ? ticket : null;',
    instead: 'return ticket;',
    tests: ['test/server/proxy/conversations.test.ts'],
  },
  {
    against: "a ticket for a conversation that has changed, which vLLM's nodes would read all the same",
    file: 'src/server/proxy/lookup.ts',
    text: 'ticket && !isVerified && !goesOn(turn, ticket.history)',
    instead: 'ticket && !isVerified && ticket === null',
    tests: ['test/clients/vllm-nodes.test.ts'],
  },
  {
    against: 'nodes that outlive their cluster',
    file: 'src/server/node-process.ts',
    text: "process.once('disconnect', () => process.exit(0));",
    instead: '',
    tests: ['test/server/cluster.test.ts', 'test/commands/serve.test.ts'],
  },
  {
    against: 'a node that does not end when told to',
    file: 'src/server/cluster-node.ts',
    text: "setTimeout(() => this.#child.kill('SIGKILL'), this.#stopGraceMs)",
    instead: 'setTimeout(() => {}, this.#stopGraceMs)',
    tests: ['test/server/cluster.test.ts'],
  },
  {
    against: 'a read that never ends',
    file: 'src/kv-transfer/pull-worker.ts',
    text: 'setTimeout(() => abort.abort(), this.#readTimeoutMs)',
    instead: 'setTimeout(() => {}, this.#readTimeoutMs)',
    tests: worker,
  },
  {
    against: 'a read that writes into a pool which is gone',
    file: 'src/kv-transfer/pull-worker.ts',
    text: 'await Promise.all(this.#reads);',
    instead: '',
    tests: worker,
  },
  {
    against: 'blocks behind one that did not arrive',
    file: 'src/kv-transfer/pull-worker.ts',
    text: 'this.#invalidBlockIds.push(...localBlockIds.slice(numValidBlocks));',
    instead: '',
    tests: worker,
  },
  {
    against: 'a load that failed and counts as arrived',
    file: 'src/core/remote-loads.ts',
    text: 'return firstInvalid < 0 ? numExternalTokens : firstInvalid * this.#blockSize;',
    instead: 'return firstInvalid < -1 ? 0 : numExternalTokens;',
    tests: remote,
  },
  {
    against: 'a load that failed without naming a block',
    file: 'src/core/remote-loads.ts',
    text: 'if (numArrivedTokens === load.numExternalTokens && failure) {',
    instead: 'if (numArrivedTokens < 0) {',
    tests: remote,
  },
  {
    against: 'blocks that are given away while a read still writes into them',
    file: 'src/core/request-ends.ts',
    text: '} else if (!isLoading) {',
    instead: '} else {',
    tests: [...remote, 'test/core/random-events.test.ts'],
  },
  {
    against: 'blocks of an aborted request that nobody frees when its load ends',
    file: 'src/core/scheduler.ts',
    text: `        this.#kvCache.free(request);
      } else if`,
    instead: '      } else if',
    tests: [...remote, 'test/core/random-events.test.ts'],
  },
  {
    against: 'a lease whose reader has died',
    file: 'src/kv-transfer/leases.ts',
    text: "if (expiresAtMs <= nowMs) this.end(id, 'expired');",
    instead: '',
    tests: ['test/kv-transfer/leases.test.ts'],
  },
  {
    against: 'a hold that the peer is never told is not needed',
    file: 'src/kv-transfer/pull-scheduler.ts',
    text: `      this.#releasePeer(request);
      this.#settled.add(request.requestId);`,
    instead: '      this.#settled.add(request.requestId);',
    tests: pulls,
  },
  {
    against: 'a request that is dropped while a peer holds blocks for it',
    file: 'src/kv-transfer/pull-scheduler.ts',
    text: `    this.#releasePeer(request);
    this.#settled.delete(request.requestId);`,
    instead: '    this.#settled.delete(request.requestId);',
    tests: pulls,
  },
  {
    against: 'a node that would read from itself',
    file: 'src/kv-transfer/pull-scheduler.ts',
    text: 'return request.kvTransferParams?.remote_engine_id === this.#config.engineId;',
    instead: 'return false;',
    tests: pulls,
  },
  {
    against: 'a partly filled block that cannot be checked',
    file: 'src/kv-transfer/offer.ts',
    text: 'isOwnersEnd ? numWanted : numWanted - (numWanted % blockSize)',
    instead: 'numWanted',
    tests: ['test/kv-transfer/offer.test.ts'],
  },
  {
    against: 'a block id that still names what the block held before',
    file: 'src/core/block-pool.ts',
    text: `    this.#sink.retract(block.blockId);
    block.blockHash = null;`,
    instead: '    block.blockHash = null;',
    tests: ['test/core/block-pool.test.ts', 'test/core/remote-kv.test.ts'],
  },
  {
    against: 'a partial block that is shown beyond its hold',
    file: 'src/core/block-holds.ts',
    text: 'for (const blockId of hold.publishedBlockIds) this.#sink.retract(blockId);',
    instead: '',
    tests: ['test/core/kv-cache-manager.test.ts', 'test/core/remote-kv.test.ts'],
  },
  {
    against: 'blocks that are named before the step that fills them',
    file: 'src/core/kv-cache-manager.ts',
    text: 'const numFullBlocks = Math.floor(numTokens / this.blockSize);',
    instead: 'const numFullBlocks = Math.min(table.blocks.length, request.blockHashes.length);',
    tests: [
      'test/core/scheduler.test.ts',
      'test/core/kv-cache-manager.test.ts',
      'test/core/remote-kv.test.ts',
    ],
  },
  {
    against: 'a prompt to be scored of which a part was cached and has no logits',
    file: 'src/core/admission.ts',
    text: 'if (request.needsPromptLogprobs) return fromTheBeginning;',
    instead: '',
    tests: ['test/core/prompt-logprobs.test.ts'],
  },
  {
    against: 'a prompt to be scored that two nodes share between them',
    file: 'src/server/proxy/turn.ts',
    text: 'prefill && !isBatch(turn) && !isForOneNode(turn)',
    instead: 'prefill && !isBatch(turn)',
    tests: ['test/server/proxy/hops.test.ts'],
  },
  {
    against: 'a step that fails and takes the engine with it',
    file: 'src/engine/engine-core.ts',
    text: 'if (plan.scheduled.length === 0) throw error;',
    instead: 'throw error;',
    tests: ['test/engine/engine-core.test.ts'],
  },
];
