// More than a node can hold: what waits is bounded, goes in turn, cannot block itself; what stops finishes what it has.
import type { Defence } from '../defence.js';

const limits = ['test/server/http-limits.test.ts'];
const circular = ['test/core/circular-wait.test.ts'];

export const overloadDefences: readonly Defence[] = [
  {
    against: 'a queue without end on a node',
    file: 'src/engine/engine.ts',
    text: 'if (this.#parts.scheduler.numQueued < maxWaiting) return;',
    instead: 'if (maxWaiting >= 0) return;',
    tests: ['test/server/api/overload.test.ts'],
  },
  {
    against: 'a queue without end at the proxy',
    file: 'src/server/proxy/waiting-room.ts',
    text: 'this.#numWaiting() >= this.#maxWaiting',
    instead: 'this.#maxWaiting < 0',
    tests: ['test/server/proxy/overload.test.ts'],
  },
  {
    against: 'logits of a long prompt that take all memory',
    file: 'src/core/step-plan.ts',
    text: 'Math.min(numTokens, this.#numPromptLogprobsLeft)',
    instead: 'numTokens',
    tests: ['test/core/prompt-logprobs.test.ts'],
  },
  {
    against: 'a prompt to be scored behind which nobody else is answered',
    file: 'src/worker/model-runner.ts',
    text: `      if (rows.isSliceOver) await rows.giveWay();
      entries`,
    instead: '      entries',
    tests: ['test/worker/model-runner.test.ts'],
  },
  {
    against: 'a refusal that does not say when to come back',
    file: 'src/server/http-answer.ts',
    text: "if (retryAfter !== undefined) res.setHeader('retry-after', retryAfter);",
    instead: '',
    tests: limits,
  },
  {
    against: 'answers under way that a stopping cluster cuts off without a word',
    file: 'src/server/cluster.ts',
    text: 'proxy.drain(leftMs + lastWordsMs).then(() => proxy.close())',
    instead: 'proxy.close()',
    tests: ['test/commands/serve.test.ts'],
  },
  {
    against: 'turns that a stopping proxy cuts off without a word',
    file: 'src/server/proxy/proxy.ts',
    text: 'await closeNodes();\n        await over;',
    instead: 'await server.close();\n        await closeNodes();',
    tests: ['test/server/proxy/overload.test.ts'],
  },
  {
    against: 'more choices than could ever wait, refused with 429 for ever',
    file: 'src/server/api/generation.ts',
    text: 'if (numChoices <= limit) return;',
    instead: 'if (limit > 0) return;',
    tests: ['test/server/api/overload.test.ts'],
  },
  {
    against: 'a short prompt that overtakes a long one for ever',
    file: 'src/core/admission.ts',
    text: 'if (!this.#begin(plan, running, request, start, numReservedBlocks)) return;',
    instead:
      'if (!this.#begin(plan, running, request, start, numReservedBlocks)) { this.#waiting.remove(request); this.#waiting.append(request); return; }',
    tests: ['test/core/scheduler.test.ts', 'test/core/remote-kv.test.ts'],
  },
  {
    against: 'requests that take the blocks which those begun before need to get through',
    file: 'src/core/admission.ts',
    text: 'const needs = { hit, numExternalTokens, numReservedBlocks };',
    instead: 'const needs = { hit, numExternalTokens, numReservedBlocks: 0 };',
    tests: [...circular, 'test/core/remote-kv.test.ts', 'test/core/random-events.test.ts'],
  },
  {
    against: 'P and D that wait for each other’s holds',
    file: 'src/core/scheduler.ts',
    text: 'while (this.#waitsForHolds && this.#connector?.revokeOldestHold()) {',
    instead: 'while (false as boolean) {',
    tests: circular,
  },
  {
    against: 'new requests for a server that is to stop',
    file: 'src/server/http.ts',
    text: '    if (this.#isDraining) {',
    instead: '    if (this.#isDraining && this.#underWay.size < 0) {',
    tests: limits,
  },
  {
    against: 'a stop that cuts off answers under way',
    file: 'src/server/http.ts',
    text: 'if (this.#underWay.size === 0) return;',
    instead: 'if (this.#underWay.size >= 0) return;',
    tests: limits,
  },
  {
    against: 'an answer that never ends and keeps a server from stopping',
    file: 'src/server/http.ts',
    text: 'timer = setTimeout(resolve, timeoutMs);',
    instead: 'timer = setTimeout(() => {}, timeoutMs);',
    tests: limits,
  },
];
