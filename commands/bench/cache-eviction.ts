// vllm-pd bench cache-eviction: the same, with contexts that the prefill node loses between turns.
import type { BenchName } from '../../src/bench/run-info.js';
import { workloadFlag } from '../../src/cli/workload-flags.js';
import BenchMultiTurn from './multi-turn.js';

export default class BenchCacheEviction extends BenchMultiTurn {
  static override readonly summary = 'Play long conversations whose KV the prefill node loses between turns.';

  static override readonly description =
    'As bench multi-turn, with about 4k tokens of context. Between turns the prefill node’s cached blocks are evicted; its ' +
    'prefix cache stays on. uni computes the whole context again, bi pulls it from the decode node.';

  static override readonly examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --prefix-tokens 2000 --num-conversations 2',
    '<%= config.bin %> <%= command.id %> --workload context-lengths',
    '<%= config.bin %> <%= command.id %> --workload cache-eviction-capacity --json',
  ];

  static override readonly flags = { ...BenchMultiTurn.flags, workload: workloadFlag('cache-eviction') };

  protected override readonly bench: BenchName = 'cache-eviction';
}
